"""`fiona kg train`: one model of a knowledge graph, or many sizes and epochs through the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.knowledge import Graph, on_graph, spoken
from fionalm.commands.options import Flat, SweepOptions, WidthOptions, positive
from fionalm.data.knowledge.config import TripleConfig
from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.report import Chart
    from fionalm.sweeps import TripleRun

BASE = TrainConfig(
    model=DecoderConfig(d_model=64, n_layers=2, n_heads=2, norm="rmsnorm", mlp="silu_gated"),
    data=TripleConfig(),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(warmup_steps=50),
    batch_size=32,
    log_every=50,
)
"""What is trained if nothing is said: minutes on a laptop."""
EPOCHS = 20.0


@dataclass(frozen=True)
class MeasureOptions:
    """What is drawn from each model of a sweep."""

    pairs: Annotated[int, tyro.conf.arg(metavar="N")] = 200
    """Pairs of each split at most."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Objects of a pair."""
    temperatures: Annotated[tuple[float, ...], tyro.conf.arg(metavar="T...")] = (1.0,)
    """Temperatures that objects are drawn at; 1 belongs to them, for fiona kg fit."""


def train(
    graph: Graph,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/kg"),
    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WxL...")] = (),
    epochs: Annotated[tuple[float, ...], tyro.conf.arg(metavar="N...")] = (),
    fractions: Annotated[tuple[float, ...], tyro.conf.arg(metavar="P...")] = (),
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    width: Annotated[WidthOptions, Flat] = WidthOptions(),  # noqa: B008 (frozen)
    measures: Annotated[MeasureOptions, Flat] = MeasureOptions(),
    sweep: Annotated[SweepOptions, Flat] = SweepOptions(seeds=1),  # noqa: B008 (frozen)
    config: Annotated[TrainConfig, Flat] = BASE,
) -> None:
    """Train a model on a graph's triples, one a sequence; or many sizes and epochs, each measured for what it makes up.

    One size, one number of epochs, one fraction and one seed: a run folder with the model, for fiona kg hallucinate.
    More of any: every combination is a run of the shared sweep, its objects are drawn and judged, and DIR holds the
    rates (for fiona kg fit), a figure, and the models under DIR/models. The same command resumes either.

    For example: fiona kg train countries --epochs 30 --out runs/countries

    For example: fiona kg train synthetic --sizes 16x1 32x2 64x2 --epochs 5 20 80 --seeds 3 --out runs/rates

    Args:
        graph: what is learned; --data.* say how it is split and written.
        out: run folder.
        sizes: widths and layers, such as 64x2; heads keep their size. None: the configured model's.
        epochs: times that each triple is trained on. None: as many as --steps are, or 20.
        fractions: shares of the graph. None: --data.fraction.
        device: cpu or cuda, of a single run; None: a GPU if there is one.
        width: how width sets initial weights and learning rates.
        measures: what is drawn from each model of a sweep; a single run is measured by fiona kg hallucinate.
        sweep: seeds, and where runs happen.
        config: the run that is varied. Vocabulary, positions and sequence length are fitted to the graph.
    """
    from fionalm.data.knowledge import load_triples
    from fionalm.sweeps import triple_run

    if epochs:
        positive("--epochs", epochs)
    config = replace(config, data=on_graph(config.data, graph)).with_absolute_paths()
    config = replace(config, parameterization=width.config(config.model.d_model))
    data = config.data
    assert isinstance(data, TripleConfig)
    shares = fractions or (data.fraction,)
    corpora = {share: load_triples(replace(data, fraction=share, seq_len=1 << 20)) for share in set(shares)}

    def times(share: float) -> tuple[float, ...]:
        if epochs or config.steps == BASE.steps:
            return epochs or (EPOCHS,)
        return (config.steps * config.batch_size / len(corpora[share].train),)

    runs = [
        triple_run(config, size=size, epochs=one, seed=config.seed + seed, fraction=share, corpus=corpora[share])
        for size in (sizes or (None,))
        for share in shares
        for one in times(share)
        for seed in range(sweep.seeds)
    ]
    if len(runs) == 1:
        _train_one(runs[0], out, device, sweep.quiet)
    else:
        _train_many(runs, out, measures, sweep)


def _train_one(run: TripleRun, out: Path, device: str | None, quiet: bool) -> None:
    from fionalm.commands.train import loss_figure
    from fionalm.training import train as train_run

    result = train_run(run.config, out=out, device=device, quiet=quiet)
    ending = "diverged" if result.diverged else f"final loss {result.losses[-1][1]:.4f} nats a token"
    print(
        f"{ending} on {run.triples:,} triples after {run.epochs:g} epochs ({result.steps:,} steps), "
        f"{run.parameters:,} parameters without embeddings: {out.resolve()}"
    )
    if not result.diverged:
        print(f"next: fiona kg hallucinate {out}")
    print(f"figure: {loss_figure(result, out).resolve()}")


def _train_many(runs: Sequence[TripleRun], out: Path, options: MeasureOptions, sweep: SweepOptions) -> None:
    from fionalm.commands.options import announce
    from fionalm.commands.outcome import columns, diagnosis
    from fionalm.report import Section, Table
    from fionalm.sweeps import Measures, hallucination_trials, run_sweep

    chosen = Measures(options.pairs, options.samples, options.temperatures)
    settings = {
        "runs": [run.to_dict() for run in runs],
        "measures": vars(chosen),
        "config": runs[0].config.to_dict(),
    }
    with diagnosis(out, "Hallucination of models of a knowledge graph", settings) as opened:
        announce([run.config for run in runs], sweep)
        trials = hallucination_trials(runs, chosen, models=out / "models")
        outcomes = run_sweep(trials, description="kg", **sweep.how)
        found = [one.result for one in outcomes if one.result is not None]
        if not found:
            raise UserError(f"all {len(outcomes)} runs crashed: expected at least one; the first: {outcomes[0].error}")
        at = 1.0 if 1.0 in chosen.temperatures else max(chosen.temperatures)
        names, rows = rate_table(found, at)
        print(columns(names, rows))
        caption = f"Hallucination rates at temperature {at:g}: share of generated objects that the graph does not hold."
        if 1.0 in chosen.temperatures and len(found) > 1:
            print(f"next: fiona kg fit {out} --at-most 20")
        charts = {
            "rate-epochs": (_chart(found, at, "epochs"), f"{caption} Mean over seeds, with their range."),
            "rate-flops": (_chart(found, at, "flops"), f"{caption} Each point is one size and number of epochs."),
        }
        opened.finish(
            {"runs": found, "measures": vars(chosen)},
            charts,
            [Section("Rates", "", [Table(names, rows, caption)], list(charts))],
        )


def rate_table(found: Sequence[dict[str, Any]], temperature: float) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of runs' rates by split, means over seeds."""
    from fionalm.data.knowledge import VISIBILITIES

    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in found:
        groups.setdefault((run["parameters"], run["size"], run["triples"], run["epochs"]), []).append(run)
    rows = []
    for (parameters, size, triples, epochs), runs in sorted(groups.items()):
        rates = [_mean([rate(run, name, temperature) for run in runs]) for name in VISIBILITIES]
        loss = _mean([run["train_loss"] for run in runs])
        rows.append([size, parameters, triples, epochs, runs[0]["flops"], len(runs), loss, *rates])
    names = ["size", "parameters", "triples", "epochs", "FLOPs", "seeds", "loss", *map(spoken, VISIBILITIES)]
    return names, rows


def rate(run: dict[str, Any], visibility: str, temperature: float) -> float | None:
    """Return a run's hallucination rate on a split, or None where it has none."""
    for one in run["measures"]:
        if one["visibility"] == visibility and one["temperature"] == temperature:
            return one["rate"][0]
    return None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _chart(found: Sequence[dict[str, Any]], temperature: float, against: str) -> Chart:
    from fionalm.data.knowledge import VISIBILITIES
    from fionalm.report import Line, lines_with_intervals

    panels: dict[str, list[Line]] = {}
    kinds = sorted({(run["parameters"], run["size"], run["triples"]) for run in found})
    many_triples = len({kind[2] for kind in kinds}) > 1
    for name in VISIBILITIES:
        for index, kind in enumerate(kinds):
            own = [run for run in found if (run["parameters"], run["size"], run["triples"]) == kind]
            points: dict[float, list[float]] = {}
            for run in own:
                value = rate(run, name, temperature)
                if value is not None:
                    points.setdefault(run[against], []).append(value)
            if points:
                label = f"{kind[1]}, {kind[2]:,} triples" if many_triples else kind[1]
                x = sorted(points)
                y = [sum(points[one]) / len(points[one]) for one in x]
                low, high = [min(points[one]) for one in x], [max(points[one]) for one in x]
                panels.setdefault(spoken(name), []).append(Line(label, x, y, low, high, color=index))
    return lines_with_intervals(
        panels,
        x_label="epochs" if against == "epochs" else "FLOPs of training",
        y_label="hallucination rate",
        x_scale="log",
        ordered=True,
    )
