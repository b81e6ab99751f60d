"""The base models of `best-of-n`, with their own right samples and learned verifiers, kept in the cache folder.

They are kept under a hash of their settings, so that the trials that start from them need not make them again; what is
missing is made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch

from fionalm.data import TextTokenizer, character_tokenizer
from fionalm.data.cache import build_once, content_key
from fionalm.data.tasks.number_chains import CHAIN_ALPHABET, chain_problems
from fionalm.models import Decoder, DecoderConfig
from fionalm.optim import OptimizerConfig, ScheduleConfig
from fionalm.paths import home
from fionalm.posttraining import (
    Example,
    Policy,
    RewardConfig,
    RewardModel,
    RewardTrainer,
    SupervisedConfig,
    fit,
    load_policy,
)
from fionalm.studies.best_of_n.chains import Row, Values, draw, labelled_chains

VERSION = 1
"""Part of what a base model is kept under: raised when a change of the code makes others of the same settings."""
FACTS = "facts.json"


def prepared(values: Values) -> tuple[Policy, RewardModel, list[Row]]:
    """Return a base model, its learned verifier, and rows with its own right samples of training problems."""
    base = build_once(folder_of(values), lambda folder: _make_base(values, folder))
    reward = build_once(folder_of(values, "verifier"), lambda folder: _make_verifier(values, base, folder))
    right = dict.fromkeys((row["prompt"], row["completion"]) for row in _samples(base, "train") if row["label"])
    experts = [{"prompt": prompt, "completion": text} for prompt, text in right]
    if not experts:  # a base model that solves nothing, as it may at smoke
        some = chain_problems("train", values["n_digits"])[: values["expert_prompts"]]
        experts = [{"prompt": problem.prompt, "completion": problem.solutions[0]} for problem in some]
    return load_policy(base, device="cpu"), RewardModel.load(reward, device="cpu"), experts


def facts_of(values: Values) -> dict[str, float]:
    """Return what is known of a base model's verifier: its losses, and how it ranks the base model's samples."""
    return json.loads((folder_of(values, "verifier") / FACTS).read_text())


def folder_of(values: Values, part: str = "base") -> Path:
    """Return where the base model of these settings, or its verifier, is kept."""
    names = (
        "seed", "n_digits", "d_model", "n_layers", "pretraining_steps", "pretraining_batch", "pretraining_lr",
        "expert_prompts", "expert_samples", "verifier_steps",
    )  # fmt: skip
    key = content_key(VERSION, part, {name: values[name] for name in names})
    return home() / "models" / f"best-of-n-{part}-{key}"


def new_policy(values: Values) -> Policy:
    """Return the base model with fresh weights."""
    tokenizer = character_tokenizer(CHAIN_ALPHABET)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=values["d_model"],
        n_layers=values["n_layers"],
        n_heads=max(1, values["d_model"] // 16),
        max_seq_len=40,
        positions="learned",
        norm="rmsnorm",
        mlp="silu_gated",
    )
    return Policy(Decoder(config, torch.Generator().manual_seed(values["seed"])), tokenizer, device="cpu")


def pretraining_examples(values: Values, tokenizer: TextTokenizer, per_problem: int = 4) -> list[Example]:
    """Return solutions of the corpus's problems, drawn at random among each problem's."""
    generator = Random(values["seed"])
    return [
        Example(tuple(tokenizer.encode_prompt(problem.prompt)), tuple(tokenizer.encode_completion(solution)))
        for problem in chain_problems("corpus", values["n_digits"])
        for solution in generator.sample(problem.solutions, min(per_problem, len(problem.solutions)))
    ]


def _make_base(values: Values, folder: Path) -> None:
    """Train a base model, and sample it on problems of the splits for training and validation."""
    policy, seed = new_policy(values), values["seed"]
    settings = SupervisedConfig(
        steps=values["pretraining_steps"],
        batch_size=values["pretraining_batch"],
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=values["pretraining_lr"], betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="cosine", warmup_steps=values["pretraining_steps"] // 20),
        seed=seed,
    )
    fit(policy, pretraining_examples(values, policy.tokenizer), settings, quiet=True)
    policy.save(folder)
    for split in ("train", "validation"):
        rows = _labelled(policy, split, values)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _make_verifier(values: Values, base: Path, folder: Path) -> None:
    """Train the verifier from the base model, on its samples of training problems and on chains of the corpus."""
    settings = RewardConfig(
        steps=values["verifier_steps"],
        batch_size=128,
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=3e-3, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="cosine", warmup_steps=values["verifier_steps"] // 20),
        seed=values["seed"],
    )
    learnt = [*_balanced(_samples(base, "train"), Random(values["seed"])), *labelled_chains("corpus", values)]
    trainer = RewardTrainer(
        load_policy(base, device="cpu"), learnt, settings, validation=_samples(base, "validation"), quiet=True
    )
    found = trainer.run()
    trainer.model.save(folder)
    facts = {key: value for key, value in asdict(found).items() if key != "rows"}
    (folder / FACTS).write_text(json.dumps(facts))


def _samples(base: Path, split: str) -> list[Row]:
    return [json.loads(line) for line in (base / f"{split}.jsonl").read_text().splitlines()]


def _labelled(policy: Policy, split: str, values: Values) -> list[Row]:
    """Return the base model's samples of some of a split's problems, with whether they are right."""
    count = values["expert_prompts"] if split == "train" else max(8, values["expert_prompts"] // 8)
    problems = chain_problems(split, values["n_digits"])
    problems = Random(values["seed"] + 1).sample(problems, min(count, len(problems)))
    groups = draw(policy, problems, values["expert_samples"], 1.0, values["seed"] + 2000)
    return [
        {"prompt": problem.prompt, "completion": completion.text, "label": right}
        for problem, group in zip(problems, groups, strict=True)
        for completion, right in zip(group.completions, group.right, strict=True)
    ]


def _balanced(rows: Sequence[Row], generator: Random) -> list[Row]:
    """Return the right samples and as many wrong ones, so that the verifier learns from both; all if none is right."""
    right = [row for row in rows if row["label"]]
    wrong = [row for row in rows if not row["label"]]
    return right + generator.sample(wrong, min(len(wrong), len(right))) if right else list(rows)
