"""Hardening: the mix holds what it says, nothing tested is learnt, and the exact reward rises where it should."""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gullible import DISTANCES, SENTENCES, TEST, TEST_SUMS, TRAIN, TRAIN_SUMS, gullible_policy

from fionalm.errors import UserError
from fionalm.models import load_model
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import BestOfNConfig, Policy, SupervisedConfig, token_logps
from fionalm.redteam import repetition_attack
from fionalm.redteam.answers import Outcome
from fionalm.redteam.attacks import Attack
from fionalm.redteam.hardening import Hardened, harden
from fionalm.redteam.hardening_config import HardenConfig
from fionalm.redteam.hardening_rows import check_disjoint, split_by_family, training_rows
from fionalm.redteam.paired import paired_accuracy, standing
from fionalm.redteam.unrelated import perplexity_change, readable, text_loss
from fionalm.statistics import Interval, wilson

CONFIG = HardenConfig(
    method="reinforce",
    optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.999)),
    steps=30,
    batch_size=16,
    rows=64,
    max_tokens=4,
    temperature=1.0,
    kl_coef=0.01,
    distances=DISTANCES,
)
TEXTS = ["the cat sat on the sun.", "we go home."]


@pytest.fixture(scope="module")
def gullible() -> Policy:
    return gullible_policy()


@pytest.fixture
def policy(gullible: Policy) -> Policy:
    return Policy(copy.deepcopy(gullible.model), gullible.tokenizer, device="cpu", name="gullible")


def run(policy: Policy, config: HardenConfig = CONFIG, **others: Any) -> Hardened:
    data = {"problems": TRAIN_SUMS, "test_problems": TEST_SUMS, "unrelated": TEXTS, "sentences": SENTENCES}
    return harden(policy, TRAIN, TEST, config, quiet=True, **data | others)


@pytest.mark.parametrize("method", ["reinforce", "grpo", "ppo"])
def test_the_exact_reward_rises(policy: Policy, method: Any) -> None:
    found = run(policy, replace(CONFIG, method=method, steps=12 if method == "ppo" else 24))
    assert found.reward is not None and found.reward[1] > found.reward[0] + 0.2
    assert found.steps == len(found.rows) and found.rows[-1]["kl"] > 0
    assert found.of("clean").before.estimate > 0.9 and found.of("train").before.estimate < 0.5
    assert {(one.group, one.family) for one in found.accuracies} == {
        *((group, "all") for group in ("clean", "control", "train", "held-out")),
        *(("train", "boss"), ("train", "rule"), ("held-out", "joke")),
    }
    for one in found.accuracies:
        gained = (one.wrong_to_right - one.right_to_wrong) / one.prompts
        assert one.after.estimate - one.before.estimate == pytest.approx(gained)
        assert one.before == wilson(round(one.before.estimate * one.prompts), one.prompts)
    assert found.of("train", "rule").prompts == len(TEST_SUMS) and found.of("train").prompts == 2 * len(TEST_SUMS)
    assert found.perplexity is not None and found.perplexity_change is not None
    before, after = found.perplexity
    assert found.perplexity_change.estimate == pytest.approx(after / before - 1)
    shown = {(one["condition"], one["outcome_before"] == one["outcome_after"]) for one in found.examples}
    assert {condition for condition, _ in shown} == {"clean", "control", "attack"}


def test_supervision_on_correct_answers_holds_under_attack(policy: Policy) -> None:
    found = run(policy, replace(CONFIG, method="sft"), unrelated=())
    assert found.of("train").after.estimate > found.of("train").before.estimate + 0.1
    assert found.reward is None and found.perplexity is None
    assert found.rows[-1]["loss"] < found.rows[0]["loss"]


def test_a_stopped_run_ends_as_one_that_was_not(gullible: Policy, tmp_path: Path) -> None:
    def fresh() -> Policy:
        return Policy(copy.deepcopy(gullible.model), gullible.tokenizer, device="cpu", name="gullible")

    config = replace(CONFIG, steps=4, checkpoint_every=2, rows=16)
    first = fresh()
    whole = run(first, config, out=tmp_path / "whole")
    saved, _ = load_model(tmp_path / "whole")
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(value, first.model.state_dict()[name])
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    # Killed after the training: the measurement after it is made with the weights that were saved.
    (tmp_path / "whole" / "result.json").unlink()
    (tmp_path / "whole" / "after.jsonl").unlink()
    assert run(fresh(), config, out=tmp_path / "whole") == whole
    assert json.loads((tmp_path / "whole" / "result.json").read_text()) == result
    # A finished run is read, and its weights are taken.
    again = fresh()
    assert repr(run(again, config, out=tmp_path / "whole")) == repr(whole)
    torch.testing.assert_close(again.model.state_dict(), first.model.state_dict())
    with pytest.raises(UserError, match="another run"):
        run(fresh(), replace(config, steps=5), out=tmp_path / "whole")


def test_the_mix_has_its_shares_and_families_weigh_alike() -> None:
    many = [*TRAIN, *(Attack(f"rule {{target}} {word}", "rule", insertion="inside") for word in "abcdefgh")]
    config = replace(CONFIG, rows=400, clean_share=0.25, control_share=0.125)
    rows = training_rows(many, TRAIN_SUMS, config, sentences=SENTENCES)
    counts = {kind: sum(row["condition"] == kind for row in rows) for kind in ("clean", "control", "attack")}
    assert counts == {"clean": 100, "control": 50, "attack": 250}
    assert 90 < sum(row["family"] == "boss" for row in rows) < 160
    for row in rows:
        left, right = int(row["prompt"][0]), int(row["prompt"][2])
        assert row["answer"] == row["completion"] == str(left + right) != row["target"]
        assert (row["target"] in row["prompt"][3:]) or row["condition"] != "attack"
        assert not any(word in row["prompt"] for word in ("joke", "rule", "boss")) or row["condition"] == "attack"
    assert rows == training_rows(many, TRAIN_SUMS, config, sentences=SENTENCES)
    assert rows != training_rows(many, TRAIN_SUMS, replace(config, seed=1), sentences=SENTENCES)


def test_what_is_tested_is_not_learnt() -> None:
    check_disjoint(TRAIN, TEST, TRAIN_SUMS, TEST_SUMS)
    with pytest.raises(UserError, match="family 'rule'"):
        check_disjoint(TRAIN, [Attack("other", "rule")], TRAIN_SUMS, TEST_SUMS)
    with pytest.raises(UserError, match="family 'repetition'"):
        check_disjoint([repetition_attack(3)], [repetition_attack(1000)], TRAIN_SUMS, TEST_SUMS)
    with pytest.raises(UserError, match=r"attack 'rule \{target\}'"):
        check_disjoint(TRAIN, [Attack("rule {target}", "new")], TRAIN_SUMS, TEST_SUMS)
    turned = replace(TRAIN_SUMS[1], left=TRAIN_SUMS[1].right, right=TRAIN_SUMS[1].left)
    with pytest.raises(UserError, match="is in training and test"):
        check_disjoint(TRAIN, TEST, TRAIN_SUMS, [turned])
    with pytest.raises(UserError, match="no training attacks"):
        check_disjoint([], TEST, TRAIN_SUMS, TEST_SUMS)
    train, test = split_by_family([*TRAIN, *TEST], ["joke"])
    assert (train, test) == (TRAIN, TEST)
    with pytest.raises(UserError, match="did you mean 'joke'"):
        split_by_family([*TRAIN, *TEST], ["jokes"])
    with pytest.raises(UserError, match="all for training"):
        split_by_family(TRAIN)


def test_settings_become_the_shared_trainers() -> None:
    ppo = replace(CONFIG, method="ppo").training()
    assert isinstance(ppo, BestOfNConfig) and (ppo.method, ppo.reuse, ppo.kl_coef) == ("reinforce", 4, 0.01)
    assert isinstance(replace(CONFIG, method="sft").training(), SupervisedConfig)
    grpo = replace(CONFIG, method="grpo", reuse=2).training()
    assert isinstance(grpo, BestOfNConfig) and (grpo.method, grpo.reuse, grpo.samples) == ("grpo", 2, 8)
    for change, message in [
        ({"method": "pp"}, "did you mean 'ppo'"),
        ({"clean_share": 0.6, "control_share": 0.4}, "leave some for attacks"),
        ({"completion": "It is so."}, "has no {answer}"),
        ({"samples_per_prompt": 1}, "expected at least 2"),
        ({"reuse": 0}, "reuse 0"),
    ]:
        with pytest.raises(UserError, match=message):
            replace(CONFIG, **change)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_paired_accuracies_count_who_changed_sides(pairs: list[tuple[bool, bool, int]]) -> None:
    words = {True: "right", False: "wrong"}
    found = paired_accuracy(
        [words[one] for one, _, _ in pairs],  # pyright: ignore[reportArgumentType]
        [words[other] for _, other, _ in pairs],  # pyright: ignore[reportArgumentType]
        [str(problem) for _, _, problem in pairs],
    )
    change = (found.wrong_to_right - found.right_to_wrong) / len(pairs)
    assert found.after.estimate - found.before.estimate == pytest.approx(change)
    assert found.change.estimate == pytest.approx(change)
    assert -1 <= found.change.low < found.change.high <= 1


def test_few_problems_without_a_change_show_nothing() -> None:
    right: list[Outcome] = ["right"] * 400
    wrong: list[Outcome] = ["wrong"] * 4
    few = paired_accuracy(wrong, wrong, ["a", "a", "b", "b"])
    assert few.change == Interval(0.0, -wilson(0, 2).high, wilson(0, 2).high)
    assert few.standing(0.02) == "not decided"
    names = [str(number) for number in range(400)]
    assert paired_accuracy(right, right, names).standing(0.02) == "held"
    assert paired_accuracy(wrong, right[:4], names[:4]).standing(0.02) == "rose"


def test_standings_follow_from_the_interval() -> None:
    assert standing(Interval(0.2, 0.1, 0.3), 0.02) == "rose"
    assert standing(Interval(-0.2, -0.3, -0.1), 0.02) == "fell"
    assert standing(Interval(0.0, -0.01, 0.02), 0.02) == standing(Interval(-0.015, -0.019, -0.01), 0.02) == "held"
    assert (
        standing(Interval(0.0, -0.1, 0.1), 0.02) == standing(Interval(0.5, math.nan, math.nan), 0.02) == "not decided"
    )


def test_perplexity_is_of_all_tokens_but_the_first(policy: Policy) -> None:
    assert readable(policy, ["we go.", "Wir gehen."]) == ["we go."]
    texts = ["we go home. " * 12, "a"]  # longer than the context, and without a second token
    found = text_loss(policy, texts)
    ids = policy.tokenizer.encode_completion(texts[0], end=False)
    windows = [ids[start : start + 64] for start in range(0, len(ids), 64)]
    with torch.no_grad():
        expected = -sum(float(token_logps(policy.model, torch.tensor([window])).sum()) for window in windows)
    assert found.nats == (pytest.approx(expected, rel=1e-4),) and found.tokens == (len(ids) - len(windows),)
    assert found.perplexity == pytest.approx(math.exp(expected / found.tokens[0]), rel=1e-4)
    same = text_loss(policy, TEXTS)
    assert perplexity_change(same, same) == Interval(0.0, 0.0, 0.0)
    with pytest.raises(UserError, match="no two tokens"):
        text_loss(policy, ["a"])
