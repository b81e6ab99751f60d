"""Number chains: join given digits by +, - and * on a pocket calculator so that it shows the target at the end.

`2478>46:` asks for a chain such as `8-2=6*7=42+4=46`: each digit once, in any order, with every result that the
calculator shows after an operation; it has no sign and two places, so results are from 0 to 99. A problem is an
unordered handful of digits and a target; most have several solutions of different kinds (sums alone, one product, two),
which differ in how many problems they reach. Checking a chain is exact; finding one takes a search that a model which
writes one token after the other cannot finish, so trying differently pays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, permutations, product

from fionalm.data.tasks.splits import SPLITS, Split, split_of
from fionalm.errors import UserError, choice_error

CHAIN_ALPHABET = "0123456789+-*=>:"
"""Every character of prompts and chains, for `character_tokenizer`."""
LARGEST = 99
CHAIN = re.compile(r"[0-9](?:[-+*][0-9]=(?:0|[1-9][0-9]?))+")
STEP = re.compile(r"([-+*])([0-9])=([0-9]+)")


@dataclass(frozen=True)
class ChainProblem:
    """Digits in ascending order, the target, and every chain that reaches it."""

    digits: tuple[int, ...]
    target: int
    solutions: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """What the model reads, such as `2478>46:`; the target has two digits."""
        return f"{''.join(map(str, self.digits))}>{self.target:02d}:"

    @property
    def id(self) -> str:
        """The problem's name: its prompt without the punctuation at the end."""
        return self.prompt[:-1]

    @property
    def split(self) -> Split:
        """Which split the problem belongs to."""
        return split_of(self.id)


@lru_cache(maxsize=4)
def number_chains(n_digits: int = 4) -> tuple[ChainProblem, ...]:
    """Return every solvable problem of `n_digits` digits from 1 to 9, in a fixed order.

    Raises:
        UserError: fewer than 2 digits or more than 5, of which there would be millions of chains.
    """
    if not 2 <= n_digits <= 5:
        raise UserError(f"number chains of {n_digits} digits: expected 2 to 5")
    problems = []
    operators = list(product("+-*", repeat=n_digits - 1))
    for digits in combinations_with_replacement(range(1, 10), n_digits):
        found: dict[int, list[str]] = {}
        for order in sorted(set(permutations(digits))):
            for chosen in operators:
                worked = _work(order, chosen)
                if worked is not None:
                    found.setdefault(worked[1], []).append(worked[0])
        problems += [ChainProblem(digits, target, tuple(found[target])) for target in sorted(found)]
    return tuple(problems)


def chain_problems(split: str, n_digits: int = 4) -> list[ChainProblem]:
    """Return every problem of `corpus`, `train`, `validation` or `test`; no two splits share one.

    Raises:
        UserError: an unknown split, or a number of digits outside 2 to 5.
    """
    if split not in SPLITS:
        raise choice_error("split", split, SPLITS)
    return [problem for problem in number_chains(n_digits) if problem.split == split]


def chain_value(text: str) -> tuple[tuple[int, ...], int] | None:
    """Return a chain's digits, sorted, and its last result; None if `text` is no chain.

    A chain with a wrong result in it has None as well: no calculator shows it.
    """
    if not CHAIN.fullmatch(text):
        return None
    steps = STEP.findall(text)
    numbers = (int(text[0]), *(int(digit) for _, digit, _ in steps))
    worked = _work(numbers, tuple(operator for operator, _, _ in steps))
    if worked is None or worked[0] != text:
        return None
    return tuple(sorted(numbers)), worked[1]


def is_chain(text: str) -> bool:
    """Tell whether a text has the form of a chain, right or wrong."""
    return CHAIN.fullmatch(text) is not None


def chain_reaches(prompt: str, completion: str) -> bool:
    """Tell whether a completion solves the prompt's problem: exact, without the list of solutions.

    Raises:
        UserError: the prompt is no number-chain problem.
    """
    digits, _, rest = prompt.partition(">")
    if not (digits.isdecimal() and rest.endswith(":") and rest[:-1].isdecimal()):
        raise UserError(f"prompt {prompt!r} is no number chain: expected one such as '2478>46:'")
    return chain_value(completion) == (tuple(sorted(map(int, digits))), int(rest[:-1]))


def chain_strategy(completion: str) -> int:
    """Return a chain's strategy: how many of its operations are products."""
    return completion.count("*")


def _work(numbers: tuple[int, ...], operators: tuple[str, ...]) -> tuple[str, int] | None:
    """Return what is written and the last result; None if a result is not from 0 to 99."""
    value, text = numbers[0], str(numbers[0])
    for operator, number in zip(operators, numbers[1:], strict=True):
        value = value + number if operator == "+" else value - number if operator == "-" else value * number
        if not 0 <= value <= LARGEST:
            return None
        text += f"{operator}{number}={value}"
    return text, value
