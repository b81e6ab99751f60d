"""Rows of a Hugging Face dataset, streamed: the one place that knows the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fionalm.errors import UserError, require


def stream_rows(source: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of `hf:NAME`, `hf:NAME:CONFIG` or `hf:OWNER/NAME/CONFIG` in the dataset's order.

    Raises:
        UserError: no such dataset, configuration or split, or the hub cannot be reached.
        MissingExtraError: the package `datasets` is not installed.
    """
    datasets = require("datasets", "hub")
    name, subset = parse_source(source)
    try:
        yield from datasets.load_dataset(name, subset, split=split, streaming=True)
    except Exception as error:  # whatever the network, the hub's client or a file format raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"cannot stream split {split!r} of the dataset {source!r}: {reason[:400].rstrip('.')}; expected "
            "hf:NAME[:CONFIG] of a dataset on the hub that can be reached, or of a local folder"
        ) from error


def parse_source(source: str) -> tuple[str, str | None]:
    """Return the dataset's name and its configuration, None if there is none in `source`.

    A hub name has at most one slash, so that a third part is a configuration; a folder that exists is a name.
    """
    given = source.removeprefix("hf:")
    name, colon, subset = given.rpartition(":")
    if colon and not Path(given).expanduser().exists():
        return name, subset
    if local_folder(source) is None and given.count("/") == 2 and not given.startswith(("/", ".", "~")):
        name, _, subset = given.rpartition("/")
        return name, subset
    return given, None


def local_folder(source: str) -> Path | None:
    """Return the folder that `hf:FOLDER` or `hf:FOLDER:CONFIG` names, None if it is a name on the hub."""
    given = source.removeprefix("hf:")
    for name in (given, given.rpartition(":")[0]):
        if name and (folder := Path(name).expanduser()).is_dir():
            return folder
    return None
