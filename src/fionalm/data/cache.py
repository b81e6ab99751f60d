"""Things that are expensive to make, made once and kept on disk for every process of this user.

A cache entry is a folder: it is filled under a temporary name and renamed when whole, so that a reader never
sees half of it. A lock keeps sweep workers that start together from all doing the same work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fionalm.paths import write_error


def content_key(*parts: Any) -> str:
    """Return a name for what `parts` (JSON values) determine: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, first having `build` fill it if it is not there.

    Args:
        folder: where the entry lives; it exists if and only if it is whole.
        build: fills an empty folder; called by one process, while the others wait.

    Raises:
        UserError: the disk is full or the cache cannot be written.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _build(folder, build)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    for abandoned in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed while it built
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        build(temporary)
        for path in temporary.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class TokenWriter:
    """Writes a 1-D .npy file piece by piece, for corpora that do not fit in memory.

    The header is written twice: numpy pads it so that the length of the first axis can grow in place.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype, self.size = dtype, 0
        self.file = path.open("wb")
        self._write_header()
        self.start = self.file.tell()

    def append(self, tokens: np.ndarray) -> None:
        """Add `tokens` [n] to the end."""
        self.file.write(np.ascontiguousarray(tokens, dtype=self.dtype).data)
        self.size += len(tokens)

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.file.seek(0)
            self._write_header()
            if self.file.tell() != self.start:
                raise ValueError("the .npy header changed its length")
        finally:
            self.file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.size,),
        }
        np.lib.format.write_array_header_1_0(self.file, header)


def read_tokens(path: Path) -> np.ndarray:
    """Return the 1-D array in a .npy file, memory-mapped and read-only."""
    mapped = np.load(path, mmap_mode="r")
    return mapped.view(np.ndarray)
