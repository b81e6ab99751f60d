"""The claims of Hron et al. 2024 that `knowledge-hallucination` measures on each of its graphs, fixed before the run.

Every interval is over seeds: each has its own graph or part of one, its own split, weights and order of the data. A
rate is the share of objects drawn at temperature 1 that are hallucinated; "the longest training" is the largest number
of epochs. Detectors are fine-tuned whole (`full`) and tested on subjects that they have not learnt from; AUC-PR counts
hallucinated as positive. Slopes are of least squares against the decimal logarithm of non-embedding parameters.
"""

from __future__ import annotations

from fionalm.report.claims import Claim, Direction

GRAPHS = {"synthetic": "Synthetic graph", "countries": "Countries"}
IMPROVED = 0.02
"""Fall of the rate on unseen pairs above which they have improved."""

_CLAIMS: tuple[tuple[str, str, str, str, Direction, float], ...] = (
    (
        "size",
        "larger models hallucinate less about what the same data showed them.",
        "Figures 2 and 3: at 1% of the data, about 55% for 3.15M down to 6.5% for 1.61B parameters",
        "change of the rate on fully visible pairs for ten times the parameters, after the longest training",
        "less",
        0.0,
    ),
    (
        "epochs",
        "models that are trained longer hallucinate less about what they were shown.",
        "Figure 3: 5% or less needs 20 or more epochs",
        "rate on fully visible pairs after the longest training less that after the shortest, mean over sizes",
        "less",
        0.0,
    ),
    (
        "data",
        "at the same size and epochs, models hallucinate more about what they were shown when they are shown more.",
        "Figure 2: the rate rises from 1% to 10% and 100% of the data",
        "rate on fully visible pairs with all data less that with the smallest share, longest training, mean of sizes",
        "greater",
        0.0,
    ),
    (
        "unseen",
        "long training does not improve models on pairs that they were not trained on.",
        "section 3: unseen pairs stay at 55 to 65%, a trade-off against what was seen",
        "rate on invisible pairs after the longest training less that after half of it, mean over sizes; "
        f"improved if it falls by {IMPROVED}",
        "greater",
        -IMPROVED,
    ),
    (
        "cold-is-precise",
        "a lower temperature raises precision.",
        "section 3, precision and recall at temperatures from 0 to 1",
        "precision on fully visible pairs at temperature 0 less that at 1, longest training, mean over sizes",
        "greater",
        0.0,
    ),
    (
        "cold-recalls-less",
        "a lower temperature pays for that with recall.",
        "section 3, precision and recall at temperatures from 0 to 1",
        "recall of all samples on fully visible pairs at temperature 0 less that at 1, longest training, mean of sizes",
        "less",
        0.0,
    ),
    (
        "detection-falls",
        "the hallucinations of larger models are harder to detect.",
        "section 4: AUC-PR (sentence) .977 for 3.15M down to .69 for 1.61B at 1% of the data",
        "change of AUC-PR for ten times the generator's parameters, by the largest sentence detector",
        "less",
        0.0,
    ),
    (
        "larger-detectors",
        "larger detectors do better on the same generator.",
        "section 4: AUC-PR rises with the detector's size",
        "change of AUC-PR for ten times the sentence detector's parameters, mean over generators",
        "greater",
        0.0,
    ),
    (
        "sentence-over-token",
        "seeing the object helps to tell: the sentence task beats the token task.",
        "section 4: AUC-PR .977 against .943 for 3.15M, .69 against .64 for 1.61B at 1% of the data",
        "AUC-PR of the sentence detector less that of the token detector, mean over generators and detectors",
        "greater",
        0.0,
    ),
)

CLAIMS = tuple(
    Claim(f"{name}-{graph}", f"{title}: {sentence}", paper, statistic, direction, threshold)
    for graph, title in GRAPHS.items()
    for name, sentence, paper, statistic, direction, threshold in _CLAIMS
)
