"""Drawing into a samples file: names, seeds, resuming, and the file's order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.sampling import SampleRecord, SampleStore, SamplingParams, read_samples
from fionalm.sampling.drawing import Problem, draw_samples, problems_of

from .conftest import Served

PARAMS = SamplingParams(n=3, max_tokens=6)
PROBLEMS = [Problem("a", "hello"), Problem("b", "once upon"), Problem("c", [{"role": "user", "content": "hi"}])]


def test_rows_are_named_by_id_or_number() -> None:
    problems = problems_of([{"prompt": "x", "answer": "1"}, {"prompt": "y", "id": 7}])
    assert [(one.id, one.columns) for one in problems] == [("0", {"answer": "1"}), ("7", {})]
    with pytest.raises(UserError, match="rows 1 and 3 have the same id '2'"):
        problems_of([{"prompt": "x", "id": "2"}, {"prompt": "y"}, {"prompt": "z"}])


def test_any_interruption_ends_with_the_same_file(served: Served, tmp_path: Path) -> None:
    whole = SampleStore(tmp_path / "whole.jsonl")
    draw_samples(served.sampler, PROBLEMS, PARAMS, whole, quiet=True)
    whole.rewrite(["a", "b", "c"])
    lines = whole.path.read_text().splitlines(keepends=True)
    assert len(lines) == 9
    texts = {one.key: one.completion for one in whole}
    for seed in range(4):
        kept = random.Random(seed).sample(lines, 2 * seed)
        store = SampleStore(tmp_path / f"{seed}.jsonl")
        store.path.write_text("".join(kept) + lines[0][: 20 * seed])
        store = SampleStore(store.path)
        before = len(store)
        told: list[str] = []
        append = store.append

        def counted(*records: SampleRecord, append: Any = append, told: Any = told) -> None:
            told.extend(record.problem for record in records)
            append(*records)

        store.append = counted  # type: ignore[method-assign]
        draw_samples(served.sampler, PROBLEMS, PARAMS, store, quiet=True)
        store.rewrite(["a", "b", "c"])
        assert len(told) == 9 - before
        assert {one.key: one.completion for one in store} == texts
        assert [one.key for one in read_samples(store.path)] == [one.key for one in read_samples(whole.path)]


def test_a_samples_draw_depends_on_its_problem_alone(served: Served, tmp_path: Path) -> None:
    both, one = SampleStore(tmp_path / "both.jsonl"), SampleStore(tmp_path / "one.jsonl")
    draw_samples(served.sampler, PROBLEMS, PARAMS, both, quiet=True)
    draw_samples(served.sampler, PROBLEMS[2:], PARAMS, one, quiet=True)
    assert {record.key: record.completion for record in one} == {
        record.key: record.completion for record in both if record.problem == "c"
    }


def test_another_prompt_of_the_same_name_is_refused(served: Served, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "samples.jsonl")
    draw_samples(served.sampler, PROBLEMS[:1], PARAMS, store, quiet=True)
    with pytest.raises(UserError, match="samples of problem 'a' with another prompt"):
        draw_samples(served.sampler, [Problem("a", "other")], PARAMS, store, quiet=True)


records = st.builds(
    SampleRecord,
    problem=st.sampled_from(["x", "y", "z", "2"]),
    sample=st.integers(0, 3),
    prompt=st.text(),
    completion=st.text(),
    iteration=st.integers(0, 2),
    logp=st.none() | st.floats(-100, 0),
    columns=st.dictionaries(st.text(), st.none() | st.integers() | st.text()),
)


@settings(max_examples=50)
@given(st.lists(records, max_size=8))
def test_a_store_gives_back_what_was_last_written(tmp_path_factory: pytest.TempPathFactory, given: Any) -> None:
    store = SampleStore(tmp_path_factory.mktemp("store") / "samples.jsonl")
    for record in given:
        store.append(record)
    last = {record.key: record for record in given}
    assert {record.key: record for record in SampleStore(store.path)} == last
    store.rewrite(["z", "x"])
    found = read_samples(store.path)
    assert {record.key: record for record in found} == last
    rank = {"z": 0, "x": 1}
    assert found == sorted(found, key=lambda one: (one.iteration, rank.get(one.problem, 2), one.problem, one.sample))
