from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fionalm.errors import UserError
from fionalm.training import RunFolder, TrainResult, environment
from fionalm.training.environment import git_commit

CONFIG = {"steps": 3, "model": {"d_model": 8, "d_ff": None}}


def test_resuming_keeps_the_rows_before_a_step(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "new" / "run", CONFIG) as folder:
        for step in range(4):
            folder.append({"step": step, "loss": [0.1, math.nan, math.inf][step % 3]})
        lines = folder.metrics_path.read_text().splitlines()  # in the file at once
        assert [json.loads(line)["loss"] for line in lines] == [0.1, None, None, 0.1]
    with folder.metrics_path.open("a") as file:
        file.write('{"step": 4, "lo')  # torn by a kill
    with RunFolder.open(folder.path, CONFIG) as again:
        assert [row["step"] for row in again.truncate(3)] == [0, 1, 2]
        again.append({"step": 3, "loss": 9.0})
        assert [row["step"] for row in again.rows()] == [0, 1, 2, 3]
        assert json.loads((again.path / "config.json").read_text()) == CONFIG


def test_another_config_is_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG).close()
    with pytest.raises(UserError, match=r"whose steps is 3 and not 4 \(and 1 more differ\)"):
        RunFolder.open(tmp_path, {"steps": 4, "model": {"d_model": 16, "d_ff": None}})
    RunFolder.open(tmp_path, CONFIG).close()  # it is not left locked


def test_places_that_are_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        RunFolder.open(tmp_path / "file", CONFIG)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"has a metrics.jsonl but no config.json"):
        RunFolder.open(tmp_path, CONFIG)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*config.json.*expected JSON"):
        RunFolder.open(tmp_path / "broken", CONFIG)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = f"""
from fionalm.training.run_folder import RunFolder
from fionalm.errors import UserError
try:
    RunFolder.open({str(tmp_path)!r}, {{}})
except UserError as error:
    print(error)
"""
    with RunFolder.open(tmp_path, {}):
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "another process is writing to" in output
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
def test_full_disk(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as folder:
        folder.metrics_path.symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device.*is kept"):
            folder.append({"step": 0})


def test_environment_is_json_and_names_the_machine() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] and found["threads"] >= 1 and found["device"] in ("cpu", "cuda")


def test_commit_of_a_checkout_and_of_nothing(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@e", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert git_commit(package) is None
    git("init")
    assert git_commit(package) is None  # inside a checkout that does not track it, such as a .venv
    git("add", "package")
    git("commit", "-m", "first")
    commit = git_commit(package)
    assert commit is not None and len(commit) == 40
    (package / "__init__.py").write_text("changed = True")
    assert git_commit(package) == f"{commit}+changes"


def test_result_reads_its_losses_off_the_rows() -> None:
    rows = [{"step": s, "loss": 10.0 - s} for s in range(10)]
    result = TrainResult.from_rows(rows, steps=10, seconds=1.0, tokens_per_second=5.0)
    assert (result.initial_loss, result.final_loss, result.diverged) == (10.0, 1.0, False)
    rows[4]["validation_loss"], rows[9]["validation_loss"] = 7.0, 3.0
    assert TrainResult.from_rows(rows, steps=10, seconds=1.0, tokens_per_second=5.0).final_loss == 3.0


def test_diverged_result_survives_json() -> None:
    rows = [{"step": 0, "loss": 5.0}, {"step": 3, "loss": None, "diverged": True}]
    result = TrainResult.from_rows(rows, steps=4, seconds=1.0, tokens_per_second=5.0)
    assert result.diverged and result.final_loss == math.inf and result.losses == [(0, 5.0), (3, math.inf)]
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["final_loss"] is None
    assert TrainResult.from_dict(json.loads(text)) == result


def test_a_mistake_before_anything_was_kept_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first"
    with pytest.raises(UserError), RunFolder.open(path, {"corpus": "typo"}) as folder:
        folder.write_json("environment.json", {})
        raise UserError("no such corpus")
    assert not (tmp_path / "runs").exists()
    with RunFolder.open(path, {"corpus": "mended"}) as folder:
        folder.append({"step": 0})
    with pytest.raises(UserError), RunFolder.open(path, {"corpus": "mended"}):
        raise UserError("the disk is full")
    assert (path / "metrics.jsonl").exists() and (path / "config.json").exists()


def test_a_mistake_keeps_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError), RunFolder.open(tmp_path, {"a": 1}):
        raise UserError("no such corpus")
    assert (tmp_path / "notes.txt").read_text() == "mine"
