"""`fiona evaluate`: numbers of files, judging that resumes, comparisons, co-scaling, mistakes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fionalm.evaluation import majority_at_k, pass_at_k
from fionalm.sampling import SampleRecord, SampleStore, read_samples

from .conftest import Fiona

RIGHT = {"a": [1, 0, 0, 1], "b": [0, 0, 0, 0], "c": [1, 1, 1, 0]}


def write(path: Path, right: dict[str, list[int]] = RIGHT, *, judged: bool = True, temperature: float = 1.0) -> Path:
    records = [
        SampleRecord(
            problem=name,
            sample=int(100 * temperature) + index,
            prompt="2 + 2 =",
            completion=f"it is {4 if good else 5 + index}",
            temperature=temperature,
            reward=float(good) if judged else None,
            outcome=("right" if good else "wrong") if judged else None,
            answer=str(4 if good else 5 + index) if judged else None,
            columns={"answer": "4"},
        )
        for name, values in right.items()
        for index, good in enumerate(values)
    ]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
    return path


def values(folder: Path) -> dict[str, dict[tuple[str, int], Any]]:
    result = json.loads((folder / "result.json").read_text())
    return {
        label: {(metric["name"], metric["k"]): metric["value"][0] for metric in one["metrics"]}
        for label, one in result["sets"].items()
    }


def test_metrics_of_a_file(fiona: Fiona, tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl")
    done = fiona("evaluate", "mine.jsonl", "--ks", "1", "2", "4")
    assert done.code == 0, done.err
    found = values(tmp_path / "runs" / "evaluate-mine")["mine"]
    for k in (1, 2, 4):
        assert found["pass", k] == pytest.approx(sum(pass_at_k(4, sum(r), k) for r in RIGHT.values()) / 3)
        answers = [["4" if good else str(5 + i) for i, good in enumerate(r)] for r in RIGHT.values()]
        assert found["majority", k] == pytest.approx(majority_at_k(answers, ["4"] * 3, k).mean())
    assert "outcomes: mine: 5 right, 7 wrong" in done.out
    assert (tmp_path / "runs" / "evaluate-mine" / "report.html").is_file()
    assert done.last_line.endswith("metrics.svg")


def test_judging_gives_what_was_stored_and_resumes(fiona: Fiona, tmp_path: Path) -> None:
    write(tmp_path / "plain.jsonl", judged=False)
    assert "none of 12 samples has a reward" in fiona("evaluate", "plain.jsonl", "--out", "no").err
    words = ("evaluate", "plain.jsonl", "--verifier", "number", "--out", "judged")
    assert fiona(*words, "--quiet").code == 0
    whole = values(tmp_path / "judged")
    write(tmp_path / "known.jsonl")
    assert fiona("evaluate", "known.jsonl", "--out", "known").code == 0
    assert whole["plain"] == values(tmp_path / "known")["known"]
    # A kill that left half of the verdicts, one torn.
    kept = tmp_path / "judged" / "samples.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:6]) + lines[6][:20])
    done = fiona(*words)
    assert "judging: 6/6 samples" in done.err
    assert values(tmp_path / "judged") == whole and len(read_samples(kept)) == 12


def test_a_verifier_that_fails_is_counted_and_not_wrong(fiona: Fiona, tmp_path: Path) -> None:
    write(tmp_path / "plain.jsonl", judged=False)
    (tmp_path / "mine.py").write_text(
        "def reward(prompts, completions, **columns):\n"
        "    return [1.0 if '4' in one else None if '7' in one else 0.0 for one in completions]\n"
    )
    done = fiona("evaluate", "plain.jsonl", "--verifier", "python:mine.py:reward", "--ks", "1", "--out", "o")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "o" / "result.json").read_text())["sets"]["plain"]
    assert found["samples"] == 12 and found["judged"] == 10
    assert found["metrics"][0]["problems"] == pytest.approx({"a": 2 / 3, "b": 0.0, "c": 0.75})


def test_files_are_compared_with_the_first(fiona: Fiona, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    write(tmp_path / "x" / "samples.jsonl")
    write(tmp_path / "y" / "samples.jsonl", {"a": [1, 1, 1, 1], "b": [1, 0, 0, 0], "new": [1, 1, 1, 1]})
    done = fiona("evaluate", "x/samples.jsonl", "y/samples.jsonl", "--ks", "1", "--out", "o")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "o" / "result.json").read_text())
    assert list(result["sets"]) == ["x/samples", "y/samples"]
    difference = next(row for row in result["differences"] if row["metric"] == "pass")
    assert difference["estimate"] == pytest.approx((0.5 + 0.25) / 2)


def test_co_scaling_of_one_file(fiona: Fiona, tmp_path: Path) -> None:
    cold = {"a": [1, 1, 1, 1], "b": [0, 0, 0, 0], "c": [1, 1, 1, 1], "d": [0, 0, 0, 0]}
    hot = {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0], "c": [0, 1, 0, 1], "d": [1, 0, 0, 0]}
    path = write(tmp_path / "grid.jsonl", cold, temperature=0.2)
    write(path, hot, temperature=1.2)
    done = fiona("evaluate", "grid.jsonl", "--co-scaling")
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / "evaluate-grid"
    found = json.loads((folder / "result.json").read_text())
    assert set(found["sets"]) == {"T 0.2", "T 1.2"}
    grid = found["co_scaling"]["grid"]
    assert [best[0] for best in grid["best_temperature"]] == [0.2, 1.2, 1.2]
    assert grid["a"][1][0] < 0 and "exp(a N^b)" in done.out
    assert (folder / "figures" / "co-scaling.svg").is_file()


def test_co_scaling_of_a_file_a_temperature_and_of_the_joined_file(fiona: Fiona, tmp_path: Path) -> None:
    """As `fiona sample` writes them: the same sample numbers at each temperature."""
    right = {0.2: {"a": [1, 1], "b": [0, 0], "c": [0, 1]}, 1.2: {"a": [1, 0], "b": [0, 1], "c": [1, 0]}}
    for temperature, rewards in right.items():
        lines = [
            asdict(
                SampleRecord(name, i, "q", f"{i}", temperature=temperature, columns={"answer": "1" if good else "x"})
            )
            | {"completion": "1"}
            for name, values in rewards.items()
            for i, good in enumerate(values)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"t{temperature}.jsonl").write_text(text)
        with (tmp_path / "joined.jsonl").open("a") as file:
            file.write(text)
    words = ("--co-scaling", "--verifier", "exact", "--quiet")
    apart = fiona("evaluate", "t0.2.jsonl", "t1.2.jsonl", *words, "--out", "apart")
    assert apart.code == 0, apart.err
    assert fiona("evaluate", "joined.jsonl", *words, "--out", "joined").code == 0
    (one,) = json.loads((tmp_path / "apart" / "result.json").read_text())["co_scaling"].values()
    (other,) = json.loads((tmp_path / "joined" / "result.json").read_text())["co_scaling"].values()
    assert one == other and one["pass"][0][1][0] == pytest.approx(2 / 3) and one["pass"][1][1][0] == 1


def test_trainers_stores_are_parted_by_iteration(fiona: Fiona, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s.jsonl")
    for iteration in (0, 1):
        store.append(*(SampleRecord("p", i, "q", "c", iteration=iteration, reward=float(iteration)) for i in range(2)))
    assert fiona("evaluate", "s.jsonl", "--out", "o").code == 0
    found = values(tmp_path / "o")
    assert found["iteration 0"]["pass", 2] == 0 and found["iteration 1"]["pass", 2] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "no samples file was given"),
        ("nowhere.jsonl", "cannot read nowhere.jsonl"),
        ("empty.jsonl", "holds no samples"),
        ("torn.jsonl", "torn.jsonl, line 1 is no sample"),
        ("mine.jsonl --ks 8", "k 8 with at most 4 judged samples"),
        ("mine.jsonl --ks 0", "k was 0"),
        ("mine.jsonl --verifier nmber", "did you mean 'number'"),
        ("mine.jsonl --again", "--again is of --verifier"),
        ("mine.jsonl --verifier-timeout 3", "are of --verifier"),
        ("mine.jsonl --reward-model no", "there is no reward model in no"),
        ("mine.jsonl --co-scaling", "expected two or more in one file"),
        ("win-rates mine.jsonl", "cannot read win-rates"),
    ],
)
def test_a_mistake_gets_one_sentence(fiona: Fiona, tmp_path: Path, words: str, sentence: str) -> None:
    write(tmp_path / "mine.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "torn.jsonl").write_text('{"problem": 1}\n')
    done = fiona("evaluate", *words.split())
    assert done.code == 2
    assert sentence in done.err.replace("\n", " ") and done.err.startswith("fiona: ")
    assert len(done.err.splitlines()) == 1
