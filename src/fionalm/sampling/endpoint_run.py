"""Many requests at once, on an event loop of their own: callers may have one, and get answers in their own thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from fionalm.sampling.endpoint_client import EndpointClient, OutOfBudget

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    open_client: Callable[[], EndpointClient],
    jobs: Sequence[Job],
    work: Callable[[EndpointClient, Job], Awaitable[Result]],
    concurrency: int,
) -> Iterator[tuple[Job, Result]]:
    """Yield jobs and their results as they end, in the caller's thread.

    Once a job has failed no other is begun; those under way end first, and then the failure is raised. Leaving the
    iteration, as Ctrl-C does, gives up what is under way.

    Args:
        open_client: called on the event loop.
        jobs: to be done.
        work: does one.
        concurrency: jobs under way at once, at most.
    """
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    running = _Running()

    def thread() -> None:
        try:
            done.put(asyncio.run(running.start(_drive(open_client, jobs, work, concurrency, done.put))))
        except asyncio.CancelledError:
            done.put(None)
        except BaseException as error:
            done.put(error)

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    try:
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        running.cancel()
        worker.join()


async def _drive(
    open_client: Callable[[], EndpointClient],
    jobs: Sequence[Any],
    work: Callable[[EndpointClient, Any], Awaitable[Any]],
    concurrency: int,
    tell: Callable[[Any], None],
) -> Exception | None:
    """Do the jobs; return what failed first, or None."""
    client = open_client()
    waiting, failures = iter(jobs), []

    async def worker() -> None:
        for job in waiting:
            if failures:
                return
            try:
                tell((job, await work(client, job)))
            except Exception as error:  # handed to the caller's thread, which raises it
                failures.append(error)
                client.stop()

    try:
        await asyncio.gather(*(worker() for _ in range(min(concurrency, len(jobs)))))
    finally:
        await client.close()
    # The first says why; a refusal more than the budget's end that another request ran into.
    failures.sort(key=lambda error: isinstance(error, OutOfBudget))
    return failures[0] if failures else None


class _Running:
    """The coroutine under way in the thread, to be cancelled from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None

    async def start(self, work: Any) -> Any:
        with self._lock:
            task = self._task = asyncio.ensure_future(work)
            if self._cancelled:
                task.cancel()
        return await task

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._task is not None and not self._task.done():
                try:
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)
                except RuntimeError:
                    return  # the loop has ended between the two lines
