"""Study `soft-preferences`: its exact parts against enumeration, its analysis both ways, and its trials end to end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fionalm.data import character_tokenizer
from fionalm.data.tasks import COMPLETIONS, LETTER_ALPHABET, WORST_REWARD, letter_prompts, letter_reward
from fionalm.errors import UserError
from fionalm.models import Decoder
from fionalm.posttraining import Policy, collate, completion_logps, encode_example
from fionalm.studies import get_study
from fionalm.studies.soft_preferences import analysis, figures, hh
from fionalm.studies.soft_preferences.bandit import ACTIONS, gradient_scales, make_bandit, train_bandit
from fionalm.studies.soft_preferences.exact import (
    completion_table,
    expectations,
    reward_table,
    win_rates,
    with_malformed,
)
from fionalm.studies.soft_preferences.runs import (
    SKEWED,
    SURE,
    HHRun,
    ModelRun,
    SoftPreferencesConfig,
    model_runs,
    model_trial,
    plan,
    preset,
)
from fionalm.studies.soft_preferences.trials import base_model, data_set, train
from fionalm.studies.study import SCALES, Lab
from fionalm.sweeps import SerialExecutor, TrialStore

TINY = ModelRun(
    d_model=16, n_layers=1, base_steps=5, pool_per_prompt=16, pairs=64, steps=4, batch_size=16, test_prompts=2,
    checkpoints=2,
)  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, TrialStore(tmp_path / "store"), SerialExecutor(), quiet=True)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A decoder with fresh weights, sharpened so that its distribution is far from uniform."""
    model = Decoder(replace(TINY, d_model=32).decoder, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    return Policy(model, character_tokenizer(LETTER_ALPHABET), device="cpu")


def test_the_table_has_every_completions_probability(policy: Policy) -> None:
    prompts = letter_prompts("test")[:3]
    assert isinstance(policy.model, Decoder)
    table = completion_table(policy.model, policy.tokenizer, prompts)
    assert table.shape == (3, 1296)
    for row, prompt in enumerate(prompts):
        columns = [0, 1, 7, 300, 1295]
        examples = [encode_example(policy.tokenizer, prompt, COMPLETIONS[column]) for column in columns]
        expected = completion_logps(policy.model, collate(examples, 0))
        torch.testing.assert_close(table[row, columns].float(), expected, rtol=1e-4, atol=1e-4)
    assert (table.exp().sum(1) < 1).all()


def test_expectations_are_sums_over_completions(policy: Policy) -> None:
    prompts = letter_prompts("test")[:2]
    rewards = reward_table(prompts)
    generator = torch.Generator().manual_seed(0)
    logps, reference = (
        torch.randn(2, 1297, generator=generator, dtype=torch.float64).log_softmax(-1)[:, :-1] for _ in range(2)
    )
    found = expectations(logps, reference, rewards)
    reward = kl = 0.0
    for row, prompt in enumerate(prompts):
        p, q = logps[row].exp().tolist(), reference[row].exp().tolist()
        reward += sum(a * letter_reward(prompt, text) for a, text in zip(p, COMPLETIONS, strict=True))
        reward += (1 - sum(p)) * WORST_REWARD
        p, q = [*p, 1 - sum(p)], [*q, 1 - sum(q)]
        kl += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert found.reward == pytest.approx(reward / 2)
    assert found.kl == pytest.approx(kl / 2)
    assert found.malformed == pytest.approx(float(with_malformed(logps)[:, -1].mean()))
    assert expectations(reference, reference, rewards).kl == pytest.approx(0, abs=1e-12)


def test_win_rates() -> None:
    rewards = torch.tensor([[0.0, 1.0, 2.0]]).double()
    best, worst = (torch.tensor([[0.0, 0.0, 0.0]]).double() for _ in range(2))
    best[0], worst[0] = torch.tensor([-math.inf, -math.inf, 0]), torch.tensor([0, -math.inf, -math.inf])
    assert win_rates(best, worst, rewards, 1.0) == pytest.approx((1 / (1 + math.exp(-2)), 1.0))
    assert win_rates(worst, best, rewards, 1.0) == pytest.approx((1 / (1 + math.exp(2)), 0.0))
    even = torch.tensor([[0.2, 0.5, 0.3]]).double().log()
    assert win_rates(even, even, rewards, 2.0) == pytest.approx((0.5, 0.5))


def test_cdpo_finds_its_optimum_in_the_bandit() -> None:
    """Its finite optimum is beta h = logit p, so pi is ref exp(reward / beta), normalised."""
    bandit = make_bandit()
    expected = (bandit.data.log() + bandit.reward).softmax(-1)
    torch.testing.assert_close(train_bandit(bandit, "cdpo", 800), expected, rtol=1e-3, atol=1e-5)
    expected = (bandit.data.log() + bandit.reward / 0.5).softmax(-1)
    torch.testing.assert_close(train_bandit(bandit, "cdpo", 800, beta=0.5), expected, rtol=1e-2, atol=1e-5)
    assert not torch.allclose(train_bandit(bandit, "geometric_dpo", 50), expected, atol=1e-3)
    assert bandit.data.sum() == pytest.approx(1) and len(bandit.low) == ACTIONS


def test_gradient_scales_are_the_slopes() -> None:
    h = [-20.0, 0.0, 20.0]
    assert gradient_scales("dpo", 0.75, h) == pytest.approx([1 - 1 / (1 + math.exp(-0.1 * x)) for x in h])
    assert gradient_scales("cdpo", 0.75, h) == pytest.approx([0.75 - 1 / (1 + math.exp(-0.1 * x)) for x in h])
    assert gradient_scales("geometric_dpo", 0.75, h) == pytest.approx(
        [0.5 * (1 - 1 / (1 + math.exp(-0.05 * x))) for x in h]
    )


@pytest.mark.parametrize("scale", SCALES)
def test_presets_have_every_claims_runs(scale: Any) -> None:
    config = preset(scale)
    runs = model_runs(config)
    assert {(SKEWED, kind, 0) for kind in analysis.NAMES} <= set(runs)
    assert {(SURE, "dpo", 0), (SURE, "geometric_dpo", 0)} <= set(runs)
    assert len({model_trial(run).hash for run in runs.values()}) == len(runs)
    assert len(plan(config)) >= (48 if config.paper else len(runs))
    assert scale != "laptop" or config.seeds >= 5


def test_no_pair_has_a_prompt_of_the_test(tmp_path: Path) -> None:
    pool = json.loads((base_model(TINY) / "pool.json").read_text())
    assert not {row["prompt"] for row in pool} & set(letter_prompts("test"))
    for row in pool[::7]:
        chosen, rejected = (letter_reward(row["prompt"], row[name]) for name in ("chosen", "rejected"))
        assert row["soft_label"] == pytest.approx(1 / (1 + math.exp(rejected - chosen)))
    sure = data_set(replace(TINY, regime=SURE), pool)
    assert sure and all(max(row["soft_label"], 1 - row["soft_label"]) >= 0.95 for row in sure)
    modest = [max(row["soft_label"], 1 - row["soft_label"]) < 0.7 for row in data_set(TINY, pool)]
    assert np.mean(modest) > 0.6


def test_a_trial_gives_the_same_numbers_again() -> None:
    found = train(asdict(TINY))
    assert found == train(asdict(TINY)) and json.loads(json.dumps(found)) == found
    assert [row["step"] for row in found["series"]] == [0, 2, 4]
    assert found["series"][0]["kl"] == pytest.approx(0, abs=1e-9) and found["series"][-1]["kl"] > 0
    assert 0 < found["win_rate"] < 1
    assert found != train(asdict(replace(TINY, kind="dpo")))


def result(reward: float, gap: float, fall: float = 0.0) -> dict[str, Any]:
    rewards = (0.0, reward + fall, reward)
    return {
        "series": [{"step": n, "reward": one, "kl": 0.5, "malformed": 0.0} for n, one in enumerate(rewards)],
        "tie_gap": gap,
        "gaps": {"0.5-0.6": gap, "0.9-1": 1.0},
        "accuracy": {"0.6-0.7": 0.6, "0.9-1": 0.9},
        "win_rate": 0.6,
        "win_rate_binary": 0.7,
    }


def synthetic(sign: float) -> analysis.Results:
    """Return results in which the geometric losses are better (sign 1) or worse (-1) than the others."""
    config = SoftPreferencesConfig(seeds=5, regimes=(SKEWED, SURE))
    noise = np.random.default_rng(0)
    found = {}
    for regime, kind, seed in model_runs(config):
        geometric = kind.startswith("geometric_")
        base = 1.0 + 0.3 * sign * geometric if regime == SKEWED else 1.0 + 0.3 * (sign < 0) * geometric
        gap = 0.02 if geometric == (sign > 0) else 0.8
        fall = 0.05 if geometric == (sign > 0) else 0.5
        found[regime, kind, seed] = result(base + 0.01 * noise.standard_normal(), gap + 0.001 * seed, fall)
    return analysis.Results(config, found)


def test_claims_follow_the_results_in_both_directions() -> None:
    verdicts = {entry.claim.id: entry.verdict for entry in analysis.measure_models(synthetic(1))}
    assert set(verdicts.values()) == {"supported"}
    verdicts = {entry.claim.id: entry.verdict for entry in analysis.measure_models(synthetic(-1))}
    assert set(verdicts.values()) == {"contradicted"}


def test_crashed_trainings_do_not_stop_the_analysis(lab: Lab) -> None:
    results = synthetic(1)
    results.by_key[SKEWED, "ipo", 0] = None  # pyright: ignore[reportIndexIssue]
    for seed in range(5):
        results.by_key[SKEWED, "ropo", seed] = None  # pyright: ignore[reportIndexIssue]
    verdicts = {entry.claim.id: entry.verdict for entry in analysis.measure_models(results)}
    assert verdicts["gipo-over-ipo"] == "supported" and verdicts["gropo-over-ropo"] == "inconclusive"
    figures.draw_models(results, lab)
    assert (lab.folder / "figures" / "reward-against-kl-skewed.svg").exists()
    assert [row[0] for row in lab.sections[-1].tables[0].rows] == [n for n in analysis.NAMES.values() if n != "ROPO"]


def test_bandit_claims_follow_the_policies() -> None:
    bandit = make_bandit()
    fitted = (bandit.data.log() + bandit.reward).softmax(-1)
    greedy = torch.zeros_like(fitted)
    greedy[bandit.reward.argmax()] = 1.0

    def measured(cdpo: torch.Tensor, gdpo: torch.Tensor) -> list[Any]:
        others = {("cdpo", 0.1): greedy, ("geometric_dpo", 0.1): greedy}
        entries = analysis.measure_bandit(bandit, {("cdpo", 1.0): cdpo, ("geometric_dpo", 1.0): gdpo, **others})
        assert all("at beta 0.1" in entry.claim.statistic for entry in entries[:4])
        return entries[4:]

    assert {entry.verdict for entry in measured(fitted, greedy)} == {"supported"}
    sharp = (1e-9 + greedy).log().softmax(-1)
    assert {entry.verdict for entry in measured(sharp, fitted)} == {"contradicted"}


def test_hh_says_why_it_did_not_run(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "Not run at this scale" in hh.run_hh(None, lab).text
    monkeypatch.setenv("FIONA_HH", str(tmp_path / "absent.jsonl"))
    section = hh.run_hh(HHRun(), lab)
    assert section.text.startswith("Not run: there is no data at") and not section.tables


def chat_policy(folder: Path) -> Path:
    """Write a tiny model whose tokenizer has a chat template; return its folder."""
    from transformers import PreTrainedTokenizerFast

    alphabet = "".join(sorted({*map(chr, range(32, 127)), "\n"}))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=character_tokenizer(alphabet), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    config = replace(TINY.decoder, vocab_size=len(tokenizer), max_seq_len=1024)
    Policy(Decoder(config, torch.Generator().manual_seed(0)), tokenizer, device="cpu").save(folder)
    return folder


def test_hh_pairs_are_labelled_and_learnt_from(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    rows = [
        {
            "chosen": f"\n\nHuman: Question {n}?\n\nAssistant: Yes, {n}.",
            "rejected": f"\n\nHuman: Question {n}?\n\nAssistant: No{'!' * (n + 1)}",
        }
        for n in range(9)
    ]
    rows.append({name: text.replace("Question 8", "Question 0") for name, text in rows[-1].items()})
    path = tmp_path / "hh.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("FIONA_HH", str(path))
    monkeypatch.setattr(hh, "MODEL", str(chat_policy(tmp_path / "model")))
    run = HHRun(pairs=6, held_out=3, batch_size=3, lora_rank=2)
    section = hh.run_hh(run, lab)
    assert "LoRA of rank 2 on 6 HH pairs" in section.text, section.text
    assert [row[0] for row in section.tables[0].rows] == ["DPO", "GDPO"]
    assert all(0 <= row[2] <= 1 for row in section.tables[0].rows)
    again = hh.run_hh(run, lab)
    assert again == section and lab.outcomes[-1].cached
    short = hh.run_hh(replace(run, pairs=7), lab)
    assert "has 9 pairs of at most 120 tokens: expected 10" in short.text


def test_the_papers_setting_is_planned_and_not_run(lab: Lab) -> None:
    study = get_study("soft-preferences")
    assert len(study.plan(study.preset("cluster"))) == 48
    with pytest.raises(UserError, match="fiona plan"):
        study.run(study.preset("cluster"), lab)
