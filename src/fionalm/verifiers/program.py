"""Programs against tests, each in a sandbox of its own."""

from __future__ import annotations

import ast
import atexit
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from fionalm.data.text_tokenizer import Message, Prompt, completion_text
from fionalm.errors import UserError
from fionalm.verifiers.answers import code_of, gold_column
from fionalm.verifiers.pool import START_SECONDS, Reply, WorkerPool
from fionalm.verifiers.program_worker import arguments
from fionalm.verifiers.sandbox import Limits, check_bubblewrap
from fionalm.verifiers.types import Outcome, Verdict

ProgramOutcome = Literal["passed", "failed", "error", "timeout", "memory", "output", "broken_tests", "broken"]
LIMITS: tuple[ProgramOutcome, ...] = ("timeout", "memory", "output")
Tests = str | Sequence[Any] | Mapping[str, Any] | None


@dataclass(frozen=True)
class ProgramResult:
    """What became of a program and its tests."""

    outcome: ProgramOutcome
    """`failed`: a test did; `error`: it raised, crashed or ended early; `timeout`, `memory`, `output`: it broke a
    limit; `broken_tests`: the tests cannot be compiled; `broken`: the sandbox failed, not the program."""
    stdout: str
    stderr: str
    seconds: float
    """By the clock, from the program's start to its last test's end."""
    detail: str = ""
    """Which test, and why."""

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.outcome == "passed"


class ProgramVerifier:
    """Right where the program passes its tests, in a sandbox without network, files and the rest of the machine.

    The completion's last fenced block is the program, or all of it where there is none. A completion that does not
    define `entry_point` continues the code prompt, as HumanEval's do, and the prompt is put before it. Columns:
    `tests` (or `test`), and optionally `entry_point` and `prompt` (a prefix in code; else the prompts themselves where
    they are strings). See `run_program` for the forms of tests.

    Args:
        timeout: seconds for a program with all its tests.
        memory_mb: memory of all the program's processes together.
        workers: programs that run at a time; None: one a core.
        processes: processes and threads of a program.
        tests_column: the column of tests.
        unsafe_execution: run programs without a sandbox where bubblewrap is missing, with this user's rights.
    """

    def __init__(
        self,
        tests_column: str = "tests",
        *,
        timeout: float = 10.0,
        memory_mb: int = 512,
        workers: int | None = None,
        processes: int = 48,
        unsafe_execution: bool = False,
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise UserError(f"timeout {timeout}: expected seconds above 0")
        if memory_mb < 64:
            raise UserError(f"memory_mb {memory_mb}: expected at least 64: the interpreter alone takes 20")
        if processes < 4:
            raise UserError(f"processes {processes}: expected at least 4: the harness takes two")
        if not unsafe_execution:
            check_bubblewrap()
        self.tests_column = tests_column
        self.limits = Limits(timeout=timeout, memory_mb=memory_mb, processes=processes)
        self.unsafe_execution = unsafe_execution
        self._pool = WorkerPool(
            arguments(self.limits, isolated=not unsafe_execution),
            workers=workers or _cores(),
            # The worker keeps the program's deadline; should it fail to, the pool replaces it.
            seconds=timeout + START_SECONDS,
        )

    def __enter__(self) -> ProgramVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str | Sequence[Message]], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Return a verdict for each completion; a program that breaks a limit gets `limit`, and no reward.

        Raises:
            UserError: no column of tests, or tests in no known form or that cannot be compiled (their place is named).
        """
        tests = self._tests(columns, len(completions))
        entry_points = columns.get("entry_point", [None] * len(completions))
        prefixes = columns.get("prompt", prompts)
        jobs, empty = [], []
        for index, completion in enumerate(completions):
            text = completion_text(completion)
            prefix = prefixes[index] if isinstance(prefixes[index], str) else ""
            program = _complete(prefix, text, entry_points[index])
            empty.append(not code_of(text).strip())
            where = f"{self.tests_column} number {index + 1}"
            jobs.append(_job(program, tests[index], entry_points[index], prefix, where))
        results = [_result(reply) for reply in self._pool.map(jobs)]
        for index, result in enumerate(results):
            if result.outcome == "broken_tests":
                raise UserError(f"{self.tests_column} number {index + 1} cannot be used: {result.detail}")
        return [
            Verdict("no_answer", 0.0) if nothing else _verdict(result, job["program"])
            for result, job, nothing in zip(results, jobs, empty, strict=True)
        ]

    def run(self, programs: Sequence[str], tests: Sequence[Tests]) -> list[ProgramResult]:
        """Run whole programs, each with its tests, and return what became of them."""
        pairs = enumerate(zip(programs, tests, strict=True))
        jobs = [_job(source, test, None, "", f"tests number {index + 1}") for index, (source, test) in pairs]
        return [_result(reply) for reply in self._pool.map(jobs)]

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Raise UserError where a row's tests are missing or in no known form."""
        for index, test in enumerate(self._tests(columns, None)):
            _job("", test, None, "", f"{self.tests_column} number {index + 1}")

    def describe(self) -> dict[str, Any]:
        """Return what this verifier is."""
        options = {"tests_column": self.tests_column, "unsafe_execution": self.unsafe_execution}
        return {"name": "code", **options, **asdict(self.limits)}

    def close(self) -> None:
        """End the workers and what runs in their sandboxes."""
        self._pool.close()

    def _tests(self, columns: Mapping[str, Sequence[Any]], count: int | None) -> Sequence[Any]:
        name = (
            "test"
            if self.tests_column == "tests" and "tests" not in columns and "test" in columns
            else self.tests_column
        )
        return gold_column(columns, name, len(columns.get(name, ())) if count is None else count)


def run_program(
    source: str,
    tests: Tests,
    *,
    timeout: float = 10.0,
    memory_mb: int = 512,
    entry_point: str | None = None,
    unsafe_execution: bool = False,
) -> ProgramResult:
    """Run a program in a sandbox and test it.

    Args:
        source: the program, in Python.
        tests: Python code that asserts, with the program's names at hand; a list of such codes; inputs and outputs,
            as `{"inputs": [...], "outputs": [...]}` (APPS's, with `fn_name` for calls), its JSON, or a list of
            `{"input": ..., "output": ...}`; None only runs the program, which passes where it ends with status 0.
        timeout: seconds for the program with all its tests.
        memory_mb: memory of all its processes together.
        entry_point: the function that tests call `candidate`; `check(candidate)` is called where they define it.
        unsafe_execution: without a sandbox, with this user's rights.

    Raises:
        UserError: no bubblewrap, or tests in no known form.
    """
    verifier = _shared(timeout, memory_mb, unsafe_execution)
    return _result(verifier._pool.map([_job(source, tests, entry_point, "", "the tests")])[0])


@cache
def _shared(timeout: float, memory_mb: int, unsafe_execution: bool) -> ProgramVerifier:
    verifier = ProgramVerifier(timeout=timeout, memory_mb=memory_mb, workers=1, unsafe_execution=unsafe_execution)
    atexit.register(verifier.close)
    return verifier


def _complete(prefix: str, completion: str, entry_point: str | None) -> str:
    code = code_of(completion)
    if entry_point is None or re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", code, re.MULTILINE):
        # A whole program, which may yet lean on the prompt's imports and helpers.
        if entry_point is None or f"def {entry_point}" not in prefix:
            return code
        return f"{_closed(prefix)}\n\n{code}"
    return prefix + code


def _job(program: str, tests: Any, entry_point: str | None, prefix: str, where: str) -> dict[str, Any]:
    if isinstance(tests, str) and tests.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError):  # code may begin with a bracket, too
            tests = json.loads(tests)
    if tests is None:
        return {"kind": "scripts", "program": program, "cases": [{"input": "", "output": None}]}
    if isinstance(tests, Mapping):
        tests = _pairs(tests, where)
    if isinstance(tests, str):
        tests = [tests]
    if not isinstance(tests, Sequence) or not tests:
        raise UserError(f"{where}: {str(tests)[:100]!r} are no tests; expected code, a list, or inputs and outputs")
    if all(isinstance(test, str) and test.strip() for test in tests):
        # Helpers that the prompt defines are the tests' own; the program's versions of them prove nothing.
        names = set(re.findall(r"^def\s+(\w+)", prefix, re.MULTILINE)) - {entry_point}
        needed = any(re.search(rf"\b{name}\b", test) for name in names for test in tests)
        job = {"prelude": _closed(prefix) if needed else "", "sources": list(tests), "entry_point": entry_point}
        return {"kind": "functions", "program": program, **job}
    if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests):
        cases = [{"input": _text(test["input"]), "output": _text(test["output"])} for test in tests]
        return {"kind": "scripts", "program": program, "cases": cases}
    raise UserError(f"{where}: expected a list of code that is not empty, or of objects with input and output")


def _closed(prefix: str) -> str:
    """Return a code prompt with its unfinished function closed, or nothing where it is no code."""
    for text in (prefix, f"{prefix.rstrip()}\n    pass\n"):
        with contextlib.suppress(SyntaxError, ValueError):
            ast.parse(text)
            return text
    return ""


def _pairs(tests: Mapping[str, Any], where: str) -> list[Any]:
    """Turn APPS's form into a list: of asserts where it names a function, else of inputs and outputs."""
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
        raise UserError(
            f"{where}: expected as many inputs as outputs, in lists; the keys are {', '.join(map(str, tests))}"
        )
    name = tests.get("fn_name")
    if name is None:
        return [{"input": one, "output": other} for one, other in zip(inputs, outputs, strict=True)]
    if not str(name).isidentifier():
        raise UserError(f"{where}: fn_name {name!r} names no function")
    # Tuples that a program returns are lists in JSON; APPS also wraps some outputs in a list of one.
    same = (
        "def _same(got, want):\n    return _plain(got) == want or (isinstance(want, list) and [_plain(got)] == want)\n"
    )
    plain = "def _plain(value):\n    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value\n"
    checks = [f"assert _same({name}(*{one!r}), {other!r})" for one, other in zip(inputs, outputs, strict=True)]
    return [plain + same + checks[0], *checks[1:]] if checks else []


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _result(reply: Reply) -> ProgramResult:
    if reply.status != "done":
        return ProgramResult("broken", "", "", 0.0, f"the sandbox's process {reply.status}: {reply.detail[-300:]}")
    value = reply.value
    return ProgramResult(
        value["outcome"], value.get("stdout", ""), value.get("stderr", ""), value.get("seconds", 0.0), value["detail"]
    )


def _verdict(result: ProgramResult, program: str) -> Verdict:
    if result.outcome == "broken":
        return Verdict("error", None, detail=result.detail)
    judged: Outcome = "right" if result.passed else "limit" if result.outcome in LIMITS else "wrong"
    detail = result.detail if result.outcome in ("passed", "failed") else f"{result.outcome}: {result.detail}"
    answer = "\n".join(line.rstrip() for line in program.splitlines() if line.strip())
    return Verdict(judged, float(result.passed), answer, detail)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
