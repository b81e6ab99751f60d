"""MiniWoB's pages for people: the package's own files, and a list of them."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from html import escape
from urllib.parse import unquote

from fionalm.web.miniwob import MINIWOB_TASKS, html_folder
from fionalm.web.serving import Response


class MiniWobSite:
    """Answers with the files of the `miniwob` package; `/` lists the tasks."""

    def __init__(self) -> None:
        self.folder = html_folder().resolve()

    def respond(self, path: str, query: Mapping[str, str]) -> Response:
        """Answer a request; see `fionalm.web.serving.Site`."""
        if path == "/":
            items = "".join(
                f'<li><a href="/miniwob/{escape(task)}.html">{escape(task)}</a></li>' for task in sorted(MINIWOB_TASKS)
            )
            head = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>MiniWoB</title></head>'
            return Response(f"{head}<body><h1>MiniWoB</h1><ul>{items}</ul></body></html>")
        place = (self.folder / unquote(path).lstrip("/")).resolve()
        if not place.is_relative_to(self.folder) or not place.is_file():
            raise ValueError(f"no page at {path}: expected /miniwob/TASK.html")
        kind = mimetypes.guess_type(place.name)[0] or "application/octet-stream"
        return Response(place.read_bytes(), f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
