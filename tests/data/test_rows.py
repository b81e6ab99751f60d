"""Rows in TRL's columns: real files as they are, every format, and mistakes named by row and column."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import as_conversations, read_rows, split_pair, with_template
from fionalm.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not beside this checkout")
PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def _write(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@real
@pytest.mark.parametrize(
    ("file", "need", "count"),
    [
        ("gsm8k/train.jsonl", ("prompt", "completion"), 7473),
        ("gsm8k/test.jsonl", ("prompt", "answer"), 1319),
        ("math500/test.jsonl", ("prompt", "completion", "answer"), 500),
        ("humaneval/HumanEval.jsonl.gz", ("prompt", "completion", "tests"), 164),
    ],
)
def test_known_datasets_work_as_they_are(file: str, need: tuple[str, ...], count: int) -> None:
    rows = read_rows(SHARED / file, need=need)
    assert len(rows) == count
    assert all(row[name].strip() for row in rows for name in need)
    assert rows[:2] == read_rows(SHARED / file, need=need, limit=2)


@real
def test_a_gold_answer_is_not_the_completion_where_there_is_a_solution() -> None:
    row = read_rows(SHARED / "math500" / "test.jsonl", need=("prompt", "completion", "answer"), limit=1)[0]
    assert row["completion"] == row["solution"] != row["answer"]


@real
def test_the_hh_transcripts_are_split() -> None:
    path = SHARED / "hh_rlhf" / "harmless-base-test.jsonl.gz"
    with pytest.warns(UserWarning, match="4 of 2312 rows .* without a reply: row 87, 517, 926, 1104"):
        rows = read_rows(path, need=("prompt", "chosen", "rejected"))
    whole = [row for number, row in enumerate(read_rows(path), 1) if number not in (87, 517, 926, 1104)]
    for row, before in zip(rows, whole, strict=True):
        assert row["prompt"].startswith("\n\nHuman:") and row["prompt"].endswith("\n\nAssistant:")
        assert row["prompt"] + row["chosen"] == before["chosen"]
        assert row["prompt"] + row["rejected"] == before["rejected"]
    for row in as_conversations(rows):
        roles = [message["role"] for message in row["prompt"]]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
        assert row["chosen"] == row["chosen"].strip()


ROWS = [{"prompt": "a, 'b'", "completion": 'x\n"y"'}, {"prompt": "é", "completion": "→"}]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.csv", "d.tsv", "d.parquet", "lines.json"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".json"):
        path.write_text(json.dumps({"version": 1, "data": ROWS}) if name == "d.json" else "")
    if name.endswith(("jsonl", "gz")) or name == "lines.json":
        _write(path, ROWS)
    elif name.endswith(("csv", "tsv")):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if name == "d.csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif name.endswith("parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert read_rows(path, need=("prompt", "completion")) == ROWS


def test_a_folder_is_read_by_its_split(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", ROWS)
    _write(tmp_path / "test.jsonl", ROWS[:1])
    assert read_rows(tmp_path, need=("prompt",)) == ROWS
    assert read_rows(f"hf:{tmp_path}", split="test", need=("prompt",)) == ROWS[:1]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.jsonl", [{"ask": "a", "say": "b", "prompt": "c"}])
    row = read_rows(path, columns={"prompt": "ask", "completion": "say"}, need=("prompt", "completion"))[0]
    assert (row["prompt"], row["completion"], row["say"]) == ("a", "b", "b")


def test_optional_columns_are_checked_where_they_are(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.jsonl", [PAIR | {"soft_label": "0.75"}])
    assert read_rows(path, optional=("soft_label", "answer"))[0]["soft_label"] == 0.75
    assert "soft_label" not in read_rows(_write(path, [PAIR]), optional=("soft_label",))[0]
    with pytest.raises(UserError, match="row 1 .* soft_label is 2"):
        read_rows(_write(path, [PAIR | {"soft_label": 2}]), optional=("soft_label",))


def test_messages_are_split(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = _write(tmp_path / "d.jsonl", [{"messages": talk}])
    row = read_rows(path, need=("prompt", "completion"))[0]
    assert (row["prompt"], row["completion"]) == (talk[:1], talk[1:])
    pair = _write(
        tmp_path / "p.jsonl", [{"chosen": talk, "rejected": [talk[0], {"role": "assistant", "content": "c"}]}]
    )
    assert read_rows(pair, need=("prompt", "chosen", "rejected"))[0]["prompt"] == talk[:1]
    with pytest.raises(UserError, match=r"row 1 of .* the last the assistant's"):
        read_rows(_write(path, [{"messages": talk[:1]}]), need=("prompt", "completion"))


def test_templates_and_chat() -> None:
    rows = [{"prompt": "2+2?", "level": 3}]
    assert with_template(rows, "Q ({level}): {prompt}\nA:")[0]["prompt"] == "Q (3): 2+2?\nA:"
    assert as_conversations(rows)[0]["prompt"] == [{"role": "user", "content": "2+2?"}]
    with pytest.raises(UserError, match=r"row 1: no column 'promt'; it has prompt, level; did you mean 'prompt'"):
        with_template(rows, "{promt}")
    with pytest.raises(UserError, match="row 1: .*"):
        with_template(rows, "{prompt")


@pytest.mark.parametrize(
    ("rows", "need", "message"),
    [
        ([{"promt": "a"}], ["prompt"], r"no column 'prompt': it has promt; did you mean 'promt'\?; another name"),
        ([{"chosen": "a b", "x": 1}], ["rejected"], r"no column 'rejected': it has chosen, x"),
        ([PAIR | {"soft_label": 0.5}, PAIR | {"soft_label": 1.5}], ["soft_label"], r"row 2 .* soft_label is 1.5"),
        ([PAIR | {"soft_label": math.nan}], ["soft_label"], r"row 1 .* soft_label is nan: expected .* 0 and 1"),
        ([PAIR | {"soft_label": "high"}], ["soft_label"], r"row 1 .* soft_label is 'high'"),
        ([PAIR | {"soft_label": True}], ["soft_label"], r"row 1 .* soft_label is True"),
        ([PAIR, PAIR | {"chosen": " "}], ["prompt", "chosen"], r"row 2 .*: chosen is empty"),
        ([PAIR, {"prompt": "a", "rejected": "c"}], ["chosen"], r"row 2 .* has no 'chosen': it has prompt, rejected"),
        ([PAIR | {"chosen": 7}], ["chosen"], r"row 1 .*: chosen is 7: expected text or a list of messages"),
        ([{"chosen": "abc", "rejected": "xyz"}], ["prompt", "chosen", "rejected"], r"row 1 .* share no beginning"),
        ([["a"]], [], r"line 1 of .* is a list: expected an object"),
        ([], [], r"has no rows"),
    ],
)
def test_mistakes_in_rows_are_named(tmp_path: Path, rows: list[Any], need: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(_write(tmp_path / "d.jsonl", rows), need=need)


def test_mistakes_in_files_are_named(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", [PAIR])
    with pytest.raises(UserError, match=r"no data at .*tran.jsonl.* did you mean 'train.jsonl'"):
        read_rows(tmp_path / "tran.jsonl")
    with pytest.raises(UserError, match=r"no column 'promt', which was given for 'prompt'.*mean 'prompt'"):
        read_rows(tmp_path / "train.jsonl", columns={"prompt": "promt"})
    (tmp_path / "d.txt").write_text("a")
    with pytest.raises(UserError, match=r"unknown kind of .*d.txt '.txt': expected one of .jsonl"):
        read_rows(tmp_path / "d.txt")
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a":')
    with pytest.raises(UserError, match=r"line 2 of .*bad.jsonl is not JSON"):
        read_rows(tmp_path / "bad.jsonl")
    cut = gzip.compress(b'{"a": 1}\n' * 1000)[:-20]
    (tmp_path / "cut.jsonl.gz").write_bytes(cut)
    with pytest.raises(UserError, match=r"cannot read .*cut.jsonl.gz: .*whole .jsonl file"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cannot read .*p.parquet"):
        read_rows(tmp_path / "p.parquet")
    (tmp_path / "wide.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(UserError, match=r"row 1 of .*wide.csv has more cells"):
        read_rows(tmp_path / "wide.csv")


texts = st.text(st.sampled_from("ab \n"), max_size=12)


@given(prompt=texts, chosen=texts, rejected=texts, turn=st.booleans())
def test_splitting_loses_no_text(prompt: str, chosen: str, rejected: str, turn: bool) -> None:
    start = f"\n\nHuman: {prompt}\n\nAssistant:" if turn else prompt
    try:
        found = split_pair(start + chosen, start + rejected)
    except UserError:
        assert not turn
        return
    assert found[0] + found[1] == start + chosen and found[0] + found[2] == start + rejected
    if turn:
        assert found[0] == start
    else:
        assert re.search(r"\s$", found[0])
