"""Win rates: by hand, Wilcoxon against counting every sign, mistakes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.evaluation import wilcoxon, win_rate


def test_rates_by_hand() -> None:
    found = win_rate([[0.9, 0.7], [0.2, 0.4], [0.8, 0.2], [0.6, 0.6]])
    assert found.binary.estimate == (1 + 0 + 0.5 + 1) / 4
    assert found.percentage.estimate == pytest.approx((0.8 + 0.3 + 0.5 + 0.6) / 4)
    assert found.consistent == 3 / 4
    assert found.shown_first == pytest.approx((0.2 - 0.2 + 0.6 + 0.0) / 4)
    assert found.binary.low <= found.binary.estimate <= found.binary.high
    assert win_rate([0.5, 0.5]).p_value == 1.0 and win_rate([0.5, 0.5]).consistent is None


@settings(max_examples=20)
@given(st.lists(st.floats(0.001, 0.499), min_size=3, max_size=9, unique=True), st.data())
def test_wilcoxon_counts_every_sign(sizes: list[float], data: st.DataObject) -> None:
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes)))
    ranks = np.argsort(np.argsort(sizes)) + 1
    middle = ranks.sum() / 2
    observed = abs(ranks[np.array(signs) > 0].sum() - middle)
    all_signs = itertools.product([0, 1], repeat=len(sizes))
    extreme = np.mean([abs(np.dot(one, ranks) - middle) >= observed - 1e-9 for one in all_signs])
    assert wilcoxon(np.array(sizes) * signs) == pytest.approx(extreme)


def test_a_sure_win_is_significant_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    assert win_rate(np.clip(rng.normal(0.7, 0.1, 60), 0, 1)).p_value < 1e-6
    surprising = np.mean([wilcoxon(rng.uniform(-0.5, 0.5, size=30)) < 0.1 for _ in range(300)])
    assert surprising == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 300))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [([], "shape"), ([[0.1, 0.2, 0.3]], "both orders"), ([0.5, 1.2], "prompt 2 is 1.2"), ([math.nan], "prompt 1")],
)
def test_mistakes(values: list[float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        win_rate(values)
