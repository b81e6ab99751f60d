"""A run of a fraction of a second: a decoder of 11,000 parameters on text that can be learned."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig
from fionalm.training.config import TrainConfig

VOCABULARY = 64


def cyclic_text(length: int, seed: int) -> np.ndarray:
    """Tokens that mostly follow the one before by one: easy to learn, but never without loss."""
    generator = np.random.default_rng(seed)
    jumps = np.where(generator.random(length) < 0.8, 1, generator.integers(0, VOCABULARY, length))
    return (np.cumsum(jumps) % VOCABULARY).astype(np.uint16)


def make_corpus() -> SimpleNamespace:
    return SimpleNamespace(
        train=cyclic_text(20_000, 0), validation=cyclic_text(3_000, 1), tokenizer=None, fingerprint="cyclic"
    )


@pytest.fixture(scope="session")
def corpus() -> SimpleNamespace:
    return make_corpus()


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    return TrainConfig(
        model=DecoderConfig(vocab_size=VOCABULARY, d_model=16, n_layers=2, n_heads=2, max_seq_len=32),
        data=DataConfig(seq_len=16),
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=1e-4),
        batch_size=8,
        steps=12,
        eval_batches=2,
        log_every=1,
    )
