import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fionalm.data import DataConfig, read_documents, text
from fionalm.errors import UserError


def read(source, **options):
    return list(read_documents(DataConfig(source=str(source), **options)))


def test_the_standard_library_is_a_corpus_in_a_fixed_order():
    documents = read("stdlib", max_bytes=300_000)
    assert documents == read("stdlib", max_bytes=300_000)
    assert sum(len(document.encode()) for document in documents) == pytest.approx(300_000, abs=4)
    assert sum("def " in document for document in documents) > len(documents) / 2


def test_the_standard_library_has_its_modules_and_neither_tests_nor_packages():
    root = Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).as_posix() for path in text.document_files(DataConfig())}
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= names
    assert not any({"test", "tests", "site-packages", "idlelib"} & set(Path(name).parts) for name in names)


def test_a_folder_gives_its_text_files_sorted_and_nothing_hidden(tmp_path):
    for name in ["b.py", "a.md", "sub/c.txt", "d.csv", ".hidden.txt", ".git/e.txt"]:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert read(tmp_path / "corpus") == ["a.md", "b.py", "sub/c.txt"]


def test_a_text_file_holds_documents_between_separators(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("one\n<|endoftext|>two\n<|endoftext|>  \n<|endoftext|>three")
    assert read(path) == ["one\n", "two\n", "three"]
    path = path.rename(tmp_path / "stories.md")
    assert len(read(path)) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(st.text("abc é\n", min_size=1, max_size=40).filter(lambda text: not text.isspace()), max_size=6)
)
def test_chunked_reading_loses_nothing(tmp_path, documents):
    path = tmp_path / "chunks.txt"
    path.write_text("<|endoftext|>".join(documents), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "DOCUMENT_CHARACTERS", 16)
        found = read(path)
    assert "".join(found).split() == "".join(documents).split()
    assert all(len(document) <= 16 for document in found)


def test_long_documents_are_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "DOCUMENT_CHARACTERS", 10)
    path = tmp_path / "long.py"
    path.write_text("first\nsecond\nno line end in here")
    assert read(path) == ["first\n", "second\n", "no line en", "d in here"]


def test_bytes_that_are_not_utf8_are_skipped_and_half_surrogates_too(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9 \xff ok")
    (tmp_path / "half.jsonl").write_text('{"text": "half \\ud800 pair"}\n')
    assert read(tmp_path / "bad.txt") == ["caf  ok"]
    assert read(tmp_path / "half.jsonl") == ["half  pair"]


def test_max_bytes_counts_bytes_and_never_splits_a_character(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("éééé", encoding="utf-8")
    assert read(path, max_bytes=5) == ["éé"]


def test_json_lines_give_the_named_field(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "one"}\n\n{"body": null}\n{"body": "two"}\n')
    assert read(path, text_field="body") == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txt": "a", "id": 1}', "'txt', 'id'; did you mean 'txt'"),
        ('{"text": 3}', "holds int"),
        ("[1]", "not a JSON object"),
        ("{", "line 2 of .* is not JSON"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + line)
    with pytest.raises(UserError, match=message):
        read(path)


def test_sources_that_are_not_there(tmp_path):
    (tmp_path / "shakespeare.txt").write_text("To be")
    with pytest.raises(UserError, match="did you mean 'stdlib'"):
        read("stdlb")
    with pytest.raises(UserError, match=r"did you mean '.*/shakespeare\.txt'"):
        read(tmp_path / "shakespear.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path / "empty")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01")
    with pytest.raises(UserError, match="is binary"):
        read(tmp_path / "binary.txt")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "dangling.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"cannot read .*dangling\.txt"):
        read(tmp_path / "links")
