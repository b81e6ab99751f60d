from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fionalm.models import Decoder
from fionalm.training import LossModule, TrainConfig, evaluate, train_step


@pytest.fixture
def model(tiny: TrainConfig) -> Decoder:
    return Decoder(tiny.model, torch.Generator().manual_seed(0))


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 64, (7, 17), generator=torch.Generator().manual_seed(0))


class LogitsOnly(nn.Module):
    """What a transformers model looks like."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.inner = model

    def forward(self, input_ids: torch.Tensor):
        return self.inner(input_ids)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_loss_with_and_without_logits_agree(model: Decoder, tokens: torch.Tensor, z_loss: float) -> None:
    chunked, plain = LossModule(model, z_loss), LossModule(LogitsOnly(model), z_loss)
    assert chunked.takes_head and not plain.takes_head
    one, other = chunked(tokens), plain(tokens)
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(one.statistics, other.statistics)
    logits = model(tokens[:, :-1]).logits.flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    torch.testing.assert_close(one.statistics[0], expected.detach())
    torch.testing.assert_close(one.statistics[1], logits.logsumexp(-1).mean().detach())
    assert (one.total.item() > expected.item() + 0.1) == bool(z_loss)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_accumulated_gradients_are_those_of_the_whole_batch(model: Decoder, tokens: torch.Tensor, parts: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    module = LossModule(model)
    module(tokens).total.backward()
    expected, loss = gradients(model), module(tokens).statistics
    # 7 rows in 2 or 3 parts are of unequal size, so a plain mean of the parts' losses would be wrong.
    done = train_step(module, optimizer, tokens, parts=parts)
    torch.testing.assert_close(done.statistics, loss)
    torch.testing.assert_close(gradients(model), expected)


def test_only_the_last_part_shares_its_gradients(model: Decoder, tokens: torch.Tensor) -> None:
    shared: list[bool] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(LossModule(model), optimizer, tokens, parts=3, set_sync=shared.append)
    assert shared == [False, False, True]


def test_clipping(model: Decoder, tokens: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    seen: list[float] = []

    def norm() -> float:
        return torch.stack([g.norm() for g in gradients(model).values()]).norm().item()

    done = train_step(LossModule(model), optimizer, tokens, clip_norm=0.5, after_backward=lambda: seen.append(norm()))
    assert done.grad_norm is not None
    assert done.grad_norm.item() == pytest.approx(seen[0])
    assert seen[0] > 0.5
    assert norm() == pytest.approx(0.5, rel=1e-4)
    assert train_step(LossModule(model), optimizer, tokens).grad_norm is None


def test_evaluation_weighs_rows_and_leaves_the_mode(model: Decoder, tokens: torch.Tensor) -> None:
    model.blocks[0].register_module("mlp", nn.Dropout(0.5))
    module = LossModule(model).train()
    whole = module.eval()(tokens).statistics[0]
    module.train()
    torch.testing.assert_close(evaluate(module, [tokens[:5], tokens[5:]]), whole)
    torch.testing.assert_close(evaluate(module, [tokens], parts=2), whole)
    assert module.training


def test_bf16_autocast_is_close_and_keeps_float32_gradients(model: Decoder, tokens: torch.Tensor) -> None:
    module = LossModule(model)
    exact = module(tokens).statistics[0].item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    done = train_step(module, optimizer, tokens, precision=partial(torch.autocast, "cpu", torch.bfloat16))
    assert done.statistics[0].item() != exact
    assert done.statistics[0].item() == pytest.approx(exact, rel=0.02)
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}
