"""What a step of preference training says of itself: margins, accuracy, and the implicit-reward gap by confidence.

Over-optimisation shows in the last: under DPO the gap grows on pairs that are equally preferred too, under the
geometric losses it does not (Furuta et al. 2024, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

CONFIDENCE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Bins of max(p, 1 - p), each without its upper end but the last."""
CONFIDENCE_BINS = tuple(f"{low:g}-{high:g}" for low, high in pairwise(CONFIDENCE_EDGES))


def preference_sums(
    chosen_ratios: Tensor, rejected_ratios: Tensor, soft_labels: Tensor, beta: float
) -> dict[str, Tensor]:
    """Return sums over pairs, to be added over micro-batches and made means by `preference_means`.

    Args:
        chosen_ratios: log pi/ref of the chosen completions [pairs].
        rejected_ratios: that of the rejected ones [pairs].
        soft_labels: P(chosen preferred to rejected) [pairs]; the likelier of the two counts as right.
        beta: scale of the implicit reward.
    """
    chosen_ratios, rejected_ratios = chosen_ratios.detach(), rejected_ratios.detach()
    sign = torch.where(soft_labels >= 0.5, 1.0, -1.0)
    gap = beta * sign * (chosen_ratios - rejected_ratios)
    decided = soft_labels != 0.5
    confidence = torch.maximum(soft_labels, 1 - soft_labels)
    edges = torch.tensor(CONFIDENCE_EDGES[1:-1], device=gap.device, dtype=confidence.dtype)
    bins = torch.bucketize(confidence, edges, right=True)
    gaps, counts = (
        torch.zeros(len(CONFIDENCE_BINS), device=gap.device, dtype=gap.dtype).index_add_(0, bins, values)
        for values in (gap, torch.ones_like(gap))
    )
    sums = {
        "pairs": torch.tensor(float(len(gap))),
        "reward_margin": gap.sum(),
        "reward_chosen": beta * chosen_ratios.sum(),
        "reward_rejected": beta * rejected_ratios.sum(),
        "right": ((gap > 0) & decided).sum(),
        "decided": decided.sum(),
    }
    sums |= {f"gap/{name}": gaps[index] for index, name in enumerate(CONFIDENCE_BINS)}
    return sums | {f"count/{name}": counts[index] for index, name in enumerate(CONFIDENCE_BINS)}


def preference_means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the means of summed statistics; what is no statistic of `preference_sums` stays as it is.

    `accuracy` is over the pairs that are not equally preferred, and absent without any; so is the gap of an empty bin.
    """
    pairs = sums["pairs"]
    found = {name: sums[name] / pairs for name in ("reward_margin", "reward_chosen", "reward_rejected")}
    if sums["decided"]:
        found["accuracy"] = sums["right"] / sums["decided"]
    for name in CONFIDENCE_BINS:
        if sums[f"count/{name}"]:
            found[f"gap/{name}"] = sums[f"gap/{name}"] / sums[f"count/{name}"]
    own = {
        "pairs",
        "right",
        "decided",
        *found,
        *(f"{kind}/{name}" for kind in ("gap", "count") for name in CONFIDENCE_BINS),
    }
    return {**{name: value for name, value in sums.items() if name not in own}, **found}
