"""Small Python functions described in words, with tests and solutions by writers of different habits.

    def f(x):
        # add 3, times 2
        return (x + 3) * 2

The tests are in the column `tests`. The related kind `lists` asks for functions of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from fionalm.data.tasks.splits import distinct_problems
from fionalm.errors import UserError, choice_error

Kind = Literal["numbers", "lists"]
KINDS: tuple[Kind, ...] = ("numbers", "lists")

NUMBERS = range(-12, 13)
"""The inputs that decide what a function of a number does: those of its tests."""
LISTS = ((), (0,), (4, 9, -3), (7, 7, 1, 2), (-5, 6, 3, 8, -2), (10, -1, 5, 0, 3, 2))


@dataclass(frozen=True)
class Step:
    """One thing done to `x`: in words, as an expression, and what it computes."""

    words: str
    code: str
    """With `{x}` for the value, `{k}` for the operand."""
    compute: Callable[[Any, int], Any]
    operands: range = range(1)
    binds: int = 0
    """How tightly the expression holds together, as an operand of another: 0 as a sum, 1 as a product, 2 as a call."""
    takes: int = 2
    """How tightly its own operand must hold together not to need brackets."""


NUMBER_STEPS = (
    Step("add {k}", "{x} + {k}", lambda x, k: x + k, range(2, 10), 0, 0),
    Step("minus {k}", "{x} - {k}", lambda x, k: x - k, range(2, 10), 0, 0),
    Step("times {k}", "{x} * {k}", lambda x, k: x * k, range(2, 7), 1, 1),
    Step("modulo {k}", "{x} % {k}", lambda x, k: x % k, range(2, 10), 1, 1),
    Step("over {k}", "{x} // {k}", lambda x, k: x // k, range(2, 6), 1, 1),
    Step("at least {k}", "max({x}, {k})", lambda x, k: max(x, k), range(2, 10), 2, 0),
    Step("at most {k}", "min({x}, {k})", lambda x, k: min(x, k), range(2, 10), 2, 0),
    Step("absolute", "abs({x})", lambda x, _: abs(x), range(1), 2, 0),
)
LIST_STEPS = (
    Step("above {k}", "[v for v in {x} if v > {k}]", lambda x, k: [v for v in x if v > k], range(2, 8), 2, 2),
    Step("below {k}", "[v for v in {x} if v < {k}]", lambda x, k: [v for v in x if v < k], range(2, 8), 2, 2),
    Step("add {k}", "[v + {k} for v in {x}]", lambda x, k: [v + k for v in x], range(2, 8), 2, 2),
    Step("times {k}", "[v * {k} for v in {x}]", lambda x, k: [v * k for v in x], range(2, 5), 2, 2),
    Step("sorted", "sorted({x})", lambda x, _: sorted(x), range(1), 2, 0),
)
LIST_ENDS = (
    Step("sum", "sum({x})", lambda x, _: sum(x), range(1), 2, 0),
    Step("count", "len({x})", lambda x, _: len(x), range(1), 2, 0),
)
FUNCTION_ALPHABET = "".join(
    sorted(
        {
            *"".join(step.words + step.code for step in (*NUMBER_STEPS, *LIST_STEPS, *LIST_ENDS)),
            *"def f(x):\n    # , return = 0123456789",
        }
        - {"{", "}"}
    )
)
"""Every character of prompts and solutions, for `character_tokenizer`."""


@dataclass(frozen=True)
class FunctionProblem:
    """A function: steps applied one after the other, each with its operand."""

    kind: Kind
    steps: tuple[tuple[Step, int], ...]

    def __call__(self, x: Any) -> Any:
        """Return what a right solution returns."""
        for step, operand in self.steps:
            x = step.compute(x, operand)
        return x

    @property
    def outputs(self) -> list[Any]:
        """What it returns for each input of the tests."""
        return [self(x) for x in (NUMBERS if self.kind == "numbers" else map(list, LISTS))]

    @property
    def key(self) -> str:
        """What the function does: two descriptions of one function have the same key."""
        return f"{self.kind}:{self.outputs}"

    @property
    def prompt(self) -> str:
        """The function's head, described in a comment."""
        words = ", ".join(step.words.format(k=operand) for step, operand in self.steps)
        return f"def f(x):\n    # {words}\n"

    @property
    def tests(self) -> str:
        """A program that fails unless `f` does the same on every input."""
        if self.kind == "numbers":
            inputs = f"range({NUMBERS.start}, {NUMBERS.stop})"
        else:
            inputs = str([list(items) for items in LISTS])
        return f"for x, expected in zip({inputs}, {self.outputs}):\n    assert f(x) == expected, x\n"

    def solutions(self) -> list[str]:
        """Return every human's solution: a single expression, a statement a step, or the last step returned."""
        nested, binds = "x", 2
        lines = []
        for step, operand in self.steps:
            inner = nested if binds >= step.takes else f"({nested})"
            nested, binds = step.code.format(x=inner, k=operand), step.binds
            lines.append(step.code.format(x="x", k=operand))
        statements = [f"    x = {line}\n" for line in lines]
        ways = (
            f"    return {nested}",
            "".join(statements) + "    return x",
            "".join(statements[:-1]) + f"    return {lines[-1]}",
        )
        return list(dict.fromkeys(ways))


def draw_function(generator: Random, kind: Kind = "numbers", steps: tuple[int, ...] = (1, 2)) -> FunctionProblem:
    """Draw a function that is neither constant nor the identity."""
    while True:
        count = generator.choice(steps)
        kinds = [generator.choice(NUMBER_STEPS if kind == "numbers" else LIST_STEPS) for _ in range(count)]
        if kind == "lists":
            kinds.append(generator.choice(LIST_ENDS))
        problem = FunctionProblem(kind, tuple((step, generator.choice(step.operands)) for step in kinds))
        outputs = problem.outputs
        if any(output != outputs[0] for output in outputs) and outputs != list(NUMBERS):
            return problem


def function_rows(
    split: str,
    count: int,
    *,
    seed: int = 0,
    kind: Kind = "numbers",
    steps: tuple[int, ...] = (1, 2),
    solutions: int = 1,
) -> list[dict[str, Any]]:
    """Return problems of a split, with human solutions and tests.

    The columns are `id`, `prompt`, `completion` (one human's), `tests`, `entry_point`, `kind` and `solutions`.

    Args:
        split: `corpus`, `train`, `validation` or `test`; no function of one split does the same as one of another,
            however it is described.
        count: how many problems, no two of which do the same.
        seed: of problems and writers.
        kind: `numbers`, or the related `lists`, whose steps end in a sum or count.
        steps: numbers of steps to draw from.
        solutions: distinct human solutions in the column `solutions`, `completion` first; fewer where a problem has
            fewer.

    Raises:
        UserError: an unknown split or kind, or more problems than there are.
    """
    if kind not in KINDS:
        raise choice_error("kind of function", kind, KINDS)
    if not steps or min(steps) < 1:
        raise UserError(f"steps {steps}: expected numbers of steps, at least 1 each")
    rows = []
    for problem, generator in distinct_problems(
        lambda generator: draw_function(generator, kind, steps), lambda one: one.key, split, count, seed
    ):
        written = problem.solutions()
        generator.shuffle(written)
        rows.append(
            {
                "id": f"{kind}:{problem.prompt.split('# ')[1].strip()}",
                "prompt": problem.prompt,
                "completion": written[0],
                "tests": problem.tests,
                "entry_point": "f",
                "kind": kind,
                "solutions": written[:solutions],
            }
        )
    return rows
