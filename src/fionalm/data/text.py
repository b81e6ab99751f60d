"""Documents: the text of a corpus, one string a document, in a fixed order.

Sources are the standard library's own source code (on every machine, so that everything runs offline), local
files and folders, and Hugging Face datasets (see `hub`), which are streamed once into the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from fionalm.data.cache import build_once, content_key
from fionalm.data.config import DataConfig
from fionalm.data.hub import local_folder, stream_rows
from fionalm.errors import UserError, nearest
from fionalm.paths import home
from fionalm.progress import progress

SUFFIXES = (".txt", ".py", ".md", ".jsonl")
# Longer documents are cut at a line end: bounds memory, and what one document can weigh in the split.
DOCUMENT_CHARACTERS = 1 << 20
# As TinyStories and others write it between the documents of a .txt file.
TEXT_FILE_SEPARATOR = "<|endoftext|>"
# Tests, character tables, demonstrations and what differs from machine to machine.
STDLIB_LEFT_OUT = frozenset(
    ["test", "tests", "idlelib", "encodings", "turtledemo", "ensurepip", "site-packages", "dist-packages"]
)


def read_documents(config: DataConfig) -> Iterator[str]:
    """Yield the corpus's documents, together at most `config.max_bytes` of UTF-8.

    A .py or .md file is a document; a .txt file holds documents with `<|endoftext|>` between them; a .jsonl
    line or a dataset's row is a document. Documents over 1,048,576 characters are cut at line ends. Bytes
    that are not UTF-8, and documents of white space alone, are left out.

    Raises:
        UserError: no such source, a file that cannot be read, a row without the text field.
    """
    left = config.max_bytes
    for path in document_files(config):
        for document in _read_file(path, config.text_field):
            # JSON can escape half a surrogate pair, which no tokenizer takes.
            data = document.encode("utf-8", "ignore")
            if data and not data.isspace():
                yield data[:left].decode("utf-8", "ignore")
                left -= len(data)
                if left <= 0:
                    return


def document_files(config: DataConfig) -> list[Path]:
    """Return the files that hold the corpus, in reading order; a Hugging Face dataset is streamed first.

    The standard library's files come in an order shuffled by a hash of their names, so that a small
    `max_bytes` takes a fair sample; a folder's files come sorted.

    Raises:
        UserError: no such source, or a folder without a text file.
    """
    if config.source == "stdlib":
        return _stdlib_files()
    if config.source.startswith("hf:"):
        return [_stream_to_cache(config)]
    path = Path(config.source).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        there = [str(path.parent / entry) for entry in _names(path.parent)]
        raise UserError(
            f"no corpus {config.source!r}: expected stdlib, a file, a folder or hf:NAME"
            f"{nearest(config.source, ['stdlib', *there])}"
        )
    files = sorted(_walk(path, lambda folder: not folder.startswith(".")), key=lambda file: file.parts)
    files = [file for file in files if file.suffix in SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise UserError(f"the corpus folder {path} is empty: expected files that end in {', '.join(SUFFIXES)}")
    return files


def files_signature(files: list[Path]) -> list[list[Any]]:
    """Return names, sizes and times of `files`, which tell whether they changed without reading them."""
    try:
        stats = [path.stat() for path in files]
    except OSError as error:
        raise _read_error(files[0].parent, error) from error
    return [
        [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for path, stat in zip(files, stats, strict=True)
    ]


def _stdlib_files() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    kept = (
        path
        for path in _walk(root, lambda name: name not in STDLIB_LEFT_OUT and not name.startswith("config-"))
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata") and not path.is_symlink()
    )
    files = sorted(kept, key=lambda path: hashlib.blake2b(path.relative_to(root).as_posix().encode()).digest())
    if not files:
        raise UserError(f"this Python has no standard library source in {root}: give a file, a folder or hf:NAME")
    return files


def _walk(root: Path, keep: Callable[[str], bool]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if keep(name)]
        yield from (Path(folder, name) for name in names)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _read_file(path: Path, text_field: str) -> Iterator[str]:
    try:
        with path.open("rb") as raw:
            if b"\0" in raw.read(8192):
                raise UserError(f"the corpus file {path} is binary: expected text in UTF-8")
        with path.open(encoding="utf-8-sig", errors="ignore") as file:
            if path.suffix == ".jsonl":
                documents = _json_lines(file, path, text_field)
            else:
                documents = _plain_text(file, TEXT_FILE_SEPARATOR if path.suffix == ".txt" else None)
            for document in documents:
                yield from _cut(document)
    except OSError as error:
        raise _read_error(path, error) from error


def _plain_text(file: TextIO, separator: str | None) -> Iterator[str]:
    """Split at `separator` while reading, holding one document at most; over-long ones leave early."""
    held = ""
    while chunk := file.read(DOCUMENT_CHARACTERS):
        held += chunk
        if separator:
            *whole, held = held.split(separator)
            yield from whole
        *whole, held = _cut(held, keep=len(separator or ""))  # a separator may have been read by half
        yield from whole
    yield held


def _cut(document: str, keep: int = 0) -> Iterator[str]:
    """Yield pieces cut at line ends, the last of which is longer than `keep` if there was a cut."""
    while len(document) > DOCUMENT_CHARACTERS + keep:
        end = document.rfind("\n", 0, DOCUMENT_CHARACTERS) + 1 or DOCUMENT_CHARACTERS
        yield document[:end]
        document = document[end:]
    yield document


def _json_lines(file: TextIO, path: Path, text_field: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"line {number} of {path} is not a JSON object: expected {{{text_field!r}: ...}}")
        text = _text_of(row, text_field, f"line {number} of {path}")
        if text is not None:
            yield text


def _text_of(row: dict[str, Any], text_field: str, where: str) -> str | None:
    """Return the row's text; None where the value is missing."""
    if text_field not in row:
        raise UserError(
            f"{where} has no column {text_field!r}: it has {', '.join(map(repr, row))}{nearest(text_field, row)}"
        )
    text = row[text_field]
    if text is not None and not isinstance(text, str):
        raise UserError(f"the column {text_field!r} of {where} holds {type(text).__name__}, expected text")
    return text


def _stream_to_cache(config: DataConfig) -> Path:
    """Stream the dataset's head into a .jsonl file, so that later runs need no network."""

    def build(target: Path) -> None:
        left = config.max_bytes
        with (
            (target / "documents.jsonl").open("w") as file,
            progress(config.max_bytes / 1e6, f"streaming {config.source}", "MB") as bar,
        ):
            for row in stream_rows(config.source, config.split):
                text = _text_of(row, config.text_field, config.source)
                if text is not None:
                    file.write(json.dumps({config.text_field: text}) + "\n")
                    size = len(text.encode("utf-8", "ignore"))
                    bar.advance(size / 1e6)
                    left -= size
                    if left <= 0:
                        break

    folder = local_folder(config.source)
    origin = files_signature(sorted(_walk(folder, lambda _: True))) if folder else config.source
    key = content_key("dataset", origin, config.source, config.split, config.text_field, config.max_bytes)
    return build_once(home() / "datasets" / key, build) / "documents.jsonl"


def _read_error(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {error.filename or path}: {error.strerror or error}")
