"""Measure the peak memory that training each config of a JSON list on standard input adds to a process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from fionalm.models import Decoder
from fionalm.training.build import build_optimizer, parameter_groups
from fionalm.training.config import TrainConfig
from fionalm.training.step import LossModule, train_step


def steps(config: TrainConfig) -> None:
    model = Decoder(config.model)
    module = LossModule(model)
    optimizer = build_optimizer(config.optimizer, parameter_groups(config, model, initialize=False))
    batch = torch.zeros(config.batch_size, config.data.seq_len + 1, dtype=torch.long)
    for _ in range(2):  # the optimizer's state is there from the second on
        train_step(module, optimizer, batch, parts=config.grad_accumulation, clip_norm=config.clip_norm)


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(small: TrainConfig, config: TrainConfig) -> int:
    steps(small)  # loads what any training loads
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    steps(config)
    return status("VmHWM") - before


def main() -> None:
    small, *configs = (TrainConfig.from_dict(values) for values in json.load(sys.stdin))
    for config in configs:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, str(measure(small, config)).encode())
            os._exit(0)
        os.close(writer)
        print(os.read(reader, 100).decode())
        os.wait()


if __name__ == "__main__":
    main()
