"""The trial of `soft-preferences`: a base model, a pool of its pairs with their true labels, a training on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fionalm.data import bradley_terry, character_tokenizer, skewed, stairs
from fionalm.data.cache import build_once, content_key
from fionalm.data.tasks import COMPLETIONS, LETTER_ALPHABET, letter_demonstrations, letter_prompts, letter_rewards
from fionalm.models import Decoder
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import (
    Policy,
    Preferences,
    PreferencesConfig,
    SupervisedConfig,
    collate_pairs,
    encode_example,
    encode_pair,
    fit,
    pair_logps,
)
from fionalm.posttraining.preference_metrics import CONFIDENCE_BINS, CONFIDENCE_EDGES
from fionalm.studies.soft_preferences.exact import completion_table, expectations, reward_table, win_rates
from fionalm.studies.soft_preferences.runs import SKEWED, STAIRS, SURE, ModelRun, as_run

BASE_VERSION = 2
SURE_FROM = 0.95
HELD_OUT_PER_PROMPT = 64


def train(values: dict[str, Any]) -> dict[str, Any]:
    """Train as the configuration says and return true reward and distance over training, gaps, and win rates."""
    run = as_run(values)
    folder = base_model(run)
    policy = Policy(Decoder.from_pretrained(folder), character_tokenizer(LETTER_ALPHABET), device="cpu")
    rows = data_set(run, json.loads((folder / "pool.json").read_text()))
    prompts = letter_prompts("test")[: run.test_prompts]
    rewards = reward_table(prompts)
    tokenizer = policy.tokenizer

    def table(policy: Policy) -> torch.Tensor:
        assert isinstance(policy.model, Decoder)
        return completion_table(policy.model, tokenizer, prompts)

    reference = table(policy)
    series: list[dict[str, float]] = []

    def measure(policy: Policy) -> dict[str, float]:
        found = vars(expectations(table(policy), reference, rewards))
        series.append({"step": len(series), **found})
        return found

    measure(policy)
    pairs = [encode_pair(tokenizer, row, number=number) for number, row in enumerate(rows)]
    batch = collate_pairs(pairs, tokenizer.pad_id, shared=True)
    with torch.no_grad():
        before = torch.stack(pair_logps(policy.model, batch))
    config = PreferencesConfig(
        loss=run.kind,
        optimizer=OptimizerConfig(lr=run.lr, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(name="linear"),
        batch_size=run.batch_size,
        steps=run.steps,
        validate_every=max(1, run.steps // run.checkpoints),
        seed=run.seed,
    )
    result = Preferences(policy, rows, config, measure=measure, quiet=True).run()
    steps = [0, *(row["step"] + 1 for row in result.rows if "reward" in row)]
    with torch.no_grad():
        ratios = torch.stack(pair_logps(policy.model, batch)) - before
    labels = np.array([row["soft_label"] for row in rows])
    gaps = config.chosen_beta * (ratios[0] - ratios[1]).numpy()
    after = table(policy)
    soft, hard = win_rates(after, reference, rewards, run.label_scale)
    return {
        "series": [{**row, "step": step} for row, step in zip(series, steps, strict=True)],
        "loss": result.loss,
        "pairs": len(rows),
        "labels": np.histogram(np.maximum(labels, 1 - labels), CONFIDENCE_EDGES)[0].tolist(),
        "ties": int((labels == 0.5).sum()),
        "tie_gap": float(np.abs(gaps[labels == 0.5]).mean()) if (labels == 0.5).any() else None,
        "gaps": _by_confidence(np.where(labels >= 0.5, gaps, -gaps), labels),
        "accuracy": _held_out_accuracy(after - reference, reference, rewards, run),
        "win_rate": soft,
        "win_rate_binary": hard,
    }


def base_model(run: ModelRun) -> Path:
    """Return the folder of the run's base model and its pool of pairs, made once for all runs that share them."""
    made_of = {
        name: getattr(run, name)
        for name in ("seed", "d_model", "n_layers", "base_steps", "pool_per_prompt", "label_scale")
    }
    folder = home() / "soft-preferences" / content_key(BASE_VERSION, made_of)
    return build_once(folder, lambda path: _build_base(run, path))


def _build_base(run: ModelRun, folder: Path) -> None:
    tokenizer = character_tokenizer(LETTER_ALPHABET)
    policy = Policy(Decoder(run.decoder, torch.Generator().manual_seed(run.seed)), tokenizer, device="cpu")
    demonstrations = letter_demonstrations("corpus", 32, seed=run.seed)
    examples = [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in demonstrations]
    config = SupervisedConfig(
        optimizer=OptimizerConfig(lr=3e-3), steps=run.base_steps, batch_size=64, seed=run.seed, log_every=100
    )
    fit(policy, examples, config, quiet=True)
    policy.save(folder)
    (folder / "pool.json").write_text(json.dumps(_pool(policy, letter_prompts("train"), run)))


def _pool(policy: Policy, prompts: Sequence[str], run: ModelRun) -> list[dict[str, Any]]:
    """Return pairs of different completions that the policy draws, with their true labels."""
    assert isinstance(policy.model, Decoder)
    probabilities = completion_table(policy.model, policy.tokenizer, prompts).exp()
    generator = torch.Generator().manual_seed(run.seed)
    rows = []
    for prompt, p in zip(prompts, probabilities, strict=True):
        rewards = letter_rewards(prompt).tolist()
        drawn = torch.multinomial(p, 4 * run.pool_per_prompt, replacement=True, generator=generator).view(-1, 2)
        different = drawn[drawn[:, 0] != drawn[:, 1]][: run.pool_per_prompt].tolist()
        rows += [
            {
                "prompt": prompt,
                "chosen": COMPLETIONS[first],
                "rejected": COMPLETIONS[second],
                "soft_label": bradley_terry(rewards[first], rewards[second], run.label_scale),
            }
            for first, second in different
        ]
    return rows


def data_set(run: ModelRun, pool: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the run's re-sampling of the pool: mostly modest labels, in one of two shapes, or sure ones alone."""
    labels = [row["soft_label"] for row in pool]
    if run.regime == SURE:
        sure = [index for index, p in enumerate(labels) if max(p, 1 - p) >= SURE_FROM]
        order = torch.randperm(len(sure), generator=torch.Generator().manual_seed(run.seed)).tolist()
        return [pool[sure[place]] for place in order[: run.pairs]]
    chosen = {SKEWED: skewed, STAIRS: stairs}[run.regime](labels, run.pairs, seed=run.seed)
    return [pool[index] for index in chosen]


def _held_out_accuracy(
    ratios: torch.Tensor, reference: torch.Tensor, rewards: torch.Tensor, run: ModelRun
) -> dict[str, float]:
    """Return how often the implicit reward ranks pairs of test prompts as the true one does, by the label's confidence.

    Ties of the true reward count for neither.
    """
    generator = torch.Generator().manual_seed(10_000 + run.seed)
    pairs = torch.multinomial(reference.exp(), 2 * HELD_OUT_PER_PROMPT, replacement=True, generator=generator)
    implicit, true = (
        values.gather(1, pairs).unflatten(1, (-1, 2)).diff(dim=-1).flatten() for values in (ratios, rewards)
    )
    kept = true != 0
    labels = torch.sigmoid(run.label_scale * true[kept]).numpy()
    return _by_confidence(((implicit * true)[kept] > 0).double().numpy(), labels)


def _by_confidence(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the mean value in each bin of confidence; empty bins are left out."""
    bins = np.digitize(np.maximum(labels, 1 - labels), CONFIDENCE_EDGES[1:-1])
    return {name: float(values[bins == i].mean()) for i, name in enumerate(CONFIDENCE_BINS) if (bins == i).any()}
