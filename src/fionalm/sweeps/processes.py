"""The `local` executor: worker processes with one thread each.

At widths below about a hundred a second thread gains a run little, and a second process gains a whole run.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from fionalm.sweeps.trial import Trial
from fionalm.sweeps.worker import Message, crash, local_environment

LOG_TAIL_BYTES = 4000


class LocalExecutor:
    """One worker process per core, started when first needed and kept for later trials.

    A worker that dies (out of memory, a segmentation fault) makes its trial a crash and is replaced. As a
    context manager it shares its workers between sweeps, which saves importing torch for each.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or available_cores()
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, trials: Iterator[Trial]) -> Generator[tuple[Trial, Message], None, None]:
        """Yield every trial with its message as it ends."""
        messages: queue.SimpleQueue[tuple[_Worker, Message | None]] = queue.SimpleQueue()
        try:
            self._fill(trials, messages)
            while self._busy:
                worker, message = messages.get()
                trial = worker.trial
                assert trial is not None
                self._busy.remove(worker)
                if message is None:
                    message = worker.obituary()
                else:
                    self._idle.append(worker)
                self._fill(trials, messages)
                yield trial, message
        finally:
            while self._busy:
                self._busy.pop().kill()

    def close(self) -> None:
        """End the workers."""
        for worker in (*self._idle, *self._busy):
            worker.kill()
        self._idle, self._busy = [], []

    def _fill(self, trials: Iterator[Trial], messages: queue.SimpleQueue[Any]) -> None:
        while len(self._busy) < self.workers:
            trial = next(trials, None)
            if trial is None:
                return
            while self._idle and self._idle[-1].process.poll() is not None:
                self._idle.pop().kill()
            worker = self._idle.pop() if self._idle else _Worker()
            self._busy.append(worker)
            worker.start(trial, messages)


def available_cores() -> int:
    """Return the cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


class _Worker:
    """A process that runs `fionalm.sweeps.worker`, with a thread that passes on its answers."""

    def __init__(self) -> None:
        self.trial: Trial | None = None
        self.listener: threading.Thread | None = None
        self.log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (closed by `kill`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fionalm.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **local_environment()},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the sweep, which then ends its workers
        )

    def start(self, trial: Trial, messages: queue.SimpleQueue[Any]) -> None:
        """Send a trial, whose message (None: the process died) will come through `messages`."""
        self.trial = trial
        self.log.truncate(0)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died just now, which the listener will notice
            self.process.stdin.write(json.dumps({"function": trial.function, "config": trial.config}) + "\n")
            self.process.stdin.flush()
        self.listener = threading.Thread(target=self._listen, args=(messages,), daemon=True)
        self.listener.start()

    def obituary(self) -> Message:
        """Say what is known of the death of the process."""
        code = self.process.wait()
        how = f"exited with status {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (out of memory?)" if code == -signal.SIGKILL else ""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        tail = self.log.read().decode(errors="replace").strip()
        self.kill()
        return crash(f"the worker process {how}" + (f"; its last output:\n{tail}" if tail else ""))

    def kill(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.listener is not None:
            self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # flushing what the dead process never read
                assert pipe is not None
                pipe.close()
        self.log.close()

    def _listen(self, messages: queue.SimpleQueue[Any]) -> None:
        assert self.process.stdout is not None
        try:
            messages.put((self, json.loads(self.process.stdout.readline())))
        except ValueError:
            messages.put((self, None))  # it died: nothing, or half an answer
