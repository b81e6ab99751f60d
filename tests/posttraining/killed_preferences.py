"""Kill a preference training at several moments until it ends; or run it with each strategy, under torchrun too.

    python killed_preferences.py OUT [strategies]

Prints the number of kills.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_policies import ALPHABET, make_policy

from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Preferences, PreferencesConfig

CONFIG = PreferencesConfig(
    optimizer=OptimizerConfig(lr=3e-3), batch_size=6, micro_batch_tokens=50, epochs=5, checkpoint_every=1
)
STRATEGIES: tuple[Literal["ddp", "fsdp2"], ...] = ("ddp", "fsdp2")


def make_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return pairs of a copying task with labels of every confidence; some chosen completions are the worse ones."""
    generator = torch.Generator().manual_seed(seed)

    def word() -> str:
        length = int(torch.randint(1, 7, (), generator=generator))
        return "".join(ALPHABET[i] for i in torch.randint(8, (length,), generator=generator).tolist())

    rows = []
    for _ in range(count):
        prompt = word()
        label = round(torch.rand((), generator=generator).item(), 2)
        rows.append({"prompt": f"{prompt}>", "chosen": prompt, "rejected": word(), "soft_label": label})
    return rows


def run(out: str, config: PreferencesConfig = CONFIG) -> None:
    """Train in the folder, or go on there."""
    Preferences(make_policy(), make_pairs(12), config, validation=make_pairs(3, seed=1), out=out, quiet=True).run()


def run_strategies(out: str) -> None:
    """Train with each strategy, in a folder of its name."""
    for strategy in STRATEGIES:
        run(f"{out}/{strategy}", replace(CONFIG, strategy=strategy, steps=4, kl_prompts=3, validate_every=2))


def main(out: str) -> None:
    kills = 0
    for after in (1, 4, 7, 99):
        child = os.fork()
        if child == 0:
            run(out)
            os._exit(0)
        ended = 0
        while not ended and newest_step(out) < after:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.001)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, status
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    print(kills)


def newest_step(out: str) -> int:
    saved = Path(out).glob("checkpoints/step-????????")
    return max((int(path.name.removeprefix("step-")) for path in saved), default=0)


if __name__ == "__main__":
    run_strategies(sys.argv[1]) if "strategies" in sys.argv else main(sys.argv[1])
