"""Measure the peak memory that two updates, or drawing, of each workload of a JSON list on standard input add."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import peft
import torch
from measure_memory import status

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.posttraining import Example, FinetuneConfig, Learner, Policy, collate, completion_logps
from fionalm.sampling import SamplingParams


def work(values: dict[str, Any]) -> None:
    length = values["seq_len"]
    policy = Policy(Decoder(DecoderConfig.from_dict(values["model"])), character_tokenizer("ab"), device="cpu")
    if values["sampled_tokens"]:
        params = SamplingParams(max_tokens=length - 1)
        policy.sampler(max_batch=values["sample_batch"]).sample([[1]] * values["sample_batch"], params)
        return
    reference = policy.reference() if values["reference"] else None
    config = FinetuneConfig(lora_rank=8 if values["trained_share"] < 1 else 0)
    learner = Learner(policy, config, total_steps=2)
    example = Example((1,) * (length // 2), (1,) * (length - length // 2))
    batch = collate([example] * (values["micro_batch_tokens"] // length), 0, policy.device)
    for _ in range(2):  # the optimizer's state is there from the second on
        start = 0.0 if reference is None else reference(batch).sum()
        learner.step([batch], lambda model, part, start=start: (start - completion_logps(model, part).mean(), {}))


def measure(small: dict[str, Any], values: dict[str, Any]) -> int:
    for changes in ({}, {"trained_share": 0.5}, {"sampled_tokens": 1}):
        work({**small, **changes})  # loads what any post-training loads
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    work(values)
    return status("VmHWM") - before


def main() -> None:
    assert peft  # imported before the processes part, which each would wait for
    torch.set_num_threads(1)
    small, *workloads = json.load(sys.stdin)
    for values in workloads:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, str(measure(small, values)).encode())
            os._exit(0)
        os.close(writer)
        print(os.read(reader, 100).decode())
        os.wait()


if __name__ == "__main__":
    main()
