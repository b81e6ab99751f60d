"""Fits of hallucination: the truth is found again where there is one, and what was not trained is called so."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.evaluation.hallucination_fits import RateFit, RateRun, fit_rates

SIZES, EPOCHS, TRIPLES = (1_000, 8_000, 64_000), (2.0, 8.0, 32.0), (500, 2_000)


def rate_of(parameters: float, epochs: float, triples: float, shift: float = 0.0) -> float:
    odds = 3 - 0.5 * math.log(parameters) - 0.9 * math.log(epochs) + 0.3 * math.log(triples) + shift
    return 1 / (1 + math.exp(-odds))


def made(seeds: int = 3, noise: float = 0.0, sizes=SIZES, epochs=EPOCHS, triples=TRIPLES) -> list[RateRun]:
    generator = np.random.default_rng(0)
    return [
        RateRun(
            n, e, d, rate_of(n, e, d, noise * generator.standard_normal()), 10**9, seed, 6.0 * n * e * d, f"size {n}"
        )
        for n in sizes
        for e in epochs
        for d in triples
        for seed in range(seeds)
    ]


@given(st.floats(500, 1e6), st.floats(1, 100), st.floats(100, 1e5))
def test_the_line_is_found_again_and_solved(parameters, epochs, triples):
    fit = FIT
    assert fit.predict(parameters, epochs, triples).estimate == pytest.approx(
        rate_of(parameters, epochs, triples), rel=1e-4
    )
    rate = rate_of(parameters, epochs, triples)
    if 1e-6 < rate < 1 - 1e-6:
        assert fit.epochs_for(rate, parameters, triples).interval.estimate == pytest.approx(epochs, rel=1e-3)
        assert fit.parameters_for(rate, epochs, triples).interval.estimate == pytest.approx(parameters, rel=1e-3)


FIT: RateFit = replace(fit_rates(made(seeds=1)))


def test_slopes_cover_the_truth_with_noise():
    fit = fit_rates(made(seeds=8, noise=0.3))
    slopes = fit.slopes()
    for name, truth in (("parameters", -0.5), ("epochs", -0.9), ("triples", 0.3)):
        interval = slopes[name]
        assert interval.low < truth * math.log(2) < interval.high
        assert interval.high - interval.low < 0.4
    assert fit.r_squared > 0.95
    assert fit.error < 0.1 and fit.left_out_error < 0.15
    json.dumps(fit.to_dict())


def test_the_answer_is_the_cheapest_that_was_trained_to_it():
    answer = fit_rates(made(seeds=4, noise=0.05)).answer(0.2, triples=500)
    best = answer.best
    assert best is not None
    needed = math.exp((3 - 0.5 * math.log(best.parameters) + 0.3 * math.log(500) - math.log(0.2 / 0.8)) / 0.9)
    assert best.epochs.interval.low < needed < best.epochs.interval.high
    assert 2 <= needed <= 32
    inside = [one for one in answer.options if not one.epochs.beyond and not one.epochs.extrapolated]
    assert best.flops == min(one.flops for one in inside)
    assert "95%" in answer.sentence
    if best.measured is not None:
        assert rate_of(best.parameters, best.measured, 500) < 0.25


def test_what_was_not_trained_is_called_extrapolation():
    fit = fit_rates(made(seeds=3, noise=0.05))
    answer = fit.answer(0.001, triples=500)
    assert answer.best is None
    assert all(one.epochs.extrapolated for one in answer.options)
    assert "outside of what was trained" in answer.sentence and "by extrapolation" in answer.sentence
    assert answer.lowest_rate > 0.001
    assert all(one.measured is None for one in answer.options)
    easy = fit.answer(0.9999, triples=500)
    assert easy.best is None
    assert "fewer epochs than were trained" in easy.sentence


def test_epochs_that_do_not_help_are_no_way_to_the_rate():
    runs = [replace(run, rate=0.6 - 0.1 * (run.epochs == 2)) for run in made(triples=(500,))]
    answer = fit_rates(runs).answer(0.05)
    assert all(math.isinf(one.epochs.interval.estimate) for one in answer.options)
    assert "out of reach" in answer.sentence


def test_one_seed_has_no_interval_and_says_so():
    answer = fit_rates(made(seeds=1)).answer(0.2, triples=500)
    assert answer.best is not None
    assert math.isnan(answer.best.epochs.interval.low)
    assert "one seed" in answer.sentence


def test_resamples_in_which_epochs_do_not_help_make_the_interval_endless():
    runs = [
        replace(run, rate=rate_of(run.parameters, run.epochs if run.seed else 64 / run.epochs, 500))
        for run in made(seeds=3, triples=(500,))
    ]
    needed = fit_rates(runs).epochs_for(0.2, 64_000, 500)
    assert math.isfinite(needed.interval.estimate)
    assert math.isinf(needed.interval.high) and needed.beyond


def test_one_number_of_epochs_answers_by_size():
    answer = fit_rates(made(epochs=(8.0,), triples=(500,))).answer(0.2)
    assert answer.best is None
    assert "at 8 epochs, the only number that was trained" in answer.sentence
    ((_, needed),) = answer.sizes
    assert rate_of(needed.interval.estimate, 8, 500) == pytest.approx(0.2, rel=1e-3)


def test_terms_are_those_that_the_runs_can_tell_apart():
    assert set(fit_rates(made(triples=(500,))).terms) == {(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)}
    assert set(fit_rates(made(sizes=(8_000,), triples=(500,))).terms) == {(0, 0, 0), (0, 1, 0)}
    assert set(fit_rates(made(sizes=(1_000, 8_000), epochs=(2.0, 8.0), triples=(500,))).terms) == {
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 0),
    }
    # Twice as large a model always trained twice as long: one of the two is told, not both.
    tied = [run for run in made(epochs=(2.0, 8.0, 32.0), triples=(500,)) if (run.parameters, run.epochs) in TIED]
    assert set(fit_rates(tied).terms) == {(0, 0, 0), (1, 0, 0)}


TIED = {(1_000, 2.0), (8_000, 8.0)}


def test_a_missing_run_of_a_seed_is_borne():
    runs = made(seeds=3, noise=0.05)
    fit = fit_rates(runs[1:])
    assert fit.predict(8_000, 8, 500).low < rate_of(8_000, 8, 500) < fit.predict(8_000, 8, 500).high


def test_rates_at_the_ends_are_borne():
    runs = [replace(run, rate=0.0 if run.epochs > 2 else 1.0, pairs=50) for run in made()]
    fit = fit_rates(runs)
    assert 0 < fit.predict(1_000, 32, 500).estimate < 0.1


def test_mistakes_are_named():
    with pytest.raises(UserError, match="1 setting of size, epochs and data"):
        fit_rates(made(sizes=(8_000,), epochs=(2.0,), triples=(500,)))
    with pytest.raises(UserError, match="two runs of 1,000 parameters, 2 epochs"):
        fit_rates([made()[0], made()[0], made()[-1]])
    with pytest.raises(UserError, match="rate 1.5"):
        fit_rates([replace(made()[0], rate=1.5)])
    with pytest.raises(UserError, match="rate 5"):
        FIT.answer(5)
