"""A run on triples under torchrun: distributed_triples.py FOLDER trains FOLDER/run.json into FOLDER/run."""

from __future__ import annotations

import sys
from pathlib import Path

from fionalm.training.config import TrainConfig
from fionalm.training.trainer import train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train(TrainConfig.load(folder / "run.json"), out=folder / "run", device="cpu", quiet=True)
