"""The base models of `best-of-n`, with their own right samples and learned verifiers, kept in the cache folder.

They are kept under a hash of their settings, so that the trials that start from them need not make them again; what is
missing is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch

from fionalm.data import TextTokenizer, character_tokenizer
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


def prepared(values: Values) -> tuple[Policy, RewardModel, list[Row]]:
    """Return a base model, its learned verifier, and rows with its own right samples of training problems."""
    folder = folder_of(values)
    if not (folder / "facts.json").exists():
        _make(values, folder)
    policy = load_policy(folder / "model", device="cpu")
    experts = [json.loads(line) for line in (folder / "experts.jsonl").read_text().splitlines()]
    return policy, RewardModel.load(folder / "reward", device="cpu"), experts


def folder_of(values: Values) -> Path:
    """Return where the base model of these settings is kept."""
    names = ("seed", "n_digits", "d_model", "n_layers", "pretraining_steps", "pretraining_batch", "pretraining_lr")
    chosen = [values[name] for name in (*names, "expert_prompts", "expert_samples", "verifier_steps")]
    return home() / "models" / f"best-of-n-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]}"


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


def _make(values: Values, folder: Path) -> None:
    """Train a base model, sample it on training problems, train the verifier on these samples, and keep all three."""
    policy, seed = new_policy(values), values["seed"]
    examples = pretraining_examples(values, policy.tokenizer)
    settings = SupervisedConfig(
        steps=values["pretraining_steps"],
        batch_size=values["pretraining_batch"],
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=values["pretraining_lr"], betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="cosine", warmup_steps=values["pretraining_steps"] // 20),
        seed=seed,
    )
    done = fit(policy, examples, settings, quiet=True)
    samples = {split: _labelled(policy, split, values) for split in ("train", "validation")}
    experts = [
        {"prompt": prompt, "completion": text}
        for prompt, text in dict.fromkeys(
            (row["prompt"], row["completion"]) for row in samples["train"] if row["label"]
        )
    ]
    if not experts:  # a base model that solves nothing, as it may at smoke
        some = chain_problems("train", values["n_digits"])[: values["expert_prompts"]]
        experts = [{"prompt": problem.prompt, "completion": problem.solutions[0]} for problem in some]
    reward_settings = RewardConfig(
        steps=values["verifier_steps"],
        batch_size=128,
        micro_batch_tokens=65_536,
        optimizer=OptimizerConfig(lr=3e-3, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="cosine", warmup_steps=values["verifier_steps"] // 20),
        seed=seed,
    )
    copy = Policy(new_policy(values).model, policy.tokenizer, device="cpu")
    copy.restore(policy.snapshot())
    learnt = [*_balanced(samples["train"], Random(seed)), *labelled_chains("corpus", values)]
    trainer = RewardTrainer(copy, learnt, reward_settings, validation=samples["validation"], quiet=True)
    verified = trainer.run()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as place:
        made = Path(place) / "base"
        policy.save(made / "model")
        trainer.model.save(made / "reward")
        (made / "experts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in experts))
        facts = {"loss": done.loss, **{key: value for key, value in asdict(verified).items() if key != "rows"}}
        (made / "facts.json").write_text(json.dumps(facts))
        if folder.exists() and not (folder / "facts.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        try:
            made.rename(folder)
        except OSError:  # another process made it meanwhile
            if not (folder / "facts.json").exists():
                raise


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
