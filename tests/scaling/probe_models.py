"""Small models that the probes' tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fionalm.models import Decoder, DecoderConfig

VOCAB = 64


def decoder(**changes: Any) -> Any:
    config = DecoderConfig(**{"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, **changes})
    return Decoder(config, generator=torch.Generator().manual_seed(0))


def transformers_model(family: str, attention: str = "sdpa") -> Any:
    import transformers

    torch.manual_seed(0)
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": VOCAB, "attn_implementation": attention}
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **tokens)
        )
    if family == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, **tokens, num_key_value_heads=2))
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**size, **tokens))


def batch(rows: int = 2, seq_len: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, seq_len), generator=torch.Generator().manual_seed(seed))


def loss_of(model: Any, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
