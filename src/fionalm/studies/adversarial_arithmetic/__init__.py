"""Freeman et al. 2023: language models are not robust to adversarial arithmetic, and hardening helps within limits.

A tiny decoder that learnt an arithmetic dialogue is attacked by hand, by texts that it writes itself (PIRS) and by
repetition, then hardened by reinforcement learning and attacked again. At `laptop` SmolLM2-135M-Instruct is target,
attacker and reviewer too.

    fiona reproduce adversarial-arithmetic --scale quick
"""

from __future__ import annotations

from fionalm.report.claims import Measured
from fionalm.studies.adversarial_arithmetic.claims import CLAIMS
from fionalm.studies.adversarial_arithmetic.runs import (
    ArithmeticStudyConfig,
    attack_trial,
    hardening_trial,
    large_trial,
    plan,
    preset,
    transfer_trial,
)
from fionalm.studies.study import Lab, Study


def run(config: ArithmeticStudyConfig, lab: Lab) -> list[Measured]:
    """Attack, harden, attack again, measure the claims and draw the figures."""
    from fionalm.errors import UserError
    from fionalm.studies.adversarial_arithmetic.analysis import Results, measure_claims
    from fionalm.studies.adversarial_arithmetic.figures import draw_figures
    from fionalm.studies.adversarial_arithmetic.tables import sections

    if config.paper:
        raise UserError(
            "adversarial-arithmetic at the scale 'cluster' is the paper's PaLM 2, which `fiona plan` estimates: "
            "expected 'laptop', or `fiona attack arithmetic` and `fiona harden` with a model of your own"
        )
    large = [large_trial(config.large)] if config.large else []
    seeds = range(config.seeds)
    results = lab.sweep([*large, *(attack_trial(config, seed) for seed in seeds)], "attacks")
    base = results[len(large) :]
    keys = [(hardening, seed) for hardening in config.hardening for seed in seeds if base[seed] is not None]
    attacks = {seed: result["pirs"]["attacks"] for seed, result in zip(seeds, base, strict=True) if result is not None}
    best = {seed: found[: config.sizes.kept] for seed, found in attacks.items()}
    others = {seed: {str(other): best[other] for other in best if other != seed} for seed in best}
    crossing = [seed for seed, found in others.items() if any(found.values())]
    trials = [
        *(hardening_trial(config, seed, hardening, best[seed]) for hardening, seed in keys),
        *(transfer_trial(config, seed, others[seed]) for seed in crossing),
    ]
    found = lab.sweep(trials, "hardening")
    by_key = dict(zip(((hardening.method, seed) for hardening, seed in keys), found[: len(keys)], strict=True))
    hardened = {one.method: [by_key.get((one.method, seed)) for seed in seeds] for one in config.hardening}
    crossed = dict(zip(crossing, found[len(keys) :], strict=True))
    measured = Results(config, base, hardened, crossed, results[0] if large else None)
    draw_figures(measured, lab)
    lab.sections += sections(measured)
    if large:
        from fionalm.studies.adversarial_arithmetic.smollm2 import section

        lab.sections.append(section(results[0]))
    return list(measure_claims(measured))


STUDY = Study(
    name="adversarial-arithmetic",
    title="Attacks on arithmetic with an exact oracle, and hardening against them",
    paper='Freeman et al. 2023, Frontier Language Models Are Not Robust to Adversarial Arithmetic, or "What Do I Need '
    'To Say So You Agree 2+2=5?", arXiv 2311.07587',
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
