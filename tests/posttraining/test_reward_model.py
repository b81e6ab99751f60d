"""The learned verifier: it learns from labels and from pairs, is saved whole, and selects in BoN-RL-V."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import make_policy

from fionalm.errors import UserError
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import BestOfN, BestOfNConfig, RewardConfig, RewardModel, RewardTrainer
from fionalm.posttraining.reward_training import ranking
from fionalm.verifiers import FunctionVerifier, describe

CONFIG = RewardConfig(steps=60, batch_size=32, optimizer=OptimizerConfig(lr=5e-3), checkpoint_every=20)


def words(count: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return ["".join("abcdefgh"[i] for i in torch.randint(8, (4,), generator=generator)) for _ in range(count)]


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Completions of which those with an `a` are right."""
    return [{"prompt": f"{w[:2]}>", "completion": w, "label": "a" in w} for w in words(count, seed)]


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rows = labelled(4 * count, seed)
    right = [row["completion"] for row in rows if row["label"]]
    wrong = [row["completion"] for row in rows if not row["label"]]
    return [{"prompt": "b>", "chosen": c, "rejected": r} for c, r in zip(right[:count], wrong[:count], strict=True)]


def test_labels_are_learnt_and_the_model_is_saved_whole(tmp_path: Path) -> None:
    rows = [*labelled(256), {"prompt": "a>", "completion": "b", "label": None}]
    trainer = RewardTrainer(make_policy(), rows, CONFIG, validation=labelled(128, 1), out=tmp_path, quiet=True)
    found = trainer.run()
    assert trainer.skipped == 1
    assert found.validation_accuracy is not None and found.validation_accuracy > 0.9
    assert found.validation_ranking is not None and found.validation_ranking > 0.95
    held_out = labelled(32, 2)
    prompts, completions = [row["prompt"] for row in held_out], [row["completion"] for row in held_out]
    scores = trainer.model.score(prompts, completions)
    torch.testing.assert_close(RewardModel.load(tmp_path, device="cpu").score(prompts, completions), scores)
    one_by_one = [trainer.model([p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(one_by_one, scores, rtol=1e-4, atol=1e-4)
    assert describe(RewardModel.load(tmp_path, device="cpu").score) == describe(trainer.model)
    assert describe(RewardTrainer(make_policy(), rows, replace(CONFIG, seed=1), quiet=True).model) != describe(
        trainer.model
    )
    again = RewardTrainer(make_policy(), rows, CONFIG, validation=labelled(128, 1), out=tmp_path, quiet=True)
    assert again.run() == replace(found, rows=found.rows)
    torch.testing.assert_close(again.model.score(prompts, completions), scores)


def test_a_weighted_row_with_a_mean_label_is_several_rows() -> None:
    texts = [("ab>", "cd", (1, 1, 0)), ("cd>", "ab", (0, 0)), ("ef>", "gh", (1,))]
    apart = [{"prompt": p, "completion": c, "label": label} for p, c, labels in texts for label in labels]
    merged = [
        {"prompt": p, "completion": c, "label": sum(labels) / len(labels), "weight": len(labels)}
        for p, c, labels in texts
    ]
    config = replace(CONFIG, steps=5, batch_size=6)
    losses = []
    for rows in (apart, merged):
        trainer = RewardTrainer(make_policy(), rows, config, validation=rows, quiet=True)
        found = trainer.run()
        losses.append([*(row["loss"] for row in found.rows), found.validation_loss])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_pairs_are_learnt_by_bradley_terry() -> None:
    trainer = RewardTrainer(make_policy(), pairs(128), CONFIG, validation=pairs(64, 1), quiet=True)
    found = trainer.run()
    assert found.rows[0]["loss"] == pytest.approx(np.log(2), abs=0.7)
    assert found.validation_accuracy is not None and found.validation_accuracy > 0.9
    assert found.validation_ranking is None


def test_lora_trains_adapters_and_the_head_alone(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = make_policy()
    base = {name: value.clone() for name, value in policy.model.state_dict().items()}
    trainer = RewardTrainer(policy, labelled(64), replace(CONFIG, steps=5, lora_rank=2), out=tmp_path, quiet=True)
    trainer.run()
    after = policy.model.state_dict()
    assert torch.equal(after["blocks.0.mlp.up.base_layer.weight"], base["blocks.0.mlp.up.weight"])
    assert torch.equal(after["embed.weight"], base["embed.weight"])
    scores = trainer.model.score(["ab>"] * 2, ["abcd", "bcde"])
    torch.testing.assert_close(
        RewardModel.load(tmp_path, device="cpu").score(["ab>"] * 2, ["abcd", "bcde"]), scores, rtol=1e-4, atol=1e-5
    )


def test_a_transformers_model_has_a_head_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from fionalm.posttraining import Policy

    config = transformers.GPT2Config(
        vocab_size=11, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    policy = Policy(transformers.GPT2LMHeadModel(config), make_policy().tokenizer, device="cpu")
    trainer = RewardTrainer(policy, labelled(64), replace(CONFIG, steps=10), out=tmp_path, quiet=True)
    found = trainer.run()
    assert found.rows[-1]["loss"] < found.rows[0]["loss"]
    scores = trainer.model.score(["ab>"] * 2, ["abcd", "bcde"])
    torch.testing.assert_close(
        RewardModel.load(tmp_path, device="cpu").score(["ab>"] * 2, ["abcd", "bcde"]), scores, rtol=1e-4, atol=1e-5
    )


def test_it_selects_in_bon_rl_v() -> None:
    selector = RewardTrainer(make_policy(), labelled(256), CONFIG, quiet=True)
    selector.run()

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [float("a" in text) for text in completions]

    rows = [{"prompt": f"{w[:2]}>"} for w in words(16, 3)]
    config = BestOfNConfig(
        method="bon-rl-v",
        n=4,
        steps=10,
        batch_size=8,
        max_tokens=4,
        optimizer=OptimizerConfig(lr=1e-2),
        checkpoint_every=0,
    )
    trained = BestOfN(
        make_policy(), rows, FunctionVerifier(reward), config, selector=selector.model, validation=rows, quiet=True
    ).run()
    assert trained.after["best_of_4"] > trained.before["best_of_4"] + 0.1


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12).flatmap(
        lambda scores: st.tuples(st.just(scores), st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    )
)
def test_ranking_is_the_share_of_ordered_pairs(drawn: tuple[list[int], list[bool]]) -> None:
    scores, right = drawn
    above = [s for s, r in zip(scores, right, strict=True) if r]
    below = [s for s, r in zip(scores, right, strict=True) if not r]
    found = ranking([float(s) for s in scores], right)
    if not above or not below:
        assert found is None
    else:
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in above for b in below]
        assert found == pytest.approx(sum(wins) / len(wins))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([{"prompt": "a>", "completion": "b", "lable": 1}], "did you mean 'lable'"),
        ([{"prompt": "a>", "completion": "b", "label": 1.5}], r"row 1: label was 1\.5"),
        ([{"prompt": "a>", "completion": "b", "label": None}], "none of the 1 rows has a label"),
        ([{"prompt": "a>", "chosen": "b", "rejcted": "c"}], "did you mean 'rejcted'"),
        ([{"prompt": "a>", "completion": "b" * 31, "label": 1}], "33 tokens: expected at most the 32"),
    ],
)
def test_mistakes_are_one_sentence(rows: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RewardTrainer(make_policy(), rows, CONFIG)


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no reward model.*reward_head"):
        RewardModel.load(tmp_path)
