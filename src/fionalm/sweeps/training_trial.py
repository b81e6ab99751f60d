"""A training run as a trial: from the JSON of a `TrainConfig` to that of a `TrainResult`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fionalm.errors import UserError, choice_error
from fionalm.sweeps.trial import Trial
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

PROBES = ("stability", "alignment")
"""What measures unless a trial says otherwise."""
ALL_PROBES = (*PROBES, "alignment_terms")
"""`alignment_terms` measures all five terms of `AlignmentProbe` on a fixed batch of held-out text."""


def training_trials(configs: Iterable[TrainConfig], *, probes: Sequence[str] = PROBES) -> list[Trial]:
    """Return the trials that train `configs`.

    A trial also holds the state of the files that it reads (size and time of change): one whose text, tokenizer or
    model changed is another trial.

    Args:
        configs: with a `probe_every` over 0 for the probes to measure.
        probes: names among `ALL_PROBES`, whose metrics join the result's.

    Raises:
        UserError: an unknown probe, or the two of alignment together.
    """
    for name in probes:
        if name not in ALL_PROBES:
            raise choice_error("probe", name, ALL_PROBES)
    if {"alignment", "alignment_terms"} <= set(probes):
        raise UserError("probes 'alignment' and 'alignment_terms' name their metrics alike: expected one of the two")
    trials = []
    states: dict[tuple[str | None, ...], str] = {}
    for config in configs:
        config = config.with_absolute_paths()
        values = config.to_dict()
        if config.probe_every:
            values["probes"] = sorted(probes)
        read = (*config.data.files.values(), config.model_path)
        if read not in states:
            states[read] = _state(config.input_files)
        if states[read]:
            values["files"] = states[read]
        trials.append(Trial(f"{__name__}:run", values, cost=expected_seconds(config)))
    return trials


def training_trial(config: TrainConfig, *, probes: Sequence[str] = PROBES) -> Trial:
    """Return the trial that trains `config`; as `training_trials`, which is faster for many."""
    return training_trials([config], probes=probes)[0]


def run(values: dict[str, Any]) -> dict[str, Any]:
    """Train the configuration that `training_trials` wrote down."""
    from fionalm.scaling import AlignmentProbe, StabilityProbe
    from fionalm.training import train

    values = {key: value for key, value in values.items() if key != "files"}
    names = values.pop("probes", ())
    config = TrainConfig.from_dict(values)
    known: dict[str, Any] = {"stability": StabilityProbe, "alignment": AlignmentProbe}
    if "alignment_terms" in names:
        known["alignment_terms"] = partial(AlignmentProbe, probe_batch=_held_out_batch(config))
    return train(config, probes=[known[name] for name in names], quiet=True).to_dict()


def _held_out_batch(config: TrainConfig) -> Tensor:
    """Return token ids [batch, seq] of the validation text, or of the training text where that is too short."""
    from fionalm.data import TripleConfig, evaluation_batches, load_corpus, load_triples

    if isinstance(config.data, TripleConfig):
        triples = load_triples(config.data)
        rows = triples.evaluation_rows(config.batch_size)
        if not len(rows):
            rows = triples.loader(config.batch_size, config.data.seq_len).batch(0)
        return rows[:, :-1].clamp_min(0)
    corpus, seq_len = load_corpus(config.data), config.data.seq_len
    tokens = corpus.validation if len(corpus.validation) > seq_len else corpus.train
    return evaluation_batches(tokens, config.batch_size, seq_len, 1)[0][:, :-1]


def _state(files: Sequence[Path]) -> str:
    """Hash files' names, sizes and times of change; empty if there are none."""
    lines = (f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if files else ""


def expected_seconds(config: TrainConfig) -> float:
    """Estimate a run's time on one core, for scheduling and the time left: only ratios are meant to hold.

    A step takes 3 ms whatever its size, its matrix products at 60 GFLOP/s, and 100 ns for the elementwise
    work on each layer's activations per token and unit of width: fitted to one thread at widths 16 to 64.
    """
    model, tokens = config.model, config.tokens_per_step
    flops = model.flops_per_token(config.data.seq_len) * tokens
    return config.steps * (3e-3 + flops / 60e9 + 1e-7 * tokens * model.d_model * model.n_layers)
