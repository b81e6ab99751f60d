"""What a text corpus is made from, as data: the command line's `--data.*` options are these fields."""

from __future__ import annotations

from dataclasses import dataclass

from fionalm.errors import UserError

# The 256 bytes and the end-of-text token: a byte-level tokenizer below this cannot write every text.
SMALLEST_VOCABULARY = 257


@dataclass(frozen=True)
class DataConfig:
    """A text corpus: where it comes from, how it is tokenised, split and cut into sequences."""

    source: str = "stdlib"
    """stdlib (Python's own library), a file, a folder (its .txt, .py, .md, .jsonl), or hf:NAME[:CONFIG], streamed."""
    text_field: str = "text"
    """Column that holds the text, in .jsonl files and Hugging Face datasets."""
    vocab_size: int = 4096
    """Largest vocabulary of the byte-level BPE that is trained when no tokenizer is given."""
    tokenizer: str | None = None
    """A tokenizer.json, or a folder that holds one, to use in place of a newly trained tokenizer."""
    seq_len: int = 128
    """Predictions in one sequence: a window holds `seq_len + 1` tokens."""
    validation_fraction: float = 0.02
    """Share of the documents held out; 0 leaves no validation tokens."""
    max_bytes: int = 20_000_000
    """Text read at most, in bytes of UTF-8."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    seed: int = 0
    """Seed of the order in which sequences are served; the validation split does not depend on it."""

    @property
    def files(self) -> dict[str, str]:
        """Fields that name files or Hugging Face datasets."""
        named = {"source": self.source, "tokenizer": self.tokenizer}
        return {key: name for key, name in named.items() if name is not None and name != "stdlib"}

    def __post_init__(self) -> None:
        """Refuse values that no corpus can have.

        Raises:
            UserError: a value out of range, or a vocabulary smaller than the 256 bytes and end-of-text.
        """
        if self.tokenizer is None and self.vocab_size < SMALLEST_VOCABULARY:
            raise UserError(
                f"vocab_size {self.vocab_size} is too small: a byte-level tokenizer needs at least "
                f"{SMALLEST_VOCABULARY} (256 bytes and the end-of-text token)"
            )
        if self.seq_len < 1:
            raise UserError(f"seq_len must be at least 1, not {self.seq_len}")
        if self.max_bytes < 1:
            raise UserError(f"max_bytes must be at least 1, not {self.max_bytes}")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"validation_fraction must be in [0, 1), not {self.validation_fraction}")
