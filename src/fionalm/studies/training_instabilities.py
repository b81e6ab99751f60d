"""Wortsman et al. 2023: instabilities of large models, reproduced and predicted in small ones.

Trains decoders over sizes and learning rates with and without each intervention, watches attention logits,
output logits and gradients, and compares learning-rate sensitivities. `fiona reproduce training-instabilities`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.report.claims import Claim, Measured
from fionalm.scaling.config import ParameterizationConfig
from fionalm.studies.study import Lab, Scale, Study
from fionalm.training.config import TrainConfig

CLAIMS = (
    Claim(
        "qk-layernorm-survives",
        "Without qk-layernorm, high learning rates diverge that qk-layernorm survives.",
        "Section 3.1.1 and Figure 1",
        "log10 of the largest learning rate that trains with qk-layernorm over the largest without, largest size",
        "greater",
        0.0,
        unit="decades",
    ),
    Claim(
        "qk-layernorm-sensitivity",
        "qk-layernorm lowers learning-rate sensitivity.",
        "Section 3.1.1 and Figure 1",
        "learning-rate sensitivity without qk-layernorm over that with it, at the largest size",
        "greater",
        1.0,
        unit="times",
    ),
    Claim(
        "attention-logits-precede",
        "Attention logits grow before the loss diverges.",
        "Section 3.1.1: attention logits pass 1e4 in diverging runs",
        "log10 of the largest attention logit at a diverging run's lowest loss, over that of the same size's "
        "best learning rate at the same step",
        "greater",
        0.0,
        unit="decades",
        samples="diverging runs",
    ),
    Claim(
        "z-loss-holds-log-z",
        "z-loss keeps log Z near zero where it drifts without it.",
        "Section 3.1.2: output-logit divergence, cured by z-loss",
        "final root mean square of log Z without z-loss less with it, mean over the three highest learning rates",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "weight-decay-holds-log-z",
        "Weight decay also keeps log Z near zero.",
        "Section 3.1.2: weight decay mitigates output-logit divergence too",
        "final root mean square of log Z without weight decay less with it (no z-loss), mean over the three "
        "highest learning rates",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "longer-warmup",
        "Longer warm-up lowers learning-rate sensitivity.",
        "Section 3.2.1",
        "learning-rate sensitivity with warm-up over 1% of the steps less with 25%",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "independent-decay",
        "Independent weight decay lowers learning-rate sensitivity against decay coupled to the learning rate.",
        "Section 3.2.2",
        "learning-rate sensitivity with coupled less with independent weight decay",
        "greater",
        0.0,
        unit="nats",
    ),
    Claim(
        "sensitivity-grows",
        "Without interventions, learning-rate sensitivity grows with size.",
        "Figure 1",
        "slope of learning-rate sensitivity against log10 of parameters",
        "greater",
        0.0,
        unit="nats a decade",
    ),
    Claim(
        "attention-logits-predicted",
        "The maximum attention logit of a larger size is predicted from smaller sizes.",
        "Section 3.3",
        "median over learning rates of the factor between predicted and measured maximum attention logit at the "
        "held-out largest size; stated factor 2",
        "less",
        2.0,
        unit="times",
    ),
    Claim(
        "gradients-shrink",
        "The RMS of gradients falls with size.",
        "Section 3.4: gradient RMS falls with size until it meets AdamW's epsilon",
        "slope of log RMS of the gradient against log parameters, mean over learning rates that train",
        "less",
        0.0,
    ),
    Claim(
        "epsilon-shrinks-smallest-first",
        "A large epsilon shrinks updates first where gradients are smallest.",
        "Section 3.4: epsilon 1e-6 makes the collapse of updates appear early",
        "Spearman correlation over layers between gradient RMS and update RMS under epsilon 1e-6 over 1e-15",
        "greater",
        0.0,
    ),
)


@dataclass(frozen=True)
class TrainingInstabilitiesConfig:
    """Sizes of the study: depth `n_layers` at widths that are multiples of `head_dim`."""

    widths: tuple[int, ...] = (32, 48, 64, 96, 128)
    """The largest is held out from the prediction."""
    arm_width: int = 64
    """Width at which interventions other than qk-layernorm are compared."""
    n_layers: int = 3
    head_dim: int = 16
    vocab_size: int = 512
    seq_len: int = 64
    batch_size: int = 8
    steps: int = 250
    seeds: int = 3
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    probe_every: int = 10
    corpus: str = "stdlib"


@dataclass(frozen=True)
class Arm:
    """A training recipe: the interventions that are on."""

    name: str
    qk_norm: bool = True
    z_loss: float = 1e-4
    warmup: float = 0.05
    decay: float = 0.0
    """Total shrinkage over a run, in e-folds at a constant schedule; the paper's 1e-4 a step over 1e5 steps is 10."""
    independent: bool = True
    eps: float = 1e-8
    mu_param: bool = False
    depth: int = 1
    """Multiplies the number of layers."""


NONE = Arm("none", qk_norm=False, z_loss=0.0)
QK_NORM = Arm("qk-layernorm", z_loss=0.0)
DEFAULT = Arm("qk-layernorm and z-loss")
ARMS = (
    Arm("z-loss only", qk_norm=False),
    DEFAULT,
    Arm("qk-layernorm and decay", z_loss=0.0, decay=10.0),
    Arm("warm-up 1%", warmup=0.01),
    Arm("warm-up 25%", warmup=0.25),
    Arm("independent decay", decay=10.0),
    Arm("coupled decay", decay=10.0, independent=False),
    Arm("muParam", mu_param=True),
    Arm("twice as deep", depth=2),
)
