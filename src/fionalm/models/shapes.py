"""Shapes of models that the papers used, for cost estimates: parameter counts are the published ones. No torch.

PaLM 2's sizes were not published, so plans for its papers take a PaLM of the first generation and say so. PaLM computes
attention and MLP side by side, which costs what one after the other does.
"""

from __future__ import annotations

from dataclasses import replace

from fionalm.models.config import DecoderConfig

_PALM = DecoderConfig(
    vocab_size=256_000,
    d_model=4096,
    n_layers=32,
    n_heads=16,
    n_kv_heads=1,
    head_dim=256,
    max_seq_len=2048,
    mlp="silu_gated",
    tie_embeddings=True,
)

SHAPES: dict[str, DecoderConfig] = {
    "smollm2-135m": DecoderConfig(
        vocab_size=49_152,
        d_model=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        d_ff=1536,
        max_seq_len=8192,
        norm="rmsnorm",
        mlp="silu_gated",
        tie_embeddings=True,
    ),
    "gemma-2b": DecoderConfig(
        vocab_size=256_128,
        d_model=2048,
        n_layers=18,
        n_heads=8,
        n_kv_heads=1,
        head_dim=256,
        d_ff=16_384,
        max_seq_len=8192,
        norm="rmsnorm",
        mlp="silu_gated",
        tie_embeddings=True,
    ),
    "palm-8b": _PALM,
    "palm-62b": replace(_PALM, d_model=8192, n_layers=64, n_heads=32),
    "palm-540b": replace(_PALM, d_model=18_432, n_layers=118, n_heads=48),
}
"""By name; PaLM: Chowdhery et al. 2022, table 1; Gemma: Gemma Team 2024, table 1."""
