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
        # Later attempts get longer, so that the run ends however slow the machine is.
        deadline = time.monotonic() + chance.uniform(0.05, 0.4 + 0.2 * kills)
        ended = 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.001)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, status
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    print(kills)


if __name__ == "__main__":
    main(*sys.argv[1:])
