"""`fiona harden`, `fiona attack gcg` and `fiona attack constitution`: run, resumed, and mistakes in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fionalm.data import train_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.posttraining import Policy
from fionalm.redteam.control import HARMLESS
from fionalm.sampling import read_samples

from .conftest import Fiona

TEMPLATE = "{left}+{right} {after} ="
HARDEN = ["--problems.templates", TEMPLATE, "--train-problems", "4", "--test-problems", "2", "--eval-attacks", "1"]
HARDEN += [
    "--rows",
    "8",
    "--batch-size",
    "4",
    "--steps",
    "2",
    "--samples-per-prompt",
    "2",
    "--max-tokens",
    "3",
    "--quiet",
]
GCG = ["--problems.templates", TEMPLATE, "--length", "4", "--steps", "3", "--top-k", "16", "--candidates", "8"]
GCG += ["--test-problems", "2", "--quiet"]
LOOP = ["--trials", "2", "--max-tokens", "3", "--review-tokens", "4", "--problems.templates", TEMPLATE, "--quiet"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A decoder with fresh weights that reads any text, in a folder."""
    tokenizer = train_tokenizer(HARMLESS, 300)
    config = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), d_model=16, n_layers=1, n_heads=2, max_seq_len=2048)
    Policy(Decoder(config, torch.Generator().manual_seed(0)), tokenizer, device="cpu").save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    rows = [{"text": f"{name} says {{target}}", "family": name} for name in ("king", "fiction")]
    path = tmp_path / "library.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("method", ["ppo", "sft"])
def test_harden_trains_measures_and_resumes(
    fiona: Fiona, tiny: Path, library: Path, tmp_path: Path, method: str
) -> None:
    words = ["harden", tiny, "--attacks", library, "--method", method, "--out", tmp_path / "out", *HARDEN]
    done = fiona(*words)
    assert done.code == 0, done.err
    assert "held-out attacks" in done.out and "king" in done.out and "perplexity of stdlib" in done.out
    for name in ("model/model.safetensors", "training/metrics.jsonl", "before.jsonl", "after.jsonl", "report.html"):
        assert (tmp_path / "out" / name).exists(), name
    assert done.last_line.endswith("accuracy.svg")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "king says" in page and "Accuracy by attack family" in page
    again = fiona(*words)
    assert (again.code, again.out) == (0, done.out)


def test_harden_refuses_what_would_be_memory(fiona: Fiona, tiny: Path, library: Path) -> None:
    shared = fiona("harden", tiny, "--attacks", library, "--test-attacks", library, *HARDEN)
    assert shared.code == 2 and "family 'fiction' is among the training and the test attacks" in shared.err
    unknown = fiona("harden", tiny, "--attacks", library, "--test-families", "kin", *HARDEN)
    assert unknown.code == 2 and "did you mean 'king'" in unknown.err
    method = fiona("harden", tiny, "--method", "pppo", *HARDEN)
    assert method.code == 2 and "ppo" in method.err
    nothing = fiona("harden", tiny.parent / "none", *HARDEN)
    assert nothing.code == 2 and "none" in nothing.err


def test_gcg_leaves_a_library_that_harden_reads(fiona: Fiona, tiny: Path, tmp_path: Path) -> None:
    words = ["attack", "gcg", tiny, "--out", tmp_path / "gcg", *GCG]
    done = fiona(*words)
    assert done.code == 0, done.err
    assert "right answers to 2 other problems: clean" in done.out and done.last_line.endswith("loss.svg")
    [line] = (tmp_path / "gcg" / "library.jsonl").read_text().splitlines()
    attack = json.loads(line)
    assert attack["family"] == attack["author"] == "gcg" and f"string: {attack['text']}\n" in done.out
    assert fiona(*words).out == done.out
    wrong = fiona("attack", "gcg", tiny, "--train-problems", "0", *GCG)
    assert wrong.code == 2 and "0 problems" in wrong.err


def test_constitution_keeps_transcripts_and_goes_on(fiona: Fiona, tiny: Path, library: Path, tmp_path: Path) -> None:
    words = ["attack", "constitution", tiny, "--attacks", library, "--out", tmp_path / "loop", *LOOP]
    done = fiona(*words)
    assert done.code == 0, done.err
    assert "wrong to right" in done.out and "attacked" in done.out
    path = tmp_path / "loop" / "transcripts.jsonl"
    records = read_samples(path)
    turns = {record.columns["turn"] for record in records}
    assert turns == {"answer", "review", "revision"} and len(records) % 3 == 0
    assert {record.columns["condition"] for record in records} == {"clean", "control", "attack"}
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    again = fiona(*words)
    assert again.code == 0 and again.out == done.out
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)
    rules = tmp_path / "rules.txt"
    rules.write_text("\n")
    wrong = fiona(*words[:-1], "--constitution", rules)
    assert wrong.code == 2 and "without a principle" in wrong.err


@pytest.mark.parametrize(
    ("command", "options"),
    [("harden", HARDEN), ("attack gcg", GCG), ("attack constitution", LOOP)],
)
def test_commands_run_as_programs(tiny: Path, tmp_path: Path, command: str, options: list[str]) -> None:
    words = [*command.split(), str(tiny), "--out", str(tmp_path / "run"), *options]
    done = subprocess.run([sys.executable, "-m", "fionalm.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (tmp_path / "run" / "report.html").exists()
