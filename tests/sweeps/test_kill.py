"""A sweep that is killed, interrupted or run twice at once: nothing finished is lost, no process stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fionalm.sweeps import Trial, TrialStore, run_sweep

HERE = str(Path(__file__).parent)
SCRIPT = """
import json, sys
sys.path.insert(0, {here!r})
from fionalm.sweeps import Trial, TrialStore, run_sweep
trials = [Trial("sweep_trials:logged", config) for config in {configs!r}]
outcomes = run_sweep(trials, store=TrialStore({folder!r}), workers=2)
print(json.dumps([outcome.result for outcome in outcomes]))
"""


@contextlib.contextmanager
def sweeping(script: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        # A killed process stays in the table until its parent, here the container's first process, reaps it.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def logged(log: Path) -> list[tuple[int, int]]:
    if not log.exists():
        return []
    return [(int(x), int(pid)) for x, pid in (line.split() for line in log.read_text().splitlines())]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_sweep_keeps_its_trials_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    log, store = tmp_path / "log", TrialStore(tmp_path / "trials")
    configs = [{"x": x, "log": str(log), "sleep": 0.25} for x in range(10)]
    with sweeping(SCRIPT.format(here=HERE, configs=configs, folder=str(store.folder))) as process:
        until(lambda: len(store) >= 3)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode != 0
    until(lambda: not any(alive(pid) for _, pid in logged(log)))
    done = {outcome.trial.config["x"] for outcome in store}
    assert 3 <= len(done) < 10
    if number == signal.SIGINT:
        assert f"{len(done)} of 10 trials of this sweep are in {store.folder}: the same command resumes it" in errors

    before = len(logged(log))
    outcomes = run_sweep(
        [Trial("sweep_trials:logged", config) for config in configs], store=store, workers=2, quiet=True
    )
    assert [outcome.result for outcome in outcomes] == [{"square": x**2} for x in range(10)]
    assert {x for x, outcome in enumerate(outcomes) if outcome.cached} == done
    assert sorted(x for x, _ in logged(log)[before:]) == sorted(set(range(10)) - done)


def test_processes_of_a_killed_sweep_take_their_children_with_them(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = SCRIPT.replace("sweep_trials:logged", "sweep_trials:with_child")
    with sweeping(script.format(here=HERE, configs=[{"pids": str(pids)}], folder=str(tmp_path / "trials"))) as process:
        until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        worker, child = (int(pid) for pid in pids.read_text().split())
        assert alive(worker) and alive(child)
        process.kill()
        until(lambda: not alive(worker) and not alive(child))


def test_worker_killed_from_outside_is_a_crash_and_the_sweep_goes_on(tmp_path: Path) -> None:
    log, store = tmp_path / "log", TrialStore(tmp_path / "trials")
    configs = [{"x": x, "log": str(log), "sleep": 100 if x == 0 else 0.05} for x in range(6)]
    with sweeping(SCRIPT.format(here=HERE, configs=configs, folder=str(store.folder))) as process:
        until(lambda: 0 in dict(logged(log)))
        os.kill(dict(logged(log))[0], signal.SIGKILL)
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    assert json.loads(printed) == [None, *({"square": x**2} for x in range(1, 6))]
    (crashed,) = store.failed()
    assert crashed.trial.config["x"] == 0 and "SIGKILL" in (crashed.error or "")
    assert "1 of 6 trials crashed" in errors


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    log, store = tmp_path / "log", TrialStore(tmp_path / "trials")
    configs = [{"x": x, "log": str(log), "sleep": 0.05} for x in range(12)]
    script = SCRIPT.format(here=HERE, configs=configs, folder=str(store.folder))
    backwards = SCRIPT.format(here=HERE, configs=configs[::-1], folder=str(store.folder))
    with sweeping(script) as one, sweeping(backwards) as two:
        results = [json.loads(process.communicate(timeout=60)[0]) for process in (one, two)]
    expected = [{"square": x**2} for x in range(12)]
    assert results == [expected, expected[::-1]]
    assert len(store) == 12 and not list(store.failed())
    # They came from both ends and met: only trials begun at the same moment may have run twice.
    assert len(logged(log)) < 24
