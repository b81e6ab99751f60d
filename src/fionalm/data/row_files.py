"""Rows of one file: JSON lines, JSON, CSV or Parquet, compressed or not."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from fionalm.errors import UserError, choice_error, require

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_file_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's rows; what it is follows from its name, with .gz or .xz after it if it is compressed.

    Raises:
        UserError: another kind of file, one that cannot be read, or a row that is no object (it is named).
    """
    kind = Path(path.stem).suffix if path.suffix in (".gz", ".xz") else path.suffix
    readers = {".jsonl": _lines, ".ndjson": _lines, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    if kind not in readers:
        raise choice_error(f"kind of {path}", kind or path.name, KINDS)
    try:
        yield from readers[kind](path)
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {path}: {reason}; expected a whole {kind} file in UTF-8") from error


def _open(path: Path) -> IO[str]:
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    return cast("IO[str]", opener(path, "rt", encoding="utf-8", newline=""))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(
                        f"line {number} of {path} is not JSON: {error}; expected an object a line"
                    ) from error
                yield _object(row, f"line {number} of {path}")


def _json(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under another name
            yield from _lines(path)
            return
        raise
    lists = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else [value]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise UserError(f"{path} holds no list of rows: expected one, or an object with one")
    for number, row in enumerate(lists[0], 1):
        yield _object(row, f"row {number} of {path}")


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        csv.field_size_limit(2**31 - 1)
        reader = csv.DictReader(file, delimiter="\t" if ".tsv" in path.suffixes else ",", restkey="", strict=True)
        for number, row in enumerate(reader, 1):
            if "" in row and isinstance(row[""], list):
                raise UserError(f"row {number} of {path} has more cells than the header has names")
            yield dict(row)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    parquet: Any = require("pyarrow.parquet", "hub")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {type(row).__name__}: expected an object of columns")
    return row
