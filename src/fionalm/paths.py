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


def write_error(path: Path, error: OSError) -> UserError:
    """Turn a failed write into the sentence that a user can act on."""
    return UserError(f"cannot write {path}: {error.strerror or error}; what was saved before is kept")
