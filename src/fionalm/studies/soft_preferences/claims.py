"""The claims of Furuta et al. 2024 that `soft-preferences` measures, fixed before the run.

Effects on the language model are per seed (a base model, its pairs, and everything trained from them), intervals over
seeds; the true reward is its exact expectation over all completions of test prompts, at the end of training.
"""

from __future__ import annotations

from fionalm.report.claims import Claim, Direction

NEAR = 0.1
"""Reward below which two methods count as equal, of a range from -5.7 to 3.2."""
FLAT_GAP = 0.1
"""Implicit reward, beta h, below which a gap counts as not grown."""

BETAS = (0.1, 1.0)
"""Of the bandit: the paper's for language models, and one that keeps the policy near the reference. What is known of
the paper's figure does not say which it used, so each claim is measured at both."""
_BANDIT: tuple[tuple[str, str, str, str, Direction, float], ...] = (
    (
        "cdpo-fits-labels",
        "In the bandit, cDPO fits the distribution of the labels.",
        "Figure 1 (right): cDPO accurately fits the data's distribution",
        "mean distance of cDPO's implied preference from the label, over pairs of the data",
        "less",
        0.02,
    ),
    (
        "cdpo-low-reward",
        "In the bandit, cDPO so puts most of its mass on low-reward actions.",
        "Figure 1 (right): cDPO has its mode in a low-reward region",
        "cDPO's probability of actions whose reward is below the average action's",
        "greater",
        0.5,
    ),
    (
        "gdpo-leaves-low-reward",
        "In the bandit, GDPO puts less mass there.",
        "Figure 1 (right): GDPO has its mass in a high-reward region",
        "cDPO's probability of such actions less GDPO's",
        "greater",
        0.25,
    ),
    (
        "gdpo-over-cdpo",
        "In the bandit, GDPO earns more true reward than cDPO.",
        "Figure 1 (right)",
        "expected reward of GDPO less that of cDPO, of a range from 0 to 2",
        "greater",
        0.0,
    ),
)
BANDIT = tuple(
    Claim(
        f"bandit-{name}-beta-{beta:g}", sentence, paper, f"{statistic}, at beta {beta:g}", direction, bound, exact=True
    )
    for beta in BETAS
    for name, sentence, paper, statistic, direction, bound in _BANDIT
)

OVER = (
    ("gdpo-over-dpo", "geometric_dpo", "dpo", "GDPO", "DPO"),
    ("gdpo-over-cdpo", "geometric_dpo", "cdpo", "GDPO", "cDPO"),
    ("gipo-over-ipo", "geometric_ipo", "ipo", "GIPO", "IPO"),
    ("gipo-over-cipo", "geometric_ipo", "cipo", "GIPO", "cIPO"),
    ("gropo-over-ropo", "geometric_ropo", "ropo", "GROPO", "ROPO"),
)
"""Claim, method, what it is compared with, and their names in the paper."""

MODEL = (
    *(
        Claim(
            name,
            f"{method}'s true reward is above {other}'s where modest labels dominate.",
            "Tables 2 and 3: geometric averaging wins, most where modest labels are the majority",
            f"true reward of {method} less that of {other}, on skewed labels",
            "greater",
            0.0,
        )
        for name, _, _, method, other in OVER
    ),
    Claim(
        "gdpo-near-dpo-when-sure",
        "GDPO's true reward is DPO's where labels are near 1.",
        "with labels near 1 the scaling factors of GDPO and DPO are almost the same",
        f"true reward of GDPO less that of DPO, on labels above 0.95; within {NEAR}",
        "within",
        NEAR,
    ),
    Claim(
        "gdpo-flat-on-ties",
        "GDPO's implicit-reward gap does not grow on equally preferred pairs.",
        "equal preference gives no gradient; reward gaps stay moderate",
        "mean size of the gap, |beta h|, of GDPO on equally preferred training pairs after training",
        "less",
        FLAT_GAP,
    ),
    Claim(
        "dpo-grows-on-ties",
        "DPO's implicit-reward gap does grow on them.",
        "DPO pushes the gap of every pair up",
        "mean size of the gap, |beta h|, of DPO on equally preferred training pairs after training",
        "greater",
        FLAT_GAP,
    ),
    Claim(
        "gdpo-less-over-optimised",
        "GDPO over-optimises less than DPO.",
        "abstract: geometric averaging mitigates over-optimisation",
        "fall of the true reward from its best during training to its end: DPO's less GDPO's, on skewed labels",
        "greater",
        0.0,
    ),
)

CLAIMS = (*BANDIT, *MODEL)
