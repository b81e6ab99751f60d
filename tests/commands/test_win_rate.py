"""`fiona evaluate win-rate` with a small decoder as the judge: numbers, resuming, mistakes."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path
from typing import Any

import pytest
import torch

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.sampling import make_sampler
from fionalm.verifiers import Judge

from .conftest import Fiona

ROWS = [
    {"prompt": "Name a colour.", "completion": "Blue.", "reference": "I will not."},
    {"prompt": "2 + 2", "completion": "4", "reference": "five"},
    {"prompt": [{"role": "user", "content": "Hello"}], "completion": "Hi", "reference": "Go away"},
]


@pytest.fixture
def judge(tmp_path: Path) -> str:
    tokenizer = character_tokenizer(string.printable[:95] + "\n")
    shape = DecoderConfig(tokenizer.get_vocab_size(), d_model=16, n_layers=1, n_heads=2, max_seq_len=1024)
    model = Decoder(shape, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # opinions
    model.save_pretrained(tmp_path / "judge")
    tokenizer.save(str(tmp_path / "judge" / "tokenizer.json"))
    return "judge"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_rates_are_the_judges_in_both_orders(fiona: Fiona, judge: str, tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", ROWS)
    done = fiona("evaluate", "win-rate", "pairs.jsonl", "--judge", judge, "--out", "o", "--quiet")
    assert done.code == 0, done.err
    found = result(tmp_path / "o")
    sampler: Any = make_sampler(tmp_path / judge)
    columns = [[row[name] for row in ROWS] for name in ("prompt", "completion", "reference")]
    expected = Judge(sampler).preferences(*columns)
    assert found["preferences"] == pytest.approx(expected, abs=1e-5)
    assert found["percentage"]["estimate"] == pytest.approx(sum(expected) / 3, abs=1e-5)
    assert found["binary"]["estimate"] == sum(p > 0.5 for p in expected) / 3
    assert found["pairs"] == 3 and found["unanswered"] == 0
    assert done.last_line.endswith("win-rate.svg") and "Wilcoxon" in done.out
    # Whoever is called the completion, the other's rate is what is left; other column names are told.
    words = ("--columns", "completion=reference", "reference=completion", "--out", "swapped", "--quiet")
    assert fiona("evaluate", "win-rate", "pairs.jsonl", "--judge", judge, *words).code == 0
    swapped = result(tmp_path / "swapped")["preferences"]
    assert swapped == pytest.approx([1 - p for p in found["preferences"]], abs=1e-5)


def test_equal_answers_are_a_tie_and_a_killed_run_resumes(fiona: Fiona, judge: str, tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", [{**ROWS[i % 2], "reference": ROWS[i % 2]["completion"], "n": i} for i in range(2)])
    words = ("evaluate", "win-rate", "pairs.jsonl", "--judge", judge, "--out", "o")
    assert fiona(*words).code == 0
    found = result(tmp_path / "o")
    assert found["preferences"] == pytest.approx([0.5, 0.5], abs=1e-6)
    kept = tmp_path / "o" / "judgements.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text(lines[0] + lines[1][:9])
    done = fiona(*words)
    assert "judging: 1/1 pairs" in done.err
    assert result(tmp_path / "o")["preferences"] == pytest.approx(found["preferences"])
    assert len(kept.read_text().splitlines()) == 2


def test_prompts_that_the_judge_does_not_answer_are_left_out(
    fiona: Fiona, judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in answers as an endpoint does that lists neither choice for some questions."""
    from fionalm.commands import win_rate as module

    class Listing:
        tokenizer = None

        def __init__(self, silent: str) -> None:
            self.silent = silent

        def choice_logps(self, prompts: Any, choices: Any) -> list[list[float]]:
            return [[-math.inf] * 2 if self.silent in str(prompt) else [-0.1, -2.4] for prompt in prompts]

    write(tmp_path / "pairs.jsonl", ROWS)
    words = ("evaluate", "win-rate", "pairs.jsonl", "--judge", judge, "--quiet", "--out")
    monkeypatch.setattr(module, "_judge", lambda *_: Judge(Listing("five")))
    assert fiona(*words, "some").code == 0
    found = result(tmp_path / "some")
    assert (found["pairs"], found["unanswered"], found["preferences"][1]) == (2, 1, None)
    kept = [json.loads(line) for line in (tmp_path / "some" / "unanswered.jsonl").read_text().splitlines()]
    assert [row["reference"] for row in kept] == ["five"]
    monkeypatch.setattr(module, "_judge", lambda *_: Judge(Listing("")))
    assert fiona(*words, "none").code == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nowhere.jsonl --judge judge", "nowhere.jsonl"),
        ("few.jsonl --judge judge", "reference"),
        (
            "pairs.jsonl --judge judge --columns refrence=x",
            "expected OURS=THEIRS with OURS one of prompt, completion, reference; did you mean 'reference'",
        ),
        ("pairs.jsonl --judge nothing-here", "nothing-here"),
        ("pairs.jsonl", "judge"),
    ],
)
def test_a_mistake_gets_one_sentence(fiona: Fiona, judge: str, tmp_path: Path, words: str, sentence: str) -> None:
    write(tmp_path / "pairs.jsonl", ROWS)
    write(tmp_path / "few.jsonl", [{"prompt": "a", "completion": "b"}])
    done = fiona("evaluate", "win-rate", *words.split())
    assert done.code == 2
    assert sentence in done.err and done.err.startswith("fiona: ") and len(done.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
