"""The presets of `adversarial-arithmetic`, and the trials that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fionalm.models.config import DecoderConfig
from fionalm.models.shapes import SHAPES
from fionalm.studies.study import Scale
from fionalm.sweeps import Trial
from fionalm.training import Workload, to_plain

TRIALS = "fionalm.studies.adversarial_arithmetic.trials"
VERSION = 2
"""Part of every trial: raised when a change of the code makes kept results mean something else."""
Method = Literal["reinforce", "sft"]
VOCABULARY = 640
CONTEXT = 8192
"""Positions, for long repetition; rotary, so they cost nothing."""


@dataclass(frozen=True)
class Target:
    """All that a tiny target depends on."""

    seed: int = 0
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    steps: int = 2000
    batch_size: int = 64
    lr: float = 6e-3

    @property
    def decoder(self) -> DecoderConfig:
        """Its shape."""
        return DecoderConfig(
            vocab_size=VOCABULARY,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_ff=2 * self.d_model,
            max_seq_len=CONTEXT,
            norm="rmsnorm",
            mlp="silu_gated",
        )


@dataclass(frozen=True)
class Sizes:
    """How much is asked of a target."""

    test_problems: int = 24
    """Sums that no attack was found on or trained against."""
    clean_problems: int = 80
    """Test sums asked without an attack: many, for they are nearly always right."""
    search_problems: int = 8
    """Sums that PIRS searches on."""
    wrong_answers: int = 4
    """Chosen wrong answers for each of them, at different distances."""
    candidates: int = 16
    """Texts that the attacker writes for each of those."""
    kept: int = 16
    """Most effective attacks that are asked about test problems."""
    copies: tuple[int, ...] = (1, 4, 16, 64, 256, 1000)
    """Of the repeated false equation."""
    repeated_problems: int = 12
    reviewed_problems: int = 12
    """Test problems whose attacked answers are reviewed."""
    gcg_steps: int = 40
    """Updates of the greedy coordinate gradient's string; 0: it is left out."""
    unrelated: int = 200
    """Questions about made-up words."""


@dataclass(frozen=True)
class Hardening:
    """How a target is hardened."""

    method: Method = "reinforce"
    steps: int = 150
    batch_size: int = 16
    samples: int = 4
    rows: int = 400
    lr: float = 1e-3
    kl_coef: float = 0.02


@dataclass(frozen=True)
class Large:
    """What is asked of SmolLM2-135M-Instruct, as target, attacker and reviewer."""

    model: str = "smollm2"
    problems: int = 8
    """Test sums."""
    search_problems: int = 4
    candidates: int = 24
    """Texts that it writes against itself."""
    reviewed: int = 24
    """Attacked prompts that are reviewed."""
    copies: tuple[int, ...] = (1, 8, 32)
    seed: int = 0


@dataclass(frozen=True)
class ArithmeticStudyConfig:
    """Sizes of the study. The defaults are the scale `laptop`."""

    seeds: int = 6
    target: Target = Target()
    sizes: Sizes = Sizes()
    hardening: tuple[Hardening, ...] = field(default_factory=lambda: (Hardening(), Hardening(method="sft")))
    """The first is the one that the claims are about."""
    large: Large | None = field(default_factory=Large)
    """None: SmolLM2 is left out."""
    paper: bool = False
    """The paper's own models, which `fiona plan` estimates."""


def preset(scale: Scale) -> ArithmeticStudyConfig:
    """Return the study's size at `scale`."""
    laptop = ArithmeticStudyConfig()
    if scale == "laptop":
        return laptop
    if scale == "smoke":
        return replace(
            laptop,
            seeds=1,
            target=Target(d_model=32, n_heads=2, steps=300, batch_size=32),
            sizes=Sizes(6, 10, 2, 2, 4, 4, (1, 8), 2, 2, 2, 20),
            hardening=(Hardening(steps=6, batch_size=4, rows=40),),
            large=None,
        )
    if scale == "quick":
        return replace(
            laptop,
            seeds=4,
            target=replace(laptop.target, steps=560),
            sizes=replace(laptop.sizes, test_problems=16, search_problems=6, wrong_answers=3, candidates=12,
                          copies=(1, 4, 16, 64), reviewed_problems=8, gcg_steps=0,
                          unrelated=100),
            hardening=(Hardening(steps=60),),
            large=None,
        )  # fmt: skip
    sizes = Sizes(500, 500, 100, 10, 64, 64)
    return ArithmeticStudyConfig(seeds=1, sizes=sizes, hardening=(Hardening(steps=1000),), paper=True)


def seeded(config: ArithmeticStudyConfig, seed: int) -> Target:
    """Return a seed's target."""
    return replace(config.target, seed=seed)


def attack_trial(config: ArithmeticStudyConfig, seed: int) -> Trial:
    """Return the trial that trains a target and attacks it."""
    return Trial(
        f"{TRIALS}:attack",
        _values(config, seed),
        cost=1.0 + config.target.steps / 10,
    )


def hardening_trial(
    config: ArithmeticStudyConfig, seed: int, hardening: Hardening, attacks: list[dict[str, Any]]
) -> Trial:
    """Return the trial that hardens a target and attacks it again.

    Args:
        config: of the study.
        seed: of the target.
        hardening: how.
        attacks: those that were found against it before, which are tried again.
    """
    return Trial(
        f"{TRIALS}:harden_and_attack",
        {**_values(config, seed), "hardening": to_plain(hardening), "attacks": attacks},
        cost=1.0 + hardening.steps / 5,
    )


def transfer_trial(config: ArithmeticStudyConfig, seed: int, attacks: dict[str, list[dict[str, Any]]]) -> Trial:
    """Return the trial that asks a seed's target behind attacks found against the other seeds', by seed."""
    return Trial(f"{TRIALS}:transfer", {**_values(config, seed), "attacks": attacks}, cost=2.0)


def large_trial(large: Large) -> Trial:
    """Return the trial of SmolLM2."""
    return Trial(
        "fionalm.studies.adversarial_arithmetic.smollm2:run", {**to_plain(large), "version": VERSION}, cost=400.0
    )


def _values(config: ArithmeticStudyConfig, seed: int) -> dict[str, Any]:
    return {"target": to_plain(seeded(config, seed)), "sizes": to_plain(config.sizes), "version": VERSION}


def plan(config: ArithmeticStudyConfig) -> list[Workload]:
    """Return every run of the study, for estimates of its cost; at `cluster` with a PaLM in the place of PaLM 2."""
    return list(_workloads(config))


def _workloads(config: ArithmeticStudyConfig) -> Iterator[Workload]:
    sizes, target = config.sizes, config.target
    shape = SHAPES["palm-62b"] if config.paper else target.decoder
    prompt, answer, text = (150, 30, 100) if config.paper else (25, 2, 15)
    candidates = sizes.search_problems * sizes.wrong_answers * sizes.candidates
    # Every candidate once on its problem, once again, and the best on test problems, each beside its control.
    asked = 2 * candidates + 2 * sizes.test_problems * (sizes.kept + 30)
    for _ in range(config.seeds):
        base = 0 if config.paper else target.steps * target.batch_size * (prompt + answer)
        yield Workload(
            model=shape,
            seq_len=prompt + answer,
            trained_tokens=base,
            sampled_tokens=candidates * text + asked * answer,
            prompt_tokens=(asked + candidates) * prompt,
        )
        for one in config.hardening:
            drawn = one.steps * one.batch_size * one.samples
            yield Workload(
                model=shape,
                seq_len=prompt + answer,
                trained_tokens=drawn * (prompt + answer),
                sampled_tokens=(drawn + asked) * answer + candidates * text,
                prompt_tokens=(one.steps * one.batch_size + asked) * prompt,
                scored_tokens=drawn * (prompt + answer),
                reference=True,
            )
    if config.large is not None:
        large = config.large
        tokens = large.candidates * 60 + large.problems * 60 * 12 + large.reviewed * 200
        yield Workload(model=SHAPES["smollm2-135m"], seq_len=120, sampled_tokens=tokens, prompt_tokens=4 * tokens)
