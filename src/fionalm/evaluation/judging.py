"""Judging samples that were stored without a verdict, or again by another verifier; scoring them; both resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from fionalm.data.text_tokenizer import Prompt
from fionalm.progress import progress
from fionalm.sampling.records import SampleRecord, SampleStore
from fionalm.verifiers.asking import judged
from fionalm.verifiers.types import Verifier

CHUNK, SCORED = 256, 64
"""Samples judged and scored between two writes: a kill loses at most so many."""


def judge_samples(
    records: Iterable[SampleRecord],
    verifier: Verifier,
    store: SampleStore,
    *,
    again: bool = False,
    quiet: bool = False,
) -> list[SampleRecord]:
    """Return the samples with verdicts.

    Args:
        records: samples; the verifier is given their `columns`, None where one has not what another has.
        verifier: judges those without a reward.
        store: gets each new verdict; what it holds of the same completion already is taken from it.
        again: judge those with a reward too.
        quiet: show no progress.
    """
    found = list(records)
    waiting = []
    for index, record in enumerate(found):
        known = store.get(*record.key)
        if known is not None and known.outcome is not None and known.completion == record.completion:
            found[index] = known
        elif again or record.reward is None:
            waiting.append(index)
    with progress(len(waiting), "judging", "samples", quiet=quiet or not waiting) as bar:
        for start in range(0, len(waiting), CHUNK):
            chunk = waiting[start : start + CHUNK]
            fresh = _judged([found[index] for index in chunk], verifier)
            store.append(*fresh)
            for index, record in zip(chunk, fresh, strict=True):
                found[index] = record
            bar.advance(len(chunk))
    return found


def score_samples(
    records: Iterable[SampleRecord],
    selector: Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]],
    store: SampleStore,
    *,
    quiet: bool = False,
) -> list[SampleRecord]:
    """Return the samples with scores of a selecting verifier, for best-of-k.

    Args:
        records: samples; scores that they have already are of another selector.
        selector: scores completions of prompts, such as a `RewardModel`; larger is better.
        store: gets each new score; what it holds of the same completion already is taken from it.
        quiet: show no progress.
    """
    found = list(records)
    waiting = []
    for index, record in enumerate(found):
        known = store.get(*record.key)
        if known is not None and known.score is not None and known.completion == record.completion:
            found[index] = replace(record, score=known.score)
        else:
            waiting.append(index)
    with progress(len(waiting), "scoring", "samples", quiet=quiet or not waiting) as bar:
        for start in range(0, len(waiting), SCORED):
            chunk = waiting[start : start + SCORED]
            scores = selector([found[index].prompt for index in chunk], [found[index].completion for index in chunk])
            for index, score in zip(chunk, scores, strict=True):
                found[index] = replace(found[index], score=float(score))
            store.append(*(found[index] for index in chunk))
            bar.advance(len(chunk))
    return found


def _judged(records: Sequence[SampleRecord], verifier: Verifier) -> list[SampleRecord]:
    names = dict.fromkeys(name for record in records for name in record.columns)
    columns = {name: [record.columns.get(name) for record in records] for name in names}
    verdicts = judged(verifier, [one.prompt for one in records], [one.completion for one in records], columns)
    return [
        replace(record, reward=verdict.reward, outcome=verdict.outcome, answer=verdict.answer)
        for record, verdict in zip(records, verdicts, strict=True)
    ]
