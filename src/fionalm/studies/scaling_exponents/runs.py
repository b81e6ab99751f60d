"""The presets of `scaling-exponents` and the training runs that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.studies.study import Scale
from fionalm.training.config import TrainConfig

GLOBAL = "global"
PARAMETERIZATIONS = ("standard", "ntk", "mup", "mfp")
ParameterizationName = Literal["standard", "ntk", "mup", "mfp"]


@dataclass(frozen=True)
class ScalingExponentsConfig:
    """Sizes of the study; widths are multiples of `head_dim`. The defaults are the scale `laptop`."""

    widths: tuple[int, ...] = (12, 24, 48, 96, 192)
    base_width: int = 48
    """Where a base learning rate is tuned, and where all parameterizations coincide."""
    head_dim: int = 12
    n_layers: int = 2
    vocab_size: int = 512
    seq_len: int = 64
    batch_size: int = 8
    steps: int = 150
    seeds: int = 5
    lrs: tuple[float, ...] = tuple(2.0**power for power in range(-9, -3))
    """Base learning rates of the per-layer arms."""
    global_lrs: tuple[float, ...] = tuple(2.0**power for power in range(-10, -2))
    epsilons: tuple[float, ...] = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)
    corpus: str = "stdlib"


def preset(scale: Scale) -> ScalingExponentsConfig:
    """Return the study's size at `scale`; `cluster` is the paper's own set-up."""
    laptop = ScalingExponentsConfig()
    if scale == "laptop":
        return laptop
    if scale == "smoke":
        few = (2.0**-8, 2.0**-6, 2.0**-4)
        return replace(
            laptop,
            widths=(12, 24),
            base_width=12,
            steps=10,
            seeds=1,
            lrs=few,
            global_lrs=few,
            epsilons=(1e-8, 1e-3),
        )
    if scale == "quick":
        lrs = tuple(2.0**power for power in range(-8, -3))
        return replace(
            laptop,
            widths=(12, 24, 48, 96),
            base_width=24,
            steps=60,
            seeds=3,
            lrs=lrs,
            global_lrs=lrs,
            epsilons=(1e-12, 1e-5, 1e-3),
        )
    return ScalingExponentsConfig(
        widths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384),
        base_width=1024,
        head_dim=128,
        n_layers=8,
        vocab_size=32_101,
        seq_len=512,
        batch_size=256,
        steps=50_000,
        seeds=1,
        lrs=tuple(2.0 ** (power / 2) for power in range(-24, -5)),
        global_lrs=tuple(2.0 ** (power / 2) for power in range(-28, -5)),
        corpus="hf:allenai/c4:en",
    )


def training_run(
    config: ScalingExponentsConfig,
    parameterization: ParameterizationName,
    width: int,
    lr: float,
    seed: int,
    *,
    alignment: Literal["full", "none", "global"] = "full",
    optimizer: Literal["adamw", "adam_atan2"] = "adamw",
    eps: float = 1e-8,
    eps_scaling: Literal["none", "per_layer"] = "none",
    probe_every: int = 0,
) -> TrainConfig:
    """Return one run: the paper's decoder (section 4: pre-LayerNorm, GeLU, learned positions, untied) at `width`."""
    return TrainConfig(
        model=DecoderConfig(
            vocab_size=config.vocab_size,
            d_model=width,
            n_layers=config.n_layers,
            n_heads=width // config.head_dim,
            max_seq_len=config.seq_len,
            positions="learned",
        ),
        data=DataConfig(source=config.corpus, vocab_size=config.vocab_size, seq_len=config.seq_len),
        optimizer=OptimizerConfig(name=optimizer, lr=lr, eps=eps),
        schedule=ScheduleConfig(name="cosine", warmup_steps=config.steps // 10),
        parameterization=ParameterizationConfig(
            name=parameterization, alignment=alignment, base_width=config.base_width, eps_scaling=eps_scaling
        ),
        batch_size=config.batch_size,
        steps=config.steps,
        seed=seed,
        eval_batches=32,
        probe_every=probe_every,
    )


Key = tuple[Any, ...]


def transfer_runs(config: ScalingExponentsConfig) -> dict[Key, TrainConfig]:
    """Return the runs of every arm by (arm, width, seed, lr): the global learning rate and each parameterization."""
    runs: dict[Key, TrainConfig] = {}
    for width, seed in product(config.widths, range(config.seeds)):
        for lr in config.global_lrs:
            runs[GLOBAL, width, seed, lr] = training_run(config, "standard", width, lr, seed, alignment="global")
        for name, lr in product(PARAMETERIZATIONS, config.lrs):
            runs[name, width, seed, lr] = training_run(config, name, width, lr, seed)
    return runs


def epsilon_runs(config: ScalingExponentsConfig, lr: float) -> dict[Key, TrainConfig]:
    """Return the runs by (epsilon or remedy, width, seed), all at the base width's best learning rate."""
    runs: dict[Key, TrainConfig] = {}
    largest = max(config.epsilons)
    for width, seed in product(config.widths, range(config.seeds)):
        for eps in config.epsilons:
            runs[eps, width, seed] = training_run(config, "standard", width, lr, seed, eps=eps)
        runs["per-layer", width, seed] = training_run(
            config, "standard", width, lr, seed, eps=largest, eps_scaling="per_layer"
        )
        runs["atan2", width, seed] = training_run(config, "standard", width, lr, seed, optimizer="adam_atan2")
    return runs


def alignment_runs(config: ScalingExponentsConfig, lr: float) -> dict[Key, TrainConfig]:
    """Return the runs by seed in which alignment is measured: the largest width at the best learning rate."""
    every = max(1, config.steps // 20)
    return {
        (seed,): training_run(config, "standard", max(config.widths), lr, seed, probe_every=every)
        for seed in range(config.seeds)
    }


def plan(config: ScalingExponentsConfig) -> list[TrainConfig]:
    """Return every run of the study, for estimates of its cost."""
    lr = config.lrs[len(config.lrs) // 2]
    stages = (transfer_runs(config), epsilon_runs(config, lr), alignment_runs(config, lr))
    return [run for stage in stages for run in stage.values()]
