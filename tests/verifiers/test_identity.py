"""What verifiers say they are: options and sources, so that no run goes on with another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fionalm.verifiers import CachedVerifier, Verdict, describe, make_verifier


class Custom:
    """A verifier that says nothing of itself."""

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[Verdict]:
        return [Verdict("right", 1.0)] * len(completions)

    def method(self, prompts: Any, completions: Any) -> list[float]:
        return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("name", "options", "others"),
    [
        ("math", {}, {"timeout": 7.0}),
        ("number", {}, {"tolerance": 0.1}),
        ("exact", {"regex": "a"}, {"regex": "b"}),
        ("exact", {}, {"case": True}),
        ("code", {"unsafe_execution": True}, {"unsafe_execution": True, "timeout": 3.0}),
    ],
)
def test_options_tell_verifiers_apart(name: str, options: dict[str, Any], others: dict[str, Any]) -> None:
    first, same, other = (make_verifier(name, **given) for given in (options, options, others))
    with first, same, other:
        assert describe(first) == describe(same) == describe(CachedVerifier(first)) != describe(other)
        assert describe(first)["name"] == name
        json.dumps(describe(first))


def test_the_source_of_a_users_function_tells_it_from_others(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    found = []
    for value in (1, 1, 2):
        file.write_text(f"def judge(prompts, completions):\n    return [{value}] * len(completions)\n")
        found.append(describe(make_verifier(f"python:{file}:judge")))
    assert found[0] == found[1] != found[2]
    assert found[0]["name"] == "judge" and len(found[0]["function"]["source"]) == 16


def test_classes_and_bound_methods_have_a_name_and_a_source() -> None:
    assert describe(Custom())["name"] == "Custom" and describe(Custom())["source"]
    assert describe(Custom().method)["name"] == "method" and describe(Custom().method)["source"]
    assert describe(len) == {"name": "len", "source": None}
