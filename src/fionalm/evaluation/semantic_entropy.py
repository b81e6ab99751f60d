"""Semantic entropy: how much a model's samples of one question differ in meaning, with no label needed.

Kuhn et al. 2023 (arXiv 2302.09664) and Farquhar et al. 2024 (Nature 630): samples are clustered by meaning, two of them
together where each entails the other, and the entropy over clusters says how unsure the model is of what to say rather
than of how to word it. High values point to hallucination.

    answer_entropy(["Paris", "paris.", "Lyon"]).discrete      # 0.637 nats
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fionalm.errors import UserError
from fionalm.verifiers.answers import normalise
from fionalm.verifiers.judge import ChoiceSampler, ScoringSampler, choice_logps

Entails = Callable[[str, str, str], bool]
"""`entails(question, premise, hypothesis)`: whether the premise, an answer to the question, entails the hypothesis."""
Equivalent = Callable[[str, str, str], bool]
"""`equivalent(question, first, second)`: whether two answers to the question mean the same."""

ENTAILMENT = """Question: {question}
Answer A: {premise}
Answer B: {hypothesis}

If answer A to the question is true, must answer B be true, too? Reply with yes or no only."""


@dataclass(frozen=True)
class AnswerEntropy:
    """The entropy over meanings of one question's samples, in nats."""

    clusters: tuple[int, ...]
    """Which meaning each sample has, numbered from 0 in order of appearance."""
    discrete: float
    """Entropy of the shares of samples."""
    weighted: float | None
    """Entropy of the sequences' probabilities, the Rao-Blackwellised form; None without log-probabilities."""


def answer_entropy(
    answers: Sequence[str],
    logps: Sequence[float] | None = None,
    lengths: Sequence[int] | None = None,
    *,
    question: str = "",
    equivalent: Equivalent | None = None,
) -> AnswerEntropy:
    """Cluster one question's samples and return both entropies.

    Args:
        answers: sampled at temperature 1 for the estimates to be what they say.
        logps: log-probability of each in nats.
        lengths: tokens of each, by which its log-probability is divided, as Kuhn et al. do (section 3.3); None: not.
        question: what they answer, for `equivalent`.
        equivalent: tells whether two answers mean the same; None: equal once normalised (case, spaces, punctuation).

    Raises:
        UserError: no answers, or lists of unequal length.
    """
    clusters = cluster_answers(answers, question=question, equivalent=equivalent)
    weighted = None
    if logps is not None:
        if lengths is not None:
            pairs = zip(logps, lengths, strict=True)
            logps = [logp / max(length, 1) for logp, length in pairs]
        weighted = weighted_entropy(logps, clusters, texts=answers)
    return AnswerEntropy(tuple(clusters), discrete_entropy(clusters), weighted)


def cluster_answers(answers: Sequence[str], *, question: str = "", equivalent: Equivalent | None = None) -> list[int]:
    """Return the number of each answer's cluster, from 0 in order of appearance.

    An answer joins the first cluster whose first member it is equivalent to (Kuhn et al. 2023, algorithm 1); texts that
    are equal once normalised are one answer, and `equivalent` is asked of it once.
    """
    firsts: list[str] = []
    numbers: dict[str, int] = {}
    found: list[int] = []
    for answer in answers:
        key = normalise(answer) or answer.strip()
        if key not in numbers:
            same = (number for number, first in enumerate(firsts) if equivalent and equivalent(question, first, answer))
            numbers[key] = next(same, len(firsts))
            if numbers[key] == len(firsts):
                firsts.append(answer)
        found.append(numbers[key])
    return found


def discrete_entropy(clusters: Sequence[int]) -> float:
    """Return -sum p log p in nats, p the share of samples in each cluster (Farquhar et al. 2024, discrete variant).

    Raises:
        UserError: no samples.
    """
    if not clusters:
        raise UserError("there are no samples to take the semantic entropy of: expected at least one")
    return _entropy([count / len(clusters) for count in Counter(clusters).values()])


def weighted_entropy(logps: Sequence[float], clusters: Sequence[int], *, texts: Sequence[str] | None = None) -> float:
    """Return -sum p log p in nats, p the clusters' probabilities, normalised over what was sampled.

    A cluster's probability is the sum of its sequences' (Kuhn et al. 2023, equation 2), which replaces the count of
    samples by its expectation given which sequences were seen: the Rao-Blackwellised estimate. Once every sequence has
    been seen it is the exact semantic entropy.

    Args:
        logps: log-probability of each sample, in nats; divide by the length first to normalise for it.
        clusters: of each sample.
        texts: the samples; one that was drawn twice counts once, for its probability says already how often it comes.
            None: all are taken for different.

    Raises:
        UserError: no samples, or lists of unequal length.
    """
    if not clusters:
        raise UserError("there are no samples to take the semantic entropy of: expected at least one")
    if len(logps) != len(clusters) or (texts is not None and len(texts) != len(clusters)):
        raise UserError(f"{len(logps)} log-probabilities for {len(clusters)} samples: expected one each")
    names: Sequence[Any] = range(len(clusters)) if texts is None else texts
    kept = dict(zip(names, zip(logps, clusters, strict=True), strict=True))
    most = max(logp for logp, _ in kept.values())
    if most == -math.inf:
        raise UserError("no sample has a probability above 0: expected finite log-probabilities")
    masses: Counter[int] = Counter()
    for logp, cluster in kept.values():
        masses[cluster] += math.exp(logp - most)  # pyright: ignore[reportArgumentType]
    total = math.fsum(masses.values())
    return _entropy([mass / total for mass in masses.values()])


def bidirectional(entails: Entails) -> Equivalent:
    """Return equivalence as entailment both ways (Kuhn et al. 2023, section 3.2)."""

    def equivalent(question: str, first: str, second: str) -> bool:
        return entails(question, first, second) and entails(question, second, first)

    return equivalent


def entailment_by(sampler: ChoiceSampler | ScoringSampler, *, chat: bool | None = None) -> Entails:
    """Return entailment as a language model judges it: whether it finds "yes" likelier than "no".

    Args:
        sampler: a local engine, or an endpoint that gives log-probabilities.
        chat: ask in a conversation; None: if the model has a chat template.
    """
    tokenizer = getattr(sampler, "tokenizer", None)
    in_turns = getattr(tokenizer, "has_chat_template", tokenizer is None) if chat is None else chat

    def entails(question: str, premise: str, hypothesis: str) -> bool:
        text = ENTAILMENT.format(question=question, premise=premise, hypothesis=hypothesis)
        asked: Any = [{"role": "user", "content": text}] if in_turns else f"{text}\n\nReply:"
        choices = ("yes", "no") if in_turns else (" yes", " no")
        [[yes, no]] = choice_logps(sampler, [asked], choices)
        return yes > no

    return entails


def _entropy(shares: Sequence[float]) -> float:
    return math.fsum(-share * math.log(share) for share in shares if share > 0)
