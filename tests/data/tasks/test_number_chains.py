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
    number_chains,
)
from fionalm.data.tasks.splits import SPLITS
from fionalm.errors import UserError

PROBLEMS = number_chains(3)
BY_PROMPT = {problem.prompt: problem for problem in PROBLEMS}


def left_to_right(chain: str) -> int:
    """Evaluate with Python's own arithmetic: every prefix in brackets, so that precedence never matters."""
    text = chain[0]
    for index in range(1, len(chain), 2):
        text = f"({text}{chain[index : index + 2]})"
    return eval(text)


def test_every_solution_is_right_by_pythons_own_arithmetic() -> None:
    for problem in PROBLEMS:
        for solution in problem.solutions:
            assert left_to_right(solution) == problem.target
            assert sorted(map(int, solution[::2])) == list(problem.digits)
            assert chain_reaches(problem.prompt, solution) is True


@given(st.text(alphabet=CHAIN_ALPHABET, max_size=7), st.sampled_from(PROBLEMS))
def test_the_verifier_accepts_exactly_the_listed_solutions(text: str, problem: ChainProblem) -> None:
    assert (chain_reaches(problem.prompt, text) is True) == (text in problem.solutions)


@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.lists(st.sampled_from("+-*"), min_size=2, max_size=2))
def test_any_chain_that_reaches_a_target_is_listed(numbers: list[int], operators: list[str]) -> None:
    chain = f"{numbers[0]}{operators[0]}{numbers[1]}{operators[1]}{numbers[2]}"
    value = left_to_right(chain)
    prompt = f"{''.join(map(str, sorted(numbers)))}>{value:02d}:"
    assert (prompt in BY_PROMPT) == (0 <= value <= 99)
    if prompt in BY_PROMPT:
        assert chain in BY_PROMPT[prompt].solutions


@pytest.mark.parametrize("text", ["", "3+", "+3", "3+4=", "3**4", "34", "3 +4", "3+-4", "²+3"])
def test_what_is_no_chain(text: str) -> None:
    assert chain_value(text) is None
    assert chain_reaches("34>07:", text) is None


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
