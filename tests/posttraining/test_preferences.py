"""Preference training: what it computes, that shared prompts change nothing, resumption, and several processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killed_preferences import CONFIG, STRATEGIES, make_pairs, run, run_strategies
from tiny_policies import ALPHABET, make_policy
from torch import Tensor, nn

from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig, load_model
from fionalm.objectives import PREFERENCE_KINDS, PreferenceKind, log_ratio, preference_loss
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Policy, Preferences, PreferencesConfig
from fionalm.posttraining.pairs import (
    Pair,
    can_share,
    collate_pairs,
    encode_pair,
    pair_buckets,
    pair_logps,
    sharing_gain,
)
from fionalm.posttraining.preference_metrics import preference_means, preference_sums
from fionalm.posttraining.preferences_config import Sharing
from fionalm.posttraining.sampled_kl import sampled_kl
from fionalm.sampling import SamplingParams

VOCAB = len(ALPHABET) + 1
FAST = OptimizerConfig(lr=3e-3)


def transformers_model(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    if name == "llama":
        config = transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **ids,
        )
        return transformers.LlamaForCausalLM(config).eval()
    if name == "bloom":
        return transformers.BloomForCausalLM(
            transformers.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, **ids)
        ).eval()
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids)
    return transformers.GPT2LMHeadModel(config).eval()


def own_model(**fields: Any) -> Decoder:
    config = DecoderConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, max_seq_len=64, **fields)
    return Decoder(config, torch.Generator().manual_seed(0))


MODELS = {
    "rotary": lambda: own_model(norm="rmsnorm", mlp="silu_gated", n_kv_heads=2),
    "learned": lambda: own_model(positions="learned"),
    "llama": lambda: transformers_model("llama"),
    "gpt2": lambda: transformers_model("gpt2"),
}
ids = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12).map(tuple)
pairs = st.builds(Pair, ids, ids, ids, st.floats(0, 1))


def by_hand(model: nn.Module, pair: Pair) -> Tensor:
    """Return both completions' log-probabilities by a forward pass each."""
    found = []
    for completion in (pair.chosen_ids, pair.rejected_ids):
        tokens = torch.tensor([pair.prompt_ids + completion])
        logps = model(tokens).logits.log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])
        found.append(logps[len(pair.prompt_ids) - 1 :].sum())
    return torch.stack(found)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shared", [True, False])
def test_log_probabilities_and_gradients_are_those_of_two_passes(name: str, shared: bool) -> None:
    model = MODELS[name]()
    assert can_share(model)
    pairs = [Pair((1, 2, 3, 4), (5, 6), (7, 8, 9)), Pair((9,), (1, 2, 3, 4, 5), (6,)), Pair((2, 2, 3), (4,), (4, 5))]
    logps = torch.stack(pair_logps(model, collate_pairs(pairs, 0, shared=shared)), dim=1)
    expected = torch.stack([by_hand(model, pair) for pair in pairs])
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad((logps * weights).sum(), parameters)
    for gradient, wanted in zip(found, torch.autograd.grad((expected * weights).sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
    means = torch.stack(pair_logps(model, collate_pairs(pairs, 0, shared=shared), average=True), dim=1)
    lengths = torch.tensor([[len(pair.chosen_ids), len(pair.rejected_ids)] for pair in pairs])
    torch.testing.assert_close(means, expected / lengths, rtol=1e-5, atol=1e-5)


@given(st.lists(pairs, min_size=1, max_size=5), st.integers(1, 80), st.booleans())
def test_rows_hold_each_pair_once_whatever_the_layout(pairs: list[Pair], max_tokens: int, shared: bool) -> None:
    groups = pair_buckets(pairs, max_tokens, shared=shared)
    assert sorted(index for group in groups for index in group) == list(range(len(pairs)))
    batch = collate_pairs(pairs, VOCAB, shared=shared)
    counts = torch.bincount(batch.owners, minlength=2 * len(pairs)).tolist()
    assert counts == [len(p.chosen_ids) for p in pairs] + [len(p.rejected_ids) for p in pairs]
    assert (batch.input_ids != VOCAB).sum() == sum(
        p.shared_length + (0 if shared else len(p.prompt_ids)) for p in pairs
    )
    assert 1 < sharing_gain(pairs) < 2


def test_models_that_cannot_share_are_found_out() -> None:
    assert not can_share(transformers_model("bloom"))
    model = transformers_model("llama")
    model.config.sliding_window = 16  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    assert not can_share(model)


def test_a_model_that_cannot_share_is_trained_in_two_rows() -> None:
    def train(sharing: Any) -> Any:
        policy = Policy(transformers_model("bloom"), character_tokenizer(ALPHABET), device="cpu")
        config = PreferencesConfig(batch_size=4, steps=2, shared_prompt=sharing)
        return Preferences(policy, make_pairs(8), config, quiet=True).run()

    result = train("auto")
    assert not result.shared_prompt and len(result.rows) == 2
    with pytest.raises(UserError, match="BloomForCausalLM cannot place two completions"):
        train("always")


@pytest.mark.parametrize("kind", PREFERENCE_KINDS)
def test_the_first_step_is_the_objective_by_hand(kind: PreferenceKind) -> None:
    policy, rows = make_policy(), make_pairs(6)
    config = PreferencesConfig(loss=kind, batch_size=6, steps=2, optimizer=OptimizerConfig(lr=1e-4))
    encoded = [encode_pair(policy.tokenizer, row, number=0) for row in rows]
    start = torch.stack([by_hand(policy.model, pair) for pair in encoded]).T.detach()
    result = Preferences(policy, rows, config, quiet=True).run()
    labels = torch.tensor([pair.soft_label for pair in encoded])
    first = preference_loss(*start, *start, soft_labels=labels, kind=kind, beta=config.chosen_beta)
    assert result.rows[0]["loss"] == pytest.approx(first.mean().item(), rel=1e-5)
    assert result.rows[0]["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert result.rows[1]["loss"] < result.rows[0]["loss"]


def test_layouts_micro_batches_and_accumulation_agree() -> None:
    found = []
    layouts: list[tuple[Sharing, int]] = [("always", 10_000), ("never", 10_000), ("always", 30), ("never", 1)]
    for sharing, tokens in layouts:
        config = PreferencesConfig(
            batch_size=5, steps=4, optimizer=FAST, shared_prompt=sharing, micro_batch_tokens=tokens
        )
        found.append([row["loss"] for row in Preferences(make_policy(), make_pairs(11), config, quiet=True).run().rows])
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-5)


def test_lora_keeps_the_base_as_reference_and_lowers_the_loss() -> None:
    pytest.importorskip("peft")
    policy = make_policy()
    base = {name: value.clone() for name, value in policy.model.state_dict().items()}
    config = PreferencesConfig(batch_size=8, steps=30, optimizer=OptimizerConfig(lr=1e-2), lora_rank=4)
    result = Preferences(policy, make_pairs(8), config, validation=make_pairs(4, seed=1), quiet=True).run()
    assert result.rows[-1]["loss"] < result.rows[0]["loss"] - 0.05
    after = {name.replace(".base_layer", ""): value for name, value in policy.model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert result.validation["loss"] != result.rows[-1]["loss"]


def test_geometric_dpo_learns_from_sure_pairs_alone() -> None:
    """A pair is shown as equally preferred, another as sure: only the second's gap grows, under DPO both do."""
    rows = [
        {"prompt": "ab>", "chosen": "ab", "rejected": "hg", "soft_label": 0.5},
        {"prompt": "cd>", "chosen": "cd", "rejected": "fe", "soft_label": 1.0},
    ]

    def gaps(kind: PreferenceKind) -> dict[str, float]:
        config = PreferencesConfig(loss=kind, batch_size=2, steps=40, optimizer=OptimizerConfig(lr=1e-3))
        return Preferences(make_policy(), rows, config, quiet=True).run().rows[-1]

    soft, hard = gaps("geometric_dpo"), gaps("dpo")
    assert soft["gap/0.9-1"] > 0.3 and hard["gap/0.9-1"] > 0.3
    assert hard["gap/0.5-0.6"] > 3 * abs(soft["gap/0.5-0.6"])


@pytest.mark.parametrize("rank", [0, 4])
def test_the_kl_is_that_of_samples_from_the_start(rank: int) -> None:
    config = PreferencesConfig(
        batch_size=8, steps=40, optimizer=OptimizerConfig(lr=1e-2), lora_rank=rank, kl_prompts=6, max_tokens=8,
        validate_every=20,
    )  # fmt: skip
    still = replace(config, steps=1, optimizer=OptimizerConfig(lr=1e-12))
    assert Preferences(make_policy(), make_pairs(8), still, quiet=True).run().rows[-1]["kl"] == pytest.approx(
        0, abs=1e-6
    )
    rows = Preferences(make_policy(), make_pairs(8), config, quiet=True).run().rows
    found = [row["kl"] for row in rows if "kl" in row]
    assert len(found) == 2 and found[1] > 0.1


def test_the_sampled_kl_is_unbiased() -> None:
    """Against the exact KL of the first token, with completions of one token."""
    policy, other = make_policy(), make_policy(seed=1)
    prompts = [policy.tokenizer.encode_prompt(text) for text in ("ab>", "c>", "hd>")]
    estimate = sampled_kl(policy, other.reference(), prompts, SamplingParams(n=400, max_tokens=1))
    with torch.no_grad():
        exact = []
        for prompt in prompts:
            p, q = (one.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1) for one in (policy, other))
            exact.append((p.exp() * (p - q)).sum().item())
    assert estimate == pytest.approx(sum(exact) / len(exact), rel=0.15)


def test_a_run_folder_resumes_and_is_of_one_configuration(tmp_path: Path) -> None:
    rows = make_pairs(12)
    config = replace(CONFIG, steps=4)
    result = Preferences(make_policy(), rows, config, validation=rows[:3], out=tmp_path, quiet=True).run()
    assert [row["step"] for row in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())] == [
        0,
        1,
        2,
        3,
    ]
    assert result.validation["loss"] == result.rows[-1]["validation/loss"]
    again = Preferences(make_policy(), rows, config, validation=rows[:3], out=tmp_path, quiet=True).run()
    assert again == result
    saved, tokenizer = load_model(tmp_path)
    assert tokenizer is not None
    pair = encode_pair(make_policy().tokenizer, rows[0], number=0)
    assert not torch.allclose(by_hand(saved, pair), by_hand(make_policy().model, pair))
    with pytest.raises(UserError, match="folder of another run, whose beta"):
        Preferences(make_policy(), rows, replace(config, beta=0.2), validation=rows[:3], out=tmp_path).run()


def test_reference_log_probabilities_are_read_back_only_for_the_same_weights(tmp_path: Path, monkeypatch: Any) -> None:
    from fionalm.posttraining import reference_logps as module
    from fionalm.training.distributed import World

    policy = make_policy()
    pairs = [encode_pair(policy.tokenizer, row, number=0) for row in make_pairs(5)]

    def compute(policy: Policy, pairs: list[Pair]) -> Tensor:
        return module.reference_logps(
            policy, pairs, CONFIG, shared=True, world=World(policy.device), folder=tmp_path, quiet=True
        )

    first = compute(policy, pairs)
    torch.testing.assert_close(first, torch.stack([by_hand(policy.model, pair) for pair in pairs]).T.detach())
    real = module.pair_logps
    calls: list[int] = []
    monkeypatch.setattr(module, "pair_logps", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    assert torch.equal(compute(policy, pairs), first) and not calls
    other = compute(make_policy(seed=1), pairs)
    assert calls and not torch.allclose(other, first)
    calls.clear()
    compute(make_policy(seed=1), pairs[::-1])
    assert calls


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(here: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, here / "killed_preferences.py", killed],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    run(str(whole))
    for name in ("model/model.safetensors", "result.json", "metrics.jsonl", "reference/logps.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_train_as_one(here: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, here / "killed_preferences.py", tmp_path / "two", "strategies"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_strategies(str(tmp_path / "one"))
    for strategy in STRATEGIES:
        two, one = (
            [json.loads(line) for line in (tmp_path / name / strategy / "metrics.jsonl").read_text().splitlines()]
            for name in ("two", "one")
        )
        for name in ("loss", "reward_margin", "grad_norm"):
            assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4), strategy
        kls = [[value for row in rows for key, value in row.items() if "kl" in key] for rows in (two, one)]
        assert kls[0] == pytest.approx(kls[1], rel=1e-3) and any(kls[0])


def test_mistakes_are_one_sentence() -> None:
    rows = make_pairs(3)

    def train(rows: list[dict[str, Any]], **settings: Any) -> None:
        Preferences(make_policy(), rows, PreferencesConfig(**settings), quiet=True).run()

    with pytest.raises(UserError, match=r"row 2: the soft_label is 1.5: expected a probability in \[0, 1\]"):
        train([rows[0], {**rows[1], "soft_label": 1.5}])
    with pytest.raises(UserError, match="row 3: the soft_label is nan"):
        train([*rows[:2], {**rows[2], "soft_label": math.nan}])
    with pytest.raises(UserError, match="row 1: the soft_label is 'high'"):
        train([{**rows[0], "soft_label": "high"}])
    with pytest.raises(UserError, match="row 1: the soft_label is None"):
        train([{**rows[0], "soft_label": None}])
    with pytest.raises(UserError, match="row 2 has no 'chosen': it has prompt, chosn.*did you mean 'chosn'"):
        train([rows[0], {"prompt": "a>", "chosn": "b", "rejected": "c"}])
    with pytest.raises(UserError, match="row 2: the completion was empty"):
        train([rows[0], {**rows[1], "rejected": ""}])
    with pytest.raises(UserError, match=r"row 1: the prompt's 41 tokens"):
        train([{**rows[0], "prompt": "a" * 40 + ">"}])
    with pytest.raises(UserError, match="no pairs"):
        train([])
    with pytest.raises(UserError, match="did you mean 'geometric_ipo'"):
        train(rows, loss="geometric_ip")


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=20),
    st.integers(1, 19),
)
def test_sums_over_micro_batches_give_the_means_of_the_whole(
    values: list[tuple[float, float, float]], cut: int
) -> None:
    chosen, rejected, labels = torch.tensor(values, dtype=torch.float64).T

    def sums(part: slice) -> dict[str, float]:
        found = preference_sums(chosen[part], rejected[part], labels[part], 0.5)
        return {name: value.item() for name, value in found.items()}

    whole = preference_means(sums(slice(None)))
    parts = [sums(part) for part in (slice(0, cut), slice(cut, None)) if len(chosen[part])]
    added = preference_means({name: sum(part[name] for part in parts) for name in parts[0]})
    assert added == pytest.approx(whole)
    zeros = torch.zeros_like(chosen)
    gap = 0.5 * log_ratio(chosen, rejected, zeros, zeros) * torch.where(labels >= 0.5, 1, -1)
    assert whole["reward_margin"] == pytest.approx(gap.mean().item(), abs=1e-6)
    weighed = sum(whole[f"gap/{name}"] * parts_count(labels, name) for name in NAMES if f"gap/{name}" in whole)
    assert weighed == pytest.approx(gap.sum().item(), abs=1e-6)


NAMES = ("0.5-0.6", "0.6-0.7", "0.7-0.8", "0.8-0.9", "0.9-1")


def parts_count(labels: Tensor, name: str) -> int:
    low, high = map(float, name.split("-"))
    confidence = torch.maximum(labels, 1 - labels)
    return int(((confidence >= low) & ((confidence < high) | (high == 1))).sum())
