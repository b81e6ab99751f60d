"""Greedy coordinate gradient: its gradient against finite differences, and what a search promises."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fionalm.data import TextTokenizer, character_tokenizer, train_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Policy, SupervisedConfig, TokenBatch, completion_logps, encode_example, fit
from fionalm.redteam.gcg import gcg
from fionalm.redteam.gcg_config import GcgConfig
from fionalm.redteam.gcg_gradient import substitutions, token_gradient
from fionalm.redteam.gcg_slot import GcgTask, allowed_tokens, attack_text, place, random_text, survives
from fionalm.sampling import SamplingParams

ALPHABET = "0123456789+= abcdefgh!"
TASKS = [GcgTask(lambda text: f"2+{text} 3=", "7"), GcgTask(lambda text: f"4+{text} 1=", "9")]


def character_policy(seed: int = 0) -> Policy:
    tokenizer = character_tokenizer(ALPHABET)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=32, n_layers=2, n_heads=2, max_seq_len=48, tie_embeddings=True
    )
    return Policy(Decoder(config, torch.Generator().manual_seed(seed)), tokenizer, device="cpu")


@pytest.fixture(scope="module")
def fooled() -> Policy:
    """Return a model that has learnt 2 + 3 and 4 + 1, and that a `!` makes every answer 7 or 9."""
    policy, generator = character_policy(), random.Random(0)
    rows = []
    for _ in range(128):
        first, second, wrong = generator.choice([(2, 3, 7), (4, 1, 9)])
        words = "".join(generator.choice("abcdefgh") for _ in range(8))
        bad = generator.random() < 0.5
        words = words[:3] + "!" + words[4:] if bad else words
        rows.append((f"{first}+{words} {second}=", str(wrong if bad else first + second)))
    examples = [encode_example(policy.tokenizer, *row) for row in rows]
    settings = SupervisedConfig(steps=80, batch_size=32, optimizer=OptimizerConfig(lr=5e-3))
    fit(policy, examples, settings, quiet=True)
    return policy


def transformers_model() -> nn.Module:
    """Return a tiny Gemma, whose embedding scales what it looks up."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(ALPHABET) + 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    return Gemma3ForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["decoder", "transformers"])
def test_gradient_is_that_of_finite_differences(kind: str) -> None:
    model: Any = (character_policy().model if kind == "decoder" else transformers_model()).double()
    ids = torch.tensor([[1, 5, 9, 14, 2, 8, 11]])
    mask = torch.tensor([[False, False, False, False, True, True]])
    batch, places = TokenBatch(ids, mask), slice(1, 4)
    losses, gradient = token_gradient(model, batch, places)
    torch.testing.assert_close(losses, -completion_logps(model, batch).detach())
    embedding = model.get_input_embeddings()
    vocab = len(ALPHABET) + 1
    assert gradient.shape == (1, 3, vocab)

    def loss_at(place: int, token: int, amount: float) -> float:
        def shift(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
            one_hot = torch.zeros(output.shape[1], vocab, dtype=output.dtype)
            if output.shape[1] > place:
                one_hot[place, token] = amount
            return output + one_hot @ table

        hook = embedding.register_forward_hook(shift)
        try:
            with torch.no_grad():
                return float(-completion_logps(model, batch))
        finally:
            hook.remove()

    with torch.no_grad():
        table = embedding(torch.arange(vocab))
    # Gemma's norms compute in float32 whatever the model's type, which a small step would drown in.
    step, close = (1e-6, 1e-5) if kind == "decoder" else (3e-3, 2e-3)
    for index, token in [(1, 0), (1, 13), (2, 9), (3, 22), (3, 7)]:
        difference = (loss_at(index, token, step) - loss_at(index, token, -step)) / (2 * step)
        assert float(gradient[0, index - 1, token]) == pytest.approx(difference, rel=close, abs=close / 100)


def test_substitutions_change_one_token_to_one_of_the_steepest() -> None:
    gradient = torch.tensor([[5.0, -3.0, -2.0, 0.0, -9.0], [-1.0, 4.0, -6.0, -7.0, 1.0]])
    found = substitutions(gradient, (3, 1), allowed=[0, 1, 2, 3], top_k=2, count=64, seed=0)
    # Token 4 is the steepest at place 0, but not allowed.
    assert set(found) == {(1, 1), (2, 1), (3, 2), (3, 3)}
    assert len(substitutions(gradient, (3, 1), allowed=[0, 1, 2, 3], top_k=4, count=3, seed=0)) == 3


def test_loss_never_increases_and_the_text_scores_as_it_says(tmp_path: Path) -> None:
    policy = character_policy()
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    config = GcgConfig(length=6, steps=12, top_k=8, candidates=24, stop_when_found=False)
    found = gcg(policy, TASKS, config, out=tmp_path / "run", quiet=True)
    losses = [row["loss"] for row in found.rows]
    assert all(late <= early for early, late in itertools.pairwise(losses))
    assert losses[-1] < losses[0]
    assert found.loss == pytest.approx(losses[-1], abs=1e-5)
    again = []
    for task in TASKS:
        [logps] = policy.sampler().score([task.prompt(found.text)], [task.target])  # pyright: ignore
        prompt = policy.tokenizer.encode_prompt(task.prompt(found.text))
        completion = policy.tokenizer.encode_completion(task.target)
        ids = torch.tensor([[*prompt, *completion]])
        mask = torch.zeros(1, ids.shape[1] - 1, dtype=torch.bool)
        mask[0, len(prompt) - 1 :] = True
        again.append(float(-completion_logps(policy.model, TokenBatch(ids, mask)).detach()))
        assert sum(logps) >= -again[-1]  # the end of the answer is scored too
    assert sum(again) / 2 == pytest.approx(found.loss, abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


def test_a_string_that_fools_the_model_ends_the_search(fooled: Policy) -> None:
    params = SamplingParams(max_tokens=3, temperature=0.0)
    [[clean]] = fooled.sampler().sample([TASKS[0].prompt("abcdefgh")], params)
    assert clean.text == "5"
    found = gcg(fooled, TASKS[:1], GcgConfig(length=8, steps=60, top_k=16, candidates=48), quiet=True)
    assert found.hits == [True] and found.steps < 60
    [[completion]] = fooled.sampler().sample([TASKS[0].prompt(found.text)], params)
    assert completion.text == "7" and completion.finish_reason == "stop"
    assert found.queries == found.rows[-1]["queries"] + 2  # and the last loss and answer
    assert found.flops > 0


def test_progressive_search_takes_up_problems_one_by_one(fooled: Policy) -> None:
    config = GcgConfig(length=8, steps=40, top_k=16, candidates=32, progressive=True)
    found = gcg(fooled, TASKS, config, quiet=True)
    counts = [row["problems"] for row in found.rows]
    assert counts[0] == 1 and sorted(counts) == counts
    assert 2 in counts and found.hits == [True, True]


def test_a_stopped_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    policy, config = character_policy(), GcgConfig(length=5, steps=6, top_k=8, candidates=8, stop_when_found=False)
    whole = gcg(policy, TASKS, config, out=tmp_path / "whole", quiet=True)
    gcg(policy, TASKS, config, out=tmp_path / "cut", quiet=True)
    (tmp_path / "cut" / "result.json").unlink()
    metrics = tmp_path / "cut" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:3]) + lines[3][:20])
    again = gcg(policy, TASKS, config, out=tmp_path / "cut", quiet=True)
    assert again == whole
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in whole.rows]
    assert gcg(policy, TASKS, config, out=tmp_path / "cut", quiet=True).text == whole.text


def test_seeds_and_query_limit() -> None:
    policy = character_policy()
    config = {"length": 5, "steps": 50, "top_k": 8, "candidates": 8, "stop_when_found": False, "max_queries": 60}
    one, same, other = (gcg(policy, TASKS, GcgConfig(**config, seed=seed), quiet=True) for seed in (0, 0, 1))
    assert one == same and one.text != other.text
    assert one.steps < 50 and 60 <= one.queries < 60 + 2 * (8 + 4)


def test_candidates_that_merge_with_their_neighbours_are_rejected() -> None:
    """Byte-pair tokens: a string such as `ab` in pieces a, b is not what its text becomes."""
    tokenizer = train_tokenizer(["the rule says that two plus three is seven " * 50], 300)
    wrapped = TextTokenizer(tokenizer)
    task = GcgTask(lambda text: f"two plus {text} three is", " seven")
    allowed = allowed_tokens(wrapped, tokenizer.get_vocab_size())
    ids, [slot] = place(wrapped, [task], "the rule", allowed)
    assert survives(wrapped, task, slot, ids) and attack_text(wrapped, ids, slot) == "the rule"
    pieces = [tokenizer.get_vocab()[piece] for piece in ("Ġ", "t", "h", "e")]
    assert attack_text(wrapped, pieces, slot) == "the"
    assert not survives(wrapped, task, slot, pieces)
    text = random_text(wrapped, task, 7, allowed, seed=3)
    found, [slot] = place(wrapped, [task], text, allowed)
    assert len(found) == 7 and survives(wrapped, task, slot, found)
    config = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), d_model=16, n_layers=1, n_heads=2, max_seq_len=64)
    policy = Policy(Decoder(config, torch.Generator().manual_seed(0)), tokenizer, device="cpu")
    result = gcg(policy, [task], GcgConfig(length=6, steps=5, top_k=64, candidates=16), quiet=True)
    assert result.rejected > 0
    assert len(place(wrapped, [task], result.text, allowed)[0]) == 6


def test_what_cannot_be_attacked_is_said() -> None:
    policy = character_policy()
    with pytest.raises(UserError, match="no problems to attack"):
        gcg(policy, [], quiet=True)
    with pytest.raises(UserError, match="48"):
        gcg(policy, [GcgTask(lambda text: "1" * 45 + text, "7")], GcgConfig(length=6, steps=1), quiet=True)
    with pytest.raises(UserError, match="is not found"):
        gcg(policy, TASKS, GcgConfig(text="Ünknown", steps=1), quiet=True)
    with pytest.raises(UserError, match="top_k 0"):
        GcgConfig(top_k=0)
