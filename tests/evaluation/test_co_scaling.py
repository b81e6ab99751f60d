"""Co-scaling: the fit finds what made the data, the best temperature follows the samples, mistakes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.evaluation import co_scaling
from fionalm.evaluation.co_scaling import fit
from fionalm.sampling import SampleRecord


@settings(max_examples=50)
@given(st.floats(-4, -0.05), st.floats(-1.5, -0.05))
def test_the_fit_finds_what_made_the_data(a: float, b: float) -> None:
    ns = (1, 2, 4, 8, 16)
    found = fit(ns, np.exp(a * np.array(ns, dtype=float) ** b))
    assert found == pytest.approx((a, b), rel=1e-6)


def test_values_of_zero_and_one_have_no_logarithm() -> None:
    assert fit((1, 2, 4), np.array([0.5, 0.75, 1.0])) == pytest.approx(fit((1, 2), np.array([0.5, 0.75])))
    assert all(map(math.isnan, fit((1, 2), np.array([0.0, 0.5]))))


def drawn(temperature: float, right: list[int], of: int = 16) -> list[SampleRecord]:
    """Return `of` samples of each problem, as many right as told."""
    return [
        SampleRecord(
            problem=str(problem),
            sample=int(1000 * temperature) + index,
            prompt="q",
            completion="c",
            temperature=temperature,
            reward=float(index < count),
        )
        for problem, count in enumerate(right)
        for index in range(of)
    ]


def test_the_best_temperature_grows_with_n() -> None:
    # Cold: half the problems always; hot: all, each seldom.
    records = drawn(0.3, [16, 16, 0, 0] * 5) + drawn(1.0, [5, 6, 4, 3] * 5)
    found = co_scaling(records)
    assert found.temperatures == (0.3, 1.0) and found.ns == (1, 2, 4, 8, 16) and found.problems == 20
    assert found.best[0].estimate == 0.3 and found.best[-1].estimate == 1.0
    assert found.grid[0][4].estimate == 0.5 and found.grid[1][4].estimate == 1.0
    # Nothing changes with N when cold: b is 0, and exp(a) is the constant.
    assert found.b[0].estimate == pytest.approx(0, abs=1e-9) and math.exp(found.a[0].estimate) == pytest.approx(0.5)
    assert found.b[1].estimate < -0.5 and found.a[1].high <= 0
    assert found.fitted(1, 2) == pytest.approx(found.grid[1][1].estimate, abs=found.error[1] + 1e-9)
    json.dumps(found.to_dict())


def test_only_problems_that_all_temperatures_have_count() -> None:
    found = co_scaling(drawn(0.5, [4, 16, 0], 16) + drawn(1.0, [8, 8], 16), ns=(1, 4))
    assert found.problems == 2
    assert found.grid[0][0].estimate == pytest.approx((4 / 16 + 1) / 2)


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        (drawn(0.5, [1]), "at 1 temperatures: expected two or more"),
        ([*drawn(0.5, [1]), SampleRecord("other", 0, "q", "c", temperature=1.0, reward=1.0)], "no problem has"),
    ],
)
def test_mistakes(records: list[SampleRecord], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        co_scaling(records)


def test_an_n_above_the_samples_is_refused() -> None:
    with pytest.raises(UserError, match="N 32 with 8 judged samples"):
        co_scaling(drawn(0.5, [1, 2], 16) + drawn(1.0, [1, 2], 8), ns=(1, 32))
