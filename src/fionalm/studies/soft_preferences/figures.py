"""The figures and tables of `soft-preferences`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fionalm.objectives.preference_kinds import PREFERENCE_KINDS
from fionalm.posttraining.preference_metrics import CONFIDENCE_BINS
from fionalm.report import Line, Section, Table, lines_with_intervals
from fionalm.statistics import Interval
from fionalm.studies.soft_preferences.analysis import NAMES, Results, mean
from fionalm.studies.soft_preferences.bandit import ACTIONS, Bandit, gradient_scales
from fionalm.studies.soft_preferences.runs import SKEWED, SURE
from fionalm.studies.study import Lab

LABELS = (0.55, 0.75, 0.95)
FAMILIES = {
    "DPO family": ("dpo", "cdpo", "geometric_dpo"),
    "IPO family": ("ipo", "cipo", "geometric_ipo"),
    "ROPO family": ("ropo", "geometric_ropo"),
}
TITLES = {SKEWED: "skewed labels", "stairs": "stairs labels", SURE: "labels above 0.95"}


def draw_gradients(lab: Lab) -> None:
    """Draw the gradient's scale against h (the paper's Figure 1 left)."""
    h = np.linspace(-40, 40, 81).tolist()
    panels = {
        f"label {label:g}": [Line(NAMES[kind], h, gradient_scales(kind, label, h)) for kind in FAMILIES["DPO family"]]
        for label in LABELS
    }
    lab.figure(
        lines_with_intervals(panels, x_label="log-ratio h (nats)", y_label="slope -dL/dh over beta", columns=3),
        "gradient-scale",
        "Scale of the gradient",
        "Slope of each loss against the log-ratio h at beta 0.1, for three soft labels. GDPO's falls with the label's "
        "confidence and DPO's does not; cDPO's turns negative once the pair's preference fits the label.",
    )


def draw_bandit(bandit: Bandit, policies: Mapping[tuple[str, float], Any], lab: Lab) -> None:
    """Draw data, reward and policies over the actions (the paper's Figure 1 right), and their rewards."""
    actions = list(range(ACTIONS))
    lab.figure(
        lines_with_intervals(
            [Line("true reward", actions, bandit.reward.tolist())], x_label="action", y_label="true reward"
        ),
        "bandit-reward",
        "The bandit's reward",
        "True reward of each of the 100 actions; labels are Bradley-Terry under it.",
    )
    shown = {"data and reference": bandit.data}
    shown |= {f"{NAMES[kind]}, beta {beta:g}": policy for (kind, beta), policy in policies.items()}
    panels = {name: [Line(name, actions, policy.tolist())] for name, policy in shown.items()}
    lab.figure(
        lines_with_intervals(panels, x_label="action", y_label="probability", columns=4),
        "bandit",
        "The bandit's policies",
        "Most pairs of the data come from a low-reward region. Policies after training on the exact expected loss; "
        "the reference is the data.",
    )
    rows = [
        (
            name,
            float((policy * bandit.reward).sum()),
            float(policy[bandit.low].sum()),
            int(policy.argmax()),
        )
        for name, policy in shown.items()
    ]
    lab.sections.append(
        Section(
            "The bandit",
            "Everything here is exact: the losses are expectations over all pairs of actions. cDPO's optimum is the "
            "reference times exp(reward / beta), so how much of the data's low-reward mode it keeps depends on "
            "beta, and with it most of the claims. DPO and GDPO have no finite optimum, and no claim compares the two "
            "here.",
            [Table(("policy", "expected reward", "mass on low-reward actions", "mode"), rows)],
            ["bandit-reward", "bandit"],
        )
    )


def draw_models(results: Results, lab: Lab) -> None:
    """Draw true reward against distance, gaps and accuracy by confidence, and tabulate the ends of training."""
    regimes = [regime for regime in results.config.regimes if regime != SURE]
    for regime in regimes:
        panels = {family: [_path(results, regime, kind) for kind in kinds] for family, kinds in FAMILIES.items()}
        lab.figure(
            lines_with_intervals(
                panels, x_label="KL from the reference (nats)", y_label="expected true reward", columns=3
            ),
            f"reward-against-kl-{regime}",
            f"True reward against distance, {TITLES[regime]}",
            f"Exact expected true reward against exact KL(policy || reference) over training, on test prompts, mean of "
            f"{results.config.seeds} seeds. A path that turns down over-optimises.",
        )
    for name, title, label, caption in (
        (
            "gaps",
            "Implicit-reward gap by the label's confidence",
            "gap beta h",
            "Mean implicit-reward gap of the preferred completion on training pairs at the end of training, by the "
            "soft label's confidence; skewed labels. Pairs that are nearly equally preferred are at the left.",
        ),
        (
            "accuracy",
            "Wins by the label's confidence",
            "share of pairs won",
            "How often the implicit reward puts the completion with the higher true reward first, on pairs of test "
            "prompts that were not learnt from, by the true label's confidence; skewed labels in training.",
        ),
    ):
        panels = {
            family: [_by_confidence(results, SKEWED, kind, name) for kind in kinds]
            for family, kinds in FAMILIES.items()
        }
        lab.figure(
            lines_with_intervals(panels, x_label="confidence max(p, 1 - p)", y_label=label, columns=3),
            f"{name}-by-confidence",
            title,
            f"{caption} Bars are intervals over seeds.",
        )
    tables = []
    for regime in results.config.regimes:
        kinds = [kind for kind in PREFERENCE_KINDS if any(one is not None for one in results.of(regime, kind))]
        tables.append(
            Table(
                (f"loss, {TITLES[regime]}", "true reward", "interval", "best in training", "KL", "win rate", "binary"),
                [_row(results, regime, kind) for kind in kinds],
            )
        )
    lab.sections.append(
        Section(
            "Ends of training",
            "Expected true reward, KL from the reference, and win rate against the reference's completions "
            "(percentage: mean Bradley-Terry probability; binary: ties count half), all exact on test prompts. All "
            "losses have the same data, steps and learning rate; beta is the paper's (0.1, and 1 for the IPO family).",
            tables,
        )
    )


def _row(results: Results, regime: str, kind: str) -> tuple[Any, ...]:
    reward = mean(results.final(regime, kind))
    best = mean(results.final(regime, kind) + results.fall(regime, kind))
    kl, soft, hard = (
        mean(values).estimate
        for values in (
            results.final(regime, kind, "kl"),
            results.value(regime, kind, "win_rate"),
            results.value(regime, kind, "win_rate_binary"),
        )
    )
    return (NAMES[kind], reward.estimate, f"[{reward.low:.3g}, {reward.high:.3g}]", best.estimate, kl, soft, hard)


def _path(results: Results, regime: str, kind: str) -> Line:
    kl, reward = (results.series(regime, kind, name) for name in ("kl", "reward"))
    if not len(kl):
        return Line(NAMES[kind], [], [])
    return Line(NAMES[kind], kl.mean(0).tolist(), reward.mean(0).tolist())


def _by_confidence(results: Results, regime: str, kind: str, name: str) -> Line:
    found = results.by_confidence(regime, kind, name)
    x, intervals = [], list[Interval]()
    for bin_name in CONFIDENCE_BINS:
        if bin_name in found:
            low, high = map(float, bin_name.split("-"))
            x.append((low + high) / 2)
            intervals.append(mean(found[bin_name]))
    estimates, lows, highs = ([getattr(one, end) for one in intervals] for end in ("estimate", "low", "high"))
    return Line(NAMES[kind], x, estimates, lows, highs)
