"""Hardening: training on problems under attack, where arithmetic itself is the reward, and what came of it.

    policy = load_policy("smollm2")
    train, test = split_by_family(AttackLibrary.load("attacks.jsonl"))
    found = harden(policy, train, test, HardenConfig(method="ppo"), problems=make_problems(200),
                   test_problems=make_problems(40, "test"), out="runs/harden")

Freeman et al. 2023 (arXiv 2311.07587): reinforcement learning against a fixed set of attacks raises accuracy on them
and on held-out ones. Measured before and after, on test problems alone: clean, under the attacks of training, under
families that were held out, with harmless text in their place, and the perplexity of unrelated text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fionalm.errors import UserError
from fionalm.posttraining import BestOfN, BestOfNConfig, Policy, Supervised, open_run
from fionalm.posttraining.run import MODEL_FOLDER, Run, fingerprint
from fionalm.redteam.answers import ArithmeticVerifier
from fionalm.redteam.attacks import Attack
from fionalm.redteam.control import HARMLESS
from fionalm.redteam.hardening_config import HardenConfig
from fionalm.redteam.hardening_rows import Render, attacks_to_measure, check_disjoint, training_rows
from fionalm.redteam.paired import PairedAccuracy, Standing, paired_accuracy, standing
from fionalm.redteam.problems import ArithmeticProblem
from fionalm.redteam.querying import QueryModel
from fionalm.redteam.trials import Trial, run_trials
from fionalm.redteam.unrelated import TextLoss, perplexity_change, text_loss
from fionalm.sampling import SamplingParams
from fionalm.statistics import Interval
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import distributed

Group = Literal["clean", "control", "train", "held-out"]
TRAINING_FOLDER = "training"
EXAMPLES = 3
"""Of each condition."""


@dataclass(frozen=True)
class Accuracy(PairedAccuracy):
    """The share of right answers in a condition, before and after."""

    group: Group
    family: str
    """Of attacks; `all` of a group together."""
    verdict: Standing
    """`held`: the change's interval lies above the tolerated fall."""


@dataclass
class Hardened:
    """What hardening came to."""

    accuracies: list[Accuracy]
    perplexity: tuple[float, float] | None = None
    """Of the unrelated texts, before and after; None: there were none."""
    perplexity_change: Interval | None = None
    """After over before, less 1, over texts."""
    perplexity_standing: Standing | None = None
    """`fell`: the texts became less likely."""
    reward: tuple[float, float] | None = None
    """Mean reward of the first and the last tenth of the training steps; None for sft."""
    steps: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Prompts of each condition with the replies before and after; those whose outcome changed come first."""
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The training's metrics."""

    def of(self, group: Group, family: str = "all") -> Accuracy:
        """Return a condition's accuracy.

        Raises:
            KeyError: it was not measured.
        """
        for one in self.accuracies:
            if (one.group, one.family) == (group, family):
                return one
        raise KeyError(f"{group} {family}")


def harden(
    policy: Policy,
    train_attacks: Sequence[Attack],
    test_attacks: Sequence[Attack],
    config: HardenConfig = HardenConfig(),  # noqa: B008 (frozen)
    *,
    problems: Sequence[ArithmeticProblem],
    test_problems: Sequence[ArithmeticProblem],
    unrelated: Sequence[str] = (),
    render: Render | None = None,
    sentences: Sequence[str] = HARMLESS,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Hardened:
    """Train a policy to stay right under attack, in place, and measure it before and after.

    Args:
        policy: changed in place.
        train_attacks: to learn from.
        test_attacks: of other families, to measure; may be none.
        config: method and settings.
        problems: to learn from.
        test_problems: of other sums, to measure.
        unrelated: texts whose perplexity should not rise.
        render: writes a prompt as the model reads it. None: as it is.
        sentences: of which harmless text is made.
        out: run folder, which a stopped run goes on from: `model`, `training`, `before.jsonl`, `after.jsonl`. None:
            nothing is written.
        quiet: no progress.

    Raises:
        UserError: families, attacks or sums that are in training and test, or as the shared trainers.
        KeyboardInterrupt: stopped; says how to resume.
    """
    check_disjoint(train_attacks, test_attacks, problems, test_problems)
    rows = training_rows(train_attacks, problems, config, render=render, sentences=sentences)
    settings = {
        "title": f"harden by {config.method}",
        "model": policy.name,
        "data": fingerprint([*rows, None, *map(asdict, [*train_attacks, *test_attacks])]),
        "tests": fingerprint([*map(asdict, test_problems), None, *unrelated, None, *sentences]),
        **to_plain(config),
    }
    measure = _Measurement(policy, train_attacks, test_attacks, config, test_problems, unrelated, render, sentences)
    with distributed(policy.device) as world, open_run(out, settings, world) as run:
        if world.size > 1 and config.strategy == "fsdp2":
            raise UserError("strategy 'fsdp2' was given, but each process answers with the whole model: expected 'ddp'")
        if run.result is not None and run.path is not None:
            _take_weights(policy, run.path / MODEL_FOLDER)
            return _read(run)
        before = world.on_main(lambda: measure(run, "before", quiet))
        training = _train(policy, rows, config, run, quiet)
        after = world.on_main(lambda: measure(run, "after", quiet))
        found = _compare(before, after, config, {attack.family for attack in train_attacks})
        found.rows, found.steps = training, len(training)
        rewards = [row["reward"] for row in training if row.get("reward") is not None]
        if rewards:
            tenth = -(-len(rewards) // 10)
            found.reward = (float(np.mean(rewards[:tenth])), float(np.mean(rewards[-tenth:])))
        run.finish({key: value for key, value in asdict(found).items() if key != "rows"})
        return found


@dataclass(frozen=True)
class _Measured:
    trials: list[Trial]
    texts: TextLoss | None


@dataclass(frozen=True)
class _Measurement:
    policy: Policy
    train_attacks: Sequence[Attack]
    test_attacks: Sequence[Attack]
    config: HardenConfig
    problems: Sequence[ArithmeticProblem]
    unrelated: Sequence[str]
    render: Render | None
    sentences: Sequence[str]

    def __call__(self, run: Run, name: str, quiet: bool) -> _Measured:
        """Ask all test prompts; answers that the run folder has are not asked again."""
        config = self.config
        params = SamplingParams(max_tokens=config.max_tokens, temperature=config.eval_temperature, seed=config.seed)
        store = None if run.path is None else run.path / f"{name}.jsonl"
        model = QueryModel(name, self.policy.sampler(), params, chat=False, render=self.render, store=store)
        attacks = attacks_to_measure([*self.train_attacks, *self.test_attacks], config.eval_attacks)
        trials = run_trials(
            model,
            attacks,
            self.problems,
            seed=config.seed,
            distances=config.distances,
            sentences=self.sentences,
            quiet=quiet,
        )
        texts = (
            text_loss(self.policy, self.unrelated, batch_tokens=config.micro_batch_tokens) if self.unrelated else None
        )
        return _Measured(trials, texts)


def _train(
    policy: Policy, rows: Sequence[dict[str, Any]], config: HardenConfig, run: Run, quiet: bool
) -> list[dict[str, Any]]:
    """Train, or take the weights of a training that ended before, and return its metrics."""
    folder = None if run.path is None else run.path / TRAINING_FOLDER
    training = config.training()
    ended = folder is not None and (folder / "result.json").exists()
    if isinstance(training, BestOfNConfig):
        columns = [{key: value for key, value in row.items() if key != "completion"} for row in rows]
        metrics = BestOfN(policy, columns, ArithmeticVerifier(), training, out=folder, quiet=quiet).run().rows
    else:
        metrics = Supervised(policy, rows, training, out=folder, quiet=quiet).run().rows
    if folder is not None and run.path is not None:
        model, fresh = run.path / MODEL_FOLDER, folder / MODEL_FOLDER
        run.world.on_main(lambda: fresh.exists() and os.replace(fresh, model))
        if ended:
            _take_weights(policy, model)
    return metrics


def _take_weights(policy: Policy, folder: Path) -> None:
    from fionalm.models import load_model

    model, _ = load_model(folder)
    if policy.lora is None:
        policy.model.load_state_dict(model.state_dict())
    else:  # the folder's weights have the adapters merged
        policy.model, policy.lora = model.to(policy.device).eval(), None


def _compare(before: _Measured, after: _Measured, config: HardenConfig, train_families: set[str]) -> Hardened:
    def group(trial: Trial) -> Group:
        if trial.condition != "attack":
            return cast(Group, trial.condition)
        return "train" if trial.family in train_families else "held-out"

    pairs: dict[tuple[Group, str], list[tuple[Trial, Trial]]] = {}
    for one, other in zip(before.trials, after.trials, strict=True):  # the same prompts, in the same order
        pairs.setdefault((group(one), "all"), []).append((one, other))
        if one.condition == "attack":
            pairs.setdefault((group(one), one.family), []).append((one, other))
    order: list[Group] = ["clean", "control", "train", "held-out"]
    keys = sorted(pairs, key=lambda key: (order.index(key[0]), key[1] != "all", key[1]))
    found = Hardened([_accuracy(*key, pairs[key], config.tolerance) for key in keys])
    found.examples = [
        example
        for key in keys
        if key[0] in ("clean", "control") or key[1] != "all"
        for example in _examples(pairs[key])
    ]
    if before.texts is not None and after.texts is not None:
        change = perplexity_change(before.texts, after.texts)
        found.perplexity = (before.texts.perplexity, after.texts.perplexity)
        found.perplexity_change = change
        found.perplexity_standing = standing(Interval(-change.estimate, -change.high, -change.low), config.tolerance)
    return found


def _accuracy(group: Group, family: str, pairs: Sequence[tuple[Trial, Trial]], tolerance: float) -> Accuracy:
    outcomes = [[trial.outcome for trial in side] for side in zip(*pairs, strict=True)]
    found = paired_accuracy(outcomes[0], outcomes[1], [trial.problem for trial, _ in pairs])
    return Accuracy(**vars(found), group=group, family=family, verdict=found.standing(tolerance))


def _examples(pairs: Sequence[tuple[Trial, Trial]]) -> list[dict[str, Any]]:
    shown = sorted(pairs, key=lambda pair: pair[0].outcome == pair[1].outcome)[:EXAMPLES]
    return [
        {
            "condition": one.condition,
            "family": one.family,
            "prompt": one.prompt,
            "answer": one.answer,
            "target": one.target,
            "before": one.reply,
            "outcome_before": one.outcome,
            "after": other.reply,
            "outcome_after": other.outcome,
        }
        for one, other in shown
    ]


def _read(run: Run) -> Hardened:
    """Return the result of a finished run from its folder."""

    def interval(value: dict[str, Any]) -> Interval:
        return Interval(**{key: np.nan if one is None else one for key, one in value.items()})

    assert run.path is not None
    kept = dict(run.result)
    ends = ("before", "after", "change")
    accuracies = [Accuracy(**{**one, **{name: interval(one[name]) for name in ends}}) for one in kept["accuracies"]]
    change = kept["perplexity_change"]
    pairs = {name: None if kept[name] is None else tuple(kept[name]) for name in ("perplexity", "reward")}
    metrics = (run.path / TRAINING_FOLDER / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    read = {
        "accuracies": accuracies,
        "perplexity_change": None if change is None else interval(change),
        "rows": [json.loads(line) for line in metrics],
    }
    return Hardened(**{**kept, **pairs, **read})
