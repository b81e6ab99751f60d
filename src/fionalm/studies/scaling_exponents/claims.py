"""The claims of Everett et al. 2024 that `scaling-exponents` measures, fixed before the run."""

from __future__ import annotations

from fionalm.report.claims import Claim
from fionalm.studies.scaling_exponents.runs import PARAMETERIZATIONS

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
