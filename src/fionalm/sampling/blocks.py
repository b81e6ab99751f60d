"""Where each row's keys and values lie: blocks of 16 tokens for what is a row's own, whole prompts for what rows share.

Live blocks always fill the front of the pool, so attention over all rows is one batched product over live blocks:
nothing is padded to the longest row, and nothing is copied. Index tables are made once a step, for all layers.

Shapes: `b` rows, `n` live blocks, `k` key and value heads, `g` query heads that share one, `e` head size, `p` shared
prompts, `r` rows of a shared prompt at most, `t` tokens of a shared prompt at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 16


@dataclass
class ReadPrompt:
    """A prompt's keys and values, and where rows share them."""

    states: Tensor
    """[layers, 2, k, t, e]."""
    place: int | None = None
    """Its place among the shared prompts; None while no row needs it."""
    rows: int = 0

    @property
    def length(self) -> int:
        """Tokens."""
        return self.states.shape[3]


@dataclass
class Row:
    """A sample's keys and values."""

    shared: ReadPrompt | None
    length: int
    """Tokens in its own blocks."""
    blocks: list[int]

    @property
    def position(self) -> int:
        """How many tokens stand before the next."""
        return self.length + (self.shared.length if self.shared is not None else 0)


class Blocks:
    """The pool of blocks [layers, 2, blocks, k, 16, e] and the shared prompts [layers, 2, prompts, k, t, e].

    Args:
        layers: of the model.
        kv_heads: `k`.
        groups: `g`.
        head_size: `e`.
        share: rows of one prompt share its keys and values; otherwise each row has its own copy in its blocks, which
            is less work where prompts have few rows each.
        device: where tensors live.
    """

    def __init__(
        self, *, layers: int, kv_heads: int, groups: int, head_size: int, share: bool, device: torch.device
    ) -> None:
        self.layers, self.kv_heads, self.groups, self.head_size = layers, kv_heads, groups, head_size
        self.share, self.device = share, device
        self.rows: list[Row] = []
        self.pool = torch.zeros(layers, 2, 0, kv_heads, BLOCK, head_size, device=device)
        self.owner = np.zeros(0, dtype=np.int64)
        """Row of each live block."""
        self.slot = np.zeros(0, dtype=np.int64)
        """Which of its row's blocks each live block is."""
        self.shared = torch.zeros(layers, 2, 0, kv_heads, 0, head_size, device=device)
        self.places: list[ReadPrompt | None] = []

    def admit(self, prompt: ReadPrompt) -> None:
        """Append a row that begins with `prompt`."""
        if self.share:
            if prompt.place is None:
                self._place(prompt)
            prompt.rows += 1
            self.rows.append(Row(prompt, 0, []))
            return
        row = Row(None, prompt.length, [])
        self.rows.append(row)
        count = -(-prompt.length // BLOCK)
        self._extend([len(self.rows) - 1] * count)
        padded = torch.nn.functional.pad(prompt.states, (0, 0, 0, count * BLOCK - prompt.length))
        self.pool[:, :, row.blocks[0] : row.blocks[0] + count] = padded.unflatten(3, (count, BLOCK)).transpose(2, 3)

    def keep(self, order: Sequence[int]) -> None:
        """Keep the rows `order` in that order."""
        kept = set(order)
        gone = [row for index, row in enumerate(self.rows) if index not in kept]
        self.rows = [self.rows[index] for index in order]
        for row in gone:
            if row.shared is not None:
                row.shared.rows -= 1
                if row.shared.rows == 0 and row.shared.place is not None:
                    self.places[row.shared.place] = row.shared.place = None
        while self.places and self.places[-1] is None:
            self.places.pop()
        for index, row in enumerate(self.rows):
            self.owner[row.blocks] = index
        dead = {block for row in gone for block in row.blocks}
        live = len(self.owner) - len(dead)
        holes = [block for block in dead if block < live]
        movers = [block for block in range(live, len(self.owner)) if block not in dead]
        if movers:
            self.pool[:, :, holes] = self.pool[:, :, movers]
            for hole, mover in zip(holes, movers, strict=True):
                self.owner[hole], self.slot[hole] = self.owner[mover], self.slot[mover]
                self.rows[self.owner[mover]].blocks[self.slot[mover]] = hole
        self.owner, self.slot = self.owner[:live], self.slot[:live]

    def _extend(self, owners: Sequence[int]) -> None:
        """Add a block to each of the rows `owners`."""
        start = len(self.owner)
        slots = []
        for block, owner in enumerate(owners, start):
            slots.append(len(self.rows[owner].blocks))
            self.rows[owner].blocks.append(block)
        self.owner = np.append(self.owner, np.array(owners, dtype=np.int64))
        self.slot = np.append(self.slot, np.array(slots, dtype=np.int64))
        if len(self.owner) > self.pool.shape[2]:
            # Zeros, since places that are masked must be finite: 0 times NaN is NaN.
            blocks = len(self.owner) + len(self.owner) // 2 + 8
            pool = self.pool.new_zeros(self.layers, 2, blocks, self.kv_heads, BLOCK, self.head_size)
            pool[:, :, :start] = self.pool[:, :, :start]
            self.pool = pool

    def _place(self, prompt: ReadPrompt) -> None:
        free = next((index for index, other in enumerate(self.places) if other is None), len(self.places))
        if free == len(self.places):
            self.places.append(None)
        self.places[free], prompt.place = prompt, free
        room = self.shared.shape
        if free >= room[2] or prompt.length > room[4]:
            prompts, tokens = max(free + 1 + free // 2, room[2]), max(-(-prompt.length // BLOCK) * BLOCK, room[4])
            shared = self.shared.new_zeros(self.layers, 2, prompts, self.kv_heads, tokens, self.head_size)
            shared[:, :, : room[2], :, : room[4]] = self.shared
            self.shared = shared
        self.shared[:, :, free, :, : prompt.length] = prompt.states

    def tables(self) -> Tables:
        """Make room for one more token a row, count it, and return where everything is for this step."""
        self._extend([index for index, row in enumerate(self.rows) if row.length % BLOCK == 0])
        heads, groups, device = np.arange(self.kv_heads), self.groups, self.device
        lengths = np.array([row.length for row in self.rows])
        positions = np.array([row.position for row in self.rows])
        newest = np.array([row.blocks[-1] for row in self.rows])
        for row in self.rows:
            row.length += 1
        owner, slot, rows = self.owner, self.slot, len(self.rows)
        prompts = len(self.places)
        tokens = max((prompt.length for prompt in self.places if prompt is not None), default=0)
        units = int(slot.max()) + 1 + -(-tokens // BLOCK)
        by_head = owner[:, None] * self.kv_heads + heads  # [n, k]
        cells = (by_head[:, :, None] * groups + np.arange(groups)) * units + slot[:, None, None]
        written = ((newest[:, None] + np.array([0, self.pool.shape[2]]))[:, :, None] * self.kv_heads + heads) * BLOCK
        seen = slot[:, None] * BLOCK + np.arange(BLOCK) <= lengths[owner][:, None]
        gather = np.zeros((rows, len(owner)), dtype=np.float32)
        gather[owner, np.arange(len(owner))] = 1

        def index(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values).reshape(-1)).to(device)

        return Tables(
            positions=index(positions),
            written=index(written + (lengths % BLOCK)[:, None, None]),
            row_of_block=index(by_head),
            cells=index(cells),
            mask=_masked(np.repeat(seen, self.kv_heads, 0), device),
            gather=torch.from_numpy(gather).to(device),
            scores=torch.full((rows * self.kv_heads * groups * units, BLOCK), -torch.inf, device=device),
            shared=self._shared_tables(prompts, tokens, index) if prompts else None,
        )

    def _shared_tables(self, prompts: int, tokens: int, index: Any) -> SharedTables:
        members: list[list[int]] = [[] for _ in range(prompts)]
        place = np.array([row.shared.place for row in self.rows if row.shared is not None])
        rank = np.zeros(len(place), dtype=np.int64)
        for row, where in enumerate(place.tolist()):
            rank[row] = len(members[where])
            members[where].append(row)
        most = max(map(len, members))
        rows_of = np.array([rows + [0] * (most - len(rows)) for rows in members])  # [p, r]
        heads = np.arange(self.kv_heads)
        room = -(-tokens // BLOCK) * BLOCK
        lengths = np.array([0 if prompt is None else prompt.length for prompt in self.places])
        seen = np.arange(room) < np.maximum(lengths, 1)[:, None]
        return SharedTables(
            prompts=prompts,
            tokens=room,
            to_prompts=index(rows_of[:, None] * self.kv_heads + heads[:, None]),
            to_rows=index((place[:, None] * self.kv_heads + heads) * most + rank[:, None]),
            mask=_masked(np.repeat(seen, self.kv_heads, 0), self.device),
        )

    def attend(self, layer: int, q: Tensor, kv: Tensor, tables: Tables) -> Tensor:
        """Store a token's keys and values a row and return its attention's output.

        Args:
            layer: which.
            q: queries [b, k * g, e], already divided by sqrt(e).
            kv: keys, then values, [b, 2 * k, e].
            tables: this step's.

        Returns:
            [b, k * g * e].
        """
        k, g, e = self.kv_heads, self.groups, self.head_size
        rows, blocks = q.shape[0], len(self.owner)
        pool = self.pool[layer]
        pool.view(-1, e).index_copy_(0, tables.written, kv.reshape(-1, e))
        keys, values = pool[:, :blocks].view(2, blocks * k, BLOCK, e).unbind()
        q = q.reshape(rows * k, g * e)
        scores = tables.scores
        own = q.index_select(0, tables.row_of_block).view(-1, g, e)
        scores.index_copy_(0, tables.cells, torch.baddbmm(tables.mask, own, keys.mT).view(-1, BLOCK))
        wide = scores.view(rows * k, g, -1)
        shared = tables.shared
        if shared is not None:
            past = self.shared[layer, :, : shared.prompts, :, : shared.tokens].flatten(1, 2)
            asked = q.index_select(0, shared.to_prompts).view(shared.prompts * k, -1, e)
            met = torch.baddbmm(shared.mask, asked, past[0].mT).view(-1, g, shared.tokens)
            wide[:, :, -shared.tokens :] = met.index_select(0, shared.to_rows)
        weights = wide.softmax(-1)
        own = weights.view(-1, BLOCK).index_select(0, tables.cells).view(-1, g, BLOCK)
        mixed = torch.bmm(own, values).view(blocks, k * g * e)
        if shared is None:
            return tables.gather @ mixed
        seen = (
            weights[:, :, -shared.tokens :]
            .index_select(0, shared.to_prompts)
            .view(shared.prompts * k, -1, shared.tokens)
        )
        rest = torch.bmm(seen, past[1]).view(-1, g * e).index_select(0, shared.to_rows).view(rows, k * g * e)
        return torch.addmm(rest, tables.gather, mixed)


@dataclass(frozen=True)
class SharedTables:
    """Where the rows of shared prompts are."""

    prompts: int
    tokens: int
    to_prompts: Tensor
    """Row and head of each (prompt, head, member) [p * k * r]."""
    to_rows: Tensor
    """ReadPrompt, head and member of each (row, head) [b * k]."""
    mask: Tensor
    """[p * k, 1, t]: 0, or minus infinity past a prompt's end."""


@dataclass(frozen=True)
class Tables:
    """A step's index tables."""

    positions: Tensor
    """Of the token that each row reads [b]."""
    written: Tensor
    """Where its keys and values go, in the pool seen as rows of `e` [b * 2 * k]."""
    row_of_block: Tensor
    """Row and head of each (block, head) [n * k]."""
    cells: Tensor
    """Where each block's scores stand in `scores` [n * k * g]."""
    mask: Tensor
    """[n * k, 1, 16]: 0, or minus infinity past a row's end."""
    gather: Tensor
    """1 where a block is a row's [b, n]: sums the blocks' outputs."""
    scores: Tensor
    """Every row's scores [b * k * g * units, 16], minus infinity where it has no block: own blocks, then the prompt."""
    shared: SharedTables | None


def _masked(seen: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.where(seen, np.float32(0), np.float32(-np.inf))).unsqueeze(1).to(device)
