"""`fiona train`: options, configuration files, other models, text of one's own, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fionalm.data import DataConfig
from fionalm.training.config import TrainConfig

from .conftest import TINY, Fiona


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_run_folder_holds_numbers_model_figure_and_report(fiona: Fiona, tmp_path: Path) -> None:
    done = fiona("train", "first", *TINY)
    out = tmp_path / "first"
    assert done.code == 0, done.err
    assert result(out)["steps"] == 6
    assert f"final loss {result(out)['final_loss']:.4f} nats after 6 steps" in done.out
    assert done.last_line == f"figure: {out / 'figures' / 'loss.svg'}"
    assert all((out / name).is_file() for name in ("figures/loss.svg", "report.html", "model/config.json"))


def test_a_finished_run_is_read_and_not_trained_again(fiona: Fiona, tmp_path: Path) -> None:
    first = fiona("train", "once", *TINY)
    written = (tmp_path / "once" / "result.json").stat().st_mtime_ns
    again = fiona("train", "once", *TINY)
    assert again.code == 0
    assert again.out == first.out
    assert (tmp_path / "once" / "result.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_ends_as_if_it_had_not_been(fiona: Fiona, tmp_path: Path, number: signal.Signals) -> None:
    words = [*TINY, "--steps", "400", "--checkpoint-every", "40"]
    command = [sys.executable, "-m", "fionalm.cli", "train", "cut", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("cut/checkpoints/step-*")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert ("the same command resumes it" in err) == (number == signal.SIGINT)
    assert not (tmp_path / "cut" / "result.json").exists()
    assert fiona("train", "cut", *words).code == 0
    assert fiona("train", "whole", *words).code == 0
    assert result(tmp_path / "cut")["losses"] == result(tmp_path / "whole")["losses"]


def test_options_change_what_the_configuration_file_says(fiona: Fiona, tmp_path: Path) -> None:
    assert fiona("train", "a", *TINY, "--parameterization", "mup", "--base-width", "8").code == 0
    done = fiona("train", "b", "--config-file", "a/config.json", "--steps", "3", "--alignment", "none", "--quiet")
    assert done.code == 0, done.err
    before, after = (TrainConfig.load(tmp_path / name / "config.json") for name in "ab")
    assert (before.steps, after.steps) == (6, 3)
    assert after.model == before.model
    assert before.parameterization is not None and after.parameterization is not None
    assert after.parameterization.name == "mup" and after.parameterization.base_width == 8
    assert (before.parameterization.alignment, after.parameterization.alignment) == ("full", "none")


@pytest.mark.parametrize("folder", [True, False])
def test_own_text_is_read_from_a_file_or_a_folder(fiona: Fiona, tmp_path: Path, folder: bool) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for index in range(20):
        text = " ".join(f"the {word} of {index}" for word in ("ship", "sea", "sail")) * 400
        (texts / f"{index}.txt").write_text(text)
    source = "texts" if folder else "texts/3.txt"
    done = fiona("train", "own", *TINY, "--data.source", source)
    assert done.code == 0, done.err
    data = TrainConfig.load(tmp_path / "own" / "config.json").data
    assert isinstance(data, DataConfig) and data.source == str(tmp_path / source)


def test_any_causal_model_is_trained_from_its_configuration(fiona: Fiona, gpt2: Path, tmp_path: Path) -> None:
    done = fiona("train", "g", *TINY, "--model-path", gpt2.name, "--parameterization", "standard")
    assert done.code == 0, done.err
    assert "the model's vocabulary size, 280" in done.err
    config = TrainConfig.load(tmp_path / "g" / "config.json")
    assert config.data.vocab_size == 280 and config.model_path == str(gpt2)
    assert json.loads((tmp_path / "g" / "model" / "config.json").read_text())["model_type"] == "gpt2"


def test_a_trained_folder_is_trained_on_in_its_own_tokens(fiona: Fiona, llama: Path, tmp_path: Path) -> None:
    assert fiona("train", "l", *TINY, "--model-path", llama, "--steps", "60", "--optimizer.lr", "1e-2").code == 0
    done = fiona("train", "on", *TINY, "--model-path", "l")
    assert done.code == 0, done.err
    assert "the tokens of l/model/tokenizer.json" in done.err
    assert result(tmp_path / "on")["initial_loss"] < result(tmp_path / "l")["initial_loss"] - 0.5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.source", "empty.txt"], "empty"),
        (["--data.source", "binary.txt"], "binary"),
        (["--data.source", "nowhere.txt"], "no corpus 'nowhere.txt'"),
        (["--model-path", "mamba.json", "--parameterization", "mup"], "mixer.A_log"),
        (["--data.vocab-size", "400"], "model.vocab_size 300 is too small"),
    ],
)
def test_a_mended_mistake_may_have_the_same_folder(
    fiona: Fiona, mamba: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(os.urandom(4096))
    wrong = fiona("train", "out", *TINY, *words)
    assert wrong.code == 2
    assert sentence in wrong.err
    assert not (tmp_path / "out").exists()
    assert fiona("train", "out", *TINY).code == 0


def test_a_folder_of_another_run_is_left_alone(fiona: Fiona, tmp_path: Path) -> None:
    assert fiona("train", "mine", *TINY).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    done = fiona("train", "mine", *TINY, "--seed", "1")
    assert done.code == 2
    assert "mine is the folder of another run, whose seed is 0 and not 1" in done.err
    assert before == {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
