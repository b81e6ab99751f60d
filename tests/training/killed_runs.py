"""Kill a training run at random moments until it ends, in a process that imports torch once and forks per attempt.

    python killed_runs.py CONFIG.json OUT SEED

Prints the number of kills.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from fionalm.training.config import TrainConfig
from fionalm.training.trainer import train

sys.path.insert(0, str(Path(__file__).parent))
from conftest import make_corpus


def main(config_path: str, out: str, seed: str) -> None:
    config, corpus, chance = TrainConfig.load(config_path), make_corpus(), random.Random(int(seed))
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            train(config, out=out, corpus=corpus, quiet=True)
            os._exit(0)
        # Counted in steps, so that a fast machine is killed as often as a slow one; then at any moment of a step.
        enough, ended = newest_step(out) + chance.randrange(6), 0
        while not ended and newest_step(out) < enough:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.001)
        time.sleep(0 if ended else chance.uniform(0, 0.03))
        if not ended:
            ended, status = os.waitpid(child, os.WNOHANG)
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
