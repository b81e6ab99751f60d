"""Weight decay that does not depend on the learning rate, for every optimizer that decays by lr * weight_decay."""

from __future__ import annotations

from typing import SupportsFloat

from fionalm.errors import UserError


def independent_weight_decay(weight_decay: float, lr: SupportsFloat) -> float:
    """Return the `weight_decay` of a group that makes an optimizer's decoupled decay independent of its rate.

    Decoupled weight decay is theta -= lr_t * weight_decay * theta, and a schedule makes lr_t = s_t * lr. With
    weight_decay = lambda / lr that is theta -= s_t * lambda * theta: the independent weight decay of Wortsman et
    al. 2023 (section 3.2.2) and Loshchilov and Hutter 2019, whatever the group's own learning rate.

    Args:
        weight_decay: lambda.
        lr: the group's learning rate before any schedule (its peak).

    Raises:
        UserError: the learning rate is 0, so that no schedule could be told from it.
    """
    if weight_decay == 0:
        return 0.0
    if float(lr) == 0:
        raise UserError(
            f"independent weight decay {weight_decay} was given to a group with lr 0, expected an lr above 0 "
            "(or weight_decay 0)"
        )
    return weight_decay / float(lr)
