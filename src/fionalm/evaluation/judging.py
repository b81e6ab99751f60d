"""Judging samples that were stored without a verdict, or again by another verifier; resumed after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fionalm.progress import progress
from fionalm.sampling.records import SampleRecord, SampleStore, read_samples
from fionalm.verifiers.asking import judged
from fionalm.verifiers.types import Verifier

CHUNK = 256
"""Samples judged between two writes: a kill loses at most so many."""


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
    stored = read_samples(store.path) if store.path.exists() else []
    verdicts = {(*one.key, one.temperature): one for one in stored if one.outcome is not None}
    for index, record in enumerate(found):
        known = verdicts.get((*record.key, record.temperature))
        if known is not None and known.completion == record.completion:
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


def _judged(records: Sequence[SampleRecord], verifier: Verifier) -> list[SampleRecord]:
    names = dict.fromkeys(name for record in records for name in record.columns)
    columns = {name: [record.columns.get(name) for record in records] for name in names}
    verdicts = judged(verifier, [one.prompt for one in records], [one.completion for one in records], columns)
    return [
        replace(record, reward=verdict.reward, outcome=verdict.outcome, answer=verdict.answer)
        for record, verdict in zip(records, verdicts, strict=True)
    ]
