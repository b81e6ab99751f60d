"""The claims of Wortsman et al. 2023 that `training-instabilities` measures, fixed before the run."""

from __future__ import annotations

from fionalm.report.claims import Claim

CLAIMS = (
    Claim(
        "qk-layernorm-survives",
        "Without qk-layernorm, learning rates fail that qk-layernorm survives.",
        "Section 3.1.1 and Figure 1",
        "log10 of the largest learning rate that keeps half of the best improvement of the loss with qk-layernorm, "
        "over the largest without, at the largest size",
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
        "log10 of the maximum attention logit where the loss of a run without qk-layernorm is lowest before it rises "
        "by 5% of the best improvement, over that of the best learning rate at the same size, seed and step",
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
        "largest size, which the fit has not seen; stated factor 2",
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
        "rank correlation over layers, sizes and learning rates of the gradient's RMS with the ratio of the "
        "updates' RMS under epsilon 1e-4 to that under 1e-15",
        "greater",
        0.0,
    ),
)
