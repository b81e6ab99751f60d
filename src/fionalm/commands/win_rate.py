"""`fiona evaluate win-rate`: completions against reference answers, by a judge's log-probabilities in both orders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.judging import JUDGEMENTS_FILE, UNANSWERED_FILE, judge_rows, preferences_chart, write_rows
from fionalm.commands.options import Positional
from fionalm.commands.problems import Columns, named_columns
from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.verifiers import Judge

NEEDED = ("prompt", "completion", "reference")


def win_rate(
    file: Positional[Annotated[str, tyro.conf.arg(metavar="FILE")]],
    judge: Annotated[str, tyro.conf.arg(metavar="MODEL|URL")],
    criterion: Annotated[str | None, tyro.conf.arg(metavar="WORDS")] = None,
    columns: Columns = (),
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    plain: bool = False,
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 64,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/win-rate"),
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    quiet: bool = False,
) -> None:
    """Measure how often completions are preferred to reference answers, by a judge model.

    The judge sees each pair in both orders; p is the mean softmax of its log-probabilities of answering (1) or (2).
    Prompts that an endpoint's judge does not answer in both orders are counted, left out, and kept in unanswered.jsonl.
    Reported: the binary win rate (p above 1/2), the percentage (mean p), their 95% intervals over prompts, and
    Wilcoxon's signed-rank test. The same command resumes a stopped one.

    For example: fiona evaluate win-rate pairs.jsonl --judge smollm2 --limit 50

    Args:
        file: rows with prompt, completion and reference: .jsonl, .json, .csv, .parquet, or hf:NAME.
        judge: a model here, or http://HOST:PORT/v1#MODEL for an endpoint that gives log-probabilities.
        criterion: what better means; default: more helpful, correct and harmless.
        columns: the file's own names, such as completion=output.
        limit: rows at most.
        plain: let the judge continue a text in place of answering in a conversation, as base models need.
        batch: questions that a local judge reads at once.
        out: folder of the results.
        seed: of the bootstrap.
        quiet: show no progress.
    """
    from fionalm.commands.outcome import columns as aligned
    from fionalm.commands.outcome import diagnosis
    from fionalm.data import read_rows
    from fionalm.evaluation import win_rate as rates
    from fionalm.report import Section, Table

    renames = named_columns(columns, NEEDED)
    rows = read_rows(file, columns=renames, need=NEEDED, limit=limit)
    settings: dict[str, Any] = {
        "file": file,
        "judge": judge,
        "criterion": criterion,
        "columns": renames,
        "limit": limit,
        "seed": seed,
    }
    settings["plain"] = plain
    asked = _judge(judge, criterion, batch, plain)
    with diagnosis(out, f"Win rate of {Path(file).name}", settings) as opened:
        judged = judge_rows(asked, rows, NEEDED, out / JUDGEMENTS_FILE, quiet=quiet)
        answered = [one for one in judged if not one.unanswered]
        missed = [row for row, one in zip(rows, judged, strict=True) if one.unanswered]
        if missed:
            write_rows(out / UNANSWERED_FILE, missed)
        if not answered:
            raise UserError(
                "the judge answered no prompt in both orders: expected a model that follows the instruction, or --plain"
            )
        found = rates([[one.shown_first, one.shown_second] for one in answered], seed=seed)
        preferences = [None if one.unanswered else one.preference for one in judged]
        result = {**found.to_dict(), "unanswered": len(missed), "preferences": preferences}
        names, table = _table(found, len(missed))
        print(aligned(names, table))
        text = f"{found.pairs} prompts, each judged in both orders by {judge}."
        chart = (
            preferences_chart([one.preference for one in answered], "prompts", "p, completion better than reference"),
            "Prompts by the judge's mean p in both orders.",
        )
        opened.finish(result, {"win-rate": chart}, [Section("Win rate", text, [Table(names, table)], ["win-rate"])])


def _judge(spec: str, criterion: str | None, batch: int, plain: bool) -> Judge:
    from fionalm.sampling import make_sampler
    from fionalm.verifiers import Judge
    from fionalm.verifiers.judge import CRITERION

    sampler: Any = make_sampler(spec, max_batch=batch)
    return Judge(sampler, criterion=criterion or CRITERION, chat=False if plain else None)


def _table(found: Any, unanswered: int) -> tuple[list[str], list[list[Any]]]:
    from fionalm.report.wording import format_interval

    rows: list[list[Any]] = [
        [f"win rate, {name}", one.estimate, format_interval(one.low, one.high)]
        for name, one in (("binary", found.binary), ("percentage", found.percentage))
    ]
    rows += [
        ["Wilcoxon p-value", found.p_value, ""],
        ["both orders agree", found.consistent, ""],
        ["liking for the first place", found.shown_first, ""],
        [f"left out without an answer ({UNANSWERED_FILE})", unanswered, ""],
        ["prompts", found.pairs, ""],
    ]
    return ["measure", "value", "95% interval"], rows
