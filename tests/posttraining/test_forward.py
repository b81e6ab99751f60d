"""Log-probabilities under own and transformers models: those of the whole logits, whatever the head does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_policies import make_policy
from torch import Tensor, nn

from fionalm.posttraining import features, token_logps
from fionalm.posttraining.batches import Example, TokenBatch, collate
from fionalm.posttraining.forward import _has_plain_head, completion_logps

SMALL = {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}
IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "llama": ({"model_type": "llama", **LLAMA}, True),
    "gpt2": (
        {"model_type": "gpt2", "vocab_size": 23, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
        True,
    ),
    "gemma2": ({"model_type": "gemma2", **LLAMA, "final_logit_softcapping": 5.0}, False),
    "cohere": ({"model_type": "cohere", **LLAMA, "logit_scale": 0.3}, False),
    "phi": ({"model_type": "phi", **SMALL, "intermediate_size": 32}, False),
}


def transformers_model(name: str) -> nn.Module:
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = dict(MODELS[name][0])
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values, **IDS)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def _expected(model: nn.Module, ids: Tensor, temperature: float = 1.0) -> Tensor:
    logits = model(ids).logits[:, :-1] / temperature
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("name", ["own", *MODELS])
def test_values_and_gradients_are_those_of_the_logits(name: str) -> None:
    model = make_policy().model if name == "own" else transformers_model(name)
    ids = torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    found = token_logps(model, ids, mask=mask, temperature=0.7)
    expected = _expected(model, ids, 0.7).masked_fill(~mask, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    above = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad(found, parameters, above)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, parameters, above), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    if name != "own":
        assert _has_plain_head(model, ids) == MODELS[name][1]


@pytest.mark.parametrize("name", ["own", "llama", "gpt2"])
def test_padding_at_the_right_changes_nothing(name: str) -> None:
    model = make_policy().model if name == "own" else transformers_model(name)
    examples = [Example((1, 2, 3), (4,)), Example((5,), (6, 7, 8, 9, 1, 0)), Example((2, 2), (3, 0))]
    together = completion_logps(model, collate(examples, 0))
    alone = torch.cat([completion_logps(model, collate([example], 0)) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    other = collate(examples, 7)
    torch.testing.assert_close(completion_logps(model, other), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["own", "llama", "gpt2"])
def test_features_are_what_the_head_reads(name: str) -> None:
    model: Any = make_policy().model if name == "own" else transformers_model(name)
    ids = torch.randint(11, (2, 5))
    torch.testing.assert_close(features(model, ids) @ model.get_output_embeddings().weight.T, model(ids).logits)


def test_an_empty_mask_costs_nothing_and_gives_zeros() -> None:
    model = make_policy().model
    batch = TokenBatch(torch.ones(2, 4, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool))
    assert completion_logps(model, batch).tolist() == [0.0, 0.0]
