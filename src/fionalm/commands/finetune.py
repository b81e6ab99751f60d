"""`fiona finetune METHOD`: any causal language model on rows of your own, with a preflight before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.finetune_options import (
    Data,
    Ending,
    Model,
    Out,
    ProblemOptions,
    RowOptions,
    is_main,
)
from fionalm.commands.options import Flat
from fionalm.commands.problems import Row, named_columns
from fionalm.commands.verifying import check_answers
from fionalm.errors import UserError
from fionalm.objectives.preference_kinds import PreferenceKind
from fionalm.posttraining.best_of_n_config import ONE_SAMPLE, SUPERVISED, BestOfNConfig, BestOfNMethod
from fionalm.posttraining.config import FinetuneConfig, SupervisedConfig
from fionalm.posttraining.preferences_config import PreferencesConfig
from fionalm.posttraining.rest_em_config import RestEMConfig
from fionalm.posttraining.reward_config import RewardConfig

if TYPE_CHECKING:
    from fionalm.posttraining import Policy
    from fionalm.posttraining.preflight import Preflight

HARD_KINDS = ("dpo", "ipo", "ropo")
HEADLINE = """{sentence}

    The same command resumes a run that was stopped, and reads one that is finished. Many processes: torchrun
    --nproc-per-node 2 -m fionalm.cli -- finetune {name} ...

    For example: fiona finetune {name} {example}

    Args:
        model: the model to start from.
        data: the rows to learn from.
        out: where everything goes.
        rows: which rows, and how the model reads them.
        settings: how it learns.
    """


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(PreferencesConfig):
    """Preference optimization by the method that the command names."""

    loss: tyro.conf.Fixed[PreferenceKind] = "geometric_dpo"


@dataclass(frozen=True, kw_only=True)
class BestOfNSettings(BestOfNConfig):
    """Best-of-N-aware training by the method that the command names."""

    method: tyro.conf.Fixed[BestOfNMethod] = "bon-rlb-p"


def sft(
    model: Model,
    data: Data,
    out: Out = None,
    rows: Annotated[RowOptions, Flat] = RowOptions(),  # noqa: B008 (frozen)
    settings: Annotated[SupervisedConfig, Flat] = SupervisedConfig(),  # noqa: B008 (frozen)
) -> None:
    """See `HEADLINE`."""
    from fionalm.posttraining import Supervised

    learnt, held_out = rows.read(data, ("prompt", "completion"))
    policy = _load(model, settings, rows)
    steps = settings.total_steps(len(learnt))
    before = _preflight(policy, learnt, held_out, settings, rows, texts=("completion",), steps=steps)
    if rows.preflight_only:
        return
    ending = Ending(_folder(out), before)
    done = Supervised(policy, learnt, settings, validation=held_out, out=ending.out, quiet=rows.quiet).run()
    best = "" if done.best_value is None else f", best after {done.best_step} (validation {-done.best_value:.4f})"
    ending.tell("sft", f"loss {done.loss:.4f} nats a {settings.average} after {done.steps} steps{best}")


def rest_em(
    model: Model,
    data: Data,
    rows: Annotated[ProblemOptions, Flat],
    out: Out = None,
    settings: Annotated[RestEMConfig, Flat] = RestEMConfig(),  # noqa: B008 (frozen)
) -> None:
    """See `HEADLINE`."""
    from fionalm.posttraining import RestEM

    need = rows.need(*(["completion"] if settings.human_data else []))
    learnt, held_out = rows.read(data, need, ("entry_point",))
    with rows.open() as verifier:
        check_answers(verifier, [*learnt, *held_out])
        policy = _load(model, settings, rows)
        drawn = {"draws": settings.samples_per_problem, "max_tokens": settings.max_tokens}
        rounds = settings.iterations * -(-len(learnt) // min(settings.batch_size, len(learnt)))
        before = _preflight(policy, learnt, held_out, settings, rows, steps=rounds, repeats=settings.epochs, **drawn)
        if rows.preflight_only:
            return
        ending = Ending(_folder(out), before)
        trainer = RestEM(policy, learnt, verifier, settings, validation=held_out, out=ending.out, quiet=rows.quiet)
        done = trainer.run()
    reward = "" if done.validation_reward is None else f": validation reward {done.validation_reward:.3f}"
    ending.tell("rest-em", f"the policy of iteration {done.taken} of {settings.iterations}{reward}")


def reward(
    model: Model,
    data: Data,
    out: Out = None,
    rows: Annotated[RowOptions, Flat] = RowOptions(),  # noqa: B008 (frozen)
    settings: Annotated[RewardConfig, Flat] = RewardConfig(),  # noqa: B008 (frozen)
) -> None:
    """See `HEADLINE`."""
    from fionalm.data import read_rows
    from fionalm.posttraining import RewardTrainer

    pairs = "chosen" in named_columns(rows.columns) or "chosen" in read_rows(data, split=rows.split, limit=1)[0]
    texts = ("chosen", "rejected") if pairs else ("completion",)
    learnt, held_out = rows.read(data, ("prompt", *texts), ("label",))
    policy = _load(model, settings, rows)
    batch = min(settings.batch_size, len(learnt))
    steps = settings.steps or max(1, math.ceil(settings.epochs * len(learnt) / batch))
    before = _preflight(policy, learnt, held_out, settings, rows, texts=texts, steps=steps)
    if rows.preflight_only:
        return
    ending = Ending(_folder(out), before)
    done = RewardTrainer(policy, learnt, settings, validation=held_out, out=ending.out, quiet=rows.quiet).run()
    held = "" if done.validation_accuracy is None else f", {done.validation_accuracy:.1%} right in validation"
    ending.tell("reward", f"loss {done.loss:.4f} after {done.steps} steps{held}")


def _best_of_n(method: BestOfNMethod, sentence: str) -> Callable[..., None]:
    """Return the command of a method that draws samples and is rewarded for them."""
    defaults = BestOfNSettings(method=method, n=1) if method in ONE_SAMPLE else BestOfNSettings(method=method)

    def command(
        model: Model,
        data: Data,
        rows: Annotated[ProblemOptions, Flat],
        out: Out = None,
        settings: Annotated[BestOfNSettings, Flat] = defaults,
    ) -> None:
        from fionalm.posttraining import BestOfN

        experts = ("completion",) if settings.method in SUPERVISED else ()
        learnt, held_out = rows.read(data, rows.need(*experts), ("entry_point",))
        with rows.open() as verifier:
            check_answers(verifier, [*learnt, *held_out])
            policy = _load(model, settings, rows)
            before = _preflight(
                policy,
                learnt,
                held_out,
                settings,
                rows,
                texts=experts,
                steps=settings.steps,
                draws=settings.samples,
                max_tokens=settings.max_tokens,
                repeats=settings.reuse,
                reference=settings.kl_coef > 0 or bool(settings.kl_final),
            )
            if rows.preflight_only:
                return
            ending = Ending(_folder(out), before)
            selector = rows.selector(policy.device)
            out_and = {"validation": held_out, "out": ending.out, "quiet": rows.quiet}
            done = BestOfN(policy, learnt, verifier, settings, selector=selector, **out_and).run()
        after = "".join(f", {name} {value:.3f}" for name, value in done.after.items() if name.startswith("pass@"))
        ending.tell(method, f"{done.steps} steps, {done.samples:,} samples{after}")

    example = "--model smollm2 --data gsm8k_train.jsonl --verifier number --chat --out runs/math"
    example += "" if method in ONE_SAMPLE else " --n 4"
    example += " --reward-model runs/reward" if method == "bon-rl-v" else ""
    return _described(command, method, sentence, example)


def _preference(loss: PreferenceKind, sentence: str) -> Callable[..., None]:
    """Return the command of a preference loss."""

    def command(
        model: Model,
        data: Data,
        out: Out = None,
        rows: Annotated[RowOptions, Flat] = RowOptions(),  # noqa: B008 (frozen)
        settings: Annotated[PreferenceSettings, Flat] = PreferenceSettings(loss=loss),
    ) -> None:
        from fionalm.posttraining import Preferences

        learnt, held_out = rows.read(data, ("prompt", "chosen", "rejected"), ("soft_label",))
        policy = _load(model, settings, rows)
        how = {"texts": ("chosen", "rejected"), "steps": settings.total_steps(len(learnt))}
        if "soft_label" not in learnt[0] and loss not in HARD_KINDS:
            how["notes"] = [f"there is no soft_label: every pair counts as certain, which makes {loss} its hard kind"]
        before = _preflight(policy, learnt, held_out, settings, rows, **how)
        if rows.preflight_only:
            return
        ending = Ending(_folder(out), before)
        done = Preferences(policy, learnt, settings, validation=held_out, out=ending.out, quiet=rows.quiet).run()
        held = done.validation.get("accuracy")
        accuracy = "" if held is None else f", {held:.1%} of the validation pairs ranked right"
        ending.tell(loss, f"loss {done.loss:.4f} after {done.steps} steps{accuracy}")

    name = loss.replace("_", "-")
    return _described(command, name, sentence, "--model smollm2 --data hh.jsonl.gz --chat --lora-rank 8 --out runs/hh")


def _described(command: Callable[..., None], name: str, sentence: str, example: str) -> Callable[..., None]:
    command.__doc__ = HEADLINE.format(sentence=sentence, name=name, example=example)
    command.__name__ = name.replace("-", "_")
    return command


def _load(model: str, settings: FinetuneConfig, rows: RowOptions) -> Policy:
    from fionalm.posttraining import load_policy

    return load_policy(model, lora=settings.lora, seed=settings.seed, device=rows.device)


def _folder(out: Path | None) -> Path:
    if out is None:
        raise UserError("--out was not given: expected a run folder, or --preflight-only")
    return out


def _preflight(
    policy: Policy,
    learnt: Sequence[Row],
    held_out: Sequence[Row],
    settings: FinetuneConfig,
    rows: RowOptions,
    **how: Any,
) -> Preflight:
    from fionalm.posttraining.preflight import preflight

    found = preflight(policy, learnt, settings, validation=len(held_out), **how)
    if is_main() and (rows.preflight_only or not rows.quiet):
        print(found.text())
    return found


_described(
    sft,
    "sft",
    "Fine-tune on completions of prompts, which alone are learnt.",
    "--model smollm2 --data gsm8k_train.jsonl --chat --validation 0.05 --out runs/sft",
)
_described(
    rest_em,
    "rest-em",
    "Learn from own samples that a verifier finds right, from the base model again each time (Singh et al. 2023).",
    "--model smollm2 --data gsm8k_train.jsonl --verifier number --chat --validation 0.05 --out runs/rest-em",
)
_described(
    reward,
    "reward",
    "Learn to score completions, from preferred pairs or from samples with a label or reward.",
    "--model smollm2 --data hh.jsonl.gz --chat --validation 0.1 --out runs/reward",
)
bon_sft = _best_of_n("bon-sft", "Learn given solutions for a model that is used by best-of-N (Chow et al. 2024).")
bon_rl_v = _best_of_n("bon-rl-v", "Reinforce what a selecting verifier would pick among N samples (Chow et al. 2024).")
bon_rl_s = _best_of_n("bon-rl-s", "Reinforce what the reward itself would pick among N samples (Chow et al. 2024).")
bon_rlb = _best_of_n("bon-rlb", "Raise pass@N: one right sample among N is enough (Chow et al. 2024).")
bon_rlb_p = _best_of_n("bon-rlb-p", "Raise pass@N by the right samples alone, which is steadier (Chow et al. 2024).")
reinforce = _best_of_n("reinforce", "Raise the reward of a single sample, by REINFORCE with a baseline.")
grpo = _best_of_n("grpo", "Raise the reward of a single sample, by advantages within groups (Shao et al. 2024).")
dpo = _preference("dpo", "Learn which of two completions is preferred (Rafailov et al. 2023).")
cdpo = _preference("cdpo", "DPO whose loss is mixed by soft labels.")
geometric_dpo = _preference("geometric_dpo", "DPO whose margin is scaled by soft labels (Furuta et al. 2024).")
ipo = _preference("ipo", "Regress the preference's margin to a target (Azar et al. 2023).")
cipo = _preference("cipo", "IPO whose target is scaled by soft labels.")
geometric_ipo = _preference("geometric_ipo", "IPO whose margin is scaled by soft labels (Furuta et al. 2024).")
ropo = _preference("ropo", "DPO with a bounded term, robust to wrong labels (Liang et al. 2024).")
geometric_ropo = _preference("geometric_ropo", "ROPO whose margin is scaled by soft labels (Furuta et al. 2024).")
