"""`fiona kg`: every command as a user types it, and what it says of mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Fiona

COLOURS = ("red", "green", "blue")
GRAPH = [f"thing {i}\tcolour\t{COLOURS[(i + step) % 3]}" for i in range(14) for step in range(1 + i % 2)]
TINY_MODEL = ("--model.d-model", 16, "--model.n-layers", 1, "--model.n-heads", 2)
TINY = (*TINY_MODEL, "--data.vocab-size", 280, "--batch-size", 8, "--quiet")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.tsv"
    path.write_text("\n".join(GRAPH) + "\n")
    return path


def test_describe_counts_and_answers(fiona: Fiona, graph: Path) -> None:
    done = fiona("kg", "describe", graph, "--out", "counts.json")
    assert done.code == 0, done.err
    assert "21 triples" in done.out
    assert json.loads(Path("counts.json").read_text())["pairs_with_several"] == 7
    asked = fiona("kg", "describe", graph, "--ask", "thing 1", "colour")
    assert asked.out.split() == ["green", "blue"]


def test_what_the_graph_lacks_or_spoils_is_named(fiona: Fiona, graph: Path) -> None:
    missing = fiona("kg", "describe", graph, "--ask", "thing 1", "color")
    assert missing.code == 2
    assert "did you mean 'colour'" in missing.err
    graph.write_text("a\tb\tc\na\tb\n")
    for command in (("describe",), ("split",), ("train", "--quiet")):
        spoilt = fiona("kg", command[0], graph, *command[1:])
        assert spoilt.code == 2
        assert f"line 2 of {graph}" in spoilt.err
    assert "no run in nowhere" in fiona("kg", "hallucinate", "nowhere").err


def test_split_writes_what_training_shows(fiona: Fiona, graph: Path) -> None:
    done = fiona("kg", "split", graph, "--invisible", "0.2", "--partially-visible", "0.2", "--out", "split")
    assert done.code == 0, done.err
    train, held = (set(Path("split", f"{name}.tsv").read_text().splitlines()) for name in ("train", "held_out"))
    assert train | held == set(GRAPH) and not train & held
    counts = json.loads(Path("split", "split.json").read_text())["counts"]
    assert counts["invisible_pairs"] == 3
    assert len(Path("split", "pairs.tsv").read_text().splitlines()) == 14


def test_a_model_is_trained_and_asked(fiona: Fiona, graph: Path) -> None:
    trained = fiona("kg", "train", graph, "--epochs", 40, "--out", "run", *TINY)
    assert trained.code == 0, trained.err
    again = fiona("kg", "train", graph, "--config-file", "run/config.json", "--out", "run", "--quiet")
    assert again.out == trained.out, again.err
    assert "next: fiona kg hallucinate run" in trained.out
    words = ("kg", "hallucinate", "run", "--samples", 4, "--temperatures", 0, 1, "--shown", 5, "--quiet")
    done = fiona(*words)
    assert done.code == 0, done.err
    out = Path("run", "hallucination")
    rows = [json.loads(line) for line in (out / "generated.jsonl").read_text().splitlines()]
    assert len(rows) == 14 * 5
    known = set(GRAPH)
    for row in rows:
        triple = f"{row['subject']}\t{row['predicate']}\t{row['object']}"
        assert row["label"] == int(not (triple in known and row["finished"]))
        assert row["prompt"].endswith("<O_TKN>") and row["group"] == row["subject"]
    report = (out / "report.html").read_text()
    assert "Generated triples" in report and "detector" in report and rows[0]["predicate"] in report
    # A kill in the middle of the second temperature: what is whole is kept, and the rest drawn as before.
    text = (out / "generated.jsonl").read_text()
    (out / "generated.jsonl").write_text("".join(text.splitlines(keepends=True)[:30]) + '{"half')
    assert fiona(*words).code == 0
    again = [json.loads(line) for line in (out / "generated.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["completion"]) for row in again] == [(row["prompt"], row["completion"]) for row in rows]
    asked = fiona("kg", "hallucinate", "run", "--ask", "thing 1", "colour", "--quiet")
    assert "the graph has:\ngreen, blue" in asked.out


def test_a_sweep_is_trained_measured_and_fitted(fiona: Fiona, graph: Path) -> None:
    words = ("--sizes", "8x1", "16x1", "--epochs", 1, 10, "--executor", "serial", "--pairs", 5, "--samples", 4)
    done = fiona("kg", "train", graph, *words, "--out", "rates", *TINY)
    assert done.code == 0, done.err
    runs = json.loads(Path("rates", "result.json").read_text())["runs"]
    assert [(run["size"], run["epochs"]) for run in runs] == [("8x1", 1), ("8x1", 10), ("16x1", 1), ("16x1", 10)]
    fitted = fiona("kg", "fit", "rates", "--at-most", 50)
    assert fitted.code == 0, fitted.err
    assert "at most 50% on" in fitted.out
    values = json.loads(next(Path("rates").glob("fit-*/result.json")).read_text())
    assert {option["size"] for option in values["options"]} == {"8x1", "16x1"}
    assert values["answer"] in fitted.out
    assert "holds 4 models: expected one of them" in fiona("kg", "hallucinate", "rates").err
    assert (
        fiona("kg", "hallucinate", "rates/models/8x1-1epochs-seed0", "--pairs", 2, "--samples", 2, "--quiet").code == 0
    )


def test_mistakes_are_sentences(fiona: Fiona, graph: Path) -> None:
    for words, said in (
        (("train", graph, "--sizes", "16"), "expected WIDTHxLAYERS"),
        (("train", graph, "--epochs", 0), "--epochs 0"),
        (("train", "countries", "--data.graph", "synthetic"), "expected one of them"),
        (("fit", "nowhere"), "expected a folder of fiona kg train"),
        (("fit", "nowhere", "--at-most", 0), "between 0 and 100"),
        (("fit", "nowhere", "--split", "visible"), "fully_visible"),
        (("trian", graph), "did you mean 'train'"),
    ):
        done = fiona("kg", *words)
        assert done.code == 2, words
        assert said in done.err.replace("\n", " "), done.err


@pytest.mark.parametrize("command", ["describe", "split", "train", "hallucinate", "fit"])
def test_help_teaches(fiona: Fiona, command: str) -> None:
    assert "For example: fiona kg" in fiona("kg", command, "--help").out


def test_the_command_runs_as_a_process(graph: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fionalm.cli", "kg", "describe", str(graph)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pairs of subject and predicate" in done.stdout
