"""The programs of docs/sweeps.md do what the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fionalm.sweeps import run_sweep

PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"


def test_programs_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module, sweep, executor = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mytrials.py").write_text(module)
    monkeypatch.setenv("FIONA_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(sweep, names)
    first = names["outcomes"]
    assert [outcome.status for outcome in first] == ["finished"] * 6 and not any(one.cached for one in first)
    assert abs(first[0].result["frequency"] - 0.1) < 0.05 and abs(first[-1].result["frequency"] - 0.5) < 0.1
    assert capsys.readouterr().out.count("finished") == 6
    exec(executor, names)
    assert all(outcome.cached for outcome in names["outcomes"])

    more = [names["Trial"]("mytrials:toss", {**one.config, "seed": 9 + one.config["seed"]}) for one in names["trials"]]
    here = run_sweep(more, executor=names["Threads"](), quiet=True)
    assert all(outcome.status == "finished" and not outcome.cached for outcome in here)
    sys.modules.pop("mytrials", None)
