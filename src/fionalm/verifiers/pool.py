"""Worker processes that judge answers: each job has a deadline, and a worker that dies or overruns it is replaced.

A job whose worker died is tried once more.

A worker is any command that speaks messages over its standard input, which is one end of a socket pair: a message is
four bytes of length, little-endian, then JSON. It sends `{"ready": true}` when it has started (or `{"refused":
sentence}`), then answers each job with one message. Nothing is forked from this process, which may hold torch's
threads; and nothing here waits for longer than the deadlines.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fionalm.errors import UserError

START_SECONDS = 120.0
"""How long a worker may take to start: importing sympy takes a second, far more on a loaded machine."""
STARTS = 3
"""Failed starts in a row after which the pool gives up."""
HEADER = struct.Struct("<I")
LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Reply:
    """What became of a job."""

    status: Literal["done", "timeout", "died"]
    value: Any = None
    """The worker's message where `done`."""
    detail: str = ""
    """The end of what a dead worker wrote on standard error."""


class WorkerPool:
    """Persistent workers, started when first needed; one job a worker at a time.

    Safe to use from several threads (one caller is served at a time) and after a fork (the child starts its own).

    Args:
        command: starts a worker.
        workers: how many.
        seconds: a job's deadline.
        environment: the workers' environment; None: this process's.
    """

    def __init__(
        self, command: Sequence[str], *, workers: int, seconds: float, environment: dict[str, str] | None = None
    ) -> None:
        if workers < 1:
            raise UserError(f"workers {workers}: expected at least 1")
        if not 0 < seconds < float("inf"):
            raise UserError(f"a deadline of {seconds} seconds: expected a finite time above 0")
        self.command, self.workers, self.seconds, self.environment = list(command), workers, seconds, environment
        self._lock = threading.Lock()
        self._all: list[_Worker] = []
        self._pid = os.getpid()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_all")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _all=[])

    def map(self, jobs: Sequence[Any]) -> list[Reply]:
        """Return each job's reply, in order; jobs must be JSON.

        Raises:
            UserError: workers refuse to start.
            RuntimeError: workers die while they start.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._all, self._pid = [], os.getpid()
            try:
                return self._map(jobs)
            except BaseException:
                self._end([worker for worker in self._all if worker.job is not None or not worker.ready])
                raise

    def close(self) -> None:
        """End the workers; a later job starts new ones."""
        with self._lock:
            if self._pid == os.getpid():
                self._end(list(self._all), gently=True)

    def _map(self, jobs: Sequence[Any]) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(jobs)
        messages = [_frame(job) for job in jobs]
        waiting = list(range(len(jobs)))[::-1]
        open_jobs, failures = len(jobs), 0
        tried_again: set[int] = set()
        with selectors.DefaultSelector() as selector:
            for worker in self._all:
                selector.register(worker.socket, selectors.EVENT_READ, worker)
            while open_jobs:
                while len(self._all) < min(self.workers, open_jobs):
                    worker = _Worker(self.command, self.environment)
                    self._all.append(worker)
                    selector.register(worker.socket, selectors.EVENT_READ, worker)
                for worker in self._all:
                    if waiting and worker.ready and worker.job is None:
                        job = waiting.pop()
                        worker.give(job, messages[job], self.seconds)
                    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
                    selector.modify(worker.socket, events, worker)
                nearest = min(worker.deadline for worker in self._all)
                for key, _ in selector.select(max(0.0, min(nearest - time.monotonic(), 60.0))):
                    key.data.exchange()
                for worker in list(self._all):
                    message = worker.receive()
                    if message is not None and not worker.ready:
                        if "refused" in message:
                            raise UserError(message["refused"])
                        worker.ready, worker.deadline, failures = True, float("inf"), 0
                        continue
                    reply = Reply("done", message) if message is not None else None
                    if reply is None and worker.ended:
                        reply = Reply("died", detail=worker.log())
                    elif reply is None and time.monotonic() > worker.deadline:
                        reply = Reply("timeout")
                    if reply is None:
                        continue
                    if worker.job is not None:
                        if reply.status == "died" and worker.job not in tried_again:
                            # It may have died before it saw the job, or of a machine without memory.
                            tried_again.add(worker.job)
                            waiting.append(worker.job)
                        else:
                            replies[worker.job] = reply
                            open_jobs -= 1
                        worker.job, worker.deadline = None, float("inf")
                    elif not worker.ready:
                        failures += 1
                    if reply.status != "done":
                        selector.unregister(worker.socket)
                        self._end([worker])
                        if failures >= STARTS:
                            raise RuntimeError(f"a verifier's worker could not start ({reply.status}): {reply.detail}")
        return [reply for reply in replies if reply is not None]

    def _end(self, workers: Sequence[_Worker], *, gently: bool = False) -> None:
        for worker in workers:
            self._all.remove(worker)
            worker.socket.close()
            if not gently:
                worker.process.kill()
        for worker in workers:
            worker.wait()


class _Worker:
    def __init__(self, command: Sequence[str], environment: dict[str, str] | None) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker lives)
        self.process = subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=self.errors, env=environment
        )
        theirs.close()
        self.ready, self.ended = False, False
        self.job: int | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self.outgoing, self.incoming = memoryview(b""), bytearray()

    def give(self, job: int, message: bytes, seconds: float) -> None:
        self.job, self.outgoing, self.deadline = job, memoryview(message), time.monotonic() + seconds
        self._send()

    def exchange(self) -> None:
        """Write and read what the socket takes and has."""
        self._send()
        with contextlib.suppress(BlockingIOError):
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            self.incoming += data
            self.ended |= not data

    def receive(self) -> Any:
        """Return the next whole message, or None."""
        if len(self.incoming) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(self.incoming)[0]
        if len(self.incoming) < end:
            return None
        message = json.loads(bytes(self.incoming[HEADER.size : end]))
        del self.incoming[:end]
        return message

    def log(self) -> str:
        """Return the end of the worker's standard error."""
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        return self.errors.read().decode(errors="replace").strip()

    def wait(self) -> None:
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.outgoing:
                try:
                    self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
                except ConnectionError:
                    self.outgoing, self.ended = memoryview(b""), True


def _frame(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return HEADER.pack(len(data)) + data
