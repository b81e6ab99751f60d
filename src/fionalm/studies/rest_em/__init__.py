"""Singh et al. 2023: a model that learns from its own verified solutions, iterated from the base model.

Tiny decoders solve word problems and write small functions, which a sandbox tests; ReST-EM is compared with one
iteration, with human solutions and with continuing.

    fiona reproduce rest-em --scale quick
"""

from __future__ import annotations

from typing import Any

from fionalm.report.claims import Measured
from fionalm.studies.rest_em.claims import CLAIMS
from fionalm.studies.rest_em.runs import RestEMStudyConfig, all_arms, human_arm, plan, preset, trial
from fionalm.studies.study import Lab, Study


def run(config: RestEMStudyConfig, lab: Lab) -> list[Measured]:
    """Train, measure the claims and draw the figures."""
    from fionalm.studies.rest_em import smollm2
    from fionalm.studies.rest_em.analysis import Results, measure_claims
    from fionalm.studies.rest_em.figures import add_smollm2, draw_figures

    every = all_arms(config)
    # The bases first, by themselves: every other arm starts from one.
    bases = {key: arm for key, arm in every.items() if key[1] == "base"}
    found: dict[Any, Any] = dict(
        zip(bases, lab.sweep([trial(arm) for arm in bases.values()], "base models"), strict=True)
    )
    trained = {key: arm for key, arm in every.items() if key not in bases}
    trials = [trial(arm) for arm in trained.values()]
    large = [smollm2.trial(config.smollm2)] if config.smollm2 else []
    results = lab.sweep([*large, *trials], "self-training")
    found |= dict(zip(trained, results[len(large) :], strict=True))
    humans = {
        ("words", "human", seed): human_arm(config, seed, result["rows"][-1]["kept"])
        for seed in range(config.seeds)
        if (result := found["words", "rest-em", seed]) is not None and len(result["rows"]) > 1
    }
    found |= dict(zip(humans, lab.sweep([trial(arm) for arm in humans.values()], "human solutions"), strict=True))
    measured = Results(config, found)
    draw_figures(measured, lab)
    if large:
        add_smollm2(results[0], lab)
    return list(measure_claims(measured))


STUDY = Study(
    name="rest-em",
    title="Self-training on verified solutions, restarted from the base model",
    paper="Singh et al. 2023, Beyond Human Data: Scaling Self-Training for Problem-Solving with Language Models, "
    "arXiv 2312.06585",
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
