"""How an endpoint is used: what a request asks for, how often it is tried, and what may be spent."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from fionalm.errors import UserError

PER_PRICE = 1_000_000
"""Prices are for so many tokens."""


@dataclass(frozen=True)
class Budget:
    """What may be spent; what is under way at a limit still ends, and answers in the cache cost nothing."""

    requests: int | None = None
    """Requests at most. None: no limit."""
    tokens: int | None = None
    """Tokens of prompts and completions at most. None: no limit."""
    money: float | None = None
    """Money at most, in the prices' currency. None: no limit."""
    prompt_price: float = 0.0
    """Price of a million prompt tokens."""
    completion_price: float = 0.0
    """Price of a million completion tokens."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not value >= 0:
                raise UserError(f"budget {item.name} {value}: expected 0 or more")
        if self.money is not None and not self.prompt_price + self.completion_price:
            raise UserError(
                f"a budget of {self.money:g} without a price: expected prompt_price or completion_price, "
                "for a million tokens"
            )


@dataclass(frozen=True)
class EndpointConfig:
    """How an endpoint is asked."""

    chat: bool | None = None
    """Ask /chat/completions with strings as a user's message too. None: conversations there, strings as they are."""
    logprobs: bool = False
    """Ask for log-probabilities; an endpoint that returns none is refused."""
    token_ids: bool = False
    """Ask for token ids (vLLM's and fiona serve's `return_token_ids`)."""
    concurrency: int = 16
    """Requests under way at once."""
    samples_per_request: int | None = None
    """Completions asked of one request. None: all of a prompt, so that the prompt is paid once."""
    timeout: float = 300.0
    """Seconds until a request counts as failed."""
    retries: int = 6
    """Further attempts after a rate limit, a server's error, a lost connection or a timeout."""
    backoff: float = 0.5
    """Seconds before the first retry; doubles with each, less a random quarter, unless the endpoint says how long."""
    max_wait: float = 120.0
    """Longest wait, in seconds, before a retry; an endpoint that asks for more is given up."""
    cache: bool = True
    """Keep answers in the cache folder, by request: what was paid once is never asked again."""
    budget: Budget = field(default_factory=Budget)
    """What may be spent."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or (self.samples_per_request or 1) < 1:
            raise UserError(
                f"concurrency {self.concurrency}, retries {self.retries}, samples_per_request "
                f"{self.samples_per_request}: expected at least 1, 0 and 1"
            )
        if not self.timeout > 0 or self.backoff < 0 or self.max_wait < 0:
            raise UserError(
                f"timeout {self.timeout}, backoff {self.backoff}, max_wait {self.max_wait}: expected seconds"
            )


@dataclass
class Usage:
    """What was used so far."""

    requests: int = 0
    """Answered by the endpoint."""
    cached: int = 0
    """Answered from the cache."""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: dict[str, Any], budget: Budget) -> None:
        """Count an answer of the endpoint's.

        Raises:
            UserError: it does not say how many tokens it took, and the budget limits them.
        """
        self.requests += 1
        usage = reply.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            self.completion_tokens += int(usage.get("completion_tokens") or 0)
        elif budget.tokens is not None or budget.money is not None:
            raise UserError(
                "the endpoint does not say how many tokens it took: expected a budget of requests instead of tokens or "
                "money"
            )

    def money(self, budget: Budget) -> float:
        """Return what the tokens cost at the budget's prices."""
        cost = self.prompt_tokens * budget.prompt_price + self.completion_tokens * budget.completion_price
        return cost / PER_PRICE

    def spent(self, budget: Budget, under_way: int = 0) -> str | None:
        """Return which limit is reached, as in `10 requests`; None while there is some left."""
        tokens = self.prompt_tokens + self.completion_tokens
        if budget.requests is not None and self.requests + under_way >= budget.requests:
            return f"{budget.requests:,} requests"
        if budget.tokens is not None and tokens >= budget.tokens:
            return f"{budget.tokens:,} tokens ({tokens:,} used)"
        if budget.money is not None and self.money(budget) >= budget.money:
            return f"{budget.money:g} ({self.money(budget):.4g} used)"
        return None
