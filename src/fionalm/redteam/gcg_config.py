"""What can be set about greedy coordinate gradient; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fionalm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GcgConfig:
    """How the string is searched; the paper's own values are top_k 256, candidates 512, length 20, steps 500."""

    length: int = 20
    """Tokens of the string."""
    steps: int = 100
    """Substitutions tried at most, one a step."""
    top_k: int = 256
    """At each place the candidates are among the tokens with this many steepest descents."""
    candidates: int = 128
    """Strings whose loss is computed in each step."""
    text: str | None = None
    """String to begin with, whatever its length. None: random tokens, which the seed decides."""
    progressive: bool = False
    """Take up one problem after another, each when the string fools the model on all before (algorithm 2)."""
    stop_when_found: bool = True
    """End when the model's likeliest answer to every problem is its target."""
    ascii_only: bool = True
    """Use only characters of a plain keyboard."""
    max_queries: int | None = None
    """Sequences that the model may be given, after which the search ends with what it has. None: no limit."""
    batch_tokens: int = 8192
    """Tokens in one forward pass at most."""
    seed: int = 0
    """Of the first string and of the substitutions."""

    def __post_init__(self) -> None:
        for name in ("length", "steps", "top_k", "candidates", "batch_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.max_queries is not None and self.max_queries < 1:
            raise UserError(f"max_queries {self.max_queries}: expected at least 1")
