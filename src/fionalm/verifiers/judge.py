"""A language model as judge of pairs: p(first is better), from its log-probabilities of answering "(1)" or "(2)".

As Furuta et al. 2024 (arXiv 2409.06691, section 2) label preferences: both completions are shown, p is the softmax of
the two answers' log-probabilities, and the average over both orders of presentation removes the judge's liking for a
place. A judge that always says "(1)" so gives 1/2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fionalm.data.text_tokenizer import Message, Prompt, completion_text, is_conversation
from fionalm.errors import UserError

TEMPLATE = """Two answers were given to the same request. Decide which one is better: {criterion}.

Request:
{prompt}

Answer (1):
{first}

Answer (2):
{second}

Which answer is better? Reply with {choices} only."""
CRITERION = "the one that is more helpful, correct and harmless"
PLAIN_ENDING = "\n\nThe better answer is ("


@runtime_checkable
class ChoiceSampler(Protocol):
    """A sampler that can say how likely each of a few given replies is."""

    def choice_logps(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """Return log-probabilities in nats [prompts][choices]; -inf where an endpoint did not list a choice."""
        ...


@runtime_checkable
class ScoringSampler(Protocol):
    """A sampler that can say how likely the tokens of a given completion are."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Any]) -> list[list[float]]:
        """Return each completion's token log-probabilities in nats."""
        ...


@dataclass(frozen=True)
class Judgement:
    """A pair judged in both orders."""

    shown_first: float
    """P(first completion is better) where it stood at (1)."""
    shown_second: float
    """P(first completion is better) where it stood at (2)."""
    unanswered: int = 0
    """Orders, of the two, in which an endpoint listed neither choice; 1/2 stands for their probability."""

    @property
    def preference(self) -> float:
        """P(first completion is better), averaged over both orders."""
        return (self.shown_first + self.shown_second) / 2

    @property
    def consistent(self) -> bool:
        """Whether both orders name the same winner."""
        return (self.shown_first - 0.5) * (self.shown_second - 0.5) > 0


class Judge:
    """Compares pairs of completions by a model's log-probabilities.

    Args:
        sampler: a local engine (its `score` is used) or an endpoint (its `choice_logps`).
        criterion: what better means, in words that end the sentence "Decide which one is better: ...".
        template: the question, with the fields {prompt}, {first}, {second} and, if wanted, {criterion} and {choices}.
        chat: ask in a conversation; False: let the model continue a text, which suits base models and works where a
            model does not follow instructions. None: if it has a chat template, or says nothing of its tokenizer.

    Raises:
        UserError: a sampler that knows no log-probabilities, or a template without its fields.
    """

    def __init__(
        self,
        sampler: ChoiceSampler | ScoringSampler,
        *,
        criterion: str = CRITERION,
        template: str = TEMPLATE,
        chat: bool | None = None,
    ) -> None:
        if not isinstance(sampler, ChoiceSampler | ScoringSampler):
            raise UserError(
                f"{type(sampler).__name__} gives no log-probabilities of given answers: expected a local model, or an "
                "endpoint with logprobs"
            )
        for field in ("{prompt}", "{first}", "{second}"):
            if field not in template:
                raise UserError(f"the judge's template has no {field}: expected {{prompt}}, {{first}} and {{second}}")
        self.sampler = sampler
        self.criterion, self.template = criterion, template
        tokenizer = getattr(sampler, "tokenizer", None)
        self.chat = getattr(tokenizer, "has_chat_template", tokenizer is None) if chat is None else chat
        # An endpoint lists likely first tokens alone, so there the choices must differ in the first.
        self.choices = ("1", "2") if isinstance(sampler, ChoiceSampler) else ("(1)", "(2)")

    def preferences(
        self,
        prompts: Sequence[Prompt],
        firsts: Sequence[str | Sequence[Message]],
        seconds: Sequence[str | Sequence[Message]],
    ) -> list[float]:
        """Return P(first is better than second) of each pair, averaged over both orders of presentation."""
        return [one.preference for one in self.judge(prompts, firsts, seconds)]

    def judge(
        self,
        prompts: Sequence[Prompt],
        firsts: Sequence[str | Sequence[Message]],
        seconds: Sequence[str | Sequence[Message]],
    ) -> list[Judgement]:
        """Judge each pair in both orders.

        Raises:
            UserError: lists of unequal length, an endpoint that gives no log-probabilities, or a question that does
                not fit the context.
        """
        if not len(prompts) == len(firsts) == len(seconds):
            raise UserError(
                f"{len(prompts)} prompts, {len(firsts)} first and {len(seconds)} second completions: expected as many "
                "of each"
            )
        questions = [self.question(*pair) for pair in zip(prompts, firsts, seconds, strict=True)]
        questions += [self.question(*pair) for pair in zip(prompts, seconds, firsts, strict=True)]
        logps = choice_logps(self.sampler, questions, self._asked_for)
        both_orders = zip(logps[: len(prompts)], logps[len(prompts) :], strict=True)
        return [
            Judgement(
                _first_of_two(*forward),
                1 - _first_of_two(*swapped),
                unanswered=sum(max(order) == -math.inf for order in (forward, swapped)),
            )
            for forward, swapped in both_orders
        ]

    def question(
        self, prompt: Prompt, first: str | Sequence[Message], second: str | Sequence[Message]
    ) -> str | list[dict[str, str]]:
        """Return what the judge is asked about one pair: a conversation, or text that the answer continues."""
        fields = {
            "criterion": self.criterion,
            "choices": " or ".join(self.choices),
            "prompt": request_text(prompt),
            "first": completion_text(first).strip(),
            "second": completion_text(second).strip(),
        }
        text = _filled(self.template, fields)
        return [{"role": "user", "content": text}] if self.chat else text + PLAIN_ENDING

    @property
    def _asked_for(self) -> tuple[str, ...]:
        """What may follow the question; in plain text the parenthesis is open already."""
        return self.choices if self.chat else tuple(choice.removeprefix("(") for choice in self.choices)


def check_answered(judgements: Sequence[Judgement]) -> None:
    """Refuse judgements of which not one is an answer: they would all be 1/2.

    Raises:
        UserError: the judge answered none.
    """
    if judgements and all(one.unanswered == 2 for one in judgements):
        raise UserError(
            "the judge named neither answer of any pair: expected a model that follows the instruction, or a plain "
            "continuation in place of a conversation"
        )


def choice_logps(
    sampler: ChoiceSampler | ScoringSampler, prompts: Sequence[Prompt], choices: Sequence[str]
) -> list[list[float]]:
    """Return the log-probability in nats of each choice after each prompt [prompts][choices]."""
    if isinstance(sampler, ChoiceSampler):
        return sampler.choice_logps(prompts, choices)
    pairs = [(prompt, choice) for prompt in prompts for choice in choices]
    scored = sampler.score([prompt for prompt, _ in pairs], [choice for _, choice in pairs])
    sums = [math.fsum(logps) for logps in scored]
    return [sums[start : start + len(choices)] for start in range(0, len(sums), len(choices))]


def request_text(prompt: Prompt) -> str:
    """Return a prompt as plain text: itself, the only message, or each message under its role."""
    if isinstance(prompt, str):
        return prompt.strip()
    if not is_conversation(prompt):
        raise UserError("a judge reads text: expected a string or a conversation as the prompt, not token ids")
    messages: Sequence[Any] = prompt
    if len(messages) == 1:
        return str(messages[0]["content"]).strip()
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages).strip()


def _filled(template: str, fields: dict[str, str]) -> str:
    """Fill the fields in one pass, so that braces in an answer stay what they are."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in fields), lambda found: fields[found[0][1:-1]], template)


def _first_of_two(first: float, second: float) -> float:
    """Return the softmax's first entry; 1/2 where neither choice was listed."""
    if first == second:
        return 0.5
    difference = second - first
    return 1 / (1 + math.exp(difference)) if difference < 700 else 0.0
