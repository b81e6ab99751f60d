"""Furuta et al. 2024: preference optimization with soft labels by geometric averaging.

First the bandit of 100 actions, exactly. Then a small language model whose pairs have a known reward, so that true soft
labels, true reward and distance from the reference are exact. At `laptop` also SmolLM2-135M on real pairs.

    fiona reproduce soft-preferences --scale quick
"""

from __future__ import annotations

from fionalm.objectives.preference_kinds import PreferenceKind
from fionalm.report.claims import Measured
from fionalm.studies.soft_preferences.claims import CLAIMS
from fionalm.studies.soft_preferences.runs import SoftPreferencesConfig, model_runs, model_trial, plan, preset
from fionalm.studies.study import Lab, Study

BANDIT_KINDS: tuple[PreferenceKind, ...] = ("dpo", "cdpo", "geometric_dpo")


def run(config: SoftPreferencesConfig, lab: Lab) -> list[Measured]:
    """Train, measure the claims and draw the figures."""
    from fionalm.errors import UserError
    from fionalm.studies.soft_preferences import analysis, figures
    from fionalm.studies.soft_preferences.bandit import make_bandit, train_bandit
    from fionalm.studies.soft_preferences.claims import BETAS
    from fionalm.studies.soft_preferences.hh import run_hh

    if config.paper:
        raise UserError(
            "soft-preferences at the scale 'cluster' is the paper's PaLM 2 on its data, which `fiona plan` estimates: "
            "expected 'laptop', or `fiona finetune geometric-dpo` with a model and pairs of your own"
        )
    bandit = make_bandit()
    policies = {
        (kind, beta): train_bandit(bandit, kind, config.bandit_steps, beta=beta)
        for beta in BETAS
        for kind in BANDIT_KINDS
    }
    figures.draw_gradients(lab)
    figures.draw_bandit(bandit, policies, lab)
    runs = model_runs(config)
    outcomes = lab.sweep([model_trial(one) for one in runs.values()], "preference trainings")
    results = analysis.Results(config, dict(zip(runs, outcomes, strict=True)))
    figures.draw_models(results, lab)
    lab.sections.append(run_hh(config.hh, lab))
    return [*analysis.measure_bandit(bandit, policies), *analysis.measure_models(results)]


STUDY = Study(
    name="soft-preferences",
    title="Preference optimization with soft labels, by geometric averaging",
    paper="Furuta et al. 2024, Geometric-Averaged Preference Optimization for Soft Preference Labels, arXiv 2409.06691",
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
