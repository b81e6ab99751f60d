"""A tokenised corpus: documents in, two memory-mapped token arrays out, made once and cached.

Everything is cached under `fionalm.paths.home()` by content: `surveys/` (what a source holds), `tokenizers/`
and `corpora/`. Any number of processes may ask for the same corpus at once; one does the work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fionalm.data.cache import TokenWriter, build_once, content_key, read_tokens
from fionalm.data.config import DataConfig
from fionalm.data.text import document_files, files_signature, read_documents
from fionalm.data.tokenizer import (
    encode_documents,
    end_of_text_id,
    load_tokenizer,
    token_dtype,
    train_tokenizer,
    vocabulary_size,
)
from fionalm.errors import UserError
from fionalm.paths import atomic_write_text, home
from fionalm.progress import Progress, progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fionalm.data.knowledge.config import TripleConfig
    from fionalm.data.knowledge.corpus import TripleCorpus

FORMAT = 1  # of the cache: a change in what is stored must change it
TOKENIZER_BYTES = 8_000_000  # text that a tokenizer is trained on at most
QUIET_BYTES = 1_000_000  # below this, work is done before anybody asks how far it is


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token ids of a corpus; each document ends with the end-of-text token."""

    train: np.ndarray
    """[n], uint16 or uint32, read-only."""
    validation: np.ndarray
    """[n], of other documents; empty if nothing was held out."""
    tokenizer: Tokenizer
    fingerprint: str
    """Names the content: equal for equal text, split and tokenizer, on any machine."""

    @cached_property
    def vocab_size(self) -> int:
        """Embedding rows that a model of this corpus needs."""
        return vocabulary_size(self.tokenizer)

    @cached_property
    def end_of_text_id(self) -> int:
        """Id of the token that ends each document."""
        return end_of_text_id(self.tokenizer)


def load_data(config: DataConfig | TripleConfig, *, quiet: bool = False) -> Corpus | TripleCorpus:
    """Return what a training run reads: a text corpus, or a knowledge graph's triples.

    Raises:
        UserError: as `load_corpus` or `load_triples`.
    """
    if isinstance(config, DataConfig):
        return load_corpus(config, quiet=quiet)
    from fionalm.data.knowledge.corpus import load_triples

    return load_triples(config)


def load_corpus(config: DataConfig, *, tokenizer: Tokenizer | None = None, quiet: bool = False) -> Corpus:
    """Read, tokenise and split a corpus, or map it from the cache.

    The tokenizer is trained on the training documents alone, on a sample of about 8 MB of them if there are
    more. A document is held out if a hash of its text says so, whatever else the corpus holds; where that
    would miss `validation_fraction` by a factor of two (few documents), the tail is held out instead.

    Args:
        config: what to load.
        tokenizer: a loaded tokenizer, in place of `config.tokenizer` and of training one.
        quiet: show no progress.

    Raises:
        UserError: no such source, a file that cannot be read, a corpus without text or shorter than one
            sequence (`seq_len + 1` tokens) on either side of the split, a tokenizer without end-of-text.
    """
    survey = _cached_survey(config, quiet)
    if survey.n_bytes == 0:
        raise UserError(f"the corpus {config.source!r} is empty: expected at least one document with text")
    if tokenizer is None:
        tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else _trained(config, survey, quiet)
    fingerprint = content_key(FORMAT, asdict(survey), json.loads(tokenizer.to_str()))
    folder = build_once(
        home() / "corpora" / fingerprint, lambda target: _tokenise(target, config, survey, tokenizer, quiet)
    )
    train, validation = (read_tokens(folder / f"{side}.npy") for side in ("train", "validation"))
    for side, tokens in (("training", train), ("validation", validation)):
        if len(tokens) <= config.seq_len and (side == "training" or config.validation_fraction > 0):
            raise UserError(
                f"the corpus {config.source!r} has {len(tokens)} {side} tokens, too few for one sequence of "
                f"{config.seq_len + 1}: give more text, a smaller seq_len or another validation_fraction"
            )
    return Corpus(train, validation, tokenizer, fingerprint)


@dataclass(frozen=True)
class Survey:
    """What one pass over the documents finds, before any work is done on them."""

    fingerprint: str
    n_bytes: int
    validation_fraction: float
    tail_bytes: int
    """Bytes at the end that are held out, 0 if documents are held out by their hash."""


def survey_documents(documents: Iterable[str], validation_fraction: float) -> Survey:
    """Hash and measure the documents, and decide how they are split."""
    content = hashlib.blake2b(digest_size=16)
    n_bytes = held_out = 0
    for document in documents:
        data = document.encode()
        digest = _digest(data)
        content.update(digest)
        n_bytes += len(data)
        held_out += len(data) * (_uniform(digest[:8]) < validation_fraction)
    wanted = n_bytes * validation_fraction
    by_hash = wanted / 2 <= held_out <= wanted * 2
    tail_bytes = 0 if by_hash else max(1, round(wanted))
    return Survey(content.hexdigest(), n_bytes, validation_fraction, tail_bytes)


def split_documents(documents: Iterable[str], survey: Survey, side: str) -> Iterator[str]:
    """Yield the documents of one side, `train` or `validation`; the two sides never share a document.

    A document that straddles the start of a held-out tail is cut, at a line end if it has one there.
    """
    position = 0
    for document in documents:
        data = document.encode()
        if not survey.tail_bytes:
            held_out = _uniform(_digest(data)[:8]) < survey.validation_fraction
            train, validation = (b"", data) if held_out else (data, b"")
        else:
            end = min(max(survey.n_bytes - survey.tail_bytes - position, 0), len(data))
            if 0 < end < len(data):
                end = data.rfind(b"\n", 0, end) + 1 or _character_start(data, end)
            train, validation = data[:end], data[end:]
            position += len(data)
        chosen = validation if side == "validation" else train
        if chosen:
            yield chosen.decode()


def _cached_survey(config: DataConfig, quiet: bool) -> Survey:
    files = document_files(config)
    signature = files_signature(files)
    key = content_key(FORMAT, signature, config.text_field, config.max_bytes, config.validation_fraction)
    path = home() / "surveys" / f"{key}.json"
    if path.is_file():
        return Survey(**json.loads(path.read_text()))
    n_bytes = min(config.max_bytes, sum(size for _, size, *_ in signature))
    documents = _reported(read_documents(config), n_bytes, "reading", quiet or n_bytes < 100 * QUIET_BYTES)
    survey = survey_documents(documents, config.validation_fraction)
    atomic_write_text(path, json.dumps(asdict(survey)))
    return survey


def _trained(config: DataConfig, survey: Survey, quiet: bool) -> Tokenizer:
    def build(target: Path) -> None:
        documents = _sample(split_documents(read_documents(config), survey, "train"), survey)
        n_bytes = min(survey.n_bytes, TOKENIZER_BYTES)
        reported = _reported(documents, n_bytes, "training the tokenizer", quiet or n_bytes < QUIET_BYTES)
        trained = train_tokenizer(reported, config.vocab_size)
        (target / "tokenizer.json").write_text(trained.to_str(pretty=True), encoding="utf-8")

    key = content_key(FORMAT, asdict(survey), config.vocab_size)
    return load_tokenizer(build_once(home() / "tokenizers" / key, build))


def _sample(documents: Iterable[str], survey: Survey) -> Iterator[str]:
    share = TOKENIZER_BYTES / survey.n_bytes
    return (text for text in documents if share >= 1 or _uniform(_digest(text.encode())[8:]) < share)


def _tokenise(target: Path, config: DataConfig, survey: Survey, tokenizer: Tokenizer, quiet: bool) -> None:
    hidden = quiet or survey.n_bytes < QUIET_BYTES
    with progress(survey.n_bytes / 1e6, "tokenising", "MB", quiet=hidden) as bar:
        for side in ("train", "validation"):
            documents = _counted(split_documents(read_documents(config), survey, side), bar)
            with TokenWriter(target / f"{side}.npy", token_dtype(tokenizer)) as writer:
                for tokens in encode_documents(tokenizer, documents):
                    writer.append(tokens)


def _reported(documents: Iterable[str], n_bytes: int, description: str, quiet: bool) -> Iterator[str]:
    with progress(n_bytes / 1e6, description, "MB", quiet=quiet) as bar:
        yield from _counted(documents, bar)


def _counted(documents: Iterable[str], bar: Progress) -> Iterator[str]:
    for document in documents:
        yield document
        bar.advance(len(document.encode()) / 1e6)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _uniform(digest: bytes) -> float:
    return int.from_bytes(digest, "big") / (1 << 8 * len(digest))


def _character_start(data: bytes, position: int) -> int:
    """Return the start of the UTF-8 character that covers `position`."""
    while data[position] & 0xC0 == 0x80:
        position -= 1
    return position
