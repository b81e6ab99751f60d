"""Wortsman et al. 2023: instabilities of large models, reproduced and predicted in small ones.

Trains decoders over sizes and learning rates with and without each intervention, watches attention logits,
output logits and gradients, and compares learning-rate sensitivities.

    fiona reproduce training-instabilities --scale quick
"""

from __future__ import annotations

from fionalm.report.claims import Measured
from fionalm.studies.study import Lab, Study
from fionalm.studies.training_instabilities.claims import CLAIMS
from fionalm.studies.training_instabilities.runs import TrainingInstabilitiesConfig, all_runs, preset
from fionalm.training.config import TrainConfig


def plan(config: TrainingInstabilitiesConfig) -> list[TrainConfig]:
    """Return every run of the study, for estimates of its cost."""
    return list(all_runs(config).values())


def run(config: TrainingInstabilitiesConfig, lab: Lab) -> list[Measured]:
    """Train, measure the claims and draw the figures."""
    from fionalm.studies.training_instabilities.analysis import measure_claims
    from fionalm.studies.training_instabilities.figures import draw_figures
    from fionalm.studies.training_instabilities.results import Results

    results = Results(config, lab.train(all_runs(config), "training runs", probes=("stability",)))
    draw_figures(results, lab)
    return list(measure_claims(results))


STUDY = Study(
    name="training-instabilities",
    title="Large-scale training instabilities, reproduced and predicted small",
    paper="Wortsman et al. 2023, Small-scale proxies for large-scale Transformer training instabilities, "
    "arXiv 2309.14322",
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
