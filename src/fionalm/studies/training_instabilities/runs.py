"""The presets of `training-instabilities` and the training runs that they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.studies.study import Scale
from fionalm.training.config import TrainConfig

Key = tuple[str, int, int, float]
"""(arm, width, seed, learning rate)"""
PAPER_LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@dataclass(frozen=True)
class TrainingInstabilitiesConfig:
    """Sizes of the study; widths are multiples of `head_dim`. The defaults are the scale `laptop`."""

    widths: tuple[int, ...] = (32, 48, 64, 96, 128)
    """The largest is held out from the prediction of attention logits."""
    arm_width: int = 64
    """Where the interventions other than qk-layernorm are compared."""
    n_layers: int = 3
    head_dim: int = 16
    vocab_size: int = 512
    seq_len: int = 64
    batch_size: int = 8
    steps: int = 200
    seeds: int = 5
    lrs: tuple[float, ...] = PAPER_LRS
    probe_every: int = 10
    corpus: str = "stdlib"


@dataclass(frozen=True)
class Arm:
    """A recipe: which interventions are on. The defaults are the paper's own recipe."""

    name: str
    qk_norm: bool = True
    z_loss: float = 1e-4
    warmup: float = 0.05
    """Share of the steps."""
    decay: float = 0.0
    """Weight decay of a whole run, in e-folds at the top of the schedule."""
    independent: bool = True
    """Decay does not depend on the learning rate; coupled decay equals it at `COUPLED_AT`."""
    eps: float = 1e-8
    mu_param: bool = False
    depth: int = 1
    """Multiplies the number of layers."""


COUPLED_AT = 1e-2
NONE = Arm("no intervention", qk_norm=False, z_loss=0.0)
QK_NORM = Arm("qk-layernorm", z_loss=0.0)
DEFAULT = Arm("qk-layernorm, z-loss")
DECAY_ONLY = Arm("qk-layernorm, decay", z_loss=0.0, decay=2.0)
WARMUP_SHORT = Arm("warm-up 1%", warmup=0.01)
WARMUP_LONG = Arm("warm-up 25%", warmup=0.25)
DECAY_INDEPENDENT = Arm("independent decay", decay=2.0)
DECAY_COUPLED = Arm("coupled decay", decay=2.0, independent=False)
INTERVENTIONS = (
    DEFAULT,
    Arm("z-loss", qk_norm=False),
    DECAY_ONLY,
    WARMUP_SHORT,
    WARMUP_LONG,
    DECAY_INDEPENDENT,
    DECAY_COUPLED,
    Arm("muParam", mu_param=True),
    Arm("twice as deep", depth=2),
)
EPS_SMALL = Arm("epsilon 1e-15", eps=1e-15)
EPS_LARGE = Arm("epsilon 1e-4", eps=1e-4)
EPS_LRS = (1e-3, 1e-2)


def preset(scale: Scale) -> TrainingInstabilitiesConfig:
    """Return the study's size at `scale`; `cluster` is the paper's own set-up."""
    laptop = TrainingInstabilitiesConfig()
    if scale == "laptop":
        return laptop
    if scale == "smoke":
        return replace(
            laptop,
            widths=(16, 32),
            arm_width=16,
            n_layers=1,
            steps=8,
            seeds=1,
            lrs=(1e-3, 1e-1),
            probe_every=2,
        )
    if scale == "quick":
        return replace(
            laptop,
            widths=(16, 32, 48, 64),
            arm_width=32,
            n_layers=2,
            steps=60,
            seeds=3,
            lrs=(1e-3, 1e-2, 3e-2, 1e-1, 3e-1),
            probe_every=6,
        )
    return TrainingInstabilitiesConfig(
        widths=(256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144),
        arm_width=1024,
        n_layers=12,
        head_dim=64,
        vocab_size=32_101,
        seq_len=512,
        batch_size=256,
        steps=100_000,
        seeds=1,
        probe_every=100,
        corpus="hf:allenai/c4:en",
    )


def training_run(config: TrainingInstabilitiesConfig, arm: Arm, width: int, seed: int, lr: float) -> TrainConfig:
    """Return one run: the paper's decoder and recipe (section 2.1) at `width`, changed as `arm` says."""
    decay = arm.decay / config.steps
    return TrainConfig(
        model=DecoderConfig(
            vocab_size=config.vocab_size,
            d_model=width,
            n_layers=config.n_layers * arm.depth,
            n_heads=width // config.head_dim,
            max_seq_len=config.seq_len,
            qk_norm=arm.qk_norm,
        ),
        data=DataConfig(source=config.corpus, vocab_size=config.vocab_size, seq_len=config.seq_len),
        optimizer=OptimizerConfig(
            lr=lr,
            betas=(0.9, 0.95),
            eps=arm.eps,
            weight_decay=decay if arm.independent else decay / COUPLED_AT,
            independent_weight_decay=arm.independent,
        ),
        schedule=ScheduleConfig(name="cosine", warmup_steps=round(arm.warmup * config.steps)),
        parameterization=(ParameterizationConfig(name="mup", base_width=min(config.widths)) if arm.mu_param else None),
        batch_size=config.batch_size,
        steps=config.steps,
        clip_norm=1.0,
        z_loss=arm.z_loss,
        seed=seed,
        eval_batches=16,
        probe_every=config.probe_every,
    )


def all_runs(config: TrainingInstabilitiesConfig) -> dict[Key, TrainConfig]:
    """Return every run of the study."""
    wanted = [
        *_grid(config, (NONE, QK_NORM), config.widths, config.lrs),
        *_grid(config, INTERVENTIONS, (config.arm_width,), config.lrs),
        *_grid(config, (EPS_SMALL, EPS_LARGE), config.widths, EPS_LRS),
    ]
    return {(arm.name, width, seed, lr): training_run(config, arm, width, seed, lr) for arm, width, seed, lr in wanted}


def _grid(
    config: TrainingInstabilitiesConfig, arms: Iterable[Arm], widths: Iterable[int], lrs: Iterable[float]
) -> product[tuple[Arm, int, int, float]]:  # pyright: ignore[reportInvalidTypeArguments]
    return product(arms, widths, range(config.seeds), lrs)
