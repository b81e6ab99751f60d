"""TRL's GRPOTrainer with advantages for best-of-N (extra `trl`): they are a pure function of rewards and groups.

    from functools import partial
    from fionalm.objectives import unbiased_pass_at_n_advantages
    from fionalm.posttraining.trl_best_of_n import BestOfNGRPOTrainer

    trainer = BestOfNGRPOTrainer(
        model, reward_funcs=reward, train_dataset=prompts,
        args=GRPOConfig(num_generations=16, loss_type="dr_grpo", ...),
        advantages=partial(unbiased_pass_at_n_advantages, n=8),
    )

TRL subtracts a group's mean reward and divides by its deviation. Subtracting the mean from weights of best-of-N would
rescale the gradient: by 1 - n/M for the weights over subsets, which is 0 at n = M, and by a factor that depends on the
prompt's pass rate for the weights of right samples alone. So TRL's advantages are replaced whole, never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fionalm.errors import UserError, require

trl: Any = require("trl", "trl")

Advantages = Callable[[Tensor], Tensor]
"""Maps rewards [prompts, samples], NaN where no reward function could tell, to weights of the same shape."""


class BestOfNGRPOTrainer(trl.GRPOTrainer):
    """`GRPOTrainer` whose advantages are `advantages(rewards)`; everything else is TRL's.

    The loss is -mean over samples of advantage * log pi, divided by the constant `max_completion_length`: TRL's
    `loss_type="dr_grpo"`. Its other losses divide each completion by its length or by the batch's, which weighs
    completions anew, and are refused. `scale_rewards` has no effect.

    Args:
        *args: GRPOTrainer's.
        advantages: such as `partial(unbiased_pass_at_n_advantages, n=8)`.
        **kwargs: GRPOTrainer's.

    Raises:
        UserError: another `loss_type`, or advantages that cannot be computed from groups of `num_generations`.
    """

    def __init__(self, *args: Any, advantages: Advantages, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.loss_type != "dr_grpo":
            raise UserError(
                f"loss_type {self.loss_type!r} divides by completions' lengths, which changes the weights: expected "
                "'dr_grpo', which divides by a constant"
            )
        self.advantages = advantages
        self._table: Tensor | None = None
        for size in {self.num_generations, self.num_generations_eval}:
            self._weigh(torch.zeros(size), size)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        # Of all processes: [prompts * samples, reward functions].
        table = self._table = super()._calculate_rewards(*args, **kwargs)
        return table

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        assert self._table is not None
        rewards = (self._table * self.reward_weights.to(self._table.device)).nansum(-1)
        rewards[self._table.isnan().all(-1)] = torch.nan
        found = self._weigh(rewards, self.num_generations if self.model.training else self.num_generations_eval)
        first = self.accelerator.process_index * len(inputs)
        output["advantages"] = found[first : first + len(inputs)].to(output["advantages"])
        logged = self._logs["advantages"]
        for _ in range(min(len(found), len(logged))):
            logged.pop()
        logged.extend(found.tolist())
        return output

    def _weigh(self, rewards: Tensor, samples: int) -> Tensor:
        groups = rewards.view(-1, samples)
        found = self.advantages(groups)
        if found.shape != groups.shape:
            raise UserError(
                f"the advantages have shape {list(found.shape)} for rewards of shape {list(groups.shape)}: "
                "expected one a sample"
            )
        return torch.nan_to_num(found, nan=0.0).flatten()
