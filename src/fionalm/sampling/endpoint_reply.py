"""What an endpoint's answers say: completions, and log-probabilities of given answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fionalm.errors import UserError
from fionalm.sampling.types import Completion


@dataclass(frozen=True)
class Position:
    """A generated token and the likeliest ones in its place, with log-probabilities in nats."""

    token: str
    logp: float
    top: Mapping[str, float]


def reply_choices(reply: Mapping[str, Any], url: str) -> list[dict[str, Any]]:
    """Return a reply's choices in order.

    Raises:
        UserError: it has none.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UserError(f"{url} did not answer as an OpenAI-compatible endpoint does: its reply has no choices")
    return sorted(choices, key=lambda choice: choice.get("index") or 0)


def reply_completion(choice: Mapping[str, Any], *, logprobs: bool, url: str) -> Completion:
    """Return a choice as a completion.

    Raises:
        UserError: log-probabilities were asked for, and it has none.
    """
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    ids = choice.get("token_ids")
    logps = tuple(position.logp for position in reply_positions(choice, url)) if logprobs else None
    finish = "length" if choice.get("finish_reason") == "length" else "stop"
    text = str(text or "").encode(errors="replace").decode()  # half a surrogate pair, which no file can hold
    return Completion(text, finish, None if ids is None else tuple(ids), logps)


def reply_positions(choice: Mapping[str, Any], url: str) -> list[Position]:
    """Return a choice's tokens with their log-probabilities, of either API.

    Raises:
        UserError: it has none.
    """
    found = choice.get("logprobs")
    if isinstance(found, dict) and isinstance(found.get("content"), list):
        return [
            Position(one["token"], one["logprob"], {top["token"]: top["logprob"] for top in one["top_logprobs"] or []})
            for one in found["content"]
        ]
    if isinstance(found, dict) and isinstance(found.get("token_logprobs"), list):
        logps, tokens = found["token_logprobs"], found.get("tokens") or [""] * len(found["token_logprobs"])
        tops = found.get("top_logprobs") or [{}] * len(logps)
        return [Position(*one) for one in zip(tokens, logps, (top or {} for top in tops), strict=True)]
    if not (choice.get("text") or (choice.get("message") or {}).get("content")):
        return []  # an empty completion may have no list of its tokens
    raise UserError(
        f"{url} returned no log-probabilities: expected an endpoint that supports logprobs, such as vLLM or "
        "`fiona serve`, or a run without them"
    )


def choices_from_top(positions: Sequence[Position], choices: Sequence[str]) -> list[float]:
    """Return log-probabilities (nats) that the answer is each of `choices`, from the likeliest tokens of an answer.

    The drawn tokens are followed while several choices begin with them, as `(` begins `(1)` and `(2)`; where they
    part, the tokens listed for each choice are added up. A choice that is not listed there gets the least
    log-probability that is, an upper bound. All are -inf where no choice was listed at all.
    """
    wanted = [choice.strip() for choice in choices]
    logps = [-math.inf] * len(wanted)
    bounds = [math.inf] * len(wanted)
    alive = list(range(len(wanted)))
    prefix, above = "", 0.0
    for position in positions:
        listed = {**position.top, position.token: position.logp}
        for index in alive:
            bounds[index] = above + min(listed.values())
        for token, logp in listed.items():
            fitting = [index for index in alive if _fits((prefix + token).lstrip(), wanted[index])]
            if len(fitting) == 1:
                logps[fitting[0]] = _add(logps[fitting[0]], above + logp)
        prefix, above = prefix + position.token, above + position.logp
        alive = [index for index in alive if wanted[index].startswith(prefix.lstrip())]
        if len(alive) < 2 and prefix.strip():
            break
    if max(logps) == -math.inf:
        return logps
    return [min(bound, 0.0) if logp == -math.inf else logp for logp, bound in zip(logps, bounds, strict=True)]


def _fits(text: str, choice: str) -> bool:
    """Tell whether an answer that begins with `text` may be `choice`: `1)` may be `1`, and `10` may not."""
    if not text:
        return False
    return choice.startswith(text) or (text.startswith(choice) and not text[len(choice) :][:1].isalnum())


def _add(left: float, right: float) -> float:
    high, low = max(left, right), min(left, right)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
