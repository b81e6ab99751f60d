"""Cost estimates of post-training: counts by hand, what bounds drawing, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig, flops_per_token
from fionalm.models.shapes import SHAPES
from fionalm.training import DEVICES, Device, TrainConfig, Workload, estimate, estimate_any
from fionalm.training.workload import BANDWIDTH_SHARE, cache_bytes, memory_bytes

MODEL = DecoderConfig(vocab_size=512, d_model=64, n_layers=2, n_heads=4, max_seq_len=128)
WORK = Workload(model=MODEL, seq_len=96, trained_tokens=9000, sampled_tokens=6400, prompt_tokens=300, scored_tokens=600)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("smollm2-135m", 0.1345), ("gemma-2b", 2.5), ("palm-8b", 8.63), ("palm-62b", 62.5), ("palm-540b", 540.35)],
)
def test_shapes_have_their_published_sizes(name: str, billions: float) -> None:
    assert SHAPES[name].num_parameters() / 1e9 == pytest.approx(billions, rel=0.005)


def test_counts_by_hand() -> None:
    device = Device("toy", fp32_flops=1e9, bf16_flops=None, memory_bytes=1, utilisation=0.5, bandwidth=1e6)
    plan = estimate_any(WORK, runs=3, device=device)
    step = flops_per_token(MODEL, 96)
    assert (plan.tokens, plan.sampled_tokens) == (27_000, 19_200)
    assert plan.flops == pytest.approx(3 * step * (9000 + (6400 + 300 + 600) / 3))
    arithmetic = step * (9000 + 900 / 3) / 0.5e9
    read = 4 * MODEL.num_parameters() + 64 * 96 * 2 * 2 * 64 * 4  # keys and values of two layers, 64 wide, float32
    assert plan.device_hours == pytest.approx(3 * (arithmetic + 100 * read / (1e6 * BANDWIDTH_SHARE)) / 3600)


def test_drawing_many_at_once_is_bound_by_arithmetic_and_few_by_memory() -> None:
    only = replace(WORK, model=SHAPES["gemma-2b"], trained_tokens=0, prompt_tokens=0, scored_tokens=0)
    one, many, more = (estimate_any(replace(only, sample_batch=size)).device_hours for size in (1, 512, 1024))
    assert one / many > 50
    assert many == pytest.approx(more, rel=0.5)
    h100 = DEVICES["h100-80gb"]
    tokens_per_second = only.sampled_tokens / (one * 3600)
    assert tokens_per_second == pytest.approx(h100.bandwidth * BANDWIDTH_SHARE / 5e9, rel=0.05)


def test_training_runs_are_estimated_as_before() -> None:
    config = TrainConfig(steps=10)
    assert estimate_any(config, 2, "l4") == estimate(config, 2, "l4")


def test_memory_counts_what_is_held() -> None:
    full = replace(WORK, model=SHAPES["gemma-2b"])
    parameters = full.model.num_parameters()
    lora = replace(full, trained_share=0.01)
    assert memory_bytes(full) - memory_bytes(lora) == pytest.approx(0.99 * 12 * parameters)
    assert memory_bytes(replace(full, reference=True)) - memory_bytes(full) == 4 * parameters
    sampling = replace(full, trained_tokens=0, sample_batch=256)
    assert memory_bytes(sampling, half=True) == 6 * parameters + 2 * 256 * cache_bytes(full.model, 96, half=True)
    huge = replace(full, model=SHAPES["palm-62b"], strategy="fsdp2", micro_batch_tokens=512)
    assert not estimate_any(huge).fits and estimate_any(huge, devices=64).fits
    assert estimate_any(lora).flops < estimate_any(full).flops


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory counter")
def test_memory_is_near_a_real_peak() -> None:
    """As `test_plan.py` measures training: two updates, or drawing, in a process of their own."""
    small = Workload(model=replace(MODEL, vocab_size=16), seq_len=32, trained_tokens=1, micro_batch_tokens=64)
    shape = DecoderConfig(vocab_size=4096, d_model=256, n_layers=3, max_seq_len=256, mlp="silu_gated")
    mostly_activations = Workload(model=shape, seq_len=256, trained_tokens=1, micro_batch_tokens=1536)
    wide = replace(
        mostly_activations, model=replace(shape, d_model=512, n_layers=4), micro_batch_tokens=256, reference=True
    )
    workloads = [
        mostly_activations,
        wide,
        replace(wide, reference=False, trained_share=0.02),
        Workload(model=replace(shape, n_layers=4), seq_len=64, sampled_tokens=1, sample_batch=128),
    ]
    script = str(Path(__file__).with_name("measure_workload.py"))
    text = json.dumps([asdict(one) for one in (small, *workloads)])
    done = subprocess.run([sys.executable, script], input=text, capture_output=True, text=True, check=True)
    for each, measured in zip(workloads, map(int, done.stdout.split()), strict=True):
        assert measured > 80e6  # or noise would decide
        assert 1 / 1.3 < memory_bytes(each) / measured < 1.3, each


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trained_tokens": -1}, "trained_tokens was -1"),
        ({"seq_len": 0}, "seq_len was 0"),
        ({"trained_share": 0.0}, "expected a share"),
    ],
)
def test_mistakes(changes: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(WORK, **changes)  # pyright: ignore[reportArgumentType]


def test_unknown_device() -> None:
    with pytest.raises(UserError, match="did you mean 'h100-80gb'"):
        estimate_any(WORK, device="h100")
