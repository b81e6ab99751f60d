"""Train from a config file, in one process or many.

    python -m fionalm.training CONFIG.json --out DIR
    torchrun --nproc-per-node 2 -m fionalm.training CONFIG.json --out DIR

CONFIG.json holds the fields of `TrainConfig` that differ from their defaults. The same command resumes a run that
was stopped. Exit code 2: a mistake in what was given, in one sentence; 130: stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from fionalm.errors import UserError
from fionalm.training.config import TrainConfig


def run(
    config: Annotated[Path, tyro.conf.Positional],
    out: Path,
    device: str | None = None,
    quiet: bool = False,
) -> None:
    """Train from a config file; the same command resumes.

    Args:
        config: JSON file of TrainConfig's fields; absent ones take their defaults.
        out: run folder.
        device: cpu or cuda; None: a GPU if there is one.
        quiet: no progress.
    """
    settings = TrainConfig.load(config)
    from fionalm.training.trainer import train

    result = train(settings, out=out, device=device, quiet=quiet)
    if _is_main():
        end = "diverged" if result.diverged else f"final loss {result.final_loss:.4f}"
        print(f"{end} after {result.steps} steps, {result.tokens_per_second:,.0f} tokens/s; see {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run with `arguments` (default: the process's own) and exit."""
    try:
        tyro.cli(run, prog="python -m fionalm.training", args=arguments)
    except UserError as error:
        _say(f"fionalm.training: {error}")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _say(f"fionalm.training: stopped; {str(interrupt) or 'nothing was saved since the last checkpoint'}")
        sys.exit(130)


def _say(sentence: str) -> None:
    if _is_main():
        print(sentence, file=sys.stderr)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    main()
