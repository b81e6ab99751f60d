"""What the runs of `training-instabilities` say about its claims."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fionalm.report import measure
from fionalm.report.claims import Claim, Measured
from fionalm.scaling.prediction import InstabilityPrediction, predict_instability
from fionalm.statistics import Interval, bootstrap
from fionalm.studies.training_instabilities.claims import CLAIMS
from fionalm.studies.training_instabilities.results import Results
from fionalm.studies.training_instabilities.runs import (
    DECAY_COUPLED,
    DECAY_INDEPENDENT,
    DECAY_ONLY,
    DEFAULT,
    EPS_LARGE,
    EPS_LRS,
    EPS_SMALL,
    NONE,
    QK_NORM,
    WARMUP_LONG,
    WARMUP_SHORT,
    Arm,
    training_run,
)

BY_ID: dict[str, Claim] = {claim.id: claim for claim in CLAIMS}
ATTENTION = "probe/attn_logit_max/all"
GRADIENT = "probe/grad_rms/all"
LOG_Z = "probe/log_z_mean_square"
THRESHOLD = 1e4
HIGHEST_LRS = 3


def measure_claims(results: Results) -> Iterator[Measured]:
    """Yield every claim with its interval over seeds, except where its detail says otherwise."""
    config, largest = results.config, max(results.config.widths)
    seeds = config.seeds

    with_norm = results.largest_trained_lr(QK_NORM, (NONE,), largest)
    without = results.largest_trained_lr(NONE, (QK_NORM,), largest)
    decades = np.log10(with_norm) - np.log10(without)
    yield measure(BY_ID["qk-layernorm-survives"], _mean(decades), n=seeds)

    ratio = bootstrap(
        lambda none, norm: float(none.mean() / norm.mean()),
        results.sensitivities(NONE, largest),
        results.sensitivities(QK_NORM, largest),
        paired=True,
    )
    yield measure(BY_ID["qk-layernorm-sensitivity"], ratio, n=seeds)

    rising = results.rising_runs(NONE, ATTENTION)
    growth = np.array([math.log10(value / reference) for _, _, value, reference in rising if value > 0 < reference])
    interval = bootstrap(lambda drawn: float(np.median(drawn)), growth) if len(growth) else _nothing()
    yield measure(BY_ID["attention-logits-precede"], interval, n=len(growth))

    width = config.arm_width
    yield measure(BY_ID["z-loss-holds-log-z"], _log_z_gain(results, DEFAULT, width), n=seeds)
    yield measure(BY_ID["weight-decay-holds-log-z"], _log_z_gain(results, DECAY_ONLY, width), n=seeds)
    for claim, worse, better in (
        ("longer-warmup", WARMUP_SHORT, WARMUP_LONG),
        ("independent-decay", DECAY_COUPLED, DECAY_INDEPENDENT),
    ):
        gain = results.sensitivities(worse, width) - results.sensitivities(better, width)
        yield measure(BY_ID[claim], _mean(gain), n=seeds)

    by_size = np.stack([results.sensitivities(NONE, width) for width in config.widths], axis=1)
    yield measure(BY_ID["sensitivity-grows"], _slope(np.log10(sizes(results)), by_size), n=seeds)
    yield measure(BY_ID["attention-logits-predicted"], _prediction_factor(results), n=seeds)
    gradients = np.stack([_trained_gradient(results, width) for width in config.widths], axis=1)
    yield measure(BY_ID["gradients-shrink"], _slope(np.log(sizes(results)), gradients), n=seeds)
    correlations = np.array([_epsilon_correlation(results, seed) for seed in results.seeds])
    mean = bootstrap(lambda drawn: float(drawn.mean()), correlations, bounds=(-1.0, 1.0))
    yield measure(BY_ID["epsilon-shrinks-smallest-first"], mean, n=seeds)


def sizes(results: Results) -> np.ndarray:
    """Return the number of parameters at each width, embeddings included."""
    config = results.config
    return np.array(
        [
            training_run(config, NONE, width, 0, config.lrs[0]).model.num_parameters(embeddings=True)
            for width in config.widths
        ],
        dtype=float,
    )


def predict(results: Results, seeds: list[int]) -> InstabilityPrediction | None:
    """Fit the maximum attention logits of all sizes but the largest; None with too few sizes or runs."""
    from fionalm.errors import UserError

    config, counts = results.config, sizes(results)
    points = []
    for row, width in enumerate(config.widths[:-1]):
        highest = results.highest(NONE, width, ATTENTION)[seeds].mean(axis=0)
        points += [(counts[row], lr, value) for lr, value in zip(config.lrs, highest, strict=True)]
    kept = [point for point in points if math.isfinite(point[2])]
    if len({size for size, _, _ in kept}) < 2:
        return None
    fitted_sizes, lrs, values = zip(*kept, strict=True)
    try:
        return predict_instability(fitted_sizes, lrs, values, THRESHOLD)
    except UserError:
        return None


def _prediction_factor(results: Results) -> Interval:
    size, largest = sizes(results)[-1], results.config.widths[-1]

    def factor(drawn: np.ndarray) -> float:
        seeds = [int(seed) for seed in drawn]
        prediction = predict(results, seeds)
        if prediction is None:
            return math.nan
        measured = results.highest(NONE, largest, ATTENTION)[seeds].mean(axis=0)
        errors = [
            abs(math.log(prediction.predict(size, lr).estimate / value))
            for lr, value in zip(results.config.lrs, measured, strict=True)
            if math.isfinite(value) and (prediction.joint or lr in prediction.fits)
        ]
        return math.exp(float(np.median(errors))) if errors else math.nan

    return bootstrap(factor, np.arange(results.config.seeds), resamples=200, bounds=(1.0, math.inf))


def _log_z_gain(results: Results, cure: Arm, width: int) -> Interval:
    drift = np.sqrt(results.final(QK_NORM, width, LOG_Z)) - np.sqrt(results.final(cure, width, LOG_Z))
    return _mean(drift[:, -HIGHEST_LRS:].mean(axis=1))


def _trained_gradient(results: Results, width: int) -> np.ndarray:
    """Return each seed's log gradient RMS, mean over training's second half and the learning rates that train."""
    trained = results.largest_trained_lr(QK_NORM, (), width)
    values = []
    for seed in results.seeds:
        logs = []
        for lr in results.config.lrs:
            if lr <= trained.min():
                series = list(results.series(QK_NORM, width, seed, lr, GRADIENT).values())
                logs += [math.log(v) for v in series[len(series) // 2 :] if 0 < v < math.inf]
        values.append(np.mean(logs) if logs else math.nan)
    return np.array(values)


def _epsilon_correlation(results: Results, seed: int) -> float:
    gradients, ratios = [], []
    for width in results.config.widths:
        for lr in EPS_LRS:
            for group in _groups(results, width, seed, lr):
                gradient, small, large = (
                    _typical(list(results.series(arm, width, seed, lr, f"probe/{what}/{group}").values()))
                    for arm, what in (
                        (EPS_SMALL, "grad_rms"),
                        (EPS_SMALL, "update_rms"),
                        (EPS_LARGE, "update_rms"),
                    )
                )
                if gradient > 0 and small > 0 and math.isfinite(gradient * small * large):
                    gradients.append(gradient)
                    ratios.append(large / small)
    if len(gradients) < 3:
        return math.nan
    first, second = (np.argsort(np.argsort(values)) for values in (gradients, ratios))
    return float(np.asarray(np.corrcoef(first, second))[0, 1])


def _groups(results: Results, width: int, seed: int, lr: float) -> list[str]:
    result = results.by_key[EPS_SMALL.name, width, seed, lr] or {}
    names = {name for row in result.get("metrics", ()) for name in row if name.startswith("probe/update_rms/")}
    return sorted(name.removeprefix("probe/update_rms/") for name in names if not name.endswith("/all"))


def _typical(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan


def _slope(x: np.ndarray, by_seed: np.ndarray) -> Interval:
    """Return the least-squares slope of `[seed, size]` values against `x`, with its interval over seeds."""
    return bootstrap(lambda drawn: float(np.polyfit(x, drawn.mean(axis=0), 1)[0]), by_seed)


def _mean(by_seed: np.ndarray) -> Interval:
    return bootstrap(lambda drawn: float(drawn.mean()), by_seed)


def _nothing() -> Interval:
    return Interval(math.nan, math.nan, math.nan)
