"""Options that several commands share, and what they come to: a base run, the width's rule, the store of trials."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from fionalm.errors import UserError, choice_error
from fionalm.models.config import DecoderConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.training.config import TrainConfig

T = TypeVar("T")
Positional = tyro.conf.Positional
Flat = tyro.conf.arg(name="")
PARAMETERIZATIONS = ("standard", "ntk", "mup", "mfp")
ALIGNMENTS = ("full", "none", "global")
OPTIMIZERS = {"adam": "adamw", "adamw": "adamw", "adam_atan2": "adam_atan2", "adafactor": "adafactor", "sgd": "sgd"}

Lrs = Annotated[tuple[float, ...], tyro.conf.arg(metavar="LR...")]
Widths = Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")]
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
ConfigFile = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="FILE",
        help="JSON of a training configuration, such as a run folder's config.json: the defaults of all other options.",
    ),
]

START_SECONDS = 4
"""Until the processes of a sweep have imported what they need."""

SMALL = TrainConfig(model=DecoderConfig(d_model=64, n_layers=3, max_seq_len=128), steps=100)
"""What a sweep trains if nothing is said: minutes on a laptop."""


@dataclass(frozen=True)
class WidthOptions:
    """How width sets initial weights and each layer's learning rate."""

    parameterization: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """standard, ntk, mup or mfp. None: the model's own initial weights, and one learning rate."""
    alignment: Annotated[str, tyro.conf.arg(metavar="NAME")] = "full"
    """Of updates with activations: full, none, or global for one learning rate at every layer and width."""
    base_width: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Width at which the learning rate is meant. None: the configured model's."""
    gammas: Annotated[tuple[float, float, float], tyro.conf.arg(metavar="E H R")] = (1.0, 1.0, 1.0)
    """Constants that multiply the learning rates of embedding, hidden and readout layers."""
    eps_scaling: Annotated[str, tyro.conf.arg(metavar="NAME")] = "none"
    """none, or per_layer: Adam's epsilon follows the size of each layer's gradient."""

    def __post_init__(self) -> None:
        if self.parameterization is None and replace(self, parameterization="standard") != WidthOptions("standard"):
            changed = next(f.name for f in fields(self) if getattr(self, f.name) != f.default).replace("_", "-")
            raise UserError(
                f"--{changed} was given without --parameterization: expected one of standard, ntk, mup, mfp"
            )
        self.config(1)

    def config(self, width: int) -> ParameterizationConfig | None:
        """Return the training configuration's part, for a model that is configured with `width`."""
        if self.parameterization is None:
            return None
        chosen: Any = {"name": self.parameterization, "alignment": self.alignment, "eps_scaling": self.eps_scaling}
        names = ("embedding_gamma", "hidden_gamma", "readout_gamma")
        constants = dict(zip(names, self.gammas, strict=True))
        return ParameterizationConfig(
            base_width=width if self.base_width is None else self.base_width, **chosen, **constants
        )

    @classmethod
    def of(cls, config: ParameterizationConfig) -> WidthOptions:
        """Return the options that give `config`."""
        gammas = (config.embedding_gamma, config.hidden_gamma, config.readout_gamma)
        return cls(config.name, config.alignment, config.base_width, gammas, config.eps_scaling)


@dataclass(frozen=True)
class SweepOptions:
    """How many runs, and where they run."""

    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """Runs of each setting, over which intervals are taken."""
    executor: Literal["local", "serial", "ray"] = "local"
    """local: one-thread processes on this machine; serial: one after the other in this process; ray: a cluster's."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs at once. None: one a core."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        for name in ("seeds", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: expected at least 1")

    @property
    def how(self) -> dict[str, Any]:
        """The arguments that sweeps take for these."""
        return {"executor": self.executor, "workers": self.workers, "quiet": self.quiet}


def positive(option: str, values: Sequence[float]) -> None:
    """Refuse a grid that is empty, or that holds what is not a positive number.

    Raises:
        UserError: names the option and what it was given.
    """
    if not values or not all(0 < value < math.inf for value in values):
        given = " ".join(f"{value:g}" for value in values) or "without values"
        raise UserError(f"{option} {given}: expected one or more positive numbers")


def optimizer_name(given: str) -> str:
    """Return the optimizer's name in a training configuration; `adam` is `adamw`.

    Raises:
        UserError: an unknown name.
    """
    if given not in OPTIMIZERS:
        raise choice_error("optimizer", given, OPTIMIZERS)
    return OPTIMIZERS[given]


def with_config_file(function: Callable[..., T], given: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Take `--config-file FILE` out of the words given, as the defaults that the remaining options change.

    A training configuration in the place of a command's first word MODEL counts as that too.

    Returns:
        New defaults of the function's parameters by name, and the words that remain.

    Raises:
        UserError: no file after the option, or one that holds no training configuration.
    """
    names = inspect.signature(function).parameters
    if "config" not in names:
        return {}, given
    words = list(given)
    path = None
    for index, word in enumerate(given):
        if word == "--config-file" or word.startswith("--config-file="):
            path = word.partition("=")[2] or next(iter(given[index + 1 :]), "")
            if not path or path.startswith("-"):
                raise UserError("--config-file names no file: expected a JSON file, such as a run folder's config.json")
            del words[index : index + (1 if "=" in word else 2)]
            break
    if path is None and "model" in names and words and is_train_config(Path(words[0])):
        path = words.pop(0)
    if path is None:
        return {}, given
    loaded = TrainConfig.load(path)
    defaults: dict[str, Any] = {"config": replace(loaded, parameterization=None)}
    if "width" in names and loaded.parameterization is not None:
        defaults["width"] = WidthOptions.of(loaded.parameterization)
    return defaults, words


def is_train_config(path: Path) -> bool:
    """Tell whether a file holds a training configuration rather than a model's."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    parts = {field.name for field in fields(TrainConfig)}
    return isinstance(values, dict) and "model_type" not in values and bool(values) and values.keys() <= parts


def announce(configs: list[TrainConfig], sweep: SweepOptions) -> None:
    """Say how much will be trained, before it begins."""
    from fionalm.report.wording import format_seconds
    from fionalm.sweeps import TrialStore, available_cores
    from fionalm.sweeps.training_trial import expected_seconds

    if sweep.quiet:
        return
    tokens = sum(config.steps * config.tokens_per_step for config in configs)
    line = f"{len(configs)} runs in all, {tokens:,} tokens"
    if sweep.executor == "local" and configs[0].model_path is None:
        workers = min(sweep.workers or available_cores(), len(configs))
        seconds = START_SECONDS + sum(map(expected_seconds, configs)) / workers
        line += f", roughly {format_seconds(seconds)} with {workers} at once"
    print(f"{line}; finished ones are kept in {TrialStore().folder} and not run again", file=sys.stderr)
