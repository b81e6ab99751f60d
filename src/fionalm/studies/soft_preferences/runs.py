"""The presets of `soft-preferences` and the trials that they ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from fionalm.models.config import DecoderConfig
from fionalm.models.shapes import SHAPES
from fionalm.objectives.preference_kinds import PREFERENCE_KINDS, PreferenceKind
from fionalm.studies.study import Scale
from fionalm.sweeps import Trial
from fionalm.training import Workload

SKEWED, STAIRS, SURE = "skewed", "stairs", "sure"
MODULE = "fionalm.studies.soft_preferences"
PAIR_TOKENS, TREE_TOKENS = 15, 36 * 49
"""Of a pair in one row, and of the rows that give one prompt's exact distribution."""


@dataclass(frozen=True)
class ModelRun:
    """One base model, its pool of pairs, and one training on a re-sampling of it. JSON values only."""

    kind: PreferenceKind = "geometric_dpo"
    regime: str = SKEWED
    seed: int = 0
    d_model: int = 48
    n_layers: int = 2
    base_steps: int = 300
    """Updates that make the base model of fresh weights."""
    pool_per_prompt: int = 64
    """Pairs drawn from the base model for each training prompt; data sets are re-sampled from them."""
    pairs: int = 1024
    """Of a data set, at most."""
    steps: int = 300
    batch_size: int = 32
    lr: float = 1e-3
    label_scale: float = 1.0
    """Of the true reward in the Bradley-Terry labels."""
    test_prompts: int = 32
    checkpoints: int = 15
    """At which the true reward is measured, the end included."""

    @property
    def decoder(self) -> DecoderConfig:
        """The model's shape."""
        return DecoderConfig(
            vocab_size=8,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=max(1, self.d_model // 16),
            d_ff=8 * self.d_model // 3,
            max_seq_len=32,
            norm="rmsnorm",
            mlp="silu_gated",
        )


@dataclass(frozen=True)
class HHRun:
    """SmolLM2-135M with LoRA on HH pairs that it has labelled itself. JSON values only."""

    kind: PreferenceKind = "geometric_dpo"
    source: str = ""
    """Of the pairs; empty: the environment's FIONA_HH, or the hub's."""
    pairs: int = 64
    held_out: int = 32
    epochs: int = 1
    max_tokens: int = 120
    """Of a prompt with its longer answer; longer pairs are left out."""
    lora_rank: int = 8
    lr: float = 2e-4
    batch_size: int = 8


@dataclass(frozen=True)
class SoftPreferencesConfig:
    """Sizes of the study. The defaults are the scale `laptop`."""

    run: ModelRun = ModelRun()
    seeds: int = 5
    regimes: tuple[str, ...] = (SKEWED, STAIRS, SURE)
    """Of labels, under which all kinds are compared."""
    bandit_steps: int = 3000
    hh: HHRun | None = None
    """The real data; None: not run."""
    paper: bool = False
    """The paper's own models and data, which are planned and not run by this study."""


def preset(scale: Scale) -> SoftPreferencesConfig:
    """Return the study's size at `scale`; `cluster` is the paper's own set-up."""
    laptop = SoftPreferencesConfig(hh=HHRun())
    if scale == "laptop":
        return laptop
    if scale == "smoke":
        tiny = ModelRun(
            d_model=32, base_steps=80, pool_per_prompt=16, pairs=128, steps=8, test_prompts=4, checkpoints=2
        )
        return SoftPreferencesConfig(run=tiny, seeds=1, regimes=(SKEWED, SURE), bandit_steps=300)
    if scale == "quick":
        run = replace(laptop.run, base_steps=200, pairs=512, steps=120, test_prompts=16, checkpoints=10)
        return SoftPreferencesConfig(run=run, seeds=3, regimes=(SKEWED, SURE))
    return replace(laptop, hh=None, paper=True)


def model_runs(config: SoftPreferencesConfig) -> dict[tuple[str, PreferenceKind, int], ModelRun]:
    """Return every training by (regime, kind, seed); where labels are sure, only the DPO family is compared."""
    return {
        (regime, kind, seed): replace(config.run, kind=kind, regime=regime, seed=seed)
        for regime, kind, seed in product(config.regimes, PREFERENCE_KINDS, range(config.seeds))
        if regime != SURE or kind.endswith("dpo")
    }


def model_trial(run: ModelRun) -> Trial:
    """Return a training as a trial."""
    return Trial(f"{MODULE}.trials:train", asdict(run), cost=run.steps + 20 * run.checkpoints)


def hh_trials(run: HHRun, kinds: tuple[PreferenceKind, ...] = ("dpo", "geometric_dpo")) -> list[Trial]:
    """Return the trainings on HH as trials, one a loss."""
    return [Trial(f"{MODULE}.hh:train", asdict(replace(run, kind=kind))) for kind in kinds]


def plan(config: SoftPreferencesConfig) -> list[Workload]:
    """Return every run of the study, for estimates of its cost."""
    if config.paper:
        return paper_workloads()
    works = []
    for run in model_runs(config).values():
        evaluated = run.test_prompts * TREE_TOKENS * (run.checkpoints + 1)
        trained = run.steps * run.batch_size * PAIR_TOKENS
        works.append(
            Workload(
                model=run.decoder,
                seq_len=PAIR_TOKENS,
                trained_tokens=trained,
                scored_tokens=evaluated + run.pairs * PAIR_TOKENS,
            )
        )
    if config.hh is not None:
        tokens = config.hh.max_tokens * 3 // 2
        scored = 4 * (config.hh.pairs + config.hh.held_out) * tokens
        trained = config.hh.epochs * config.hh.pairs * tokens
        work = Workload(
            model=SHAPES["smollm2-135m"],
            seq_len=tokens,
            trained_tokens=trained,
            scored_tokens=scored,
            trained_share=0.01,
        )
        works += [work] * len(hh_trials(config.hh))
    return works


def paper_workloads() -> list[Workload]:
    """Return the paper's runs: eight losses on six data sets, in the size of PaLM 8B.

    The paper's PaLM 2-XS has no published size, and the smallest PaLM stands in for it. Pairs and tokens are those of
    the public data sets: about 93,000 pairs of TL;DR, 44,000 of helpful and 42,000 of harmless dialogues, and 60,000 of
    plans with their two re-samplings, of 512 tokens a pair, an epoch each; the reference scores every pair once, a
    judge reads it twice.
    """
    tokens = 512
    works = []
    for pairs in (93_000, 44_000, 42_000, 60_000, 60_000, 60_000):
        work = Workload(
            model=SHAPES["palm-8b"],
            seq_len=tokens,
            trained_tokens=pairs * tokens,
            scored_tokens=3 * pairs * tokens,
            strategy="fsdp2",
        )
        works += [work] * len(PREFERENCE_KINDS)
    return works


def as_run(values: dict[str, Any]) -> ModelRun:
    """Return a trial's configuration as it was."""
    return ModelRun(**values)
