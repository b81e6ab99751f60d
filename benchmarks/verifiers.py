"""Programs verified a second, each in a sandbox of its own, and math answers verified a second.

    python benchmarks/verifiers.py
    python benchmarks/verifiers.py --humaneval HumanEval.jsonl.gz     # its 164 programs instead of ours

Peers, in the same run: a new Python process for each program without any isolation, as many at a time; and
math-verify called directly, without worker processes, its time limits off. Rounds are interleaved and medians taken;
workers are started before the clock. Targets on two cores: 40 programs and 300 answers a second.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fionalm.sweeps import available_cores
from fionalm.verifiers import MathVerifier, ProgramVerifier

PROGRAM_TARGET, ANSWER_TARGET = 40.0, 300.0
PROGRAMS = (
    (
        """
def function(n):
    found = []
    for x in range(2, n):
        if all(x % p for p in found):
            found.append(x)
    return found
""",
        "assert candidate(20) == [2, 3, 5, 7, 11, 13, 17, 19] and candidate(2) == [] and len(candidate(500)) == 95",
    ),
    (
        """
from typing import List

def function(words: List[str]) -> str:
    return max(words, key=len, default="")
""",
        "assert candidate(['a', 'bbb', 'cc']) == 'bbb' and candidate([]) == ''",
    ),
    (
        """
import re

def function(text):
    return {word: text.split().count(word) for word in re.findall(r"\\w+", text)}
""",
        "assert candidate('a b a') == {'a': 2, 'b': 1} and candidate('') == {}",
    ),
    (
        """
def function(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
""",
        "assert [candidate(i) for i in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13] and candidate(300) % 1000 == 600",
    ),
)
"""Programs of one function, and what their tests assert."""


def own_programs(count: int) -> tuple[list[str], list[str]]:
    """Return programs and their tests, in HumanEval's form."""
    chosen = [PROGRAMS[index % len(PROGRAMS)] for index in range(count)]
    return [program for program, _ in chosen], [f"def check(candidate):\n    {test}\n" for _, test in chosen]


def humaneval(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Return HumanEval's programs, tests and entry points."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    programs = [row["prompt"] + row["canonical_solution"] for row in rows]
    return programs, [row["test"] for row in rows], [row["entry_point"] for row in rows]


def bare(programs: list[str], tests: list[str], names: list[str], workers: int) -> float:
    """Return programs a second in new processes without isolation."""

    def run(sources: tuple[str, str, str]) -> int:
        program, test, name = sources
        code = f"{program}\n{test}\ncheck({name})"
        return subprocess.run(
            [sys.executable, "-I", "-c", code], capture_output=True, timeout=60, check=False
        ).returncode

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        failed = sum(code != 0 for code in pool.map(run, zip(programs, tests, names, strict=True)))
    if failed:
        raise RuntimeError(f"{failed} programs failed their tests")
    return len(programs) / (time.perf_counter() - started)


def sandboxed(verifier: ProgramVerifier, programs: list[str], tests: list[str], names: list[str]) -> float:
    """Return programs a second in sandboxes."""
    started = time.perf_counter()
    verdicts = verifier([""] * len(programs), programs, tests=tests, entry_point=names)
    seconds = time.perf_counter() - started
    wrong = [verdict.detail for verdict in verdicts if verdict.outcome != "right"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} programs failed their tests; the first: {wrong[0]}")
    return len(programs) / seconds


def answers(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Return completions and gold answers, equal and unequal, of the kinds that MATH has."""
    draw = random.Random(seed)
    completions, golds = [], []
    for index in range(count):
        a, b = draw.randint(2, 999), draw.randint(2, 99)
        right = draw.random() < 0.5
        off = 0 if right else draw.randint(1, 9)
        forms = (
            (rf"So it is $\boxed{{{a + off}}}$.", str(a)),
            (rf"Hence the answer is $\frac{{{a + off}}}{{{b}}}$.", rf"\frac{{{a}}}{{{b}}}"),
            (rf"We get \boxed{{{b}\sqrt{{{a + off}}}}}", rf"{b} \sqrt{{{a}}}"),
            (rf"Thus $\boxed{{{b}x + {a + off}}}$", f"{a}+{b}x"),
            (rf"The point is $\boxed{{({a + off}, {b})}}$", f"({a},{b})"),
        )
        completion, gold = forms[index % len(forms)]
        completions.append(completion)
        golds.append(gold)
    return completions, golds


def direct(completions: list[str], golds: list[str]) -> float:
    """Return answers a second by math-verify alone, in this process."""
    import math_verify

    started = time.perf_counter()
    for completion, gold in zip(completions, golds, strict=True):
        expected: Any = math_verify.parse(f"\\boxed{{{gold}}}", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        found: Any = math_verify.parse(completion, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        math_verify.verify(expected, found, timeout_seconds=None)
    return len(golds) / (time.perf_counter() - started)


def verified(verifier: MathVerifier, completions: list[str], golds: list[str]) -> float:
    """Return answers a second by the verifier."""
    started = time.perf_counter()
    verdicts = verifier([""] * len(golds), completions, answer=golds)
    seconds = time.perf_counter() - started
    failed = [verdict for verdict in verdicts if verdict.reward is None]
    if failed:
        raise RuntimeError(f"{len(failed)} answers could not be judged; the first: {failed[0]}")
    return len(golds) / seconds


def report(what: str, peer: str, ours: list[float], theirs: list[float], target: float) -> bool:
    """Print one line and say whether the target is met."""
    one, other = statistics.median(ours), statistics.median(theirs)
    each = " ".join(f"{value:.0f}" for value in ours)
    print(f"{what:24} {one:7.0f}/s ({each})  {peer} {other:7.0f}/s  ratio {one / other:5.2f}  target {target:.0f}/s")
    return one >= target


def main() -> bool:
    """Measure both and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes of verifiers and peers")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--programs", type=int, default=80, help="programs a round")
    parser.add_argument("--answers", type=int, default=400, help="answers a round, new ones each")
    parser.add_argument("--humaneval", type=Path, help="HumanEval.jsonl.gz, to run its programs instead")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    if arguments.humaneval is None:
        programs, tests = own_programs(arguments.programs)
        names = ["function"] * len(programs)
    else:
        programs, tests, names = humaneval(arguments.humaneval)
    values: dict[str, list[float]] = {"sandboxed": [], "bare": [], "verified": [], "direct": []}
    with ProgramVerifier(workers=arguments.workers) as verifier:
        sandboxed(verifier, programs[:8], tests[:8], names[:8])
        for _ in range(arguments.rounds):
            values["sandboxed"].append(sandboxed(verifier, programs, tests, names))
            values["bare"].append(bare(programs, tests, names, arguments.workers))
    logging.disable(logging.CRITICAL)
    with MathVerifier(workers=arguments.workers, timeout=60.0) as verifier:
        verified(verifier, *answers(20, seed=0))
        direct(*answers(20, seed=0))
        for seed in range(1, arguments.rounds + 1):
            values["verified"].append(verified(verifier, *answers(arguments.answers, seed)))
            values["direct"].append(direct(*answers(arguments.answers, seed)))
    print(f"{arguments.workers} workers; medians of {arguments.rounds} rounds")
    good = report("programs in sandboxes", "plain processes", values["sandboxed"], values["bare"], PROGRAM_TARGET)
    good &= report("math answers", "math-verify directly", values["verified"], values["direct"], ANSWER_TARGET)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"workers": arguments.workers, **values}, indent=2) + "\n")
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
