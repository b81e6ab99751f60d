"""Number chains: every listed solution is right, nothing else is, and splits share no problem."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import TextTokenizer, character_tokenizer
from fionalm.data.tasks.number_chains import (
    CHAIN_ALPHABET,
    ChainProblem,
    chain_problems,
    chain_reaches,
    chain_strategy,
    chain_value,
    is_chain,
    number_chains,
)
from fionalm.data.tasks.splits import SPLITS
from fionalm.errors import UserError

PROBLEMS = number_chains(3)
BY_PROMPT = {problem.prompt: problem for problem in PROBLEMS}


def calculator(chain: str) -> tuple[list[int], int] | None:
    """Work a chain by Python's own arithmetic, result by result; None if what is written is not what comes out."""
    first, *steps = chain.replace("+", " +").replace("-", " -").replace("*", " *").split()
    value, digits = int(first), [int(first)]
    for step in steps:
        operation, _, shown = step.partition("=")
        value = eval(f"({value}){operation}")
        digits.append(int(operation[1:]))
        if str(value) != shown:
            return None
    return digits, value


def test_every_solution_is_right_by_pythons_own_arithmetic() -> None:
    for problem in PROBLEMS:
        for solution in problem.solutions:
            worked = calculator(solution)
            assert worked is not None
            assert (sorted(worked[0]), worked[1]) == (list(problem.digits), problem.target)
            assert chain_reaches(problem.prompt, solution)


@given(st.text(alphabet=CHAIN_ALPHABET, max_size=12), st.sampled_from(PROBLEMS))
def test_the_verifier_accepts_exactly_the_listed_solutions(text: str, problem: ChainProblem) -> None:
    assert chain_reaches(problem.prompt, text) == (text in problem.solutions)


@given(st.sampled_from(PROBLEMS), st.data())
def test_a_solution_with_one_character_changed_is_right_only_if_it_is_another(
    problem: ChainProblem, data: st.DataObject
) -> None:
    solution = data.draw(st.sampled_from(problem.solutions))
    place = data.draw(st.integers(0, len(solution) - 1))
    changed = solution[:place] + data.draw(st.sampled_from(CHAIN_ALPHABET)) + solution[place + 1 :]
    assert chain_reaches(problem.prompt, changed) == (changed in problem.solutions)


@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.lists(st.sampled_from("+-*"), min_size=2, max_size=2))
def test_any_chain_within_the_display_is_listed(numbers: list[int], operators: list[str]) -> None:
    values = [numbers[0]]
    for operator, number in zip(operators, numbers[1:], strict=True):
        values.append(eval(f"({values[-1]}){operator}{number}"))
    chain = str(numbers[0]) + "".join(
        f"{operator}{number}={value}"
        for operator, number, value in zip(operators, numbers[1:], values[1:], strict=True)
    )
    found = chain_value(chain)
    assert (found is not None) == all(0 <= value <= 99 for value in values)
    if found is not None:
        prompt = f"{''.join(map(str, sorted(numbers)))}>{values[-1]:02d}:"
        assert chain in BY_PROMPT[prompt].solutions


@pytest.mark.parametrize(
    "text",
    ["", "3", "3+", "3+4", "3+4=", "3+4=8", "3+4=07", "+3=3", "3**4=81", "3 +4=7", "3-4=-1", "9*9=81*9=729", "²+3=5"],
)
def test_what_no_calculator_shows(text: str) -> None:
    assert chain_value(text) is None
    assert not chain_reaches("34>07:", text)


def test_the_form_of_a_chain_is_not_its_truth() -> None:
    assert is_chain("3+4=8") and not is_chain("3+4") and not is_chain("3+4=08")


def test_a_prompt_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="no number chain"):
        chain_reaches("what is 3+4?", "3+4")
    with pytest.raises(UserError, match="2 to 5"):
        number_chains(6)


def test_splits_are_disjoint_and_whole() -> None:
    parts = {split: {problem.id for problem in chain_problems(split, 3)} for split in SPLITS}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == len(PROBLEMS)
    assert all(len(part) > 0.05 * len(PROBLEMS) for part in parts.values())
    with pytest.raises(UserError, match="did you mean 'train'"):
        chain_problems("training")


def test_strategies_reach_different_shares_and_many_problems_have_several() -> None:
    reach = [sum(any(chain_strategy(s) == k for s in p.solutions) for p in PROBLEMS) for k in range(3)]
    assert len(set(reach)) == 3 and min(reach) > 0
    assert sum(len({chain_strategy(s) for s in p.solutions}) > 1 for p in number_chains(4)) > 0.1 * len(
        number_chains(4)
    )


def test_prompts_and_chains_fit_the_tokenizer() -> None:
    tokenizer = TextTokenizer(character_tokenizer(CHAIN_ALPHABET))
    for problem in PROBLEMS[::97]:
        ids = tokenizer.encode_prompt(problem.prompt)
        assert len(ids) == len(problem.prompt) and tokenizer.eos_id not in ids
        completion = tokenizer.encode_completion(problem.solutions[0])
        assert tokenizer.decode(completion) == problem.solutions[0]
