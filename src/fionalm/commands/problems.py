"""Options that say what is to be answered: a prompt, or a dataset's, with a template or a conversation around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.sampling.drawing import Problem

JUDGED_BY = ("answer", "tests")
"""Columns that verifiers read, known by other names in well-known datasets."""


@dataclass(frozen=True)
class ProblemOptions:
    """Prompts."""

    prompt: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT...")] = ()
    """One or more prompts, instead of a file."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A .jsonl, .json, .csv or .parquet file with a column `prompt`, a folder, or hf:NAME. Its other columns are kept
    with the samples, for verifiers."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "train"
    """Of a folder's or the hub's dataset."""
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OURS=THEIRS...")] = ()
    """Names of the dataset's columns, such as prompt=question."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Rows to read at most. None: all."""
    prompt_template: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    r"""Makes the prompt of a row, with {column} for its columns; \n is a line break."""
    chat: bool = False
    """Send each prompt as a user's message."""
    system: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """With --chat, a system message before it."""

    def read(self) -> list[Problem]:
        """Return the problems.

        Raises:
            UserError: neither prompts nor a file, both, or what `read_rows` says of the file.
        """
        from fionalm.data import as_conversations, read_rows, with_template
        from fionalm.sampling.drawing import problems_of

        if bool(self.prompt) == (self.data is not None):
            raise UserError("expected either --prompt TEXT or --data FILE")
        if self.system is not None and not self.chat:
            raise UserError("--system was given without --chat: expected both")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: expected at least 1")
        if self.data is None:
            rows = [{"prompt": one} for one in self.prompt]
        else:
            names = [] if self.prompt_template else ["prompt"]
            known = ("prompt", *JUDGED_BY) if self.prompt_template else JUDGED_BY
            source = self.data if self.data.startswith("hf:") else Path(self.data).expanduser()
            rows = read_rows(
                source,
                split=self.split,
                columns=named_columns(self.columns),
                need=names,
                optional=known,
                limit=self.limit,
            )
        if self.prompt_template is not None:
            rows = with_template(rows, unescaped(self.prompt_template))
        if self.chat:
            rows = as_conversations(rows)
            before = [] if self.system is None else [{"role": "system", "content": self.system}]
            rows = [{**row, "prompt": [*before, *row["prompt"]]} for row in rows]
        return problems_of(rows)


def named_columns(words: Sequence[str]) -> dict[str, str]:
    """Return `OURS=THEIRS` words as a dictionary.

    Raises:
        UserError: a word without `=`.
    """
    pairs = [word.partition("=") for word in words]
    for word, (ours, _, theirs) in zip(words, pairs, strict=True):
        if not (ours and theirs):
            raise UserError(f"--columns {word!r}: expected OURS=THEIRS, such as prompt=question")
    return {ours: theirs for ours, _, theirs in pairs}


def unescaped(text: str) -> str:
    r"""Return what a word of the command line stands for: \n and \t are hard to type there."""
    return text.replace("\\n", "\n").replace("\\t", "\t")
