"""The worker pool: deadlines, deaths, refusals, threads, forks."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from fionalm.errors import UserError
from fionalm.verifiers.pool import WorkerPool

WORKER = """
import json, os, socket, struct, sys, time
channel = socket.socket(fileno=0)
stream = channel.makefile("rwb")
def send(message):
    data = json.dumps(message).encode()
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()
{start}
while len(header := stream.read(4)) == 4:
    job = json.loads(stream.read(struct.unpack("<I", header)[0]))
    if job == "die":
        sys.stderr.write("last words")
        sys.stderr.flush()
        os.kill(os.getpid(), 9)
    if job == "hang":
        time.sleep(1000)
    send([os.getpid(), len(job) if len(job) > 100 else job])
"""


def pool(workers: int = 2, seconds: float = 20.0, start: str = 'send({"ready": True})') -> WorkerPool:
    return WorkerPool([sys.executable, "-S", "-c", WORKER.format(start=start)], workers=workers, seconds=seconds)


def test_replies_keep_the_jobs_order_and_workers_persist() -> None:
    with pool() as workers:
        first = workers.map([str(i) for i in range(50)])
        second = workers.map([str(i) for i in range(50)])
    assert [reply.value[1] for reply in first] == [str(i) for i in range(50)]
    pids = {reply.value[0] for reply in (*first, *second)}
    assert len(pids) <= 2
    assert all(not os.path.exists(f"/proc/{pid}") for pid in pids)


def test_messages_larger_than_any_buffer_pass() -> None:
    with pool() as workers:
        assert [reply.value[1] for reply in workers.map(["x" * 5_000_000] * 3)] == [5_000_000] * 3


def test_a_worker_that_dies_costs_its_job_only_and_is_replaced() -> None:
    with pool() as workers:
        replies = workers.map(["a", "die", "b", "die", "c", "die", "die", "d"])
        assert [reply.status for reply in replies] == ["done", "died", "done", "died", "done", "died", "died", "done"]
        assert "last words" in replies[1].detail
        assert workers.map(["e"])[0].value[1] == "e"


def test_a_worker_killed_while_idle_is_replaced() -> None:
    with pool(workers=1) as workers:
        pid = workers.map(["a"])[0].value[0]
        os.kill(pid, 9)
        assert [reply.status for reply in workers.map(["b", "c"])] == ["done", "done"]


def test_a_job_over_its_deadline_is_a_timeout_and_holds_up_no_other() -> None:
    with pool(seconds=0.5) as workers:
        workers.map(["warm", "up"])
        started = time.monotonic()
        replies = workers.map(["hang", *"abcdefgh"])
        assert [reply.status for reply in replies] == ["timeout", *["done"] * 8]
        assert time.monotonic() - started < 10


def test_a_refusal_is_the_users_error() -> None:
    with pytest.raises(UserError, match="install it"), pool(start='send({"refused": "install it"})') as workers:
        workers.map(["a"])


def test_workers_that_cannot_start_end_in_an_error_with_their_words() -> None:
    with pytest.raises(RuntimeError, match="no such luck"), pool(start='sys.exit("no such luck")') as workers:
        workers.map(["a"])


def test_threads_are_served_one_after_another() -> None:
    results: dict[int, list[str]] = {}
    with pool() as workers:

        def ask(index: int) -> None:
            results[index] = [reply.value[1] for reply in workers.map([f"{index}-{i}" for i in range(20)])]

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {index: [f"{index}-{i}" for i in range(20)] for index in range(4)}


def test_a_pool_may_be_used_again_after_closing() -> None:
    workers = pool()
    first = workers.map(["a"])[0].value[0]
    workers.close()
    assert workers.map(["a"])[0].value[0] != first
    workers.close()


def test_no_jobs_start_no_workers() -> None:
    assert WorkerPool(["/no/such/command"], workers=1, seconds=1).map([]) == []


@pytest.mark.parametrize(("workers", "seconds"), [(0, 1.0), (1, 0.0), (1, float("inf")), (1, float("nan"))])
def test_nonsense_is_refused(workers: int, seconds: float) -> None:
    with pytest.raises(UserError):
        WorkerPool(["true"], workers=workers, seconds=seconds)
