"""Several fine-tunings under one torchrun, whose start costs more than all of them.

torchrun --nproc-per-node 2 distributed_finetune.py OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from tiny_policies import make_policy, make_rows

from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Supervised, SupervisedConfig
from fionalm.training import distributed

SHARED: dict[str, Any] = {
    "optimizer": OptimizerConfig(lr=3e-3),
    "batch_size": 5,  # which two processes cannot share equally
    "micro_batch_tokens": 24,
    "steps": 6,
    "validate_every": 2,
    "samples": 0,
}
CONFIGS = {
    "ddp": SupervisedConfig(**SHARED),
    "ddp-lora": SupervisedConfig(**SHARED, lora_rank=2),
    "fsdp2": SupervisedConfig(**SHARED, strategy="fsdp2"),
    "fsdp2-lora": SupervisedConfig(**SHARED, strategy="fsdp2", lora_rank=2),
}


def train(name: str, out: Path) -> list[dict[str, Any]]:
    """Train one of CONFIGS; return its metrics."""
    rows, validation = make_rows(13), make_rows(7, seed=1)
    trainer = Supervised(make_policy(), rows, CONFIGS[name], validation=validation, out=out / name, quiet=True)
    return trainer.run().rows


def main(out: str) -> None:
    with distributed("cpu") as world:
        for name in CONFIGS:
            found = train(name, Path(out))
            (Path(out) / f"{name}.rank{world.rank}").write_text(json.dumps(found))
        first = (Path(out) / f"ddp.rank{world.rank}").read_text()
        assert json.dumps(train("ddp", Path(out))) == first, "a finished run is read by every process"


if __name__ == "__main__":
    main(sys.argv[1])
