"""Runs a list of trials, taking from the store what is there and keeping in it whatever ends.

    from fionalm.sweeps import Trial, run_sweep
    outcomes = run_sweep([Trial("mypackage.mymodule:train", {"lr": lr}) for lr in (1e-3, 1e-2)])

The same call after a kill, a crash or Ctrl-C goes on from where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

from fionalm.errors import UserError
from fionalm.progress import Progress, progress
from fionalm.sweeps.executors import Executor, make_executor
from fionalm.sweeps.store import TrialStore
from fionalm.sweeps.trial import Trial, TrialOutcome
from fionalm.sweeps.worker import Message


def run_sweep(
    trials: Iterable[Trial],
    *,
    store: TrialStore | None = None,
    executor: str | Executor = "local",
    workers: int | None = None,
    description: str = "sweep",
    quiet: bool = False,
    retry_crashed: bool = True,
) -> list[TrialOutcome]:
    """Run `trials`, the costliest first, and return their outcomes in the given order.

    A crash (an exception, or a process that died) is an outcome and is kept in the store; the other trials
    go on. As its cause often lies outside the trial (memory, a full disk, a bug mended since), a later
    sweep runs it again unless `retry_crashed` is False. A `UserError` inside a trial ends the sweep, as it
    concerns what the user gave.

    Args:
        trials: equal trials run once.
        store: default `TrialStore()`.
        executor: `"local"` (one-thread processes), `"ray"` (extra), `"serial"` (in this process), or an
            executor that several sweeps share, such as `LocalExecutor()` in a `with` statement.
        workers: processes of the named executor; None: one per core.
        description: the name in the progress display.
        quiet: show nothing.
        retry_crashed: run again what the store says has crashed.

    Raises:
        UserError: a mistake in a trial's configuration, an unknown executor, a store that cannot be written.
    """
    trials = list(trials)
    store = TrialStore() if store is None else store
    outcomes: dict[str, TrialOutcome] = {}
    pending: dict[str, Trial] = {}
    for trial in trials:
        if trial.hash not in outcomes and not _recall(trial, store, outcomes, retry_crashed):
            pending[trial.hash] = trial
    if pending:
        own = isinstance(executor, str)
        runner = make_executor(executor, workers) if isinstance(executor, str) else executor
        try:
            title = f"{description} ({len(outcomes)} from the store)" if outcomes else description
            work = sum(trial.cost for trial in pending.values())
            with progress(len(pending), title, "trials", work=work, quiet=quiet) as bar:
                _run(list(pending.values()), runner, store, outcomes, bar, retry_crashed)
        except KeyboardInterrupt:
            done = sum(trial.hash in outcomes for trial in trials)
            raise KeyboardInterrupt(
                f"{done} of {len(trials)} trials of this sweep are in {store.folder}: the same command resumes it"
            ) from None
        finally:
            if own:
                runner.close()
    if not quiet:
        _report_crashes([outcomes[key] for key in dict.fromkeys(trial.hash for trial in trials)])
    return [outcomes[trial.hash] for trial in trials]


def _run(
    pending: Sequence[Trial],
    runner: Executor,
    store: TrialStore,
    outcomes: dict[str, TrialOutcome],
    bar: Progress,
    retry_crashed: bool,
) -> None:
    crashed = 0

    def wanted() -> Iterator[Trial]:
        for trial in sorted(pending, key=lambda trial: -trial.cost):
            # Another process on the same store may have run it since.
            if _recall(trial, store, outcomes, retry_crashed):
                bar.advance(work=trial.cost)
            else:
                yield trial

    with closing(runner.run(wanted())) as endings:
        for trial, message in endings:
            outcomes[trial.hash] = _keep(trial, message, store)
            crashed += message["status"] == "crashed"
            bar.advance(work=trial.cost, **({"crashed": crashed} if crashed else {}))


def _recall(trial: Trial, store: TrialStore, outcomes: dict[str, TrialOutcome], retry_crashed: bool) -> bool:
    stored = store.get(trial)
    if stored is None or (stored.status == "crashed" and retry_crashed):
        return False
    outcomes[trial.hash] = stored
    return True


def _keep(trial: Trial, message: Message, store: TrialStore) -> TrialOutcome:
    if message["status"] == "user_error":
        raise UserError(message["error"])
    if message["status"] == "crashed":
        return store.put_crashed(trial, message["error"], seconds=message["seconds"])
    return store.put(trial, message["result"], seconds=message["seconds"])


def _report_crashes(outcomes: Sequence[TrialOutcome]) -> None:
    crashed = [outcome for outcome in outcomes if outcome.status == "crashed"]
    if crashed:
        lines = (crashed[0].error or "").strip().splitlines() or ["unknown"]
        print(f"{len(crashed)} of {len(outcomes)} trials crashed; the first: {lines[-1]}", file=sys.stderr)
