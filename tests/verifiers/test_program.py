"""Programs against tests in the real sandbox: HumanEval, every form of tests, verdicts, mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fionalm
from fionalm.errors import UserError
from fionalm.verifiers import CachedVerifier, ProgramVerifier, make_verifier, run_program
from fionalm.verifiers.program_worker import same_output

LIE = """
    class Lie:
        __eq__ = __lt__ = __contains__ = lambda *_: True
        __len__ = __abs__ = lambda _: 0
        __iter__ = lambda _: iter(())
        __sub__ = __getitem__ = lambda *_: 0
    return Lie()
"""
ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("/proc/self/comm", "w").write("fiona-orphan")
        time.sleep(1000)
    os._exit(0)
"""
PRINTS = """
import sys
def f():
    print("out")
    print("err", file=sys.stderr)
    return 1
"""
SLOW = """
import os, time
assert not os.path.exists("/tmp/x")
open("/tmp/x", "w").close()
time.sleep(2.5)
"""
DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.fixture(scope="module")
def verifier() -> Iterator[ProgramVerifier]:
    with ProgramVerifier(timeout=60.0) as opened:
        yield opened


def test_all_humaneval_solutions_pass_and_broken_ones_fail(verifier, real_rows) -> None:
    rows = real_rows("humaneval/HumanEval.jsonl.gz")
    prompts = [row["prompt"] for row in rows]
    columns = {"test": [row["test"] for row in rows], "entry_point": [row["entry_point"] for row in rows]}
    verdicts = verifier(prompts, [row["canonical_solution"] for row in rows], **columns)
    assert [verdict.detail for verdict in verdicts if verdict.outcome != "right"] == []
    assert len(verdicts) == 164
    broken = [("    return None\n", LIE)[index % 2] for index in range(164)]
    assert {verdict.outcome for verdict in verifier(prompts, broken, **columns)} == {"wrong"}


def test_a_whole_program_in_a_fenced_block_passes_too(verifier, real_rows) -> None:
    rows = real_rows("humaneval/HumanEval.jsonl.gz")[:4]
    completions = [f"Sure!\n```python\n{row['prompt']}{row['canonical_solution']}```\nDone." for row in rows]
    columns = {"test": [row["test"] for row in rows], "entry_point": [row["entry_point"] for row in rows]}
    assert {v.outcome for v in verifier([row["prompt"] for row in rows], completions, **columns)} == {"right"}


def test_helpers_of_the_prompt_are_the_tests_own(verifier) -> None:
    prompt = "def poly(x):\n    return x * x - 4\n\ndef root():\n    "
    completions = ["return 2", "return 3\n\ndef poly(x):\n    return 0\n"]
    tests = "def check(candidate):\n    assert poly(candidate()) == 0"
    verdicts = verifier([prompt] * 2, completions, tests=[tests] * 2, entry_point=["root"] * 2)
    assert [verdict.outcome for verdict in verdicts] == ["right", "wrong"]


@pytest.mark.parametrize(
    ("tests", "outcome"),
    [
        ("assert double(2) == 4", "passed"),
        ("import math\nassert math.isclose(double(0.1), 0.2)", "passed"),
        (["assert double(2) == 4", "assert double('a') == 'aa'"], "passed"),
        (["assert double(2) == 4", "assert double(3) == 7"], "failed"),
        ({"inputs": [[2], ["a"]], "outputs": [4, ["aa"]], "fn_name": "double"}, "passed"),
        ({"inputs": [[2]], "outputs": [5], "fn_name": "double"}, "failed"),
        ({"inputs": [[2]], "outputs": [4], "fn_name": "missing"}, "failed"),
        ("assert", "broken_tests"),
        ("raise SystemExit(0)", "failed"),
    ],
)
def test_forms_of_function_tests(verifier, tests: Any, outcome: str) -> None:
    result = verifier.run([DOUBLE], [tests])[0]
    assert result.outcome == outcome, result
    assert result.passed == (outcome == "passed")
    if isinstance(tests, dict):
        assert verifier.run([DOUBLE], [json.dumps(tests)])[0].outcome == outcome


@pytest.mark.parametrize(
    ("program", "tests", "outcome"),
    [
        ("print(2 * int(input()))", [{"input": "2", "output": "4"}, {"input": "5\n", "output": "10\n"}], "passed"),
        ("print(2 * int(input()))", {"inputs": ["2", "5"], "outputs": ["4", "11"]}, "failed"),
        ("print(2 * int(input()))", [{"input": "two", "output": "4"}], "error"),
        ("import sys\nprint(len(sys.stdin.read()))", [{"input": "x" * 300_000, "output": "300000"}], "passed"),
        ("if __name__ == '__main__':\n    print(1)\n    exit()", [{"input": "", "output": "1"}], "passed"),
        ("print(1)\nexit(3)", [{"input": "", "output": "1"}], "error"),
        ("print(1 / 3)", [{"input": "", "output": "0.333333333"}], "passed"),
        ("import atexit\natexit.register(print, 2)\nprint(1)", [{"input": "", "output": "1\n2"}], "passed"),
        ("x = open('/tmp/x', 'a+')\nx.seek(0)\nprint(x.read())\nx.write('seen')", None, "passed"),
        ("raise ValueError", None, "error"),
    ],
)
def test_standard_input_and_output(verifier, program: str, tests: Any, outcome: str) -> None:
    result = verifier.run([program], [tests])[0]
    assert result.outcome == outcome, result


def test_what_a_program_prints_is_kept() -> None:
    result = run_program(PRINTS, "assert f() == 1")
    assert (result.passed, result.stdout, result.stderr) == (True, "out\n", "err\n")
    assert 0 < result.seconds < 10
    result = run_program("def f(): return 1", "print('hello')\nassert f() == 2\n")
    assert (result.outcome, result.stdout, result.detail) == ("failed", "hello\n", "test 0: AssertionError, line 2")


def test_classes_exceptions_and_solutions(verifier) -> None:
    program = """
class Full(Exception): pass
class Stack:
    def __init__(self): self.items = []
    def push(self, item):
        if len(self.items) == 2: raise Full("no room")
        self.items.append(item)
        return self
class Solution:
    def solve(self, values): values.sort()
"""
    tests = """
stack = Stack().push(1).push((2, 3))
assert stack.items == [1, (2, 3)] and len(stack.items) == 2
try:
    stack.push(3)
except Full as error:
    assert str(error) == "no room"
else:
    raise AssertionError
values = [3, 1, 2]
solve(values)
assert values == [1, 2, 3]
"""
    assert verifier.run([program], [tests])[0].passed


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("1 \n2\n\n", "1\n2", True),
        ("1 2", "1\n2", False),
        ("0.5000001", "0.5", True),
        ("0.51", "0.5", False),
        ("5.0", "5", False),
        ("", "", True),
        ("a", "", False),
        ("nan", "0.5", False),
    ],
)
def test_outputs_are_compared_by_lines_and_decimals_nearly(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) is same


def test_verdicts(verifier) -> None:
    completions = [DOUBLE, "def double(x): return x", "```python\n```", "def double(x): while", [{"content": DOUBLE}]]
    verdicts = verifier([""] * 5, completions, tests=["assert double(2) == 4"] * 5)
    assert [verdict.outcome for verdict in verdicts] == ["right", "wrong", "no_answer", "wrong", "right"]
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert "SyntaxError" in verdicts[3].detail


def test_a_program_over_its_limits_has_an_outcome_of_its_own_and_is_judged_again() -> None:
    endless = "def double(x):\n    while True: pass"
    with CachedVerifier(ProgramVerifier(timeout=2.0, workers=1)) as verifier:
        for asked in (2, 3):  # the right one is known by then
            verdicts = verifier([""] * 2, [DOUBLE, endless], tests=["assert double(2) == 4"] * 2)
            assert [(verdict.outcome, verdict.reward) for verdict in verdicts] == [("right", 1.0), ("limit", 0.0)]
            assert verdicts[1].detail.startswith("timeout") and verifier.asked == asked


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"test_cases": [""]}, "needs the column 'tests'.*did you mean 'test_cases'"),
        ({"tests": [""]}, "tests number 1"),
        ({"tests": [[]]}, "tests number 1.*are no tests"),
        ({"tests": [[1]]}, "tests number 1: expected a list of code"),
        ({"tests": [{"inputs": ["1"], "outputs": []}]}, "tests number 1: expected as many inputs as outputs"),
        ({"tests": ["assert ("]}, "tests number 1 cannot be used: SyntaxError"),
    ],
)
def test_tests_that_are_none_are_the_users_error(verifier, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        verifier([""], [DOUBLE], **columns)


def test_without_bubblewrap_it_refuses_and_names_the_package(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="bubblewrap .*apt-get install bubblewrap.*--unsafe-execution"):
        make_verifier("code")
    with make_verifier("code", unsafe_execution=True, workers=1) as verifier:
        outcomes = verifier([""] * 2, [DOUBLE, "x = 1"], tests=["assert double(2) == 4"] * 2)
    assert [verdict.outcome for verdict in outcomes] == ["right", "wrong"]


def test_the_package_may_be_under_tmp() -> None:
    """Sandboxes have a /tmp of their own; the worker's must stay as it is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copytree(Path(fionalm.__file__).parent, Path(folder) / "fionalm", ignore=lambda *_: ["__pycache__"])
        code = "from fionalm.verifiers import run_program; print(run_program('x = 1', 'assert x == 1').outcome)"
        environment = {**os.environ, "PYTHONPATH": folder}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
        )
    assert (done.stdout.strip(), done.stderr) == ("passed", "")


def test_without_a_sandbox_limits_and_deadline_hold_and_nothing_is_left() -> None:
    many = "import os\nfor _ in range(4): os.fork()\nheld = []\nwhile True: held.append(bytearray(1 << 20))"
    with ProgramVerifier(timeout=3.0, memory_mb=128, workers=1, unsafe_execution=True) as verifier:
        results = verifier.run(
            ["while True: pass", many, ORPHAN + DOUBLE], ["assert 1"] * 2 + ["assert double(1) == 2"]
        )
    assert [result.outcome for result in results] == ["timeout", "memory", "passed"]
    names = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm") if path.exists()]
    assert "fiona-orphan" not in names


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"memory_mb": 10}, {"processes": 1}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ProgramVerifier(**options)


def test_a_worker_killed_in_the_middle_takes_its_sandbox_along_and_is_replaced() -> None:
    with ProgramVerifier(timeout=60.0, workers=1) as verifier:
        assert verifier.run([DOUBLE], ["assert double(1) == 2"])[0].passed
        process = verifier._pool._all[0].process

        def kill() -> None:
            time.sleep(1.0)
            os.kill(process.pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        # Tried again after the first worker's death: the file says that it was not the same sandbox.
        result = verifier.run([SLOW + DOUBLE], ["assert double(1) == 2"])[0]
        thread.join()
        assert result.passed
        assert verifier._pool._all[0].process.pid != process.pid
