"""Stopping cleanly: Ctrl-C and a scheduler's SIGTERM end a run after its step rather than within it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A terminal's Ctrl-C reaches a torchrun worker twice, once directly and once through its launcher.
SECOND_SECONDS = 1.0


class Stop:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0

    def handle(self, number: int, _frame: object) -> None:
        """Note the request; a second Ctrl-C stops at once."""
        if self.requested and number == signal.SIGINT and time.monotonic() - self._first > SECOND_SECONDS:
            raise KeyboardInterrupt
        if not self.requested:
            self._first = time.monotonic()
        self.requested = True


@contextmanager
def stop_on_signals(enabled: bool = True) -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM within the block; elsewhere than in the main thread Python cannot, and nothing is."""
    stop = Stop()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
