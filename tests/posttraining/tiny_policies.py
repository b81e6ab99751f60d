"""A tiny decoder, its tokenizer and rows of a copying task."""

from __future__ import annotations

from typing import Any

import torch

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.posttraining import Policy

ALPHABET = "abcdefgh >"


def make_policy(seed: int = 0, n_layers: int = 2) -> Policy:
    """Return a decoder with fresh weights."""
    tokenizer = character_tokenizer(ALPHABET)
    config = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), d_model=32, n_layers=n_layers, max_seq_len=32)
    return Policy(Decoder(config, torch.Generator().manual_seed(seed)), tokenizer, device="cpu")


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows whose completion is their prompt's letters, of various lengths."""
    generator = torch.Generator().manual_seed(seed)
    words = []
    for _ in range(count):
        length = int(torch.randint(1, 7, (), generator=generator))
        words.append("".join(ALPHABET[i] for i in torch.randint(8, (length,), generator=generator).tolist()))
    return [{"prompt": f"{word}>", "completion": word} for word in words]
