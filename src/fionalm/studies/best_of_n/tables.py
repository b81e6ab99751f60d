"""The tables of `best-of-n`: all methods, and what their right solutions are made of."""

from __future__ import annotations

import math

from fionalm.report import Section, Table
from fionalm.statistics import Interval
from fionalm.studies.best_of_n.results import Results, mean
from fionalm.studies.best_of_n.runs import BASE, TITLES
from fionalm.studies.study import Lab


def add_tables(results: Results, lab: Lab) -> None:
    """Keep both tables in the report."""
    config = results.config
    columns = ("method", "N'", *(f"pass@{n}" for n in config.ns), f"best of {config.largest_n}", "entropy", "distinct")
    rows, kinds = [], []
    for method, n in [(BASE, 0), *config.arms()]:
        cells = [mean(results.passed(method, n, k)) for k in config.ns]
        cells += [
            mean(results.best_of(method, n, config.largest_n)),
            mean(results.per_seed(method, n, lambda r: r["entropy"])),
            mean(results.per_seed(method, n, lambda r: r["distinct"])),
        ]
        rows.append((TITLES[method], n or "", *(cell(interval) for interval in cells)))
        right = [
            results.per_seed(method, n, lambda r, k=k: r["strategies"][k] / max(1, sum(r["strategies"])))
            for k in range(config.n_digits)
        ]
        kinds.append((TITLES[method], n or "", *(mean(share).estimate for share in right)))
    lab.sections.append(
        Section(
            "All methods on the test problems",
            "Mean over seeds with 95% intervals. Entropy is a response's, in nats; distinct counts right solutions "
            "among 32 samples.",
            [Table(columns, rows)],
        )
    )
    names = ("sums alone", *(f"{k} product{'s' if k > 1 else ''}" for k in range(1, config.n_digits)))
    lab.sections.append(
        Section(
            "Strategies",
            "Share of the right samples that use each strategy.",
            [Table(("method", "N'", *names), kinds, "Means over seeds.")],
        )
    )


def cell(interval: Interval) -> str:
    """Return an estimate with its interval, if it has one."""
    if not math.isfinite(interval.low):
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
