"""What a model is trained on of a knowledge graph, as data: the command line's `--data.*` options are these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fionalm.data.config import SMALLEST_VOCABULARY
from fionalm.data.knowledge.graph import MARKS, SubsetBy
from fionalm.data.knowledge.synthetic import SyntheticGraph
from fionalm.errors import UserError

TripleTokens = Literal["bpe", "characters"]
SMALLEST_TRIPLE_VOCABULARY = SMALLEST_VOCABULARY + len(MARKS)
EMBEDDED = ("countries", "synthetic")


@dataclass(frozen=True)
class TripleConfig:
    """Triples of a knowledge graph, one a sequence; in the place of `DataConfig` in a `TrainConfig`."""

    graph: str = "countries"
    """countries, synthetic, a file of tab-separated triples, or a folder with FB15k-237's train.txt, valid.txt, ..."""
    labels: str | None = None
    """A file of `id<TAB>name` lines for the graph's ids."""
    synthetic: SyntheticGraph = field(default_factory=SyntheticGraph)
    """What `synthetic` makes."""
    fraction: float = 1.0
    """Share of the graph that there is, for training and truth alike; the paper's are 0.01, 0.1 and 1."""
    subset_by: SubsetBy = "triples"
    """What `fraction` is a share of: triples, or subjects with all their triples."""
    partially_visible: float = 0.1
    """Share of the pairs some of whose objects are held out."""
    invisible: float = 0.1
    """Share of the pairs that are held out."""
    held_out: float = 0.5
    """Share of a partially visible pair's objects that are held out."""
    split_seed: int = 0
    """Seed of subset and split."""
    tokens: TripleTokens = "bpe"
    """bpe: byte-level BPE trained on the names that training shows; characters: one each, for tiny graphs."""
    vocab_size: int = 4096
    """Largest vocabulary of the BPE."""
    tokenizer: str | None = None
    """A tokenizer.json, or a folder that holds one, made for triples, in place of a new one."""
    seq_len: int = 64
    """Predictions in the longest sequence; a batch is as long as its longest triple."""
    seed: int = 0
    """Seed of the order in which triples are served."""

    def __post_init__(self) -> None:
        """Refuse values that no graph can have.

        Raises:
            UserError: a value out of range, or a vocabulary without room for the bytes and special tokens.
        """
        if self.tokenizer is None and self.tokens == "bpe" and self.vocab_size < SMALLEST_TRIPLE_VOCABULARY:
            raise UserError(
                f"vocab_size {self.vocab_size} is too small: expected at least {SMALLEST_TRIPLE_VOCABULARY} (256 "
                f"bytes, end-of-text, {', '.join(MARKS)})"
            )
        if self.seq_len < len(MARKS) + 1:
            raise UserError(f"seq_len {self.seq_len}: expected at least {len(MARKS) + 1}, for names of one token")
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction {self.fraction}: expected a share of the graph above 0, at most 1")

    @property
    def files(self) -> dict[str, str]:
        """Fields that name files."""
        named = {"graph": self.graph, "labels": self.labels, "tokenizer": self.tokenizer}
        return {key: name for key, name in named.items() if name is not None and name not in EMBEDDED}
