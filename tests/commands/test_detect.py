"""`fiona detect train` and `score`: labelled files, questions with gold answers, resuming, mistakes."""

from __future__ import annotations

import json
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig

from .conftest import Fiona

VERIFIER = """
def many_vowels(prompts, completions, **columns):
    return [sum(c in "aeiouAEIOU" for c in text) >= 2 for text in completions]
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    tokenizer = character_tokenizer(string.printable[:95] + "\n")
    shape = DecoderConfig(tokenizer.get_vocab_size(), d_model=32, n_layers=1, n_heads=2, max_seq_len=64)
    Decoder(shape, torch.Generator().manual_seed(0)).save_pretrained(tmp_path / "model")
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "judge.py").write_text(VERIFIER)
    return "model"


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of which those with an x are made up; four a question."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        for _ in range(4):
            answer = "".join(generator.choice(list("xyzuv"), 3))
            rows.append({"prompt": f"Q {100 * seed + number}:", "completion": answer, "label": int("x" in answer)})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_labelled_file_is_learnt_and_scored(fiona: Fiona, model: str, tmp_path: Path) -> None:
    write(tmp_path / "labelled.jsonl", labelled(60))
    words = ("detect", "train", model, "--data", "labelled.jsonl", "--out", "o", "--resamples", 100, "--quiet")
    done = fiona(*words)
    assert done.code == 0, done.err
    assert "high scores: hallucinated" in done.out and "base rate" in done.out
    found = json.loads((tmp_path / "o" / "result.json").read_text())
    assert found["positive"] == "hallucinated" and found["best"] == "head-sentence"
    areas = {name: one["auc_roc"]["estimate"] for name, one in found["test"].items()}
    assert areas["head-sentence"] > 0.9
    assert set(areas) == {
        "head-sentence", "head-token", "answer length", "log-probability", "log-probability a token"
    }  # fmt: skip
    assert areas["answer length"] == 0.5  # all answers are equally long
    assert sum(part["rows"] for part in found["splits"].values()) == 240
    assert found["less log-probability a token"]["head-sentence"]["auc_pr"]["estimate"] > 0
    report = (tmp_path / "o" / "report.html").read_text()
    assert "probability of hallucination" in report and "right rows" not in report
    shown = read(tmp_path / "o" / "test.jsonl")
    assert {row["label"] for row in shown} == {0, 1}
    again = fiona(*words)
    assert again.code == 0
    resumed = json.loads((tmp_path / "o" / "result.json").read_text())
    assert resumed["test"] == found["test"]

    new = labelled(10, seed=1)
    write(tmp_path / "new.jsonl", [{"prompt": row["prompt"], "completion": row["completion"]} for row in new])
    scored = fiona("detect", "score", "o", "--data", "new.jsonl", "--out", "scores.jsonl")
    assert scored.code == 0, scored.err
    assert "high for hallucinated" in scored.out and "AUC" not in scored.out
    rows = read(tmp_path / "scores.jsonl")
    mean = {
        label: np.mean([r["hallucination_probability"] for r, n in zip(rows, new, strict=True) if n["label"] == label])
        for label in (0, 1)
    }
    assert mean[1] > mean[0] + 0.3
    assert rows[0]["log_probability"] > rows[0]["log_probability_a_token"] > 0
    write(tmp_path / "new.jsonl", [{**row, "label": 1 - row["label"]} for row in new])
    words = ("--data", "new.jsonl", "--out", "scores.jsonl", "--label-means", "right", "--name", "head-token")
    scored = fiona("detect", "score", "o", *words)
    assert scored.code == 0, scored.err
    assert "head-token" in scored.out and "AUC-PR" in scored.out
    assert [row["label"] for row in read(tmp_path / "scores.jsonl")] == [row["label"] for row in new]


def test_questions_are_answered_labelled_and_resumed_as_processes(model: str, tmp_path: Path) -> None:
    write(tmp_path / "qa.jsonl", [{"question": f"What is {n}?", "answers": [str(n), "a"]} for n in range(24)])
    fiona = [sys.executable, "-m", "fionalm.cli", "detect"]
    words = [*fiona, "train", model, "--data", "qa.jsonl", "--verifier", "python:judge.py:many_vowels", "--n", "4"]
    words += ["--max-tokens", "12", "--variants", "full", "--tasks", "token", "--training.epochs", "1"]
    words += ["--resamples", "50", "--out", "o"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "o" / "result.json").read_text())
    assert found["outcomes"]["right"] + found["outcomes"]["wrong"] == 96
    assert found["splits"]["test"]["groups"] == 4
    assert set(found["detectors"]) == {"full-token"}
    assert {"semantic entropy", "semantic entropy (discrete)"} < set(found["test"])
    assert "what is not right is hallucinated" in done.stdout
    write(tmp_path / "more.jsonl", [{"question": "Why?"}, {"question": "Who?"}])
    words = [*fiona, "score", "o/detectors/full-token", "--data", "more.jsonl", "--n", "3", "--max-tokens", "8"]
    done = subprocess.run([*words, "--out", "s.jsonl"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "s.jsonl")
    assert len(rows) == 6 and all(0 <= row["hallucination_probability"] <= 1 for row in rows)
    assert rows[0]["semantic_entropy"] == rows[1]["semantic_entropy"] >= 0
    assert rows[0]["hallucination_probability"] == rows[1]["hallucination_probability"]  # the token task


def test_given_answers_are_labelled_by_their_gold(fiona: Fiona, model: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n % 20}?", "completion": str(n % 3), "answer": [str(n % 20 % 3)]} for n in range(80)]
    write(tmp_path / "given.jsonl", rows)
    done = fiona("detect", "train", model, "--data", "given.jsonl", "--out", "o", "--tasks", "sentence", "--quiet")
    assert done.code == 0, done.err
    right = sum(row["completion"] in row["answer"] for row in rows)
    assert f"{right} right" in done.out and not (tmp_path / "o" / "samples.jsonl").exists()


ONE_CLASS = "'train' holds hallucinated rows alone"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train model --data nowhere.jsonl", "no data at nowhere.jsonl"),
        ("train model --data empty.jsonl", "empty.jsonl has no rows"),
        ("train model --data other.jsonl", "neither prompt and answer"),
        ("train model --data nan.jsonl", "row 2 of the split 'data': the label was nan"),
        ("train model --data one.jsonl", ONE_CLASS),
        ("train model --data few.jsonl", "2 groups that share no prompt"),
        ("train model --data few.jsonl --variants heads", "unknown variant 'heads': expected one of head, full"),
        ("train model --data few.jsonl --tasks word", "unknown task 'word': expected one of sentence, token"),
        ("train model --data few.jsonl --group subjct", "no 'subjct'"),
        ("train model --data gold.jsonl --verifier exakt", "did you mean 'exact'"),
        ("train nothing --data few.jsonl", "nothing"),
        ("score model --data few.jsonl", "model"),
        ("score nowhere --data few.jsonl", "nowhere"),
    ],
)
def test_a_mistake_gets_one_sentence(fiona: Fiona, model: str, tmp_path: Path, words: str, sentence: str) -> None:
    write(tmp_path / "other.jsonl", [{"prompt": "a", "anser": "b"}])
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "gold.jsonl", [{"prompt": "a", "answer": "b"}])
    write(tmp_path / "few.jsonl", labelled(2))
    write(tmp_path / "one.jsonl", [{**row, "label": 1} for row in labelled(9)])
    write(tmp_path / "nan.jsonl", [{**row, "label": float("nan") if i else 1} for i, row in enumerate(labelled(1))])
    done = fiona("detect", *words.split())
    assert done.code == 2, done.out
    assert sentence in done.err and len(done.err.strip().splitlines()) <= 3, done.err
