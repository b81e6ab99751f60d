import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import Corpus, DataConfig, load_corpus
from fionalm.data.cache import TokenWriter, build_once, read_tokens
from fionalm.data.corpus import split_documents, survey_documents
from fionalm.errors import UserError
from fionalm.paths import home


def config_of(folder, **options):
    return DataConfig(**{"source": str(folder), "vocab_size": 300, "seq_len": 16, **options})


def texts(corpus: Corpus, side: str) -> list[str]:
    """Decode one side into its documents."""
    tokens = getattr(corpus, side)
    ends = np.flatnonzero(tokens == corpus.end_of_text_id) + 1
    assert len(tokens) == 0 or ends[-1] == len(tokens)
    return [corpus.tokenizer.decode(piece[:-1].tolist()) for piece in np.split(tokens, ends)[:-1]]


def test_both_sides_together_are_the_documents(folder):
    corpus = load_corpus(config_of(folder, validation_fraction=0.2))
    train, validation = texts(corpus, "train"), texts(corpus, "validation")
    assert len(validation) > 3
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(path.read_text() for path in folder.iterdir())
    assert corpus.train.dtype == np.uint16
    assert not corpus.train.flags.writeable
    assert corpus.vocab_size == corpus.tokenizer.get_vocab_size() <= 300


def test_a_documents_side_does_not_depend_on_the_other_documents(folder):
    before = set(texts(load_corpus(config_of(folder, validation_fraction=0.2)), "validation"))
    for number in range(60, 90):
        (folder / f"{number}.txt").write_text(f"another document {number}\n" * 20)
    after = load_corpus(config_of(folder, validation_fraction=0.2))
    assert before <= set(texts(after, "validation"))
    assert len(texts(after, "train") + texts(after, "validation")) == 90


def test_the_tokenizer_never_sees_held_out_text(folder):
    plain = load_corpus(config_of(folder, validation_fraction=0.2))
    for path in folder.iterdir():
        if path.read_text() in texts(plain, "validation"):
            path.unlink()
    without = load_corpus(config_of(folder, validation_fraction=0))
    assert without.tokenizer.to_str() == plain.tokenizer.to_str()
    assert np.array_equal(without.train, plain.train)
    assert len(without.validation) == 0


def test_a_single_document_has_its_tail_held_out(tmp_path):
    path = tmp_path / "book.txt"
    lines = [f"line {number}\n" for number in range(2000)]
    path.write_text("".join(lines))
    corpus = load_corpus(config_of(path, validation_fraction=0.1))
    (train,), (validation,) = texts(corpus, "train"), texts(corpus, "validation")
    assert train + validation == "".join(lines)
    assert train.endswith("\n")
    assert len(validation) / len(train + validation) == pytest.approx(0.1, abs=0.01)


@given(
    documents=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=8),
    fraction=st.floats(0, 0.99),
)
def test_the_split_keeps_every_character_and_order(documents, fraction):
    survey = survey_documents(documents, fraction)
    train = list(split_documents(documents, survey, "train"))
    validation = list(split_documents(documents, survey, "validation"))
    assert sum(len(text.encode()) for text in train + validation) == survey.n_bytes
    if survey.tail_bytes:
        assert "".join(train + validation) == "".join(documents)
    else:
        assert not set(train) & set(validation)
        assert sorted(train + validation) == sorted(documents)


def test_the_second_load_reads_no_document(folder, monkeypatch):
    first = load_corpus(config_of(folder))
    monkeypatch.setattr("fionalm.data.corpus.read_documents", None)
    second = load_corpus(config_of(folder, seq_len=8, seed=3))
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.train, first.train)


def test_equal_content_elsewhere_is_the_same_corpus(folder, tmp_path, cache):
    first = load_corpus(config_of(folder))
    moved = folder.rename(tmp_path / "moved")
    assert load_corpus(config_of(moved)).fingerprint == first.fingerprint
    assert len([path for path in (cache / "corpora").iterdir() if path.is_dir()]) == 1


def test_changed_content_is_another_corpus(folder):
    first = load_corpus(config_of(folder))
    path = folder / "07.txt"
    path.write_text(path.read_text().swapcase())
    changed = load_corpus(config_of(folder))
    assert changed.fingerprint != first.fingerprint
    assert path.read_text() in texts(changed, "train") + texts(changed, "validation")


def test_a_given_tokenizer_is_used(folder, tmp_path):
    trained = load_corpus(config_of(folder, vocab_size=280))
    trained.tokenizer.save(str(tmp_path / "tokenizer.json"))
    by_path = load_corpus(config_of(folder, tokenizer=str(tmp_path)))
    by_object = load_corpus(config_of(folder), tokenizer=trained.tokenizer)
    assert by_path.fingerprint == by_object.fingerprint == trained.fingerprint


def slow_build(target):
    with open(target.parent / "builds.log", "a") as log:
        log.write("built\n")
    time.sleep(0.3)
    (target / "entry").write_text("whole")


def killed_build(target):
    (target / "entry").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def load_in_worker(config):
    build_once(home() / "shared" / "entry", slow_build)
    corpus = load_corpus(config, quiet=True)
    return corpus.fingerprint, int(corpus.train.sum()), int(corpus.validation.sum())


def test_processes_that_start_together_get_one_corpus(folder, cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(load_in_worker, [config_of(folder)] * 6, chunksize=1)
    assert len(set(results)) == 1
    assert results[0] == load_in_worker(config_of(folder))
    assert (cache / "shared" / "builds.log").read_text() == "built\n"
    assert not [path for path in (cache / "corpora").iterdir() if path.name.startswith(".")]


def test_a_build_that_was_killed_is_done_again(tmp_path):
    entry = tmp_path / "entry"
    process = multiprocessing.get_context("spawn").Process(target=build_once, args=(entry, killed_build))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not entry.exists()
    assert (build_once(entry, slow_build) / "entry").read_text() == "whole"
    assert not list(tmp_path.glob(".entry.*"))


def test_build_once_builds_once_and_leaves_nothing_of_a_failure(tmp_path):
    built = []

    def build(target):
        (target / "half").write_text("x")
        built.append(target)
        if len(built) == 1:
            raise KeyboardInterrupt

    entry = tmp_path / "store" / "entry"
    with pytest.raises(KeyboardInterrupt):
        build_once(entry, build)
    assert [path.name for path in entry.parent.iterdir()] == ["entry.lock"]
    (entry.parent / ".entry.killed").mkdir()
    for _ in range(2):
        assert (build_once(entry, build) / "half").read_text() == "x"
    assert len(built) == 2
    assert not list(entry.parent.glob(".entry.*"))


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_user_errors(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        build_once(tmp_path / "entry", full)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIONA_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write"):
        load_corpus(config_of(folder))


@given(st.lists(st.lists(st.integers(0, 65_535)), max_size=6))
def test_tokens_written_in_pieces_are_an_ordinary_npy_file(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    with TokenWriter(path, np.dtype(np.uint16)) as writer:
        for piece in pieces:
            writer.append(np.array(piece, dtype=np.int64))
    expected = np.array([token for piece in pieces for token in piece], dtype=np.uint16)
    assert np.array_equal(np.load(path), expected)
    assert np.array_equal(read_tokens(path), expected)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        (" \n", {}, "is empty"),
        ("short", {"seq_len": 64}, "training tokens, too few for one sequence of 65"),
        ("word " * 300, {"seq_len": 64, "validation_fraction": 0.01}, "validation tokens, too few"),
    ],
)
def test_a_corpus_that_is_too_small_is_a_user_error(tmp_path, text, options, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        load_corpus(config_of(tmp_path / "a.txt", **options))


@pytest.mark.parametrize(
    "options",
    [
        {"vocab_size": 256},
        {"seq_len": 0},
        {"max_bytes": 0},
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
    ],
)
def test_a_config_that_cannot_be_is_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        DataConfig(**options)


def test_only_the_loader_imports_torch(folder):
    code = f"""
import sys
from fionalm.data import DataConfig, load_corpus
assert "tokenizers" not in sys.modules
load_corpus(DataConfig(source={str(folder)!r}, vocab_size=300, seq_len=16), quiet=True)
assert "torch" not in sys.modules and "datasets" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
