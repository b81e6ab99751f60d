"""Asking verifiers: their failures are outcomes, mistakes in the data are sentences."""

from __future__ import annotations

from typing import Any

import pytest

from fionalm.errors import UserError
from fionalm.verifiers import NumberVerifier, Verdict, check_judged, judged


def test_a_verifier_that_raises_has_failed_on_everything() -> None:
    def raises(*given: Any, **columns: Any) -> list[Verdict]:
        raise RuntimeError("could not start")

    found = judged(raises, ["q", "r"], ["a", "b"], {})
    assert found == [Verdict("error", None, detail="RuntimeError: could not start")] * 2
    with pytest.raises(UserError, match=r"none of the first 2 completions \(RuntimeError: could not start\)"):
        check_judged(found)
    check_judged([*found, Verdict("wrong", 0.0)])
    check_judged([])


def test_mistakes_in_the_data_and_in_the_verifier_are_said() -> None:
    with pytest.raises(UserError, match="answer"):
        judged(NumberVerifier(), ["q"], ["1"], {})
    with pytest.raises(UserError, match="returned 1 verdicts for 2 completions"):
        judged(lambda *_, **__: [Verdict("right", 1.0)], ["q", "r"], ["1", "2"], {})
    assert judged(NumberVerifier(), [], [], {}) == []
    assert judged(NumberVerifier(), ["q"], ["2"], {"answer": ["2"]})[0].outcome == "right"
