"""What every sampler takes and gives: parameters, completions, and the protocol that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fionalm.data.text_tokenizer import Prompt
from fionalm.errors import UserError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn; names and meanings are vLLM's where it has them."""

    n: int = 1
    """Completions of each prompt."""
    max_tokens: int = 256
    """Tokens of a completion at most."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Draw from the k most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the most likely tokens that hold this much probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Draw from tokens at least this likely relative to the most likely one (Nguyen et al. 2024)."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are cut off."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion, besides end-of-sequence."""
    seed: int = 0
    """With the prompt's index and the sample's, decides every draw."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise UserError(f"n {self.n} and max_tokens {self.max_tokens}: expected at least 1 each")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature}: expected 0 (the most likely token) or more")
        if self.top_k < 0:
            raise UserError(f"top_k {self.top_k}: expected 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: expected a probability above 0, at most 1")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p {self.min_p}: expected a probability between 0 and 1")
        if any(not stop for stop in self.stop):
            raise UserError("a stop string was empty: expected at least one character")


@dataclass(frozen=True)
class Completion:
    """One drawn completion."""

    text: str
    """Without the stop string and special tokens."""
    finish_reason: FinishReason
    """`stop`: end-of-sequence, a stop token or a stop string; `length`: max_tokens or the context's end."""
    token_ids: tuple[int, ...] | None = None
    """Everything drawn, with the token that ended it; None where an endpoint does not say."""
    logps: tuple[float, ...] | None = None
    """Log-probability (nats) of each of `token_ids` under the model itself, at temperature 1 and without truncation."""

    @property
    def logp(self) -> float | None:
        """The completion's log-probability, or None."""
        return None if self.logps is None else sum(self.logps)


OnCompletion = Callable[[int, int, Completion], None]
"""Called with a prompt's index, a sample's index and the completion, as soon as it is finished."""


class Sampler(Protocol):
    """Draws completions; local engines and endpoints alike."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: OnCompletion | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        """Return `params.n` completions of each prompt.

        Args:
            prompts: strings, conversations or token ids.
            params: how to draw.
            seeds: one a completion, [prompts][n]; None: `sample_seed(params.seed, prompt, sample)` of each.
            on_completion: told of each completion as it ends, in any order.
            quiet: show no progress.

        Raises:
            UserError: a prompt that does not fit, or an endpoint that refuses.
        """
        ...


def sample_seed(seed: int, prompt: int | str, sample: int) -> int:
    """Return the 63-bit seed of one completion: the same whatever else is drawn beside it."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
