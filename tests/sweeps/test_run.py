from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from fionalm.errors import UserError
from fionalm.sweeps import LocalExecutor, SerialExecutor, Trial, TrialStore, available_cores, make_executor, run_sweep


def trial(function: str, cost: float = 1.0, **config) -> Trial:
    return Trial(f"sweep_trials:{function}", config, cost=cost)


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    return TrialStore(tmp_path / "trials")


@pytest.mark.parametrize("executor", ["local", "serial"])
def test_outcomes_come_in_the_given_order(store: TrialStore, executor: str) -> None:
    lrs = [10.0 ** -(i % 5) for i in range(12)]
    trials = [trial("parabola", cost=1 + i % 3, lr=lr, seed=i) for i, lr in enumerate(lrs)]
    outcomes = run_sweep(trials, store=store, executor=executor, workers=3, quiet=True)
    assert [outcome.trial for outcome in outcomes] == trials
    for i, (lr, outcome) in enumerate(zip(lrs, outcomes, strict=True)):
        assert outcome.status == "finished" and not outcome.cached and outcome.result is not None
        assert outcome.result["final_loss"] == pytest.approx((math.log10(lr) + 2) ** 2 + 0.01 * i)
    again = run_sweep(trials, store=store, executor=executor, quiet=True)
    assert all(outcome.cached for outcome in again)
    assert [outcome.result for outcome in again] == [outcome.result for outcome in outcomes]


def test_workers_are_reused_and_shared_between_sweeps(store: TrialStore) -> None:
    with LocalExecutor(2) as executor:
        pids = set()
        for sweep in range(3):
            trials = [trial("parabola", lr=0.1, seed=10 * sweep + i) for i in range(5)]
            for outcome in run_sweep(trials, store=store, executor=executor, quiet=True):
                assert outcome.result is not None
                pids.add(outcome.result["pid"])
    assert len(pids) <= 2 and os.getpid() not in pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_compute_with_one_thread(store: TrialStore) -> None:
    (outcome,) = run_sweep([trial("threads", seed=0)], store=store, quiet=True)
    assert outcome.result is not None
    assert outcome.result["threads"] == 1 and outcome.result["environment"] == "1"


def test_equal_trials_run_once(store: TrialStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    trials = [trial("logged", log=str(log), x=x) for x in (1, 2, 1, 1)]
    outcomes = run_sweep(trials, store=store, workers=2, quiet=True)
    assert [outcome.result for outcome in outcomes] == [{"square": x**2} for x in (1, 2, 1, 1)]
    assert len(log.read_text().splitlines()) == 2


def test_costliest_trials_run_first(store: TrialStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    trials = [trial("logged", cost=cost, log=str(log), x=cost) for cost in (2, 5, 1, 4, 3)]
    run_sweep(trials, store=store, workers=1, quiet=True)
    assert [int(line.split()[0]) for line in log.read_text().splitlines()] == [5, 4, 3, 2, 1]


def test_no_trials_are_no_outcomes(store: TrialStore) -> None:
    assert run_sweep([], store=store) == []


@pytest.mark.parametrize("executor", ["local", "serial"])
def test_diverged_trial_is_a_finished_one(store: TrialStore, executor: str) -> None:
    for cached in (False, True):
        (outcome,) = run_sweep([trial("diverged")], store=store, executor=executor, quiet=True)
        assert outcome.status == "finished" and outcome.cached is cached and outcome.result is not None
        assert math.isnan(outcome.result["final_loss"]) and outcome.result["diverged"] is True
        assert outcome.result["losses"] == [[0, 8.0], [1, math.inf], [2, -math.inf]]


@pytest.mark.parametrize("executor", ["local", "serial"])
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("fails", "ZeroDivisionError: the model has no layers"),
        ("leaves", "SystemExit: 4"),
        ("not_json", "not JSON serializable"),
        ("no_dict", "returned a int, expected a dict"),
    ],
)
def test_exception_is_an_outcome_with_its_traceback(
    store: TrialStore, executor: str, function: str, reason: str, capsys: pytest.CaptureFixture
) -> None:
    trials = [trial("parabola", lr=0.1), trial(function), trial("parabola", lr=0.2)]
    outcomes = run_sweep(trials, store=store, executor=executor, workers=1)
    assert [outcome.status for outcome in outcomes] == ["finished", "crashed", "finished"]
    assert outcomes[1].result is None and outcomes[1].error is not None
    assert "Traceback" in outcomes[1].error and reason in outcomes[1].error
    assert f"1 of 3 trials crashed; the first: {outcomes[1].error.splitlines()[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "reason"),
    [("exit", "exited with status 3"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL (out of memory?)")],
)
def test_dead_worker_is_an_outcome_and_is_replaced(store: TrialStore, how: str, reason: str) -> None:
    trials = [trial("parabola", lr=0.1), trial("dies", how=how), trial("parabola", lr=0.2)]
    outcomes = run_sweep(trials, store=store, workers=1, quiet=True)
    assert [outcome.status for outcome in outcomes] == ["finished", "crashed", "finished"]
    error = outcomes[1].error
    assert error is not None and reason in error and "last words" in error
    if how == "segfault":
        assert "sweep_trials.py" in error  # where it happened
    assert [outcome.trial for outcome in store.failed()] == [trials[1]]


def test_crashed_trial_runs_again_unless_told_not_to(store: TrialStore, tmp_path: Path) -> None:
    trials = [trial("fails_without", file=str(tmp_path / "file"))]
    assert run_sweep(trials, store=store, executor="serial", quiet=True)[0].status == "crashed"
    (tmp_path / "file").write_text("text")
    (kept,) = run_sweep(trials, store=store, executor="serial", quiet=True, retry_crashed=False)
    assert kept.status == "crashed" and kept.cached and "not yet" in (kept.error or "")
    (mended,) = run_sweep(trials, store=store, executor="serial", quiet=True)
    assert mended.result == {"read": "text"} and not mended.cached
    assert not list(store.failed())


@pytest.mark.parametrize("executor", ["local", "serial"])
def test_users_mistake_ends_the_sweep_and_keeps_what_is_finished(store: TrialStore, executor: str) -> None:
    trials = [
        trial("parabola", cost=3, lr=0.1),
        trial("user_error", cost=2, width=65),
        trial("parabola", lr=1),
    ]
    with pytest.raises(UserError, match=r"^width 65 is not divisible by the heads$"):
        run_sweep(trials, store=store, executor=executor, workers=1, quiet=True)
    assert store.get(trials[0]) is not None
    assert store.get(trials[1]) is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("sweep_trials:parabol", "no function 'parabol'; did you mean 'parabola'"),
        ("sweep_trials:not_a_function", "no function 'not_a_function'"),
        ("no_such_module:f", "cannot import .*no_such_module"),
    ],
)
def test_function_that_does_not_exist_is_a_users_mistake(store: TrialStore, function: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_sweep([Trial(function, {})], store=store, executor="serial", quiet=True)


def test_unknown_executor_and_no_workers_are_refused(store: TrialStore) -> None:
    with pytest.raises(UserError, match=r"unknown executor 'lokal'.*did you mean 'local'"):
        run_sweep([trial("diverged")], store=store, executor="lokal")
    with pytest.raises(UserError, match="at least one worker, not 0"):
        run_sweep([trial("diverged")], store=store, workers=0)
    with pytest.raises(UserError, match="expected 'ray'"):
        make_executor("local", gpus=1)
    with pytest.raises(UserError, match="0 or more"):
        make_executor("ray", gpus=-1)


def test_trial_finished_elsewhere_in_the_meantime_is_not_run(store: TrialStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    trials = [trial("logged", log=str(log), x=x) for x in (1, 2)]

    second = trials[1]

    class Elsewhere(SerialExecutor):
        def run(self, trials):
            store.put(second, {"square": 4})
            yield from super().run(trials)

    outcomes = run_sweep(trials, store=store, executor=Elsewhere(), quiet=True)
    assert [outcome.cached for outcome in outcomes] == [False, True]
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["1"]


def test_an_interrupted_sweep_says_what_is_kept(store: TrialStore) -> None:
    class Interrupted(SerialExecutor):
        def run(self, trials):
            yield next(super().run(trials))
            raise KeyboardInterrupt

    trials = [trial("parabola", lr=0.1, seed=seed) for seed in (0, 1)]
    with pytest.raises(KeyboardInterrupt, match="1 of 2 trials of this sweep are in .*: the same command resumes it"):
        run_sweep(trials, store=store, executor=Interrupted(), quiet=True)
    assert [outcome.cached for outcome in run_sweep(trials, store=store, executor="serial", quiet=True)] == [
        True,
        False,
    ]


def test_progress_counts_trials(
    store: TrialStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("fionalm.progress.LOG_INTERVAL_SECONDS", 0.0)
    trials = [trial("parabola", cost=cost, lr=0.1, seed=cost) for cost in (1, 3)]
    run_sweep(trials, store=store, executor="serial", description="two")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("two: 1/2 trials") and " left" in lines[0]
    assert lines[1].startswith("two: 2/2 trials")
    run_sweep([*trials, trial("parabola", lr=0.3)], store=store, executor="serial", description="three")
    assert capsys.readouterr().err.startswith("three (2 from the store): 1/1 trials")


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    mask = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, mask)
