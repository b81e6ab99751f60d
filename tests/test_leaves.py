"""Errors, paths and progress: the parts that everything else stands on."""

from __future__ import annotations

import errno
import os

import pytest

from fionalm import errors, paths
from fionalm.progress import progress


def test_an_unknown_name_gets_the_nearest_choice() -> None:
    error = errors.choice_error("scale", "lapto", ["smoke", "quick", "laptop"])
    assert str(error) == "unknown scale 'lapto': expected one of smoke, quick, laptop; did you mean 'laptop'?"


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'fiona-lm\[ray\]'"):
        errors.require("a_package_that_is_nowhere", "ray")


def test_an_installed_package_that_fails_inside_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_inside.py").write_text("import something_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        errors.require("broken_inside", "ray")


def test_an_atomic_write_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file.txt"
    paths.atomic_write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.UserError, match="No space left on device"):
        paths.atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_home_follows_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FIONA_HOME", str(tmp_path))
    assert paths.home() == tmp_path


def test_progress_in_a_log_is_plain_lines(capsys) -> None:
    with progress(4, "sweep", "runs") as bar:
        for _ in range(4):
            bar.advance(1, loss=2.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sweep: 4/4 runs" in captured.err
    assert "loss=2.5" in captured.err
    assert "\x1b" not in captured.err


def test_quiet_progress_says_nothing(capsys) -> None:
    with progress(4, "sweep", quiet=True) as bar:
        bar.advance(4)
    assert capsys.readouterr() == ("", "")


def test_time_left_goes_by_work_and_not_by_count(capsys, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fionalm.progress.time.monotonic", lambda: now[0])
    with progress(2, "sweep", "trials", work=4.0) as bar:
        now[0] = 30.0
        bar.advance(work=3.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sweep: 1/2 trials, 0.0333/s, 30 s, 10 s left"
