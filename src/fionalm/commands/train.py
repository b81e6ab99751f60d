"""`fiona train`: a decoder on a corpus, from options or from a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from fionalm.training.config import TrainConfig


def train(
    out: tyro.conf.Positional[Path],
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008 (tyro's way of flat options)
    config_file: Path | None = None,
    quiet: bool = False,
) -> None:
    """Train a decoder on a corpus; the same command resumes a killed run and ends with the same numbers.

    Several processes: torchrun --nproc-per-node 2 -m fionalm.training CONFIG.json --out OUT

    Args:
        out: run folder: config.json, environment.json, metrics.jsonl, checkpoints and the model.
        config: the run.
        config_file: a JSON file (a run folder's config.json) in place of all other options.
        quiet: show no progress.
    """
    from fionalm.training import train as run

    chosen = config if config_file is None else TrainConfig.load(config_file)
    result = run(chosen, out=out, quiet=quiet)
    ending = "diverged" if result.diverged else f"final loss {result.final_loss:.4f} nats"
    print(f"{ending} after {result.steps} steps ({result.tokens_per_second:,.0f} tokens/s): {out}")
