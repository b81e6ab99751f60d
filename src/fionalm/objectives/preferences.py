"""Preference losses for soft labels: DPO, IPO and ROPO, each hard, conservative and geometrically averaged.

Furuta et al. 2024, arXiv 2409.06691. All eight are functions of the log-ratio
h = log[pi(y1) ref(y2) / (ref(y1) pi(y2))] and of the label p = P(y1 preferred to y2), with m = 2p - 1:

| kind | loss | slope -dL/dh |
| --- | --- | --- |
| `dpo` | -log sigmoid(beta h) | beta (1 - sigmoid(beta h)) |
| `cdpo` | -p log sigmoid(beta h) - (1 - p) log sigmoid(-beta h) | beta (p - sigmoid(beta h)) |
| `geometric_dpo` (GDPO) | `dpo` at m h | beta m (1 - sigmoid(beta m h)) |
| `ipo` | (h - 1/(2 beta))^2 | 1/beta - 2 h |
| `cipo` | (h - m/(2 beta))^2 | m/beta - 2 h |
| `geometric_ipo` (GIPO) | `ipo` at m h | m (1/beta - 2 m h) |
| `ropo` | -gamma log sigmoid(beta h) + eta sigmoid(-beta h) | beta (gamma + eta s) (1 - s), s = sigmoid(beta h) |
| `geometric_ropo` (GROPO) | `ropo` at m h | beta m (gamma + eta s) (1 - s), s = sigmoid(beta m h) |

"GDPO" is also the name of Nvidia's group reward-decoupled optimization, which is something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fionalm.errors import UserError, choice_error
from fionalm.objectives.preference_kinds import PREFERENCE_KINDS, PreferenceKind


def preference_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    soft_labels: Tensor | Sequence[float] | None = None,
    kind: PreferenceKind = "geometric_dpo",
    beta: float = 0.1,
    ropo_gamma: float = 0.1,
    ropo_eta: float = 2.0,
) -> Tensor:
    """Return each pair's loss [batch]; see the module's table for the eight kinds.

    Args:
        policy_chosen_logps: log-probability of each chosen completion under the policy, in nats [batch].
        policy_rejected_logps: that of each rejected one [batch].
        reference_chosen_logps: the same under the frozen reference [batch].
        reference_rejected_logps: the same [batch].
        soft_labels: P(chosen preferred to rejected) in [0, 1] [batch]; None: 1. Below 1/2 the pair is swapped. Beyond
            that order, the hard kinds `dpo`, `ipo` and `ropo` do not use them.
        kind: which loss.
        beta: scale of the implicit reward (the paper's runs: 0.1); for the IPO family its tau (the paper's runs: 1).
        ropo_gamma: weight of ROPO's DPO term.
        ropo_eta: weight of ROPO's bounded term (Liang et al. 2024, arXiv 2404.04102); both defaults are ours.

    Raises:
        UserError: an unknown kind, shapes that differ, beta not above 0, or a label outside [0, 1] (its row is named).
    """
    if kind not in PREFERENCE_KINDS:
        raise choice_error("preference loss", kind, PREFERENCE_KINDS)
    if not beta > 0:
        raise UserError(f"beta {beta}: expected a number above 0, such as 0.1")
    h = log_ratio(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    p = torch.ones_like(h) if soft_labels is None else check_soft_labels(soft_labels, h)
    h = torch.where(p >= 0.5, h, -h)
    p = torch.maximum(p, 1 - p)
    m = 2 * p - 1
    if kind.startswith("geometric_"):
        h = m * h
    family = kind.removeprefix("geometric_")
    if family == "dpo":
        return -F.logsigmoid(beta * h)
    if family == "cdpo":
        return -p * F.logsigmoid(beta * h) - (1 - p) * F.logsigmoid(-beta * h)
    if family == "ipo":
        return (h - 1 / (2 * beta)).square()
    if family == "cipo":
        return (h - m / (2 * beta)).square()
    return -ropo_gamma * F.logsigmoid(beta * h) + ropo_eta * torch.sigmoid(-beta * h)


def log_ratio(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
) -> Tensor:
    """Return h = log[pi(y1) ref(y2) / (ref(y1) pi(y2))] of each pair [batch] (Furuta et al. 2024, section 3).

    beta h is the implicit reward's gap between chosen and rejected.

    Raises:
        UserError: shapes that differ.
    """
    shapes = {
        tuple(logps.shape)
        for logps in (policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    }
    if len(shapes) > 1:
        raise UserError(f"log-probabilities have shapes {sorted(shapes)}: expected one a pair in all four")
    return (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)


def check_soft_labels(soft_labels: Tensor | Sequence[float], like: Tensor) -> Tensor:
    """Return the labels as a tensor with the device, type and shape of `like`.

    Raises:
        UserError: another shape, or a label that is not a probability; the first such row is named.
    """
    p = torch.as_tensor(soft_labels, device=like.device)
    if p.shape != like.shape:
        raise UserError(f"soft labels have shape {tuple(p.shape)}: expected one a pair, {tuple(like.shape)}")
    # A NaN fails both comparisons.
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        row = int(wrong.flatten().nonzero()[0])
        value = p.flatten()[row].item()
        raise UserError(f"the soft label of row {row} (the first is 0) is {value}: expected a probability in [0, 1]")
    return p.to(like.dtype)
