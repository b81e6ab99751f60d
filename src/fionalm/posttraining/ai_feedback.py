"""A local model as judge: both answers to a question are scored by one forward pass over the question."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fionalm.data import Prompt
from fionalm.errors import UserError
from fionalm.posttraining.pairs import Pair, can_share, collate_pairs, pair_buckets, pair_token_logps
from fionalm.posttraining.policy import Policy


class PairScorer:
    """What `Judge` asks of a local model, where two completions in a row of one prompt share its tokens.

    Args:
        policy: the model and its tokenizer.
        max_tokens: tokens of one forward pass at most.
    """

    def __init__(self, policy: Policy, *, max_tokens: int = 4096) -> None:
        self.policy, self.max_tokens = policy, max_tokens
        self.tokenizer = policy.tokenizer
        self._shared = can_share(policy.model)

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[list[float]]:
        """Return each completion's token log-probabilities in nats; end-of-sequence is no part of them.

        Args:
            prompts: one a completion; the first and second are of one prompt, the third and fourth, and so on.
            completions: texts.

        Raises:
            UserError: prompts that do not come in twos, or a pair that does not fit the context.
        """
        if len(prompts) % 2 or len(prompts) != len(completions) or list(prompts[::2]) != list(prompts[1::2]):
            raise UserError(f"{len(prompts)} prompts of {len(completions)} completions: expected each prompt twice")
        encoded = [tuple(self.tokenizer.encode_completion(text, end=False)) for text in completions]
        pairs = [
            Pair(tuple(self.tokenizer.encode_prompt(prompt)), first, second)
            for prompt, first, second in zip(prompts[::2], encoded[::2], encoded[1::2], strict=True)
        ]
        context = self.policy.context_length
        for number, pair in enumerate(pairs):
            if context is not None and pair.longest > context:
                raise UserError(
                    f"question {number} has {pair.longest} tokens with its answer: expected at most the judge's "
                    f"context of {context}"
                )
        found: list[list[float]] = [[] for _ in completions]
        for group in pair_buckets(pairs, self.max_tokens, shared=self._shared):
            batch = collate_pairs(
                [pairs[index] for index in group],
                self.tokenizer.pad_id,
                shared=self._shared,
                device=self.policy.device,
            )
            logps = pair_token_logps(self.policy.model, batch).tolist()
            for owner, logp in zip(batch.owners.tolist(), logps, strict=True):
                found[2 * group[owner % batch.size] + owner // batch.size].append(logp)
        return found
