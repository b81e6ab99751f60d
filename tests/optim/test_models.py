"""Every optimizer trains the own decoder and a transformers Llama, under a schedule, and resumes to the bit."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from fionalm.models import Decoder, DecoderConfig
from fionalm.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_scheduler
from fionalm.optim.config import OptimizerName

STEPS = 8
RATES = {"adamw": 0.02, "adam_atan2": 0.02, "adafactor": 0.1, "sgd": 0.5}


def make_model(kind: str) -> nn.Module:
    if kind == "decoder":
        config = DecoderConfig(vocab_size=16, d_model=12, n_layers=2, n_heads=2, max_seq_len=16)
        return Decoder(config, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=12,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            initializer_range=0.3,
        )
    )


def make_optimizer(name: Any, model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    momentum = 0.9 if name == "adafactor" else 0.5
    config = OptimizerConfig(name, lr=RATES[name], momentum=momentum, weight_decay=1e-3)
    optimizer = build_optimizer(config, model.parameters())
    return optimizer, build_scheduler(ScheduleConfig("cosine", warmup_steps=2, final_fraction=0.1), optimizer, STEPS)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> list[float]:
    """Learn that every token follows the one before by three; each step has tokens of its own."""
    losses = []
    for step in steps:
        start = torch.randint(16, (8, 1), generator=torch.Generator().manual_seed(step))
        tokens = (start + 3 * torch.arange(13)) % 16
        loss = F.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", get_args(OptimizerName))
@pytest.mark.parametrize("kind", ["decoder", "llama"])
def test_learns_and_resumes_to_the_bit(kind: str, name: Any) -> None:
    model = make_model(kind)
    optimizer, schedule = make_optimizer(name, model)
    losses = train(model, optimizer, schedule, range(STEPS // 2))
    saved: Any = copy.deepcopy((model.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    losses += train(model, optimizer, schedule, range(STEPS // 2, STEPS))
    assert losses[-1] < 0.8 * losses[0]

    other = make_model(kind)
    other.load_state_dict(saved[0])
    optimizer, schedule = make_optimizer(name, other)
    schedule.load_state_dict(saved[2])
    optimizer.load_state_dict(saved[1])
    assert train(other, optimizer, schedule, range(STEPS // 2, STEPS)) == losses[STEPS // 2 :]
    pairs: Any = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_atan2_training_does_not_see_the_scale_of_the_loss() -> None:
    def parameters(scale: float) -> list[Tensor]:
        model = make_model("decoder")
        optimizer, schedule = make_optimizer("adam_atan2", model)
        for step in range(3):
            tokens = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(step))
            loss = F.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
            (loss * scale).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return list(model.parameters())

    assert all(torch.equal(one, two) for one, two in zip(parameters(1.0), parameters(2.0**-20), strict=True))
