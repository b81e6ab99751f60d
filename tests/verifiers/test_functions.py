"""Verifiers of one's own, and verifiers by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fionalm.errors import UserError
from fionalm.verifiers import FunctionVerifier, NumberVerifier, Verdict, make_verifier, reward_function

SOURCE = '''
def length(completions, **kwargs):
    """TRL's simplest example."""
    return [float(len(text) > 3) for text in completions]

def matches(prompts, completions, target):
    return [text == want for text, want in zip(completions, target)]

not_a_function = 3
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    return file


def test_a_function_in_trls_form(path: Path) -> None:
    with make_verifier(f"python:{path}:length") as verifier:
        verdicts = verifier(["p", "p"], ["yes!", "no"], anything=[1, 2])
    assert [(verdict.outcome, verdict.reward) for verdict in verdicts] == [("right", 1.0), ("wrong", 0.0)]


def test_only_the_columns_that_it_names_are_given(path: Path) -> None:
    verifier = make_verifier(f"python:{path}:matches")
    assert [v.reward for v in verifier(["p", "p"], ["a", "b"], target=["a", "a"], other=[1, 2])] == [1.0, 0.0]


def test_one_that_raises_on_some_is_an_error_for_those_alone() -> None:
    def fragile(completions):
        return [1.0 / len(text) for text in completions]

    verdicts = FunctionVerifier(fragile)(["p"] * 3, ["a", "", "bb"])
    assert [verdict.outcome for verdict in verdicts] == ["right", "error", "wrong"]
    assert verdicts[1].reward is None
    assert "ZeroDivisionError" in verdicts[1].detail
    assert verdicts[2].reward == 0.5


def test_what_is_no_reward_is_an_error() -> None:
    values = [None, float("nan"), "high", True, 2, Verdict("no_answer", 0.0)]
    verdicts = FunctionVerifier(lambda completions: values)([""] * 6, ["x"] * 6)
    assert [verdict.outcome for verdict in verdicts] == ["error", "error", "error", "right", "right", "no_answer"]


@pytest.mark.parametrize("value", [1.0, "ab", {"a": 1, "b": 2}, [1.0], None])
def test_another_shape_than_a_list_is_the_users_error(value: Any) -> None:
    with pytest.raises(UserError, match="expected a list of rewards"):
        FunctionVerifier(lambda completions: value)(["", ""], ["a", "b"])


def test_no_completions() -> None:
    assert FunctionVerifier(lambda completions: [])([], []) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maths", "unknown verifier 'maths'.*did you mean 'math'"),
        ("python:{path}", "names no function"),
        ("python:{path}:lenght", "no function 'lenght': it has length, matches; did you mean 'length'"),
        ("python:{path}:not_a_function", "no function 'not_a_function'"),
        ("python:{folder}/mime.py:length", "no file .*did you mean '.*mine.py'"),
        ("python:{folder}/broken.py:length", "cannot be imported: SyntaxError"),
    ],
)
def test_names_that_lead_nowhere(path: Path, name: str, words: str) -> None:
    (path.parent / "broken.py").write_text("def length(:")
    with pytest.raises(UserError, match=words):
        make_verifier(name.format(path=path, folder=path.parent))


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="has no option 'timeot': .*did you mean 'timeout'"):
        make_verifier("math", timeot=3)
    verifier = make_verifier("number", tolerance=0.5)
    assert verifier([""], ["1"], answer=["1.5"])[0].outcome == "right"


def test_a_verifier_as_trls_reward_function() -> None:
    reward = reward_function(NumberVerifier())
    assert reward.__name__ == "NumberVerifier"
    state = object()  # TRL hands over things that are no columns
    columns = {"answer": ["1", "2"], "trainer_state": state, "log_extra": len, "completion_ids": [[1], [2]]}
    assert reward(prompts=["", ""], completions=["1", "3"], **columns) == [1.0, 0.0]
