"""Judging stored samples: only what is not known, whatever the texts hold, verdicts kept."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.evaluation import judge_samples
from fionalm.evaluation.judging import CHUNK
from fionalm.sampling import SampleRecord, SampleStore, read_samples
from fionalm.verifiers import Verdict


class Long:
    """Right is what has as many characters as told; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[Verdict]:
        self.asked += completions
        lengths = columns.get("length", [None] * len(completions))
        return [
            Verdict("error", None) if length is None else Verdict("right" if length == len(text) else "wrong", 1.0)
            for text, length in zip(completions, lengths, strict=True)
        ]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(), st.none() | st.integers(0, 3)), max_size=6))
def test_verdicts_survive_any_text(texts: list[tuple[str, int | None]]) -> None:
    records = [
        SampleRecord("p", index, "q\u2028", text, columns={} if length is None else {"length": length})
        for index, (text, length) in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = SampleStore(Path(folder) / "s.jsonl")
        first = judge_samples(records, Long(), store, quiet=True)
        again = Long()
        assert judge_samples(records, again, SampleStore(store.path), quiet=True) == first and not again.asked
        if records:
            assert read_samples(store.path) == first
    outcomes = ["error" if n is None else "right" if n == len(text) else "wrong" for text, n in texts]
    assert [one.outcome for one in first] == outcomes


def test_known_rewards_are_kept_unless_told(tmp_path: Path) -> None:
    records = [
        SampleRecord("p", 0, "q", "ab", reward=0.5, outcome="right", columns={"length": 2}),
        SampleRecord("p", 1, "q", "abc", columns={"length": 2}),
    ]
    verifier = Long()
    found = judge_samples(records, verifier, SampleStore(tmp_path / "a.jsonl"), quiet=True)
    assert verifier.asked == ["abc"] and found[0].reward == 0.5
    found = judge_samples(records, verifier, SampleStore(tmp_path / "b.jsonl"), again=True, quiet=True)
    assert verifier.asked == ["abc", "ab", "abc"] and found[0].reward == 1.0


def test_a_completion_that_changed_is_judged_anew(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "a.jsonl")
    judge_samples([SampleRecord("p", 0, "q", "ab", columns={"length": 2})], Long(), store, quiet=True)
    (found,) = judge_samples([SampleRecord("p", 0, "q", "abc", columns={"length": 2})], Long(), store, quiet=True)
    assert found.outcome == "wrong"


def test_what_was_judged_before_a_kill_is_in_the_file(tmp_path: Path) -> None:
    records = [SampleRecord("p", index, "q", "ab", columns={"length": 2}) for index in range(CHUNK + 3)]

    class Stops(Long):
        def __call__(self, *given: Any, **columns: Any) -> list[Verdict]:
            if self.asked:
                raise KeyboardInterrupt
            return super().__call__(*given, **columns)

    store = SampleStore(tmp_path / "a.jsonl")
    with pytest.raises(KeyboardInterrupt):
        judge_samples(records, Stops(), store, quiet=True)
    rest = Long()
    assert len(judge_samples(records, rest, SampleStore(store.path), quiet=True)) == CHUNK + 3
    assert len(rest.asked) == 3


def test_a_verifier_that_raises_has_failed_and_nothing_is_lost(tmp_path: Path) -> None:
    def raises(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[Verdict]:
        raise OSError("out of processes")

    store = SampleStore(tmp_path / "a.jsonl")
    (found,) = judge_samples([SampleRecord("p", 0, "q", "ab", columns={"length": 2})], raises, store, quiet=True)
    assert (found.outcome, found.reward) == ("error", None)
    assert read_samples(store.path) == [found]
