"""Everett et al. 2024: how parameterization, optimizer and learning rate must change with width.

Trains decoders over widths and learning rates under a global learning rate and under the per-layer exponents
of four parameterizations, measures alignment, and sweeps Adam's epsilon. `fiona reproduce scaling-exponents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.report.claims import Claim, Measured, measure
from fionalm.scaling.config import ParameterizationConfig
from fionalm.studies import scaling_exponents_analysis as analysis
from fionalm.studies.study import Lab, Scale, Study
from fionalm.training.config import TrainConfig

PARAMETERIZATIONS = ("standard", "ntk", "mup", "mfp")

CLAIMS = (
    Claim(
        "global-lr-drifts",
        "With one global learning rate under the standard parameterization, the best learning rate falls with width.",
        "the best global learning rate falls with width under the standard parameterization",
        "slope of log best LR against log width",
        "less",
        0.0,
    ),
    Claim(
        "global-lr-slope-near-theory",
        "That slope is near the exponents of the stability theory: -1 if updates are fully aligned, -1/2 if not.",
        "exponents under Adam: c = 1 (full alignment) or 1/2 (none) for hidden and readout layers",
        "slope of log best LR against log width, within one grid step over the range of widths of [-1, -1/2]",
        "within",
        (-1.25, -0.25),
    ),
    *(
        Claim(
            f"transfer-{name}",
            f"With per-layer exponents (full alignment), the best learning rate transfers under {title}.",
            "abstract: all parameterizations can achieve hyperparameter transfer",
            "largest distance of a width's best base LR from the base width's, in grid steps (factors of 2)",
            "less",
            1.0,
            unit="steps",
        )
        for name, title in zip(
            PARAMETERIZATIONS,
            ("the standard parameterization", "NTK", "muP", "mean-field parameterization"),
            strict=True,
        )
    ),
    Claim(
        "standard-matches-mup",
        "Standard parameterization with per-layer learning rates is at least as good as muP at the largest width.",
        "abstract: per-layer learning rates for standard parameterization outperform muP",
        "best loss under standard less best loss under muP, at the largest width; margin 0.01 nats fixed before",
        "less",
        0.01,
        unit="nats",
    ),
    Claim(
        "alignment-between",
        "Alignment of updates with activations lies between none (1/2) and full (1) while training.",
        "measured log alignment ratios lie between 1/2 (none) and 1 (full)",
        "log alignment ratio of updates, mean over layers and training, at the largest width",
        "within",
        (0.5, 1.0),
    ),
    Claim(
        "alignment-differs",
        "Alignment differs by layer.",
        "measured log alignment ratios differ by layer and over training",
        "spread (largest less smallest) of the layers' mean log alignment ratio of updates",
        "greater",
        0.05,
    ),
    Claim(
        "epsilon-hurts-with-width",
        "A large constant epsilon hurts increasingly with width.",
        "abstract: epsilon must be scaled correctly to avoid gradient underflow",
        "slope, per doubling of width, of the loss with the largest epsilon less the loss with the smallest",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "per-layer-epsilon-mends",
        "Scaling epsilon with each layer's gradient mends that.",
        "per-layer epsilon is one of the remedies compared",
        "loss with the largest epsilon held constant less the same epsilon scaled per layer, at the largest width",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "atan2-does-not",
        "Adam-atan2, which has no epsilon, does not degrade with width.",
        "abstract: Adam-atan2 is numerically stable and needs no epsilon",
        "slope, per doubling of width, of the loss with Adam-atan2 less the loss with the smallest epsilon",
        "less",
        0.01,
        unit="nats",
    ),
    Claim(
        "atan2-scale-invariant",
        "Adam-atan2's updates do not depend on the scale of the gradients.",
        "abstract: Adam-atan2 is scale-invariant",
        "share of parameters equal bit for bit after 20 steps with gradients times 2^-24, 1 and 2^24",
        "within",
        (1.0, 1.0),
        exact=True,
    ),
)


@dataclass(frozen=True)
class ScalingExponentsConfig:
    """Sizes of the study; widths are multiples of `head_dim`."""

    widths: tuple[int, ...] = (12, 24, 48, 96, 192)
    base_width: int = 48
    head_dim: int = 12
    n_layers: int = 2
    vocab_size: int = 512
    seq_len: int = 64
    batch_size: int = 8
    steps: int = 200
    seeds: int = 3
    lrs: tuple[float, ...] = tuple(2.0**power for power in range(-10, -3))
    """Base learning rates of the per-layer arms."""
    global_lrs: tuple[float, ...] = tuple(2.0**power for power in range(-11, -3))
    epsilons: tuple[float, ...] = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)
    parameterizations: tuple[str, ...] = PARAMETERIZATIONS
    corpus: str = "stdlib"


def preset(scale: Scale) -> ScalingExponentsConfig:
    """Return the study's size at `scale`; `cluster` is the paper's own set-up."""
    laptop = ScalingExponentsConfig()
    if scale == "smoke":
        return replace(
            laptop,
            widths=(8, 16),
            base_width=8,
            head_dim=8,
            steps=12,
            seeds=1,
            lrs=(2**-8, 2**-6, 2**-4),
            global_lrs=(2**-8, 2**-6, 2**-4),
            epsilons=(1e-8, 1e-3),
        )
    if scale == "quick":
        quick_lrs = tuple(2.0**power for power in range(-9, -3))
        return replace(
            laptop, widths=(12, 24, 48, 96), base_width=24, steps=80, seeds=2, lrs=quick_lrs, global_lrs=quick_lrs
        )
    if scale == "laptop":
        return laptop
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
