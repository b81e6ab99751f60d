"""A knowledge graph as training data: its split, its tokenizer, and batches of one triple a sequence.

    corpus = load_triples(TripleConfig(graph="countries"))
    corpus.loader(batch_size=64, seq_len=64, seed=0).batch(step)   # [batch, longest triple], -100 after its end

Nothing is packed, so a model sees no triple beside another (Hron et al. 2024, section 2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fionalm.data.cache import build_once, content_key
from fionalm.data.knowledge.config import TripleConfig
from fionalm.data.knowledge.graph import KnowledgeGraph, Triple
from fionalm.data.knowledge.splits import GraphSplit
from fionalm.data.knowledge.synthetic import synthetic_graph
from fionalm.data.knowledge.text import TripleTokenizer, bpe_for_triples, characters_for_triples
from fionalm.data.loader import IGNORED, positions_served
from fionalm.data.tokenizer import load_tokenizer, vocabulary_size
from fionalm.errors import UserError
from fionalm.paths import home

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1  # of cached tokenizers


def load_graph(config: TripleConfig) -> KnowledgeGraph:
    """Return the graph that a config names, or the part of it that `fraction` keeps.

    Raises:
        UserError: no such file or folder, or a malformed line.
    """
    if config.graph == "countries":
        graph = KnowledgeGraph.countries()
    elif config.graph == "synthetic":
        graph = synthetic_graph(config.synthetic)
    elif Path(config.graph).expanduser().is_dir():
        graph = KnowledgeGraph.fb15k237(config.graph, config.labels)
    else:
        graph = KnowledgeGraph.from_tsv(config.graph, config.labels)
    return graph.subset(config.fraction, by=config.subset_by, seed=config.split_seed)


def load_split(config: TripleConfig) -> GraphSplit:
    """Return the graph's split that a config describes.

    Raises:
        UserError: as `load_graph`, or shares that leave nothing to train on.
    """
    return load_graph(config).split(
        partially_visible=config.partially_visible,
        invisible=config.invisible,
        held_out=config.held_out,
        seed=config.split_seed,
    )


@dataclass(frozen=True, eq=False)
class TripleCorpus:
    """A split graph in tokens."""

    split: GraphSplit
    tokens: TripleTokenizer
    seq_len: int

    @property
    def tokenizer(self) -> Tokenizer:
        """What writes the names."""
        return self.tokens.tokenizer

    @cached_property
    def vocab_size(self) -> int:
        """Embedding rows that a model of this corpus needs."""
        return vocabulary_size(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: equal for equal graph, split and tokenizer, on any machine."""
        graph, train = self.split.graph.fingerprint, self.split.train.fingerprint
        return content_key(FORMAT, graph, train, json.loads(self.tokenizer.to_str()))

    @cached_property
    def train(self) -> Rows:
        """The training triples, in the graph's order."""
        return self._rows(self.split.train.triples)

    @cached_property
    def validation(self) -> Rows:
        """The true triples that are held out; possibly none."""
        return self._rows(self.split.held_out)

    @cached_property
    def longest_object(self) -> int:
        """Tokens of the longest true object, its end included: no longer completion can be right."""
        names = dict.fromkeys(an_object for _, _, an_object in self.split.graph)
        return 1 + max(map(len, self.tokens.encode_names(names).values()))

    def loader(
        self, batch_size: int, seq_len: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> TripleLoader:
        """Return what serves the training triples; arguments as `PackedLoader`'s."""
        del seq_len  # rows are as long as their triples
        return TripleLoader(self.train, batch_size, seed=seed, rank=rank, world_size=world_size)

    def evaluation_rows(self, count: int) -> torch.Tensor:
        """Return up to `count` of the held-out triples, spread evenly, [count, longest]; -100 after each."""
        taken = min(count, len(self.validation))
        return self.validation.take(np.arange(taken) * len(self.validation) // max(taken, 1))

    def _rows(self, triples: tuple[Triple, ...]) -> Rows:
        encoded = self.tokens.encode_triples(triples)
        for triple, ids in zip(triples, encoded, strict=True):
            if len(ids) > self.seq_len + 1:
                raise UserError(
                    f"the triple {' / '.join(triple)} has {len(ids)} tokens, over data.seq_len {self.seq_len} + 1: "
                    f"expected a seq_len of at least {max(map(len, encoded)) - 1}"
                )
        return Rows.of(encoded)


@dataclass(frozen=True, eq=False)
class Rows:
    """Sequences of different lengths, one behind the other."""

    ids: np.ndarray
    """[tokens], int32."""
    starts: np.ndarray
    """Where each begins, and where the last ends [rows + 1]."""

    @classmethod
    def of(cls, rows: list[list[int]]) -> Rows:
        """Join lists of token ids."""
        ids = np.fromiter((token for row in rows for token in row), dtype=np.int32)
        return cls(ids, np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64))).astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each [rows]."""
        return np.diff(self.starts)

    def take(self, which: np.ndarray) -> torch.Tensor:
        """Return rows [k, longest of them] int64, with -100 after each one's end."""
        if not len(which):
            return torch.empty(0, 0, dtype=torch.int64)
        lengths = self.lengths[which]
        places = np.arange(lengths.max())
        inside = places < lengths[:, None]
        found = self.ids[np.where(inside, self.starts[which][:, None] + places, 0)]
        return torch.from_numpy(np.where(inside, found, IGNORED).astype(np.int64))


class TripleLoader:
    """Serves shuffled triples by step number; each is served once an epoch, whatever the batch size.

    Args:
        rows: the triples.
        batch_size: triples in one step over all ranks together.
        seed: of the shuffling.
        rank: which of the `world_size` equal slices of every batch this loader serves.
        world_size: number of slices; the batches, put together in rank order, do not depend on it.
    """

    def __init__(self, rows: Rows, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes: expected a multiple of "
                f"{world_size}"
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._targets = rows.lengths - 1

    @property
    def tokens_per_step(self) -> float:
        """Predicted tokens of a batch over all ranks, in the mean."""
        return self.batch_size * float(self._targets.mean())

    def batch(self, step: int) -> torch.Tensor:
        """Return this rank's slice of the batch of `step`, [batch / world_size, longest triple], int64, -100 after."""
        return self.rows.take(self._served(step)[self.rank])

    def shares(self, step: int, parts: int) -> list[float]:
        """Return what the mean loss of each part of this rank's batch counts, so that every token counts the same.

        A part is one of the `parts` chunks of rows; over all ranks, the shares' sum is `world_size`.
        """
        served = self._served(step)
        total = self._targets[served].sum() / self.world_size
        chunk = -(-served.shape[1] // parts)
        own = self._targets[served[self.rank]]
        return [float(own[start : start + chunk].sum() / total) for start in range(0, len(own), chunk)]

    def _served(self, step: int) -> np.ndarray:
        """Return which triples each rank is served [world_size, batch / world_size]."""
        first = step * self.batch_size
        return positions_served(first, self.batch_size, len(self.rows), self.seed).reshape(self.world_size, -1)


def load_triples(config: TripleConfig) -> TripleCorpus:
    """Read and split a graph and make its tokenizer, or take that from the cache.

    BPE is trained on the training triples alone; characters are those of the whole graph, so that the names of
    held-out triples can be written.

    Raises:
        UserError: as `load_split`; a tokenizer without the marks; a triple longer than `seq_len + 1` tokens.
    """
    split = load_split(config)
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer)
    elif config.tokens == "characters":
        tokenizer = characters_for_triples(split.graph)
    else:
        tokenizer = _trained(split.train, config.vocab_size)
    return TripleCorpus(split, TripleTokenizer(tokenizer), config.seq_len)


def _trained(graph: KnowledgeGraph, vocab_size: int) -> Any:
    def build(target: Path) -> None:
        text = bpe_for_triples(graph, vocab_size).to_str(pretty=True)
        (target / "tokenizer.json").write_text(text, encoding="utf-8")

    key = content_key("triples", FORMAT, graph.fingerprint, vocab_size)
    return load_tokenizer(build_once(home() / "tokenizers" / key, build))
