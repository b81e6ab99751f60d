"""A policy as judge: the log-probabilities of both answers to a question by one forward pass over the question."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fionalm.data import Prompt
from fionalm.errors import UserError
from fionalm.posttraining.pairs import Pair, can_share, collate_pairs, pair_buckets, pair_logps
from fionalm.posttraining.policy import Policy


class PolicyChoices:
    """What `Judge` asks, answered by a local model; a question's two choices share its tokens where the model can.

    Args:
        policy: the model and its tokenizer.
        max_tokens: tokens of one forward pass at most.
    """

    def __init__(self, policy: Policy, *, max_tokens: int = 4096) -> None:
        self.policy, self.max_tokens = policy, max_tokens
        self.tokenizer = policy.tokenizer
        self._shared = can_share(policy.model)

    @torch.no_grad()
    def choice_logps(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """Return log-probabilities in nats [prompts][2] of both choices; end-of-sequence is no part of them.

        Raises:
            UserError: other than two choices, or a question that does not fit the context.
        """
        if len(choices) != 2:
            raise UserError(f"{len(choices)} choices: expected 2")
        first, second = (tuple(self.tokenizer.encode_completion(choice, end=False)) for choice in choices)
        pairs = [Pair(tuple(self.tokenizer.encode_prompt(prompt)), first, second) for prompt in prompts]
        context = self.policy.context_length
        for number, pair in enumerate(pairs):
            if context is not None and pair.longest > context:
                raise UserError(
                    f"question {number} has {pair.longest} tokens with its answer: expected at most the judge's "
                    f"context of {context}"
                )
        found = [[0.0, 0.0] for _ in pairs]
        for group in pair_buckets(pairs, self.max_tokens, shared=self._shared):
            batch = collate_pairs(
                [pairs[index] for index in group],
                self.tokenizer.pad_id,
                shared=self._shared,
                device=self.policy.device,
            )
            for index, logps in zip(group, torch.stack(pair_logps(self.policy.model, batch), 1).tolist(), strict=True):
                found[index] = logps
        return found
