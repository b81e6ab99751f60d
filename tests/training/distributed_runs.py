"""Several runs under one torchrun, whose start costs more than all of them.

    torchrun --nproc-per-node 2 distributed_runs.py OUT

Trains each config in OUT/*.json into the folder of its name, and writes rank 1's results beside rank 0's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from fionalm.scaling import StabilityProbe
from fionalm.training.config import TrainConfig
from fionalm.training.distributed import distributed
from fionalm.training.trainer import train

sys.path.insert(0, str(Path(__file__).parent))
from conftest import make_corpus


def main(out: str) -> None:
    with distributed("cpu") as world:
        for path in sorted(Path(out).glob("*.json")):
            config = TrainConfig.load(path)
            probes: list[Any] = [StabilityProbe] if config.probe_every else []
            try:
                result = train(config, out=path.with_suffix(""), corpus=make_corpus(), probes=probes, device="cpu")
                told: Any = result.to_dict()
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
            path.with_suffix(f".rank{world.rank}").write_text(json.dumps(told))
        assert dist.is_initialized(), "train left a group that it had not started"


if __name__ == "__main__":
    main(sys.argv[1])
