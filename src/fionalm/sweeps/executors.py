"""Where trials run: here one after another, in one-thread processes (`LocalExecutor`), or on Ray.

An executor takes trials from an iterator as it has room for them, and yields each with its message from
`fionalm.sweeps.worker.execute`, in the order in which they end. Closing the generator stops what still runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator
from typing import Any, Protocol

from fionalm.errors import UserError, choice_error, require
from fionalm.sweeps.processes import LocalExecutor, available_cores
from fionalm.sweeps.trial import Trial
from fionalm.sweeps.worker import THREAD_ENVIRONMENT, Message, crash, execute, local_environment

EXECUTORS = ("local", "ray", "serial")


class Executor(Protocol):
    """What `run_sweep` asks of an executor."""

    def run(self, trials: Iterator[Trial]) -> Generator[tuple[Trial, Message], None, None]:
        """Yield every trial with its message as it ends."""
        ...

    def close(self) -> None:
        """Give back processes and connections."""
        ...


def make_executor(name: str, workers: int | None = None, *, gpus: float = 0) -> Executor:
    """Return the executor called `name`: `"local"`, `"ray"` or `"serial"`.

    Args:
        name: of the executor.
        workers: trials at once; None: one a core, or as many as Ray has room for.
        gpus: devices, or a fraction of one, that one trial reserves on Ray.

    Raises:
        UserError: an unknown name, fewer than one worker, or devices for another executor than Ray.
    """
    if gpus < 0:
        raise UserError(f"{gpus:g} GPUs a trial: expected 0 or more")
    if gpus and name != "ray":
        raise UserError(f"{gpus:g} GPUs a trial were asked of the executor {name!r}: expected 'ray', which shares them")
    if workers is not None and workers < 1:
        raise UserError(f"a sweep needs at least one worker, not {workers}")
    if name == "local":
        return LocalExecutor(workers)
    if name == "ray":
        return RayExecutor(workers, gpus=gpus)
    if name == "serial":
        return SerialExecutor()
    raise choice_error("executor", name, EXECUTORS)


class SerialExecutor:
    """Runs trials in this process, one after another: for debuggers and for very short trials."""

    def run(self, trials: Iterator[Trial]) -> Generator[tuple[Trial, Message], None, None]:
        """Yield every trial with its message, in the given order."""
        for trial in trials:
            yield trial, execute(trial.function, trial.config)

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""


class RayExecutor:
    """Runs trials as Ray tasks: on the cluster of `RAY_ADDRESS` or of a `ray.init`, else on a local Ray.

    Args:
        workers: trials at once; None: as many as Ray has room for.
        cpus: cores that one trial reserves. It computes with one thread whatever this says, so that results
            equal those of `LocalExecutor`.
        gpus: devices, or a fraction of one, that one trial reserves.
    """

    def __init__(self, workers: int | None = None, *, cpus: float = 1, gpus: float = 0) -> None:
        self.workers, self.cpus, self.gpus = workers, cpus, gpus
        self._started = False

    def run(self, trials: Iterator[Trial]) -> Generator[tuple[Trial, Message], None, None]:
        """Yield every trial with its message as it ends."""
        ray = self._connect()
        task = ray.remote(execute).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_retries=0,
            runtime_env={"env_vars": local_environment() if self._started else THREAD_ENVIRONMENT},
        )
        # Twice the room: no core waits for the driver, and an autoscaler sees that there is more to do.
        at_once = self.workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / max(self.cpus, 1e-9)))
        running: dict[Any, Trial] = {}
        try:
            while True:
                while len(running) < at_once and (trial := next(trials, None)) is not None:
                    running[task.remote(trial.function, trial.config, single_thread=True)] = trial
                if not running:
                    return
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    trial = running.pop(reference)
                    try:
                        message = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        message = crash(f"the Ray worker died: {error}")
                    yield trial, message
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Stop the local Ray that this executor started, if it did."""
        if self._started:
            require("ray", "ray").shutdown()
            self._started = False

    def _connect(self) -> Any:
        with warnings.catch_warnings():
            # Ray's import and start announce changes of its own defaults, which no user of a sweep can mend.
            warnings.simplefilter("ignore")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray = require("ray", "ray")
            if not ray.is_initialized():
                local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": self.workers or available_cores()}
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **local)
                self._started = True
        return ray
