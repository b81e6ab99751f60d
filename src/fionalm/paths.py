"""Where Fiona keeps its cache, and writes that are whole or absent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fionalm.errors import UserError


def home() -> Path:
    """Return the cache folder: `FIONA_HOME`, or `~/.cache/fiona`."""
    return Path(os.environ.get("FIONA_HOME") or Path.home() / ".cache" / "fiona").expanduser()


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a kill at any moment, sees the old file or the new one.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise write_error(path, error) from error


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; otherwise as `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode())


def append_text(path: Path, text: str) -> None:
    """Add `text` to a file's end; it is there before this returns.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise write_error(path, error) from error


def drop_torn_line(path: Path) -> str:
    """Cut off a last line without its end, which a kill left, and return what the file then holds."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.decode("utf-8")


def write_error(path: Path, error: OSError) -> UserError:
    """Turn a failed write into the sentence that a user can act on."""
    return UserError(f"cannot write {path}: {error.strerror or error}; what was saved before is kept")
