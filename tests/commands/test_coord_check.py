"""`fiona coord-check`: its table, its figure, its verdict, for the own decoder and models of transformers."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from .conftest import TINY, Fiona

QUICK = ("--widths", "16", "32", "64", "--seeds", "2", "--steps", "2", "--quiet")


def test_gpt2_shows_every_layer_against_width(fiona: Fiona, tmp_path: Path) -> None:
    done = fiona("coord-check", "gpt2", "--parameterization", "mup", "--optimizer", "adam", *QUICK)
    assert done.code == 0, done.err
    assert done.err == ""
    out = tmp_path / "runs" / "coord-check-gpt2-mup-adam"
    result = json.loads((out / "result.json").read_text())
    assert result["widths"] == [16, 32, 64]
    for quantity in ("activation", "update"):
        shown = [line for line in done.out.splitlines() if line.startswith(quantity + "  ")]
        rows = [row for row in result["rows"] if row["quantity"] == quantity]
        assert len(shown) == len(rows) == 11
        assert all(row["layer"] in line for row, line in zip(rows, shown, strict=True))
        assert all(
            f"{row['exponent']:+.2f} ± {row['stderr']:.2f}" in line for row, line in zip(rows, shown, strict=True)
        )
        assert all(line.endswith("yes" if row["allowed"] else "no") for row, line in zip(rows, shown, strict=True))
    assert done.last_line == f"figure: {out / 'figures' / 'coord-check.svg'}"
    drawn = (out / "figures" / "coord-check.csv").read_text()
    assert "transformer.h.1.mlp.c_fc" in drawn and "update" in drawn
    assert (out / "report.html").is_file()


def test_mup_matches_theory_and_one_global_rate_does_not(fiona: Fiona, tmp_path: Path) -> None:
    widths = ("--widths", "32", "64", "128", "--seeds", "2", "--quiet")
    good = fiona("coord-check", "decoder", "--parameterization", "mup", *widths)
    bad = fiona(
        "coord-check", "decoder", "--parameterization", "standard", "--alignment", "global", *widths, "--out", "b"
    )
    assert "every layer matches theory" in good.out
    found = json.loads((tmp_path / "b" / "result.json").read_text())
    wrong = {row["layer"] for row in found["rows"] if row["quantity"] == "change" and not row["allowed"]}
    assert "blocks.0.mlp.down" in wrong and not found["matches"]
    assert " do not match theory: " in bad.out


def test_models_come_from_files_and_folders(fiona: Fiona, gpt2: Path, llama: Path, tmp_path: Path) -> None:
    for model in (gpt2, llama):
        done = fiona("coord-check", model.name, *QUICK, "--out", model.stem)
        assert done.code == 0, done.err
        assert json.loads((tmp_path / model.stem / "config.json").read_text())["model"] == str(model)
    assert fiona("train", "own", *TINY, "--model.qk-norm").code == 0
    done = fiona("coord-check", "own", *QUICK)
    assert done.code == 0, done.err
    assert "blocks.0.attn.qkv" in done.out and "blocks.1" not in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gpt3"], "no model 'gpt3': expected decoder, gpt2, llama"),
        (["gpt3"], "did you mean 'gpt2'?"),
        (["decoder", "--parameterization", "mupp"], "did you mean 'mup'?"),
        (["decoder", "--optimizer", "admw"], "did you mean 'adamw'?"),
        (["decoder", "--alignment", "ful"], "did you mean 'full'?"),
        (["decoder", "--widths", "33", "64"], "width 33 would give n_heads"),
        (["decoder", "--widths", "64"], "expects at least 2"),
        (["decoder", "--seeds", "0"], "--seeds 0: expected at least 1"),
        (["decoder", "--lr", "-1"], "base_lr is -1.0: expected a positive number"),
        (["decoder", "--sedes", "2"], "did you mean '--seeds'?"),
        (["decoder", "--seeds", "two"], "--seeds"),
        ([], "Missing from fiona coord-check: MODEL"),
        (["corrupt.json"], "cannot read corrupt.json"),
        (["odd.json"], "unknown architecture 'gtp2'"),
        (["empty.json"], "holds no model_type"),
        (["mamba.json"], "MambaConfig has no width or number of heads"),
    ],
)
def test_a_mistake_gets_one_sentence(
    fiona: Fiona, mamba: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "corrupt.json").write_text('{"model_type": ')
    (tmp_path / "odd.json").write_text('{"model_type": "gtp2"}')
    (tmp_path / "empty.json").write_text("{}")
    done = fiona("coord-check", *words)
    assert done.code == 2
    assert sentence in done.err
    assert done.err.startswith("fiona: ") and len(done.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_one_sentence(fiona: Fiona, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fionalm.paths.os.fsync", full)
    done = fiona("coord-check", "decoder", *QUICK)
    assert done.code == 2
    assert "No space left on device" in done.err and len(done.err.splitlines()) == 1
