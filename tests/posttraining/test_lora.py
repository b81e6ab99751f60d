"""Adapters in own and transformers models: what is trained, what the reference is, what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_forward import transformers_model
from tiny_policies import make_policy

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.models import load_model
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import FinetuneConfig, Learner, LoraConfig, Policy, collate, completion_logps
from fionalm.posttraining.batches import Example, TokenBatch
from fionalm.posttraining.lora import linear_names

EXAMPLES = [Example((1, 2, 3), (4, 0)), Example((5,), (6, 7, 0))]
CONFIG = FinetuneConfig(optimizer=OptimizerConfig(lr=0.05), lora_rank=2)


def _policy(name: str) -> Policy:
    if name == "own":
        return make_policy()
    return Policy(transformers_model(name), character_tokenizer("abcdefghijklmnopqrstuv"), device="cpu", name=name)


def _train(policy: Policy, batch: TokenBatch, config: FinetuneConfig = CONFIG, steps: int = 3) -> None:
    learner = Learner(policy, config, total_steps=steps)
    for _ in range(steps):
        learner.step([0], lambda model, _: (-completion_logps(model, batch).sum(), {}))


@pytest.mark.parametrize("name", ["own", "llama", "gpt2"])
def test_adapters_alone_are_trained_and_saved_merged(name: str, tmp_path: Path) -> None:
    policy = _policy(name)
    batch = collate(EXAMPLES, 0)
    start = completion_logps(policy.model, batch).detach()
    layers = linear_names(policy.model)
    weights = {key: value.clone() for key, value in policy.model.state_dict().items()}
    policy.add_lora(LoraConfig(2, 4.0))
    torch.testing.assert_close(completion_logps(policy.model, batch), start)
    reference = policy.reference()
    _train(policy, batch)

    trained = [key for key, p in policy.model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(layers) and all(".lora_" in key for key in trained)
    now = completion_logps(policy.model, batch).detach()
    assert (now - start).abs().min() > 0.01
    torch.testing.assert_close(reference(batch).sum(-1), start)
    torch.testing.assert_close(completion_logps(policy.model, batch), now)
    for key, value in policy.model.state_dict().items():
        if ".lora_" not in key:
            assert torch.equal(value, weights[key.replace(".base_layer", "")])

    policy.save(tmp_path / "model")
    saved, _ = load_model(tmp_path / "model")
    torch.testing.assert_close(completion_logps(saved, batch), now, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(completion_logps(policy.model, batch), now)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set", "ignore:`is_gradient_checkpointing`")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_loads_the_adapters(name: str, tmp_path: Path) -> None:
    import peft

    policy = _policy(name)
    batch = collate(EXAMPLES, 0)
    policy.add_lora(LoraConfig(2, 4.0))
    _train(policy, batch)
    policy.save(tmp_path)
    loaded = peft.PeftModel.from_pretrained(transformers_model(name), str(tmp_path / "adapter"))
    logits = loaded(batch.input_ids).logits
    torch.testing.assert_close(logits, policy.model(batch.input_ids).logits, rtol=1e-4, atol=1e-5)


def test_the_reference_of_full_training_is_a_copy() -> None:
    policy = _policy("own")
    batch = collate(EXAMPLES, 0)
    start = completion_logps(policy.model, batch).detach()
    reference = policy.reference()
    _train(policy, batch, FinetuneConfig(optimizer=OptimizerConfig(lr=0.05)))
    assert (completion_logps(policy.model, batch) - start).abs().min() > 0.01
    found = reference(batch)
    torch.testing.assert_close(found.sum(-1), start)
    assert not found[~batch.completion_mask].any() and not found.requires_grad


def test_snapshots_are_restored_in_place() -> None:
    policy = _policy("own")
    policy.add_lora(LoraConfig(2, 4.0))
    batch = collate(EXAMPLES, 0)
    snapshot = policy.snapshot()
    _train(policy, batch)
    after = completion_logps(policy.model, batch)
    parameters = list(policy.model.parameters())
    policy.restore(snapshot)
    assert all(a is b for a, b in zip(parameters, policy.model.parameters(), strict=True))
    assert not torch.equal(completion_logps(policy.model, batch), after)
    assert all(torch.equal(value, policy.snapshot()[name]) for name, value in snapshot.items())


def test_layers_can_be_chosen_and_mistaken() -> None:
    policy = _policy("own")
    policy.add_lora(LoraConfig(2, 4.0, targets=("qkv",)))
    adapted = {name.split(".lora_")[0] for name, p in policy.model.named_parameters() if p.requires_grad}
    assert all(name.endswith(".qkv") for name in adapted) and len(adapted) == 2
    with pytest.raises(UserError, match=r"unknown linear layer .* 'qk': expected one of down, out, qkv, up; did you"):
        _policy("own").add_lora(LoraConfig(2, 4.0, targets=("qk",)))
