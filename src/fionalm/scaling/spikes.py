"""Counting loss spikes."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any


class LossSpikes:
    """Count the loss spikes of a run, one step at a time.

    Rule: a step is high if its loss is not finite, or exceeds the median of the last `window` finite losses
    by more than `max(k * 1.4826 * MAD, min_rise)`, where MAD is their median absolute deviation (1.4826 MAD
    estimates the standard deviation of a normal sample) and `min_rise` keeps the noise of a nearly flat loss
    from counting. Consecutive high steps are one spike. Nothing but a non-finite loss is high before
    `min_history` losses are known. High losses enter the window, so that a loss which stays up is one spike
    and then the new level.

    Args:
        window: losses that the median looks back on.
        k: height of a spike in robust standard deviations.
        min_rise: smallest height of a spike, in the loss's unit (nats).
        min_history: losses needed before a spike can be told.
    """

    def __init__(self, window: int = 50, k: float = 6.0, min_rise: float = 0.1, min_history: int = 10) -> None:
        self.k = k
        self.min_rise = min_rise
        self.min_history = min_history
        self.count = 0
        self.high = False
        self._recent: deque[float] = deque(maxlen=window)

    def update(self, loss: float) -> bool:
        """Take the next step's loss; say whether a new spike begins with it."""
        high = not math.isfinite(loss) or loss > self.threshold()
        begins = high and not self.high
        self.count += begins
        self.high = high
        if math.isfinite(loss):
            self._recent.append(loss)
        return begins

    def threshold(self) -> float:
        """Return the loss above which the next step is high; infinite while too few losses are known."""
        if len(self._recent) < self.min_history:
            return math.inf
        middle = median(self._recent)
        spread = 1.4826 * median(abs(loss - middle) for loss in self._recent)
        return middle + max(self.k * spread, self.min_rise)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON types."""
        return {"count": self.count, "high": self.high, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of an interrupted run."""
        self.count, self.high = int(state["count"]), bool(state["high"])
        self._recent = deque(state["recent"], maxlen=self._recent.maxlen)
