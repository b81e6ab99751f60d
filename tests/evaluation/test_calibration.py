"""Calibrators keep the order, fit what they are given, and refuse nothing that a study may meet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fionalm.errors import UserError
from fionalm.evaluation import Calibrator, calibration_error, fit_calibrator, reliability


def drawn(count: int = 4000, slope: float = 0.5, offset: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    scores = generator.normal(scale=3, size=count)
    return scores, generator.random(count) < 1 / (1 + np.exp(-(slope * scores + offset)))


def test_platt_finds_the_sigmoid_and_its_optimum() -> None:
    scores, labels = drawn()
    found = fit_calibrator(scores, labels)
    assert (found.slope, found.offset) == pytest.approx((0.5, -1.0), abs=0.1)
    targets = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))

    def loss(ab: np.ndarray) -> float:
        logits = ab[0] * scores + ab[1]
        return float(np.mean(np.logaddexp(0, logits) - targets * logits))

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    assert (found.slope, found.offset) == pytest.approx(tuple(best.x), abs=1e-4)


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_the_error_falls_and_the_order_stays(kind: str) -> None:
    scores, labels = drawn()
    found = fit_calibrator(scores[:2000], labels[:2000], kind)  # pyright: ignore[reportArgumentType]
    before = calibration_error(reliability(Calibrator("none")(scores[2000:]), labels[2000:]))
    after = calibration_error(reliability(found(scores[2000:]), labels[2000:]))
    assert before > 0.15 and after < 0.04
    grid = found(np.linspace(-9, 9, 50))
    assert (np.diff(grid) >= 0).all() and grid.min() >= 0 and grid.max() <= 1
    again = Calibrator.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again(scores), found(scores))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), max_size=12), st.sampled_from(["platt", "isotonic"]))
def test_any_rows_give_probabilities_in_order(rows: list[tuple[float, bool]], kind: str) -> None:
    scores, labels = [score for score, _ in rows], [label for _, label in rows]
    found = fit_calibrator(scores, labels, kind)  # pyright: ignore[reportArgumentType]
    grid = found(np.linspace(-60, 60, 25))
    assert np.isfinite(grid).all() and (np.diff(grid) >= -1e-12).all()
    assert bool(found.reason) == (len(set(labels)) < 2)


def test_a_reversed_detector_is_not_turned_round() -> None:
    scores, labels = drawn()
    found = fit_calibrator(-scores, labels)
    assert found.slope == 0 and found(0.0) == pytest.approx(labels.mean(), abs=1e-3)


def test_the_table_is_counted_by_hand() -> None:
    table = reliability([0.05, 0.15, 0.18, 1.0], [0, 1, 0, 1], bins=10)
    assert [(one.low, one.count, one.share) for one in table] == [(0.0, 1, 0.0), (0.1, 2, 0.5), (0.9, 1, 1.0)]
    assert calibration_error(table) == pytest.approx((1 * 0.05 + 2 * (0.5 - 0.165) + 0) / 4)
    with pytest.raises(UserError, match="between 0 and 1"):
        reliability([1.2], [1])
    with pytest.raises(UserError, match="empty"):
        calibration_error([])


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'platt'"):
        fit_calibrator([1.0], [1], "plat")  # pyright: ignore[reportArgumentType]
