"""Batches of packed sequences: what a step sees depends on the seed and the step number alone.

    loader = PackedLoader(corpus.train, batch_size=16, seq_len=128, seed=0)
    window = loader.batch(step)                        # [batch, seq_len + 1]
    inputs, targets = window[:, :-1], window[:, 1:]    # [batch, seq_len] each

Documents are concatenated and cut into windows, so that no token is padding. Window i holds tokens
[i * seq_len, (i + 1) * seq_len]: it shares its last token, a target, with the next window, where it is an
input; every token is predicted once an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fionalm.data.permutation import permute
from fionalm.errors import UserError

CHECKED_TOKENS = 4096
IGNORED = -100
"""Stands in a batch after the end of a sequence: it is neither predicted nor learned from."""


class PackedLoader:
    """Serves shuffled windows of a token array, by step number or as an endless iterator."""

    def __init__(
        self,
        tokens: np.ndarray,
        batch_size: int,
        seq_len: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Set up the loader; nothing is read yet.

        Args:
            tokens: token ids [n], possibly memory-mapped.
            batch_size: sequences in one step over all ranks together.
            seq_len: predictions in one sequence.
            seed: seed of the shuffling.
            rank: which of the `world_size` equal slices of every batch this loader serves.
            world_size: number of slices; the batches, put together in rank order, do not depend on it.

        Raises:
            UserError: too few tokens for one window, or a batch that the ranks cannot share evenly.
        """
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes: "
                f"expected a multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} is outside of 0 to {world_size - 1}")
        self.tokens = np.asarray(tokens)
        self.batch_size, self.seq_len, self.seed = batch_size, seq_len, seed
        self.rank, self.world_size = rank, world_size
        self.n_windows = _count_windows(self.tokens, seq_len)
        self.step = 0

    def batch(self, step: int) -> torch.Tensor:
        """Return this rank's slice of the batch of `step`, [batch / world_size, seq_len + 1], int64.

        Epochs follow each other without a gap: a batch may hold the end of one and the start of the next.
        """
        rows = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * rows
        return _gather(self.tokens, positions_served(first, rows, self.n_windows, self.seed), self.seq_len)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        batch = self.batch(self.step)
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs, as JSON values: the next step, and what the order depends on.

        Rank and world size are left out: a run may resume on another number of processes.
        """
        return {"step": self.step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the iteration that `state` was taken from.

        Raises:
            UserError: the state is of another batch size, sequence length, seed or corpus.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise UserError(
                    f"cannot resume the data: {name} was {state.get(name)!r} when saved and is {value!r} now"
                )
        self.step = state["step"]

    def _identity(self) -> dict[str, Any]:
        # A sample tells another corpus from this one without reading gigabytes.
        stride = max(1, len(self.tokens) // CHECKED_TOKENS)
        sample = np.ascontiguousarray(self.tokens[::stride], dtype="<i8")
        return {
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "seed": self.seed,
            "n_tokens": len(self.tokens),
            "tokens_hash": hashlib.blake2b(sample.tobytes(), digest_size=8).hexdigest(),
        }


def positions_served(first: int, count: int, n: int, seed: int) -> np.ndarray:
    """Return which of `n` items are served at places [first, first + count) of the endless shuffled order, [count].

    Each item is served once an epoch, and epochs follow each other without a gap.
    """
    pieces = []
    while count > 0:
        epoch, position = divmod(first, n)
        taken = min(count, n - position)
        pieces.append(permute(np.arange(position, position + taken), n, seed=seed, epoch=epoch))
        first, count = first + taken, count - taken
    return np.concatenate(pieces)


def evaluation_batches(tokens: np.ndarray, batch_size: int, seq_len: int, count: int) -> list[torch.Tensor]:
    """Return up to `count` batches [batch_size, seq_len + 1] of windows spread evenly over `tokens`.

    The same arguments always give the same batches, without repeating a window: with too few windows there
    are fewer batches, and the last may be smaller, so weigh means by the number of rows.

    Raises:
        UserError: too few tokens for one window.
    """
    n_windows = _count_windows(np.asarray(tokens), seq_len)
    taken = min(count * batch_size, n_windows)
    windows = np.arange(taken) * n_windows // max(taken, 1)
    return [
        _gather(np.asarray(tokens), windows[start : start + batch_size], seq_len)
        for start in range(0, taken, batch_size)
    ]


def _count_windows(tokens: np.ndarray, seq_len: int) -> int:
    n_windows = (len(tokens) - 1) // seq_len
    if n_windows < 1:
        raise UserError(f"{len(tokens)} tokens are too few for one sequence: expected {seq_len + 1} at least")
    return n_windows


def _gather(tokens: np.ndarray, windows: np.ndarray, seq_len: int) -> torch.Tensor:
    places = windows[:, None] * seq_len + np.arange(seq_len + 1)  # [batch, seq_len + 1]
    return torch.from_numpy(tokens[places].astype(np.int64))
