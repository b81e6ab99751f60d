"""A model of a knowledge graph as a trial: train it, draw objects, measure how much of them it made up.

    runs = [triple_run(base, size=size, epochs=epochs, seed=seed) for ...]
    outcomes = run_sweep(hallucination_trials(runs, Measures(), models="runs/kg/models"))

Sizes are written WIDTHxLAYERS. The model of a trial is kept in a run folder, for detectors to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fionalm.data.knowledge.config import TripleConfig
from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig, flops_per_token
from fionalm.sweeps.training_trial import training_trials
from fionalm.sweeps.trial import Trial
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.data.knowledge.corpus import TripleCorpus

SAMPLE_BATCH = 256
OBJECT_SECONDS = 4e-4
"""To draw an object on one core, for scheduling."""


@dataclass(frozen=True)
class Measures:
    """What is drawn from each model."""

    pairs: int = 200
    """Pairs of each split (fully visible, partially visible, invisible) at most."""
    samples: int = 16
    """Objects of a pair; at temperature 0 one, since all would be the same."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures that objects are drawn at; hallucination rates are meant at 1."""
    seed: int = 0
    """Of the choice of pairs and of the draws."""

    def __post_init__(self) -> None:
        for name in ("pairs", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: expected at least 1")
        if not self.temperatures or not all(0 <= one < math.inf for one in self.temperatures):
            given = " ".join(f"{one:g}" for one in self.temperatures) or "without values"
            raise UserError(f"temperatures {given}: expected one or more numbers of 0 or more")


@dataclass(frozen=True)
class TripleRun:
    """A training run on triples, with what it is plotted and fitted against."""

    config: TrainConfig
    epochs: float
    triples: int
    """Trained on."""
    flops: float
    """Of training; padding is not counted."""

    @property
    def parameters(self) -> int:
        """Without embeddings and head, as the paper counts."""
        return self.config.model.num_parameters(embeddings=False)

    @property
    def name(self) -> str:
        """A folder's name that no other run of one sweep has."""
        model, data = self.config.model, self.config.data
        share = f"-{data.fraction:g}" if isinstance(data, TripleConfig) and data.fraction != 1 else ""
        return f"{model.d_model}x{model.n_layers}-{self.epochs:g}epochs{share}-seed{self.config.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the configuration aside."""
        model, data = self.config.model, self.config.data
        return {
            "name": self.name,
            "size": f"{model.d_model}x{model.n_layers}",
            "parameters": self.parameters,
            "epochs": self.epochs,
            "triples": self.triples,
            "fraction": data.fraction if isinstance(data, TripleConfig) else 1.0,
            "seed": self.config.seed,
            "flops": self.flops,
        }


def triple_run(
    base: TrainConfig,
    *,
    size: str | None = None,
    epochs: float,
    seed: int | None = None,
    fraction: float | None = None,
    corpus: TripleCorpus | None = None,
) -> TripleRun:
    """Return `base` with a size, a number of epochs, a seed and a share of the graph.

    The vocabulary and the positions are made to fit the graph; warm-up is a tenth of the steps at most.

    Args:
        base: its data is a `TripleConfig`.
        size: WIDTHxLAYERS; heads keep their size, or their number where the width is no multiple of it. None: base's.
        epochs: times that each triple is trained on; a fraction of one will do.
        seed: None: base's.
        fraction: of the graph; None: base's.
        corpus: `load_triples` of the base's data with that fraction, in place of loading it anew for each run.

    Raises:
        UserError: a size that no decoder has, no epochs, or data that is no graph.
    """
    from fionalm.data.knowledge import load_triples

    if not isinstance(base.data, TripleConfig):
        raise UserError("the run's data is a text corpus: expected a knowledge graph")
    if not 0 < epochs < math.inf:
        raise UserError(f"epochs {epochs:g}: expected a number above 0")
    # Long enough for any triple, until the longest is known.
    data = replace(base.data, seq_len=1 << 20, fraction=base.data.fraction if fraction is None else fraction)
    corpus = load_triples(data) if corpus is None else corpus
    longest = max(int(rows.lengths.max(initial=0)) for rows in (corpus.train, corpus.validation)) - 1
    model = replace(
        base.model if size is None else sized(base.model, size),
        vocab_size=corpus.vocab_size,
        max_seq_len=longest + corpus.longest_object,  # a prompt is shorter than its triple
    )
    n = len(corpus.train)
    steps = math.ceil(epochs * n / base.batch_size - 1e-6)  # epochs may have come from steps
    schedule = replace(base.schedule, warmup_steps=min(base.schedule.warmup_steps, steps // 10))
    config = replace(
        base,
        model=model,
        data=replace(data, seq_len=longest),
        steps=steps,
        schedule=schedule,
        seed=base.seed if seed is None else seed,
        log_every=max(1, min(base.log_every, steps // 10)),
    )
    targets = float(corpus.train.lengths.mean()) - 1
    flops = steps * config.batch_size * targets * flops_per_token(model, round(targets))
    return TripleRun(config, epochs, n, flops)


def sized(model: DecoderConfig, size: str) -> DecoderConfig:
    """Return `model` with the width and layers of WIDTHxLAYERS.

    Raises:
        UserError: other words, or a width that its heads cannot share.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if found is None:
        raise UserError(f"size {size!r}: expected WIDTHxLAYERS, such as 64x2")
    width, layers = int(found[1]), int(found[2])
    heads = model.n_heads if width % model.head_size else width // model.head_size
    kv_heads = model.n_kv_heads if model.n_kv_heads is None else max(1, heads * model.n_kv_heads // model.n_heads)
    d_ff = None if model.d_ff is None else max(1, round(model.d_ff * width / model.d_model))
    return replace(model, d_model=width, n_layers=layers, n_heads=heads, n_kv_heads=kv_heads, d_ff=d_ff)


def hallucination_trials(
    runs: Iterable[TripleRun], measures: Measures, *, models: str | Path | None = None
) -> list[Trial]:
    """Return the trials that train and measure `runs`.

    Args:
        runs: of `triple_run`.
        measures: what is drawn from each.
        models: folder that gets a run folder for each model, under its name; None: models are not kept.
    """
    runs = list(runs)
    kept = None if models is None else str(Path(models).resolve())
    trained = training_trials([run.config for run in runs])
    return [
        Trial(
            f"{__name__}:run_trial",
            {"run": run.to_dict(), "train": trial.config, "measures": vars(measures), "models": kept},
            cost=trial.cost + 3 * measures.pairs * measures.samples * len(measures.temperatures) * OBJECT_SECONDS,
        )
        for run, trial in zip(runs, trained, strict=True)
    ]


def run_trial(values: dict[str, Any]) -> dict[str, Any]:
    """Train and measure what `hallucination_trials` wrote down; return the run, its loss and its measures."""
    import tempfile

    train_values = {key: value for key, value in values["train"].items() if key != "files"}
    config = TrainConfig.from_dict(train_values)
    measures = Measures(**{**values["measures"], "temperatures": tuple(values["measures"]["temperatures"])})
    run = values["run"]
    if values["models"] is not None:
        return _trained_and_measured(config, run, measures, Path(values["models"]) / run["name"])
    with tempfile.TemporaryDirectory() as folder:
        return _trained_and_measured(config, run, measures, Path(folder) / "run")


def _trained_and_measured(config: TrainConfig, run: dict[str, Any], measures: Measures, out: Path) -> dict[str, Any]:
    from fionalm.data.knowledge import load_triples
    from fionalm.evaluation.hallucination import choose_pairs, measure_hallucination, sample_objects
    from fionalm.models import load_model
    from fionalm.sampling import EngineSampler
    from fionalm.training import train

    assert isinstance(config.data, TripleConfig)
    result = train(config, out=out, quiet=True)
    found = {
        **run,
        "final_loss": result.final_loss,
        "train_loss": result.losses[-1][1] if result.losses else math.inf,
        "seconds": result.seconds,
        "diverged": result.diverged,
    }
    if result.diverged:
        return {**found, "measures": []}
    corpus = load_triples(config.data)
    sampler = EngineSampler(load_model(out)[0], corpus.tokenizer, max_batch=SAMPLE_BATCH)
    pairs = choose_pairs(corpus.split, measures.pairs, seed=measures.seed)
    generated = sample_objects(
        sampler,
        corpus.tokens,
        corpus.split,
        pairs,
        temperatures=measures.temperatures,
        samples=measures.samples,
        max_tokens=corpus.longest_object,
        seed=measures.seed,
    )
    measured = measure_hallucination(generated, corpus.split)
    return {**found, "measures": [one.to_dict() for one in measured]}
