from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import bradley_terry, label_histogram, skewed, stairs, vote_share
from fionalm.errors import UserError

labels = st.lists(st.floats(0, 1), min_size=1, max_size=200)
EDGES = np.linspace(0.5, 1, 6)


def confidences(chosen: list[float]) -> list[int]:
    return np.histogram([max(p, 1 - p) for p in chosen], EDGES)[0].tolist()


@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(0, 3))
def test_bradley_terry_is_a_probability_that_swaps(first: float, second: float, scale: float) -> None:
    p = bradley_terry(first, second, scale)
    assert 0 <= p <= 1
    assert p + bradley_terry(second, first, scale) == pytest.approx(1)
    if abs(scale * (first - second)) < 30:
        assert math.log(p / (1 - p)) == pytest.approx(scale * (first - second), abs=1e-3)


def test_votes() -> None:
    assert vote_share(3, 1) == 0.75
    assert vote_share(3, 0, prior=1) == 0.8
    with pytest.raises(UserError, match="0 votes for chosen and 0 for rejected"):
        vote_share(0, 0)
    with pytest.raises(UserError, match="expected at least one"):
        vote_share(-1, 3)
    with pytest.raises(UserError, match="expected finite numbers"):
        bradley_terry(math.inf, 0)


@given(labels, st.integers(1, 30))
def test_histograms_count_every_label_once(values: list[float], bins: int) -> None:
    counts = label_histogram(values, bins)
    assert len(counts) == bins and sum(counts) == len(values)
    assert counts[-1] >= sum(p == 1 for p in values)


def test_a_label_that_is_no_probability_names_its_row() -> None:
    for wrong in (math.nan, 1.1):
        with pytest.raises(UserError, match="row 2 is"):
            label_histogram([0.5, wrong])


def test_shapes() -> None:
    values = np.random.default_rng(0).random(20_000).tolist()
    falling = confidences([values[row] for row in skewed(values, 1_000)])
    assert falling == [516, 258, 129, 64, 32]
    assert confidences([values[row] for row in stairs(values, 1_500)]) == [500, 400, 300, 200, 100]


@given(labels, st.integers(1, 300), st.integers(0, 3), st.sampled_from([skewed, stairs]))
def test_re_samplings_are_seeded_and_draw_no_row_twice(values: list[float], size: int, seed: int, draw) -> None:
    try:
        rows = draw(values, size, seed=seed)
    except UserError as error:
        assert "cannot be re-sampled" in str(error)
        return
    assert rows == draw(values, size, seed=seed) == sorted(set(rows))
    assert 1 <= len(rows) <= size and set(rows) <= set(range(len(values)))
    counts = confidences([values[row] for row in rows])
    assert all(before >= after for before, after in pairwise(counts))


def test_too_few_sure_rows_shrink_all_bins() -> None:
    values = [0.55] * 100 + [0.65] * 100 + [0.75] * 100 + [0.85] * 100 + [0.95] * 2
    assert confidences([values[row] for row in skewed(values, 400)]) == [32, 16, 8, 4, 2]
    with pytest.raises(UserError, match="100, 100, 100, 100, 0 rows"):
        skewed(values[:-2], 400)
