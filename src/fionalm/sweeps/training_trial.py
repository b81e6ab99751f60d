"""A training run as a trial: from the JSON of a `TrainConfig` to that of a `TrainResult`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fionalm.errors import choice_error
from fionalm.sweeps.trial import Trial
from fionalm.training.config import TrainConfig

PROBES = ("stability", "alignment")


def training_trial(config: TrainConfig, *, probes: Sequence[str] = PROBES) -> Trial:
    """Return the trial that trains `config`.

    Args:
        config: with a `probe_every` over 0 for the probes to measure.
        probes: names among `PROBES`, whose metrics join the result's.

    Raises:
        UserError: an unknown probe.
    """
    for name in probes:
        if name not in PROBES:
            raise choice_error("probe", name, PROBES)
    values = config.to_dict()
    if config.probe_every:
        values["probes"] = sorted(probes)
    return Trial(f"{__name__}:run", values, cost=expected_seconds(config))


def run(values: dict[str, Any]) -> dict[str, Any]:
    """Train the configuration that `training_trial` wrote down."""
    from fionalm.scaling import AlignmentProbe, StabilityProbe
    from fionalm.training import train

    known = {"stability": StabilityProbe, "alignment": AlignmentProbe}
    values = dict(values)
    probes = [known[name] for name in values.pop("probes", ())]
    return train(TrainConfig.from_dict(values), probes=probes, quiet=True).to_dict()


def expected_seconds(config: TrainConfig) -> float:
    """Estimate a run's time on one core, for scheduling and the time left: only ratios are meant to hold.

    A step takes 3 ms whatever its size, its matrix products at 60 GFLOP/s, and 100 ns for the elementwise
    work on each layer's activations per token and unit of width: fitted to one thread at widths 16 to 64.
    """
    model, tokens = config.model, config.tokens_per_step
    flops = model.flops_per_token(config.data.seq_len) * tokens
    return config.steps * (3e-3 + flops / 60e9 + 1e-7 * tokens * model.d_model * model.n_layers)
