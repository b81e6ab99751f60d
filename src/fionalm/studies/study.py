"""What a study is, and how one is run: presets, claims fixed before the run, trials, a report.

A study's own module holds its claims, its presets and its analysis; `reproduce` does the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from fionalm.errors import UserError, choice_error
from fionalm.report.claims import Claim, Measured, write_claims
from fionalm.sweeps import Executor, Trial, TrialOutcome, TrialStore, make_executor, run_sweep
from fionalm.training import RunFolder, TrainConfig, Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fionalm.report import Section

Scale = Literal["smoke", "quick", "laptop", "cluster"]
SCALES: tuple[Scale, ...] = ("smoke", "quick", "laptop", "cluster")


class StudyConfig(Protocol):
    """Any frozen dataclass with a number of seeds."""

    @property
    def seeds(self) -> int:
        """Number of random seeds of each trial."""
        ...


C = TypeVar("C", bound=StudyConfig)
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Study(Generic[C]):
    """One paper: its claims as data, its presets, and the function that measures them.

    Attributes:
        name: as on the command line.
        title: what the study asks, in one line.
        paper: authors, year, title and arXiv number.
        claims: fixed before the run.
        preset: the configuration of a scale.
        plan: every run of a configuration, for cost estimates: what it trains, or what its post-training amounts to.
        run: trains, analyses, draws; returns one `Measured` a claim.
    """

    name: str
    title: str
    paper: str
    claims: tuple[Claim, ...]
    preset: Callable[[Scale], C]
    plan: Callable[[C], Sequence[TrainConfig | Workload]]
    run: Callable[[C, Lab], list[Measured]]


@dataclass
class Lab:
    """What a running study uses: the sweep, and the run folder for its figures and tables."""

    folder: Path
    store: TrialStore
    executor: Executor
    quiet: bool = False
    outcomes: list[TrialOutcome] = field(default_factory=list)
    figures: int = 0
    """How many were kept."""
    sections: list[Section] = field(default_factory=list)
    """Text and tables of the report below its claims."""

    def train(
        self, configs: Mapping[K, TrainConfig], description: str, *, probes: Sequence[str] = ()
    ) -> dict[K, dict[str, Any] | None]:
        """Train each configuration, or take its result from the store.

        Args:
            configs: by any key.
            description: shown beside the progress.
            probes: `stability` and `alignment`, measured every `probe_every` steps of a configuration.

        Returns:
            `TrainResult.to_dict()` by key; None where a run crashed.
        """
        from fionalm.sweeps.training_trial import training_trials

        trials = training_trials(configs.values(), probes=probes)
        return dict(zip(configs, self.sweep(trials, description), strict=True))

    def sweep(self, trials: Sequence[Trial], description: str) -> list[dict[str, Any] | None]:
        """Run trials of any kind; as `train`."""
        outcomes = run_sweep(
            trials,
            store=self.store,
            executor=self.executor,
            description=description,
            quiet=self.quiet,
        )
        self.outcomes += outcomes
        return [outcome.result for outcome in outcomes]

    def figure(self, figure: Figure, name: str, title: str, caption: str) -> None:
        """Keep a figure, its words and the numbers that it plots in the run folder; the report keeps their order."""
        from fionalm.report import save_figure

        save_figure(figure, self.folder / "figures", name, caption, title=title, order=self.figures)
        self.figures += 1


def final_loss(result: dict[str, Any] | None) -> float:
    """Return a run's final loss; the loss at initialisation if it diverged, NaN if it crashed.

    Wortsman et al. 2023, section 2.3, cap every loss at the loss at initialisation.
    """
    if result is None:
        return math.nan
    final, initial = result["final_loss"], result["initial_loss"]
    return initial if final is None else min(final, initial)


def configured(study: Study[C], scale: str, seeds: int | None = None) -> C:
    """Return the preset of `scale`, with another number of seeds if given.

    Raises:
        UserError: an unknown scale, or fewer than one seed.
    """
    if scale not in SCALES:
        raise choice_error("scale", scale, SCALES)
    config = study.preset(scale)
    if seeds is None:
        return config
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: expected at least 1")
    return replace(config, seeds=seeds)  # pyright: ignore[reportArgumentType]


def reproduce(
    study: Study[C],
    config: C,
    folder: Path,
    *,
    scale: str,
    command: str,
    store: TrialStore | None = None,
    executor: Literal["local", "ray"] = "local",
    workers: int | None = None,
    gpus: float = 0,
    quiet: bool = False,
) -> Path:
    """Run `study` into `folder` and return its report.

    A killed run resumes: finished trials are in the store, and everything else is derived from them.

    Raises:
        UserError: `folder` holds a run of another configuration, or cannot be written.
    """
    from fionalm.report import write_report, write_run_facts, write_sections
    from fionalm.training import environment

    started = time.monotonic()
    described = {
        "study": study.name,
        "title": study.title,
        "paper": study.paper,
        "scale": scale,
        "config": asdict(config),  # pyright: ignore[reportArgumentType]
        "command": command,
    }
    runner = make_executor(executor, workers, gpus=gpus)
    with RunFolder.open(folder, described) as run_folder, closing(runner):
        run_folder.write_json("environment.json", environment())
        lab = Lab(run_folder.path, store or TrialStore(), runner, quiet)
        measured = study.run(config, lab)
        _check_complete(study, measured)
        write_claims(run_folder.path, measured)
        write_sections(run_folder.path, lab.sections)
        crashed = sum(outcome.status == "crashed" for outcome in lab.outcomes)
        write_run_facts(
            run_folder.path, seconds=time.monotonic() - started, trials=len(lab.outcomes), crashed_trials=crashed
        )
        return write_report(run_folder.path)


def _check_complete(study: Study[C], measured: Sequence[Measured]) -> None:
    missing = {claim.id for claim in study.claims} ^ {entry.claim.id for entry in measured}
    if missing:
        raise AssertionError(f"{study.name} must measure each of its claims once: {sorted(missing)}")
