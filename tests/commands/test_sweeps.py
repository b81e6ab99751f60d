"""`fiona lr-transfer`, `stability` and `gamma-search`: what they print, write and refuse, and that they go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fionalm.commands.stability import observed

from .conftest import TINY, Fiona

SERIAL = [*TINY, "--executor", "serial"]


def numbers(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_lr_transfer_finds_the_best_rate_of_each_width(fiona: Fiona, tmp_path: Path) -> None:
    grid = ("--widths", "16", "32", "--lrs", "1e-3", "1e-2", "1e-1", "--seeds", "2")
    options = ("--parameterization", "mup", "--optimizer", "adam_atan2", "--alignment", "none", "--out", "t")
    done = fiona("lr-transfer", *SERIAL, *grid, *options)
    assert done.code == 0, done.err
    found = numbers(tmp_path / "t")
    assert (found["parameterization"], found["optimizer"], found["alignment"]) == ("mup", "adam_atan2", "none")
    assert found["widths"] == [16, 32] and found["base_width"] == 16
    assert [len(row) for width in found["losses"] for row in width] == [2] * 6
    assert [entry["width"] for entry in found["best_lr"]] == [16, 32]
    assert all(entry["low"] <= entry["lr"] <= entry["high"] for entry in found["best_lr"])
    assert "slope of log best learning rate against log width" in done.out
    assert done.last_line == f"figure: {tmp_path / 't' / 'figures' / 'lr-transfer.svg'}"
    assert "width 32" in (tmp_path / "t" / "figures" / "lr-transfer.csv").read_text()


def test_lr_transfer_goes_on_where_ctrl_c_stopped_it(
    fiona: Fiona, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("FIONA_HOME", str(home))
    words = ["lr-transfer", *SERIAL, "--steps", "60", "--widths", "16", "32", "--lrs", "1e-3", "1e-2", "--out", "cut"]
    command = [sys.executable, "-m", "fionalm.cli", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not list(home.glob("trials/*/*.json")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes it" in err and "Traceback" not in err
    kept = {path: path.stat().st_mtime_ns for path in home.glob("trials/*/*.json")}
    assert 0 < len(kept) < 12
    done = fiona(*words)
    assert done.code == 0, done.err
    assert len(list(home.glob("trials/*/*.json"))) == 12
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_lr_transfer_takes_the_shape_of_a_llama(fiona: Fiona, llama: Path, gpt2: Path, tmp_path: Path) -> None:
    grid = ("--widths", "16", "32", "--lrs", "1e-2", "--seeds", "1")
    done = fiona("lr-transfer", llama, *SERIAL, *grid, "--out", "l")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "l" / "config.json").read_text())["config"]
    assert config["model"]["mlp"] == "silu_gated" and config["model"]["d_ff"] == 32
    other = fiona("lr-transfer", gpt2, *SERIAL, *grid, "--out", "g")
    assert other.code == 2 and "expected one of llama" in other.err


def test_stability_shows_what_diverged_and_what_warned(fiona: Fiona, gpt2: Path, tmp_path: Path) -> None:
    done = fiona(
        "stability", gpt2, *SERIAL, "--steps", "20", "--lrs", "1e-3", "1e-2", "1e30", "--seeds", "2", "--out", "s"
    )
    assert done.code == 0, done.err
    found = numbers(tmp_path / "s")
    assert [entry["diverged"] for entry in found["observed"]] == [0, 0, 2]
    assert found["losses"][2] == [None, None] and found["sensitivity"][0] > 0
    assert all(entry["attn_logit_max"] > 0 and entry["log_z"] > 0 for entry in found["observed"][:2])
    assert "diverged diverged" in done.out and "diverged at 1e+30;" in done.out
    assert "learning-rate sensitivity" in done.out and "loss spikes" in done.out
    assert done.last_line == f"figure: {tmp_path / 's' / 'figures' / 'stability.svg'}"
    assert (tmp_path / "s" / "figures" / "attention-logits.svg").is_file()


def test_stability_takes_a_training_configuration(fiona: Fiona, tmp_path: Path) -> None:
    assert fiona("train", "run", *TINY, "--z-loss", "1e-4").code == 0
    options = ("--executor", "serial", "--lrs", "1e-2", "--seeds", "1", "--steps", "5", "--quiet", "--out", "s")
    done = fiona("stability", "run/config.json", *options)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "s" / "config.json").read_text())["config"]
    assert (config["z_loss"], config["steps"], config["model"]["d_model"]) == (1e-4, 5, 16)


def test_text_that_changed_is_trained_on_anew(fiona: Fiona, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    words = ("stability", *SERIAL, "--data.source", "text.txt", "--lrs", "1e-2", "--seeds", "1", "--eval-batches", "0")
    losses = []
    for out, word in (("first", "ship "), ("second", "sail and sea "), ("third", "sail and sea ")):
        if out != "third":
            text.write_text("".join(f"{word}{number} " for number in range(3000)))
        assert fiona(*words, "--out", out).code == 0
        losses.append(numbers(tmp_path / out)["losses"])
    assert losses[0] != losses[1] == losses[2]


def test_observed_counts_over_runs_and_survives_what_is_missing() -> None:
    def run(losses: list[float | None], **probes: float | None) -> dict:
        metrics = [{"step": 0, "loss": 1.0, **{f"probe/{key}": value for key, value in probes.items()}}]
        return {"diverged": losses[-1] is None, "losses": list(enumerate(losses)), "metrics": metrics}

    spiky = run([*([2.0] * 20), 5.0, 2.0], **{"attn_logit_max/all": 3.0, "log_z_mean": -7.0})
    gone = run([2.0, None], **{"attn_logit_max/all": None, "log_z_mean": 5.0})
    found = observed([spiky, gone, None])
    assert found == {"diverged": 1, "crashed": 1, "spikes": 2, "attn_logit_max": float("inf"), "log_z": -7.0}
    assert observed([run([2.0])]) == {
        "diverged": 0, "crashed": 0, "spikes": 0, "attn_logit_max": None, "log_z": None,
    }  # fmt: skip


def test_gamma_search_ends_no_worse_than_it_began(fiona: Fiona, tmp_path: Path) -> None:
    done = fiona("gamma-search", *SERIAL, "--trials", "5", "--parameterization", "mup", "--out", "g")
    assert done.code == 0, done.err
    found = numbers(tmp_path / "g")
    assert len(found["tried"]) == 5
    assert found["tried"][0]["gammas"] == {"embedding": 1.0, "hidden": 1.0, "readout": 1.0}
    assert found["loss"] == min(entry["loss"] for entry in found["tried"])
    words = done.out.split("use them with ")[1].splitlines()[0].split()
    assert [float(word) for word in words[1:]] == pytest.approx(list(found["gammas"].values()), rel=1e-3)
    assert fiona("train", "use", *TINY, "--parameterization", "mup", *words).code == 0
    assert done.last_line == f"figure: {tmp_path / 'g' / 'figures' / 'gamma-search.svg'}"


def test_a_missing_extra_is_named(fiona: Fiona, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = fiona("gamma-search", *SERIAL)
    assert done.code == 2
    assert "pip install 'fiona-lm[search]'" in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("lr-transfer --seeds 0", "--seeds 0: expected at least 1"),
        ("lr-transfer --lrs -1 1", "--lrs -1 1: expected one or more positive numbers"),
        ("lr-transfer --lrs", "--lrs without values"),
        ("lr-transfer --widths 33", "width 33 would give n_heads"),
        ("lr-transfer --optimizer addam", "did you mean 'adam'?"),
        ("lr-transfer --parameterization mupp", "did you mean 'mup'?"),
        ("lr-transfer --executor slurm", "'--executor'"),
        ("lr-transfer --workers 0", "--workers 0: expected at least 1"),
        ("lr-transfer --model-path gpt2.json", "has one width"),
        ("stability nowhere", "no model 'nowhere': expected decoder"),
        ("stability decodr", "did you mean 'decoder'?"),
        ("stability corrupt.json", "cannot read corrupt.json"),
        ("stability gpt2.json --model-path gpt2.json", "expected one of them"),
        ("stability --lrs nan", "--lrs nan: expected one or more positive numbers"),
        ("stability model.gguf", "needs --data.tokenizer"),
        ("stability mamba.json --parameterization mup --lrs 1 --seeds 1 TINY", "mixer.A_log"),
        ("stability --alignment none", "--alignment was given without --parameterization"),
        ("stability --config-file nowhere.json", "cannot read the training config nowhere.json"),
        ("stability --config-file", "--config-file names no file"),
        ("gamma-search --trials 0", "--trials 0: expected at least 1"),
        ("gamma-search --low 3 --high 1 TINY", "expected 0 < low < high"),
        ("gamma-search --optimizer.lr -1", "lr is -1.0"),
        ("train out --device h100", "unknown device 'h100': expected one of cpu, cuda"),
        ("train out --steps 0", "steps was 0"),
        ("train out --model.d-model 33", "d_model 33 cannot be split over n_heads 4"),
    ],
)
def test_a_mistake_gets_one_sentence(
    fiona: Fiona, gpt2: Path, mamba: Path, tmp_path: Path, words: str, sentence: str
) -> None:
    (tmp_path / "corrupt.json").write_text("{")
    (tmp_path / "model.gguf").touch()
    given = words.split()
    done = fiona(*(given[:-1] + SERIAL if given[-1] == "TINY" else given))
    assert done.code == 2
    assert sentence in done.err
    assert done.err.startswith("fiona: ") and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()
