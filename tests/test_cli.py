"""The command line as a user meets it: help, errors, one smoke run a command, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fionalm.cli import COMMANDS

NAMES = [name for group in COMMANDS.values() for name in group]


def fiona(*arguments: str | Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fionalm.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


def test_help_lists_every_command() -> None:
    done = fiona("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name: str) -> None:
    done = fiona(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"fiona {name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reprodce"], "did you mean 'reproduce'?"),
        (["reproduce", "scaling-exponent"], "did you mean 'scaling-exponents'?"),
        (["reproduce", "scaling-exponents", "--scale", "lapto"], "did you mean 'laptop'?"),
        (["reproduce", "scaling-exponents", "--seeds", "0"], "expected at least 1"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
        (["plan", "scaling-exponents", "--device", "h100"], "did you mean 'h100-80gb'?"),
        (["coord-check", "decoder", "--parameterization", "mupp"], "did you mean 'mup'?"),
        (["coord-check", "decoder", "--widths", "33", "64"], "33"),
    ],
)
def test_a_mistake_gets_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = fiona(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_doctor_finds_what_the_core_needs() -> None:
    done = fiona("doctor")
    assert done.returncode == 0, done.stdout
    assert "torch" in done.stdout


@pytest.mark.parametrize("study", ["scaling-exponents", "training-instabilities"])
def test_a_study_runs_to_its_report_and_again_from_the_store(study: str, tmp_path: Path) -> None:
    out = tmp_path / study
    first = fiona("reproduce", study, "--scale", "smoke", "--out", out, "--quiet")
    assert first.returncode == 0, first.stderr
    claims = json.loads((out / "claims.json").read_text())
    assert {entry["verdict"] for entry in claims} <= {"supported", "contradicted", "inconclusive"}
    assert (out / "report.html").stat().st_size > 10_000
    again = fiona("reproduce", study, "--scale", "smoke", "--out", out, "--quiet")
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "claims.json").read_text()) == claims
    other = fiona("reproduce", study, "--scale", "smoke", "--seeds", "2", "--out", out, "--quiet")
    assert other.returncode == 2
    assert str(out) in other.stderr
