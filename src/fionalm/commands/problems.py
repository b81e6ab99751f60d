"""Options that say which rows of a dataset are read, and what they are turned into. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.errors import UserError, nearest

if TYPE_CHECKING:
    from fionalm.sampling.drawing import Problem

Row = dict[str, Any]
JUDGED_BY = ("answer", "tests")
"""Columns that verifiers read, known by other names in well-known datasets."""
Columns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="OURS=THEIRS...")]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which rows, and how the model reads them."""

    columns: Columns = ()
    """Names of the dataset's columns where they are others, such as prompt=question answer=solution."""
    prompt_template: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    r"""Text with {prompt} or other columns in it, such as "Q: {prompt}\nA:"; \n is a new line."""
    chat: bool = False
    """Render prompts with the model's chat template: a text as a message of the user's, a transcript by its turns."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "train"
    """Of a folder or a dataset on the hub."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Rows to read. None: all."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: expected at least 1")

    def rows(
        self, source: str, need: Sequence[str], optional: Sequence[str] = (), *, limit: int | None = None
    ) -> list[Row]:
        """Return a dataset's rows, their prompts as the model reads them.

        Args:
            source: a file, a folder, or hf:NAME.
            need: columns that every row must have.
            optional: columns that are treated the same if they are there.
            limit: rows to read at most. None: all.

        Raises:
            UserError: as `read_rows`, or a template that the rows do not fill.
        """
        from fionalm.data import read_rows

        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            need = [name for name in need if name != "prompt"]  # the template makes it of others
        place = source if source.startswith("hf:") else Path(source).expanduser()
        options: dict[str, Any] = {"split": self.split, "columns": named_columns(self.columns), "limit": limit}
        return self.rendered(read_rows(place, need=need, optional=optional, **options))

    def rendered(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows with the template filled and, for a chat, prompts as conversations."""
        from fionalm.data import as_conversations, with_template

        if self.prompt_template is not None:
            rows = with_template(rows, unescaped(self.prompt_template))
        return as_conversations(rows) if self.chat else list(rows)


@dataclass(frozen=True, kw_only=True)
class PromptOptions(DataOptions):
    """What is to be answered: prompts, or a dataset's."""

    prompt: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT...")] = ()
    """One or more prompts, instead of a file."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """A .jsonl, .json, .csv or .parquet file, a folder, or hf:NAME, with a column prompt; others stay with the samples,
    for verifiers."""
    system: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """With --chat, a system message before the prompt."""

    def read(self) -> list[Problem]:
        """Return the problems.

        Raises:
            UserError: neither prompts nor a file, both, or what `read_rows` says of the file.
        """
        from fionalm.sampling.drawing import problems_of

        if bool(self.prompt) == (self.data is not None):
            raise UserError("expected either --prompt TEXT or --data FILE")
        if self.system is not None and not self.chat:
            raise UserError("--system was given without --chat: expected both")
        if self.data is None:
            rows = self.rendered([{"prompt": one} for one in self.prompt])
        else:
            rows = self.rows(self.data, ("prompt",), ("prompt", *JUDGED_BY), limit=self.limit)
        if self.system is not None:
            before = [{"role": "system", "content": self.system}]
            rows = [{**row, "prompt": [*before, *row["prompt"]]} for row in rows]
        return problems_of(rows)


def named_columns(words: Sequence[str], known: Iterable[str] | None = None) -> dict[str, str]:
    """Return `OURS=THEIRS` words as a dictionary.

    Args:
        words: the words.
        known: what OURS can be. None: anything.

    Raises:
        UserError: a word without `=`, or with another name (the closest is named).
    """
    pairs = [word.partition("=") for word in words]
    names = None if known is None else list(known)
    for word, (ours, _, theirs) in zip(words, pairs, strict=True):
        if not (ours and theirs):
            raise UserError(f"--columns {word!r}: expected OURS=THEIRS, such as prompt=question")
        if names is not None and ours not in names:
            raise UserError(
                f"--columns {word!r}: expected OURS=THEIRS with OURS one of {', '.join(names)}{nearest(ours, names)}"
            )
    return {ours: theirs for ours, _, theirs in pairs}


def unescaped(text: str) -> str:
    r"""Return what a word of the command line stands for: \n and \t are hard to type there."""
    return text.replace("\\n", "\n").replace("\\t", "\t")
