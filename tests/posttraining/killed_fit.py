"""Kill a fine-tuning at several moments until it ends, in a process that imports torch once and forks per attempt.

    python killed_fit.py OUT

Prints the number of kills.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tiny_policies import make_policy, make_rows

from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Supervised, SupervisedConfig

CONFIG = SupervisedConfig(
    optimizer=OptimizerConfig(lr=3e-3),
    batch_size=6,
    micro_batch_tokens=40,
    epochs=3,
    checkpoint_every=1,
    validate_every=2,
    samples=0,
)


def run(out: str) -> None:
    """Train in the folder, or go on there."""
    validation = make_rows(6, seed=1)
    Supervised(make_policy(), make_rows(24), CONFIG, validation=validation, out=out, quiet=True).run()


def main(out: str) -> None:
    kills = 0
    for after in (2, 7, 99):
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
    main(*sys.argv[1:])
