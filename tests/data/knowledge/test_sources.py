"""Graphs from files and from countryinfo."""

from __future__ import annotations

import pytest

from fionalm.data.knowledge import KnowledgeGraph
from fionalm.errors import UserError


def test_a_file_is_read(tmp_path):
    path = tmp_path / "graph.tsv"
    path.write_bytes("\ufeffa\tis\tb\r\n\n a \tis\t b\n\u00e9\u2028x\tis\tb\n".encode())
    graph = KnowledgeGraph.from_tsv(path)
    assert graph.triples == (("a", "is", "b"), ("\u00e9\u2028x", "is", "b"))
    assert graph.duplicates == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a\tb", "line 2 of .*graph.tsv is 'a.tb', 2 tab-separated fields: expected subject"),
        ("a", "line 2 of .*1 tab-separated field: expected"),
        ("a\tb\tc\td", "4 tab-separated fields"),
        ("a\t\tc", "line 2 of .*graph.tsv has an empty predicate"),
        ("a\tb\tx<O_TKN>", "line 2 of .*holds <S_TKN>"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, sentence):
    path = tmp_path / "graph.tsv"
    path.write_text(f"a\tb\tc\n{line}\n")
    with pytest.raises(UserError, match=sentence):
        KnowledgeGraph.from_tsv(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "graph.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="did you mean .*graph.tsv"):
        KnowledgeGraph.from_tsv(tmp_path / "grap.tsv")
    with pytest.raises(UserError, match="not text in UTF-8"):
        KnowledgeGraph.from_tsv(tmp_path / "graph.tsv")
    with pytest.raises(UserError, match=r"expected train.txt.*found graph.tsv"):
        KnowledgeGraph.fb15k237(tmp_path)


def test_fb15k237_is_its_files_together_with_labels(tmp_path):
    (tmp_path / "valid.txt").write_text("/m/1\t/a/b\t/m/2\n")
    (tmp_path / "test.txt").write_text("/m/2\t/a/b\t/m/3\n/m/1\t/a/b\t/m/2\n")
    labels = tmp_path / "labels.txt"
    labels.write_text("/m/1\tOne\n/m/2\tSame\n/m/3\tSame\n/m/9\tNine\n")
    graph = KnowledgeGraph.fb15k237(tmp_path, labels)
    assert graph.triples == (("One", "/a/b", "Same (/m/2)"), ("Same (/m/2)", "/a/b", "Same (/m/3)"))
    assert graph.duplicates == 1
    assert KnowledgeGraph.fb15k237(tmp_path).triples[0] == ("/m/1", "/a/b", "/m/2")
    labels.write_text("/m/77\tOther\n")
    with pytest.raises(UserError, match="names none of the graph's entities"):
        KnowledgeGraph.fb15k237(tmp_path, labels)
    labels.write_text("/m/1 One\n")
    with pytest.raises(UserError, match="line 1 of .*labels.txt"):
        KnowledgeGraph.fb15k237(tmp_path, labels)


def test_countries_are_known():
    graph = KnowledgeGraph.countries()
    assert ("France", "capital", "Paris") in graph
    assert {"Spain", "Belgium", "Germany"} <= set(graph.objects("France", "borders"))
    assert "+33" in graph.objects("France", "calling code")
    assert len(graph.subjects) > 200
    assert {"currency", "language", "province", "region", "subregion", "demonym", "time zone"} <= set(graph.predicates)
    # Borders name countries, so that they can be asked about in turn.
    assert {one for _, predicate, one in graph if predicate == "borders"} <= set(graph.subjects)
