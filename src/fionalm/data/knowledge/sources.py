"""Knowledge graphs from files: tab-separated triples, with the file and the line of what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fionalm.data.knowledge.graph import KnowledgeGraph, Triple, check_triple
from fionalm.errors import UserError, nearest

FB15K237_FILES = ("train.txt", "valid.txt", "test.txt")


def read_tsv(path: str | Path, labels: str | Path | None = None) -> KnowledgeGraph:
    """Read a file of `subject<TAB>predicate<TAB>object` lines in UTF-8.

    Lines of white space alone are skipped; white space around a field is cut off; a repeated triple counts once.

    Args:
        path: the file.
        labels: a file of `id<TAB>name` lines; see `read_labels`.

    Raises:
        UserError: a file that cannot be read or has no triple, or a malformed line, named by file and number.
    """
    path = Path(path).expanduser()
    return KnowledgeGraph(_labelled(_rows(path), labels), str(path))


def read_fb15k237(folder: str | Path, labels: str | Path | None = None) -> KnowledgeGraph:
    """Read FB15k-237 (Toutanova and Chen 2015) from a folder with train.txt, valid.txt and test.txt, or some of them.

    The three are one graph here: what a model trains on is decided by `KnowledgeGraph.split`.

    Args:
        folder: holds the files, in Freebase ids.
        labels: a file of `id<TAB>name` lines; see `read_labels`.

    Raises:
        UserError: none of the files is there, or as `read_tsv`.
    """
    folder = Path(folder).expanduser()
    files = [folder / name for name in FB15K237_FILES if (folder / name).is_file()]
    if not files:
        there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise UserError(
            f"no knowledge graph in {folder}: expected {', '.join(FB15K237_FILES)} or some of them, found "
            f"{', '.join(there[:8]) or 'nothing'}"
        )
    triples = (triple for file in files for triple in _rows(file))
    return KnowledgeGraph(_labelled(triples, labels), f"{folder.name} ({', '.join(file.stem for file in files)})")


def read_labels(path: str | Path) -> dict[str, str]:
    """Read names of ids, one `id<TAB>name` a line.

    A name that several ids share gets its id behind it, so that two entities never become one. An id that is given
    again keeps its first name.

    Raises:
        UserError: a file that cannot be read, or a line without exactly two fields.
    """
    path = Path(path).expanduser()
    names: dict[str, str] = {}
    for number, line in _lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise UserError(f"line {number} of {path} is {line[:80]!r}: expected an id, a tab and a name")
        names.setdefault(*fields)
    shared = Counter(names.values())
    return {key: f"{name} ({key})" if shared[name] > 1 else name for key, name in names.items()}


def _labelled(triples: Iterator[Triple], labels: str | Path | None) -> Iterator[Triple]:
    """Put names in place of ids; an id without a name stays."""
    names = {} if labels is None else read_labels(labels)
    used = False
    for subject, predicate, an_object in triples:
        used = used or subject in names or an_object in names
        yield names.get(subject, subject), names.get(predicate, predicate), names.get(an_object, an_object)
    if names and not used:
        raise UserError(
            f"{labels} names none of the graph's entities: expected lines of an id of theirs, a tab, a name"
        )


def _rows(path: Path) -> Iterator[Triple]:
    for number, line in _lines(path):
        where = f"line {number} of {path}"
        fields = line.split("\t")
        if len(fields) != 3:
            raise UserError(
                f"{where} is {line[:80]!r}, {len(fields)} tab-separated field{'s' * (len(fields) != 1)}: expected "
                "subject, predicate and object"
            )
        yield check_triple(fields, where)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    if not path.is_file():
        there = [str(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"no file {path}: expected tab-separated text{nearest(str(path), there)}")
    try:
        # newline: a carriage return is a line's end only before the line feed.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}): expected tab-separated triples") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
