"""One of two processes that share a decoder under FSDP2; each samples other prompts, another number of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.sampling import EngineSampler, SamplingParams


def main(rank: int, folder: Path) -> None:
    """Write what this process drew before and after a step of training, spread and whole."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    config = DecoderConfig(vocab_size=27, d_model=16, n_layers=2, n_heads=2, max_seq_len=32)
    whole, spread = (Decoder(config, torch.Generator().manual_seed(0)) for _ in range(2))
    for block in spread.blocks:
        fully_shard(block)
    fully_shard(spread)
    tokenizer = character_tokenizer("abcdefghijklmnopqrstuvwxyz")
    prompts = ["first", "second", "third"][: 1 + 2 * rank]
    found = []
    for model in (whole, spread):
        sampler = EngineSampler(model, tokenizer)
        for _ in range(2):
            drawn = sampler.sample(prompts, SamplingParams(n=2 + rank, max_tokens=12))
            scores = sampler.score(prompts, ["some", "things", "more"][: len(prompts)])
            found.append([[[c.text for c in row] for row in drawn], [[round(x, 4) for x in row] for row in scores]])
            assert model is whole or isinstance(model.embed.weight, DTensor)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            model(torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
