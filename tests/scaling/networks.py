"""Small networks and data that the tests of this room share."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

KINDS = ("embedding", "hidden", "readout")


class Mlp(nn.Module):
    """[batch, inputs] -> [batch, outputs]; one input layer, `depth` hidden ones, a readout."""

    def __init__(self, width: int, depth: int = 1, inputs: int = 8, outputs: int = 4, bias: bool = False) -> None:
        super().__init__()
        sizes = [inputs, *[width] * (depth + 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=bias) for i, o in pairwise(sizes))

    @property
    def matrices(self) -> list[Tensor]:
        """The layers' weights [out, in], from the input on."""
        return [cast(nn.Linear, layer).weight for layer in self.layers]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class TinyDecoder(nn.Module):
    """A one-block language model with every kind of parameter, for what needs no real decoder."""

    def __init__(self, width: int = 32, vocab: int = 64, length: int = 16, tied: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return self.lm_head(x)


def vector_batches(count: int = 4, batch: int = 32, dtype: torch.dtype = torch.float32) -> list:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch, 8, generator=generator, dtype=dtype),
            torch.randint(0, 4, (batch,), generator=generator),
        )
        for _ in range(count)
    ]


def token_batches(count: int = 2, batch: int = 4, length: int = 9, vocab: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, vocab, (batch, length), generator=generator) for _ in range(count)]
