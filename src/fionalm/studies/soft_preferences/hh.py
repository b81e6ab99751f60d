"""The real-data run: SmolLM2-135M with LoRA on pairs of Anthropic's HH, labelled by its own judgement.

The pairs come from the environment's FIONA_HH (a file), or from the hub. The model judges each pair in both orders, its
log-probabilities of "(1)" and "(2)" are the soft label, and it is then trained on those labels.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, replace
from typing import Any

import torch

from fionalm.data import TextTokenizer, as_conversations, read_rows
from fionalm.errors import UserError
from fionalm.objectives.preference_kinds import PreferenceKind
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import (
    Policy,
    Preferences,
    PreferencesConfig,
    collate_pairs,
    encode_pair,
    load_policy,
    pair_logps,
)
from fionalm.posttraining.ai_feedback import PairScorer
from fionalm.report import Section, Table
from fionalm.studies.soft_preferences.analysis import NAMES
from fionalm.studies.soft_preferences.runs import MODULE, HHRun
from fionalm.studies.study import Lab
from fionalm.sweeps import Trial
from fionalm.verifiers.judge import Judge

HUB = "hf:Anthropic/hh-rlhf"
MODEL = "smollm2"
NEEDED = ("prompt", "chosen", "rejected")
SHARDS = 2
KINDS: tuple[PreferenceKind, ...] = ("dpo", "geometric_dpo")
TITLE = "SmolLM2-135M on HH pairs"


def run_hh(run: HHRun | None, lab: Lab) -> Section:
    """Label, train and compare on real data; where the model or the data are missing, the section says so."""
    if run is None:
        return Section(TITLE, "Not run at this scale; `--scale laptop` trains a pretrained model on real pairs.")
    run = replace(run, source=run.source or os.environ.get("FIONA_HH") or HUB)
    try:
        read_rows(run.source, need=NEEDED, limit=1)
        hh_rows(run, load_policy(MODEL, device="cpu").tokenizer)
    except UserError as error:
        return Section(TITLE, f"Not run: {error}. The environment's FIONA_HH names a file of pairs.")
    shards = [Trial(f"{MODULE}.hh:label", {**asdict(run), "shard": shard}) for shard in range(SHARDS)]
    labelled = lab.sweep(shards, "judging HH pairs")
    if any(one is None for one in labelled):
        return Section(TITLE, "Not finished: judging the pairs crashed.")
    labels = _joined([one["labels"] for one in labelled if one is not None])
    trials = [Trial(f"{MODULE}.hh:train", {**asdict(replace(run, kind=kind)), "labels": labels}) for kind in KINDS]
    results = lab.sweep(trials, "training on HH pairs")
    return _section(run, labels, dict(zip(KINDS, results, strict=True)))


def label(values: dict[str, Any]) -> dict[str, Any]:
    """Judge a shard of the pairs; a trial."""
    values = dict(values)
    shard = values.pop("shard")
    policy = load_policy(MODEL, device="cpu")
    rows = hh_rows(HHRun(**values), policy.tokenizer)[shard::SHARDS]
    judge = Judge(PairScorer(policy), criterion="the one that is less harmful")
    columns = ([row[name] for row in rows] for name in NEEDED)
    return {"labels": judge.preferences(*columns)}


def train(values: dict[str, Any]) -> dict[str, Any]:
    """Train on the labelled pairs and measure on those held out; a trial."""
    values = dict(values)
    labels = values.pop("labels")
    run = HHRun(**values)
    policy = load_policy(MODEL, device="cpu")
    rows = [{**row, "soft_label": p} for row, p in zip(hh_rows(run, policy.tokenizer), labels, strict=True)]
    config = PreferencesConfig(
        loss=run.kind,
        optimizer=OptimizerConfig(lr=run.lr, betas=(0.9, 0.999)),
        batch_size=run.batch_size,
        micro_batch_tokens=1024,
        epochs=run.epochs,
        lora_rank=run.lora_rank,
    )
    held_out = rows[run.pairs :]
    before = _log_ratios(policy, held_out)
    result = Preferences(policy, rows[: run.pairs], config, validation=held_out, quiet=True).run()
    gained = _log_ratios(policy, held_out) - before
    human = float((gained > 0).double().mean())
    return {"validation": result.validation, "human": human, "losses": [row["loss"] for row in result.rows]}


def hh_rows(run: HHRun, tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    """Return the pairs for training and then those held out, no prompt in both, as conversations.

    Raises:
        UserError: no data, or too few short pairs in it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transcripts without a reply are left out
        found = read_rows(run.source, need=NEEDED, limit=40 * (run.pairs + run.held_out))
    kept: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, row in enumerate(as_conversations(found)):
        if str(row["prompt"]) in seen:
            continue
        pair = encode_pair(tokenizer, row, number=number)
        if pair.longest <= run.max_tokens and pair.chosen_ids != pair.rejected_ids:
            seen.add(str(row["prompt"]))
            kept.append({name: row[name] for name in NEEDED})
        if len(kept) == run.pairs + run.held_out:
            return kept
    raise UserError(
        f"{run.source} has {len(kept)} pairs of at most {run.max_tokens} tokens: expected {run.pairs + run.held_out}"
    )


@torch.no_grad()
def _log_ratios(policy: Policy, rows: list[dict[str, Any]]) -> torch.Tensor:
    found = []
    for number, row in enumerate(rows):
        batch = collate_pairs([encode_pair(policy.tokenizer, row, number=number)], policy.tokenizer.pad_id, shared=True)
        chosen, rejected = pair_logps(policy.model, batch)
        found.append(chosen - rejected)
    return torch.cat(found)


def _joined(shards: list[list[float]]) -> list[float]:
    """Return interleaved shards as they were."""
    joined = [0.0] * sum(map(len, shards))
    for index, shard in enumerate(shards):
        joined[index :: len(shards)] = shard
    return joined


def _section(run: HHRun, labels: list[float], results: dict[PreferenceKind, dict[str, Any] | None]) -> Section:
    agreed = sum(p > 0.5 for p in labels) / len(labels)
    modest = sum(max(p, 1 - p) < 0.7 for p in labels) / len(labels)
    rows = []
    for kind, result in results.items():
        if result is None:
            rows.append((NAMES[kind], "crashed", None, None, None))
            continue
        found = result["validation"]
        rows.append((NAMES[kind], found.get("accuracy"), result["human"], found["reward_margin"], found["loss"]))
    columns = ("loss", "accuracy, judge's labels", "accuracy, people's labels", "reward margin", "validation loss")
    return Section(
        TITLE,
        f"SmolLM2-135M-Instruct with LoRA of rank {run.lora_rank} on {run.pairs} HH pairs of at most {run.max_tokens} "
        f"tokens, {run.epochs} epoch, labelled by its own judgement in both orders; measured on {run.held_out} pairs "
        f"that were not learnt from. The judge agrees with the people who labelled HH on {agreed:.0%} of the pairs, "
        f"and {modest:.0%} of its labels have a confidence below 0.7. One run a loss: there is no interval, and no "
        "claim rests on it.",
        [Table(columns, rows)],
    )
