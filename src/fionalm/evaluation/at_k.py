"""pass@k, best-of-k and majority@k from M samples of a problem: the exact mean over all subsets of k.

Nothing is drawn: each is a closed form or a short sum over counts, and unbiased for k fresh samples. k samples of M are
drawn without replacement; with fewer than k samples the value is not known and NaN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from fionalm.errors import UserError

Answer = Hashable


@overload
def pass_at_k(num_samples: int, num_correct: int, k: int) -> float: ...
@overload
def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> Any: ...
def pass_at_k(num_samples: Any, num_correct: Any, k: int) -> Any:
    """Return 1 - C(M-c, k) / C(M, k): the chance that k samples hold a right one (Chen et al. 2021, equation 1).

    Args:
        num_samples: M, samples of each problem.
        num_correct: c, how many are right; both broadcast, one entry a problem.
        k: samples at inference.

    Returns:
        A float for whole numbers, an array for arrays; NaN where M < k.

    Raises:
        UserError: k below 1, or c outside 0 to M.
    """
    _check_k(k)
    samples, correct = np.broadcast_arrays(np.asarray(num_samples), np.asarray(num_correct))
    if ((correct < 0) | (correct > samples)).any():
        wrong = int(np.flatnonzero((correct < 0) | (correct > samples))[0])
        raise UserError(
            f"num_correct {correct.flat[wrong]} of num_samples {samples.flat[wrong]}: expected between 0 and all"
        )
    found = np.where(samples >= k, 1 - subset_ratio(samples - correct, samples, k), np.nan)
    return float(found) if found.ndim == 0 else found


def best_of_k(scores: ArrayLike, rewards: ArrayLike, k: int) -> Any:
    """Return the expected reward of the sample with the best score among k.

    Tied best samples are picked at random, so each counts equally. A sample whose score or reward is NaN counts as
    not drawn.

    Args:
        scores: of the verifier that picks, [samples] or [problems, samples].
        rewards: of the same shape.
        k: samples at inference.

    Returns:
        A float, or one a problem [problems]; NaN where fewer than k samples are known.

    Raises:
        UserError: k below 1, or shapes that differ.
    """
    _check_k(k)
    score, reward = np.asarray(scores, dtype=float), np.asarray(rewards, dtype=float)
    if score.shape != reward.shape or score.ndim not in (1, 2):
        raise UserError(f"scores {score.shape} and rewards {reward.shape}: expected one shape, [problems, samples]")
    if score.ndim == 2:
        return np.array([best_of_k(*pair, k) for pair in zip(score, reward, strict=True)], dtype=float)
    known = ~(np.isnan(score) | np.isnan(reward))
    score, reward = score[known], reward[known]
    if len(score) < k:
        return float("nan")
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    upto = np.cumsum(size)
    chance = subset_ratio(upto, len(score), k) - subset_ratio(upto - size, len(score), k)
    return float(chance @ (np.bincount(group, weights=reward) / size))


def majority_at_k(answers: Sequence[Any], gold: Any, k: int) -> Any:
    """Return the expected accuracy of the most frequent answer among k samples.

    Of t tied answers each is taken with probability 1/t. None is a sample without an answer: it is drawn, but does not
    vote, and k samples without any answer are wrong. Answers are equal if `==` says so: bring them to one form first.

    Args:
        answers: of one problem's samples [samples], or a list of such lists, one a problem.
        gold: the right answer, or a set of answers that are all right; a list of these for several problems.
        k: samples at inference.

    Returns:
        A float, or one a problem [problems]; NaN where there are fewer than k samples.

    Raises:
        UserError: k below 1, or as many gold answers as problems are not there.
    """
    _check_k(k)
    if answers and isinstance(answers[0], list | np.ndarray):
        if len(gold) != len(answers):
            raise UserError(f"{len(gold)} gold answers for {len(answers)} problems: expected one each")
        return np.array([majority_at_k(*pair, k) for pair in zip(answers, gold, strict=True)], dtype=float)
    if len(answers) < k:
        return float("nan")
    right: Collection[Answer] = gold if isinstance(gold, set | frozenset) else {gold}
    counts = Counter(answers)
    silent = counts.pop(None, 0)
    return float(sum(_wins(answer, counts, silent, k) for answer in right if answer is not None and answer in counts))


def subset_ratio(part: ArrayLike, whole: ArrayLike, size: int) -> np.ndarray:
    """Return C(part, size) / C(whole, size): the chance that a random subset lies within a part."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=float), np.asarray(whole, dtype=float))
    ratio = np.ones(part.shape)
    for taken in range(size):
        ratio *= np.maximum(part - taken, 0) / np.maximum(whole - taken, 1)
    return ratio


def _wins(answer: Answer, counts: Counter[Any], silent: int, k: int) -> float:
    """Return the chance that `answer` has the most votes among k of all samples, its share where it ties.

    Sums over its votes v the chance that no other has more, over the number t of others that have v too. Draws without
    replacement are independent binomial draws, given that they are k in all: so one polynomial in the number drawn is
    multiplied by another for each answer that could have v votes, and all rarer ones are one pool.
    """
    total = counts.total() + silent
    share = k / total
    if share == 1:  # everything is drawn
        most = max(counts.values())
        return float(counts[answer] == most) / sum(count == most for count in counts.values())
    others = sorted((count for name, count in counts.items() if name != answer), reverse=True)
    won = 0.0
    for votes in range(1, min(counts[answer], k) + 1):
        rivals = [count for count in others if count >= votes]
        pool = silent + sum(others[len(rivals) :])
        most_ties = min(len(rivals), k // votes - 1)
        table = np.zeros((most_ties + 1, k - votes + 1))  # [ties, drawn of the others]
        table[0] = _padded(_binomial(pool, share), k - votes + 1)
        for count in rivals:
            chances = _binomial(count, share)
            table = _times(table, chances[:votes], chances[votes], votes)
        ways = table[:, -1] @ (1 / np.arange(1, most_ties + 2))
        won += _binomial(counts[answer], share)[votes] * ways
    return won / _binomial(total, share)[k]


def _times(table: np.ndarray, fewer: np.ndarray, tie: float, votes: int) -> np.ndarray:
    """Add a rival to the table: one with fewer votes than the answer, or with as many, which is one more tie."""
    length = table.shape[1]
    found = np.zeros_like(table)
    for drawn, chance in enumerate(fewer[:length]):
        found[:, drawn:] += chance * table[:, : length - drawn]
    if length > votes:
        found[1:, votes:] += tie * table[:-1, : length - votes]
    return found


def _binomial(count: int, share: float) -> np.ndarray:
    """Return the binomial distribution of `count` draws with 0 < share < 1, stable for thousands."""
    drawn = np.arange(1, count + 1)
    steps = np.log((count - drawn + 1) / drawn) + np.log(share) - np.log1p(-share)
    return np.exp(np.concatenate(([0.0], np.cumsum(steps))) + count * np.log1p(-share))


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values[:length], (0, max(0, length - len(values))))


def _check_k(k: int) -> None:
    if k != int(k) or k < 1:
        raise UserError(f"k was {k}: expected a whole number of samples, at least 1")
