"""Answers of endpoints on disk, by request: what was paid once costs nothing after a kill."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fionalm.paths import atomic_write_text, home


class ReplyCache:
    """Replies in `folder/HASH[:2]/HASH.json`; default folder `home()/endpoints`.

    A damaged file, or one that holds another request than its name says, counts as missing.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = home() / "endpoints" if folder is None else Path(folder).expanduser()

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply to a request, or None."""
        try:
            record = json.loads(self._path(request).read_text(encoding="utf-8"))
            return record["reply"] if record["request"] == request and isinstance(record["reply"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # whatever is wrong with the file, asking again is the remedy

    def put(self, request: dict[str, Any], reply: dict[str, Any]) -> None:
        """Keep a reply.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        atomic_write_text(self._path(request), json.dumps({"request": request, "reply": reply}) + "\n")

    def _path(self, request: dict[str, Any]) -> Path:
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"
