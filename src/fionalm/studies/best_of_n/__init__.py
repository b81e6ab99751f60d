"""Chow et al. 2024: fine-tuning for the way the model will be sampled, best-of-N.

Trains tiny base models on number chains, whose problems have several strategies of different reach, then by every
method for several N', and measures pass@N, best-of-N under a learned verifier, exploration and temperature.

    fiona reproduce best-of-n --scale quick
"""

from __future__ import annotations

from fionalm.report.claims import Measured
from fionalm.studies.best_of_n import analysis, figures
from fionalm.studies.best_of_n.claims import CLAIMS
from fionalm.studies.best_of_n.cost import plan
from fionalm.studies.best_of_n.results import Results
from fionalm.studies.best_of_n.runs import (
    BASE,
    BestOfNStudyConfig,
    base_trials,
    preset,
    real_trials,
    training_trials,
)
from fionalm.studies.study import Lab, Study


def run(config: BestOfNStudyConfig, lab: Lab) -> list[Measured]:
    """Make the base models, train them, measure the claims and draw the figures."""
    bases = base_trials(config)
    made = dict(zip(bases, lab.sweep(list(bases.values()), "base models"), strict=True))
    trials = {key: trial for key, trial in training_trials(config).items() if made[key[2]] is not None}
    trained = dict(zip(trials, lab.sweep(list(trials.values()), "methods"), strict=True))
    results = Results(config, {**{(BASE, 0, seed): result for seed, result in made.items()}, **trained})
    figures.draw_all(results, lab)
    real = real_trials(config)
    figures.draw_real(config, dict(zip(real, lab.sweep(list(real.values()), "real model"), strict=True)), lab)
    return [
        *analysis.baselines(results),
        *analysis.aware(results),
        *analysis.matching(results),
        *analysis.exploration(results),
        *analysis.temperatures(results),
    ]


STUDY = Study(
    name="best-of-n",
    title="Fine-tuning for the way the model will be sampled",
    paper="Chow et al. 2024, Inference-Aware Fine-Tuning for Best-of-N Sampling in Large Language Models, "
    "arXiv 2412.15287",
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
