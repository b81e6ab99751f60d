from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from fionalm.models import Decoder, DecoderConfig, RopeScaling
from fionalm.sampling.blocks import BLOCK
from fionalm.sampling.decoder_cache import DecoderCache
from fionalm.sampling.engine import compacted

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"qk_norm": True},
    "llama": {"norm": "rmsnorm", "mlp": "silu_gated", "n_kv_heads": 2},
    "gpt": {"positions": "learned", "bias": True, "norm_bias": True, "tie_embeddings": True},
    "all": {"norm": "rmsnorm", "mlp": "silu_gated", "n_kv_heads": 1, "qk_norm": True, "qkv_bias": True},
    "linear": {"rope_scaling": RopeScaling("linear", factor=2.0)},
    "llama3": {"rope_scaling": RopeScaling("llama3", factor=4.0, original_max_seq_len=16), "head_dim": 6},
}


def make(variant: str, dtype: torch.dtype = torch.float32) -> Decoder:
    """Build a decoder whose every parameter matters: norms and biases are moved from their start."""
    config = DecoderConfig(vocab_size=37, d_model=16, n_layers=2, n_heads=4, max_seq_len=80, **VARIANTS[variant])
    generator = torch.Generator().manual_seed(0)
    model = Decoder(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


@torch.no_grad()
def whole(model: Decoder, ids: list[int]) -> Tensor:
    return model(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("share", [True, False], ids=["shared", "copied"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_whole_sequence(variant: str, share: bool) -> None:
    """Rows of several prompts come and go in a random order; each one's logits stay those of a full forward."""
    model, rng = make(variant), random.Random(0)
    cache = DecoderCache(model, samples=8 if share else 1)
    rows: list[list[int]] = []
    steps = 0
    while steps < 45:
        if len(rows) < 4 or rng.random() < 0.1:
            prompts = [[rng.randrange(37) for _ in range(rng.choice((1, 5, 16, 17, 30)))] for _ in range(2)]
            read, logits = cache.prefill(prompts)
            for prompt, found in zip(prompts, logits, strict=True):
                torch.testing.assert_close(found, whole(model, prompt), atol=1e-5, rtol=1e-5)
            admitted = [0, 0, 0, 1, 1]
            cache.admit([read[which] for which in admitted])
            rows += [list(prompts[which]) for which in admitted]
        for row in rows:
            row.append(rng.randrange(37))
        logits = cache.step([row[-1] for row in rows])
        for row, found in zip(rows, logits, strict=True):
            torch.testing.assert_close(found, whole(model, row), atol=1e-5, rtol=1e-5)
        gone = {i: None for i, row in enumerate(rows) if len(row) == 79 or rng.random() < 0.12}
        order = compacted(len(rows), gone)
        cache.keep(order)
        rows = [rows[index] for index in order]
        steps += 1


def test_bfloat16_is_as_near_to_float32_as_the_models_own_forward() -> None:
    model = make("llama", torch.bfloat16)
    exact = make("llama")
    exact.load_state_dict(model.state_dict())
    cache, ids = DecoderCache(model), list(range(20))
    _, _ = cache.prefill([ids[:1]])
    read, _ = cache.prefill([ids])
    cache.admit(read)
    for token in range(20, 30):
        ids.append(token)
        cached = cache.step([token])[0]
        assert cached.dtype == torch.bfloat16
        wanted, full = whole(exact, ids), whole(model, ids).float()
        assert (cached.float() - wanted).abs().max() < 2 * (full - wanted).abs().max() + 0.02


def test_memory_follows_what_rows_hold() -> None:
    """Blocks of rows that left are used again, live ones stay in front, and a prompt's place is freed."""
    model = make("llama")
    cache = DecoderCache(model, samples=8)
    most = 0
    for round_ in range(6):
        read, _ = cache.prefill([[1] * 20, [2] * 33])
        cache.admit([read[0]] * 5 + [read[1]] * 3)
        for step in range(BLOCK + 3):
            cache.step([step] * len(cache.blocks.rows))
        cache.keep(compacted(8, {0: None, 3: None, 7: None}))
        assert len(cache.blocks.owner) == 5 * 2
        cache.keep([])
        assert cache.blocks.rows == [] and len(cache.blocks.owner) == 0 and cache.blocks.places == []
        held = cache.blocks.pool.numel() + cache.blocks.shared.numel()
        most = held if round_ == 0 else most
        assert held == most


@pytest.mark.parametrize("gone", [[], [0], [4], [0, 4], [1, 2, 3], [0, 1, 2, 3, 4]])
def test_compaction_moves_rows_to_the_front_only(gone: list[int]) -> None:
    order = compacted(5, dict.fromkeys(gone))
    assert sorted(order) == [row for row in range(5) if row not in gone]
    assert all(source >= target for target, source in enumerate(order))
