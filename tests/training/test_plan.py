from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fionalm.data.config import DataConfig
from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig, flops_per_token
from fionalm.optim.config import OptimizerConfig
from fionalm.training import DEVICES, Device, TrainConfig, estimate
from fionalm.training.plan import memory_bytes

# How far the estimate may be from what a process is seen to take.
MEMORY_FACTOR = 1.3


def test_counts_by_hand() -> None:
    config = TrainConfig(batch_size=4, steps=10, eval_batches=0, data=DataConfig(seq_len=64))
    device = Device("toy", fp32_flops=1e9, bf16_flops=None, memory_bytes=1, utilisation=0.5)
    plan = estimate(config, runs=3, device=device)
    assert plan.tokens == 3 * 10 * 4 * 64
    assert plan.flops == plan.tokens * flops_per_token(config.model, 64)
    assert plan.device_hours == pytest.approx(plan.flops / 0.5e9 / 3600)
    assert not plan.fits and estimate(config, device="h200").fits


def test_evaluation_costs_a_third_of_training() -> None:
    without = TrainConfig(steps=10, eval_batches=0)
    base = estimate(without).flops
    assert estimate(replace(without, eval_batches=3)).flops == pytest.approx(base * (1 + 3 / 10 / 3))
    every = replace(without, eval_batches=3, eval_every=4)  # after steps 4, 8 and 10
    assert estimate(every).flops == pytest.approx(base * (1 + 9 / 10 / 3))
    assert estimate(replace(every, eval_every=5)).flops == pytest.approx(base * (1 + 6 / 10 / 3))


def test_precision_decides_the_peak() -> None:
    config = TrainConfig()
    h100 = DEVICES["h100-80gb"]
    fast, slow = estimate(config), estimate(replace(config, precision="fp32"))
    assert h100.bf16_flops is not None
    assert slow.device_hours / fast.device_hours == pytest.approx(h100.bf16_flops / h100.fp32_flops)


def test_sharing_divides_the_memory() -> None:
    large = TrainConfig(
        model=DecoderConfig(vocab_size=32_101, d_model=3072, n_layers=40, n_heads=24, max_seq_len=512),
        data=DataConfig(seq_len=512),
        batch_size=256,
        strategy="fsdp2",
    )
    assert large.model.num_parameters() == pytest.approx(4.8e9, rel=0.05)  # the largest model of the paper
    one, eight, sixty_four = (estimate(large, devices=n) for n in (1, 8, 64))
    assert one.device_hours == sixty_four.device_hours
    assert not one.fits and sixty_four.fits
    assert one.memory_bytes > eight.memory_bytes > sixty_four.memory_bytes
    replicated = estimate(replace(large, strategy="ddp"), devices=64)
    assert replicated.memory_bytes > 16 * large.model.num_parameters()
    with pytest.raises(UserError, match="batch_size 256 cannot be shared by 3 devices"):
        estimate(large, devices=3)


def test_unknown_device() -> None:
    with pytest.raises(UserError, match="unknown device 'h100-80'.*did you mean 'h100-80gb'"):
        estimate(TrainConfig(), device="h100-80")


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory counter")
def test_memory_is_near_a_real_peak(tiny: TrainConfig) -> None:
    def config(batch_size: int, d_model: int, n_layers: int) -> TrainConfig:
        model = DecoderConfig(d_model=d_model, n_layers=n_layers, max_seq_len=256)
        return TrainConfig(model=model, data=DataConfig(seq_len=256), batch_size=batch_size)

    mostly_activations, mostly_parameters = config(4, 256, 3), config(1, 512, 4)
    configs = [
        mostly_activations,
        replace(mostly_activations, model=replace(mostly_activations.model, mlp="silu_gated")),
        mostly_parameters,
        replace(mostly_parameters, optimizer=OptimizerConfig(name="sgd")),
    ]
    script = str(Path(__file__).with_name("measure_memory.py"))
    text = json.dumps([c.to_dict() for c in (tiny, *configs)])
    done = subprocess.run([sys.executable, script], input=text, capture_output=True, text=True, check=True)
    for each, measured in zip(configs, map(int, done.stdout.split()), strict=True):
        assert measured > 80e6  # or noise would decide
        assert 1 / MEMORY_FACTOR < memory_bytes(each) / measured < MEMORY_FACTOR, each
