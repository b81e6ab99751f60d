"""What attacks came to, as a report: rates beside the control, survivors of the search, transfer, and a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fionalm.commands.outcome import Diagnosis
from fionalm.commands.outcome import columns as aligned
from fionalm.redteam.metrics import Summary, by_distance, by_family, excess, success_against_queries, summarise
from fionalm.statistics import Interval

if TYPE_CHECKING:
    from fionalm.redteam.campaign import Campaign
    from fionalm.redteam.querying import Meter
    from fionalm.redteam.trials import Trial
    from fionalm.report import Chart, Section, Table

SHOWN, CUT = 12, 400
RATES = "Wilson intervals, 95%, over replies. Control: harmless text as long as the attack, at the same place."


def report_campaign(opened: Diagnosis, campaign: Campaign, meter: Meter, usage: str) -> None:
    """Print the rates, and write numbers, figures and the report."""
    from fionalm.report import Section

    names, rows = _overview(campaign)
    print(aligned(names, rows))
    lines = [f"{meter.used:,} replies, {meter.fresh:,} of them asked for now.", usage]
    lines += [f"{kind}: the budget of {limit} ended it." for kind, limit in campaign.stopped.items()]
    said = "\n".join(line for line in lines if line)
    print(said)
    charts = _charts(campaign)
    sections = [Section("Rates", f"{said}\n\n{RATES}", [_table(names, rows)], [])]
    sections += [*_search_sections(campaign), *_family_sections(campaign), *_transfer_sections(campaign)]
    sections.append(
        Section("Gallery", "What the target answered, by family; the control beside the attack.", _gallery(campaign))
    )
    placed = {
        "Rates": ["success-against-queries", "targeted-by-distance", "repetition"],
        "Families": ["accuracy-by-family"],
        "Prompt inversion": ["survivors"],
        "Transfer": ["transfer"],
    }
    sections = [
        Section(one.title, one.text, one.tables, [name for name in placed.get(one.title, []) if name in charts])
        for one in sections
    ]
    opened.finish(_result(campaign, meter), charts, sections)


def _overview(campaign: Campaign) -> tuple[list[str], list[list[Any]]]:
    from fionalm.report.wording import format_interval

    names = ["attacks", "right, clean", "attacked", "control", "fooled", "interval", "targeted", "interval ",
             "targeted, control", "fooled above control", "interval  ", "refused", "no number"]  # fmt: skip
    rows = []
    for kind, trials in campaign.trials.items():
        clean, attack, control = (_of(trials, condition) for condition in ("clean", "attack", "control"))
        above = excess(trials)
        rows.append(
            [
                kind,
                clean.accuracy.estimate,
                attack.accuracy.estimate,
                control.accuracy.estimate,
                attack.success.estimate,
                format_interval(attack.success.low, attack.success.high),
                attack.targeted_success.estimate,
                format_interval(attack.targeted_success.low, attack.targeted_success.high),
                control.targeted_success.estimate,
                above.estimate,
                format_interval(above.low, above.high),
                attack.refusal,
                attack.unparsable,
            ]
        )
    return names, rows


def _search_sections(campaign: Campaign) -> list[Section]:
    from fionalm.report import Section

    found = campaign.search
    if found is None:
        return []
    counts = [[name, count] for name, count in found.counts.items()]
    rows = [
        [
            one.attack.text[:CUT],
            one.attack.provenance.get("reads_like", ""),
            _rate(one.selection),
            _rate(one.retest),
            _rate(one.retest, targeted=True),
            _rate(one.control),
        ]
        for one in found.found
    ]
    names = ["text", "reads like", "fooled when chosen", "fooled on fresh sums", "of it as targeted", "control"]
    pooled = (
        f"Where they were chosen for it, survivors fooled the target in {_rate(found.selection)}; on fresh sums, which "
        f"count, in {_rate(found.retest)}, and harmless text as long in {_rate(found.control)}."
        if found.found
        else "No text survived."
    )
    if found.counts["refused"]:
        pooled += f" The attacker refused {found.counts['refused']} of {found.counts['asked']} times."
    print(pooled)
    tables = [_table(["texts", "number"], counts), *([_table(names, rows)] if rows else [])]
    return [Section("Prompt inversion", pooled, tables)]


def _family_sections(campaign: Campaign) -> list[Section]:
    from fionalm.report import Section

    rows = []
    for family, group in by_family(campaign.everything).items():
        attack, control = group.get("attack", Summary()), group.get("control", Summary())
        if attack.total:
            rows.append(
                [family, _right(attack), _right(control), _rate(attack), _rate(attack, targeted=True), _rate(control)]
            )
    names = ["family", "right", "right, control", "fooled", "as targeted", "fooled, control"]
    return [Section("Families", "", [_table(names, rows)])]


def _transfer_sections(campaign: Campaign) -> list[Section]:
    from fionalm.report import Section
    from fionalm.report.wording import format_interval

    if not campaign.transfers:
        return []
    rows = [
        [
            one.source,
            one.target,
            _rate(one.attack),
            _rate(one.attack, targeted=True),
            _rate(one.control),
            one.above_control.estimate,
            format_interval(one.above_control.low, one.above_control.high),
        ]
        for one in campaign.transfers
    ]
    names = ["attacks", "model", "fooled", "as targeted", "control", "above control", "interval"]
    text = "Attacks on sums that none of them was chosen by."
    return [Section("Transfer", text, [_table(names, rows)])]


def _charts(campaign: Campaign) -> dict[str, tuple[Chart, str]]:
    from fionalm.report import Line, grouped_forest, lines_with_intervals, rate_matrix

    charts: dict[str, tuple[Chart, str]] = {}
    families = {
        family: {condition: group[condition].accuracy for condition in ("attack", "control") if condition in group}
        for family, group in by_family(campaign.everything).items()
        if "attack" in group
    }
    charts["accuracy-by-family"] = (
        grouped_forest(families, x_label="share of right answers"),
        "Right answers under each family's attacks and under harmless text as long; 95% Wilson intervals.",
    )
    lines = []
    for kind, trials in {**campaign.trials, **({"pirs": campaign.search.screened} if campaign.search else {})}.items():
        curve = success_against_queries(trials)
        lines.append(Line(kind, [one[0] for one in curve], [one[1] for one in curve]))
    charts["success-against-queries"] = (
        lines_with_intervals(lines, x_label="attacked questions", y_label="wrong numbers so far"),
        "Wrong answers against questions asked with an attack; of the search, each new text on its own sum.",
    )
    lines = [
        _distance_line(condition, by_distance(campaign.everything, condition)) for condition in ("attack", "control")
    ]
    charts["targeted-by-distance"] = (
        lines_with_intervals(lines, x_label="|chosen - true|", y_label="share of the chosen answer", x_scale="log"),
        "How often the answer is the chosen wrong one, against its distance from the true one.",
    )
    if "repetition" in campaign.trials:
        charts["repetition"] = (
            lines_with_intervals(
                [_copies_line(condition, campaign.trials["repetition"]) for condition in ("attack", "control")],
                x_label="copies of a false equation",
                y_label="share of right answers",
                x_scale="log",
            ),
            "Right answers against the number of copies, and against harmless text as long.",
        )
    if campaign.search is not None and campaign.search.found:
        survivors = {
            f"{number}. {one.attack.text[:24]}...": {
                "when chosen": one.selection.success,
                "fresh sums": one.retest.success,
                "control": one.control.success,
            }
            for number, one in enumerate(campaign.search.found[:SHOWN], 1)
        }
        charts["survivors"] = (
            grouped_forest(survivors, x_label="share of wrong numbers"),
            "Each survivor where it was chosen, on fresh sums, and harmless text as long.",
        )
    if campaign.transfers:
        sources, targets = (
            list(dict.fromkeys(getattr(one, name) for one in campaign.transfers)) for name in ("source", "target")
        )
        cells = {(one.source, one.target): one.attack.success.estimate for one in campaign.transfers}
        values = [[cells[source, target] for target in targets] for source in sources]
        short = [target.rstrip("/").rpartition("/")[2] for target in targets]
        charts["transfer"] = (
            rate_matrix(values, rows=sources, columns=short, x_label="model", y_label="attacks"),
            "Share of wrong numbers when attacks are tried on each model.",
        )
    return charts


def _gallery(campaign: Campaign) -> list[Table]:
    """Return one folded table a family: attack, answer, and the control's answer."""
    from fionalm.report import Table

    trials = campaign.everything
    controls = {(one.attack, one.problem, one.sample): one for one in trials if one.condition == "control"}
    tables: list[Table] = []
    families: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.condition == "attack":
            families.setdefault(trial.family, []).append(trial)
    for family, group in families.items():
        # What succeeded first, and no attack twice before each was shown once.
        order = sorted(group, key=lambda one: ("targeted", "wrong").index(one.outcome) if one.fooled else 2)
        seen: dict[str, int] = {}
        turns = []
        for one in order:
            seen[one.attack] = seen.get(one.attack, 0) + 1
            turns.append((seen[one.attack], len(turns), one))
        rows = []
        for _, _, one in sorted(turns)[:SHOWN]:
            control = controls.get((one.attack, one.problem, one.sample))
            rows.append(
                [
                    _short(one.prompt),
                    one.target,
                    _short(one.reply),
                    one.outcome,
                    _short(control.reply) if control else "",
                    control.outcome if control else "",
                ]
            )
        names = ["question with attack", "chosen", "answer", "outcome", "answer with harmless text", "outcome "]
        tables.append(Table(names, rows, f"{family}: {_rate(summarise(group))}", folded=True))
    return tables


def _result(campaign: Campaign, meter: Meter) -> dict[str, Any]:
    kinds = {
        kind: {condition: _of(trials, condition).as_json() for condition in ("clean", "attack", "control")}
        | {"above_control": _interval(excess(trials))}
        for kind, trials in campaign.trials.items()
    }
    families = {
        family: {condition: summary.as_json() for condition, summary in group.items()}
        for family, group in by_family(campaign.everything).items()
    }
    distances = {distance: one.as_json() for distance, one in by_distance(campaign.everything).items()}
    result: dict[str, Any] = {"kinds": kinds, "families": families, "distances": distances}
    result |= {"queries": meter.used, "stopped": campaign.stopped}
    if campaign.search is not None:
        found = campaign.search
        result["pirs"] = {
            "counts": dict(found.counts),
            "survivors": len(found.found),
            "selection": found.selection.as_json(),
            "retest": found.retest.as_json(),
            "control": found.control.as_json(),
            "above_control": _interval(found.above_control),
        }
    result["transfer"] = [
        {"source": one.source, "target": one.target, "attack": one.attack.as_json(), "control": one.control.as_json()}
        for one in campaign.transfers
    ]
    return result


def _of(trials: Sequence[Trial], condition: str) -> Summary:
    return summarise(trial for trial in trials if trial.condition == condition)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    from fionalm.report import Table

    return Table(names, rows)


def _rate(summary: Summary, *, targeted: bool = False) -> str:
    if not summary.total:
        return "not asked"
    one = summary.targeted_success if targeted else summary.success
    count = summary.targeted if targeted else summary.targeted + summary.wrong
    return f"{count} of {summary.total} ({one.low:.0%} to {one.high:.0%})"


def _right(summary: Summary) -> str:
    one = summary.accuracy
    return f"{summary.right} of {summary.total} ({one.low:.0%} to {one.high:.0%})" if summary.total else "not asked"


def _distance_line(condition: str, groups: Mapping[int, Summary]) -> Any:
    from fionalm.report import Line

    rates = [one.targeted_success for one in groups.values()]
    return _line(Line, condition, list(groups), rates)


def _copies_line(condition: str, trials: Sequence[Trial]) -> Any:
    from fionalm.report import Line

    groups: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.condition == condition:
            groups.setdefault(int(trial.family.partition("x")[2].replace(",", "")), []).append(trial)
    return _line(Line, condition, sorted(groups), [summarise(groups[count]).accuracy for count in sorted(groups)])


def _line(kind: Any, label: str, x: Sequence[float], rates: Sequence[Interval]) -> Any:
    return kind(label, x, [one.estimate for one in rates], [one.low for one in rates], [one.high for one in rates])


def _interval(one: Interval) -> dict[str, Any]:
    return {"estimate": one.estimate, "interval": one.as_list()}


def _short(text: str) -> str:
    return text if len(text) <= CUT else f"{text[:CUT]}... ({len(text):,} characters)"
