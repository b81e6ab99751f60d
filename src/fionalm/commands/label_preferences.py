"""`fiona label-preferences`: soft labels for preference pairs, from a judge model, from rewards or from votes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.judging import JUDGEMENTS_FILE, UNANSWERED_FILE, judge_rows, preferences_chart, write_rows
from fionalm.commands.options import Positional
from fionalm.commands.problems import Columns, named_columns
from fionalm.errors import UserError, choice_error

if TYPE_CHECKING:
    from fionalm.verifiers import Judge

PAIRS_FILE, RESAMPLED_FILE = "pairs.jsonl", "resampled.jsonl"
NEEDED = ("prompt", "chosen", "rejected")
CHUNK = 4
"""Pairs judged between two writes: on a processor a judge takes seconds for each."""
RESAMPLINGS = ("none", "skewed", "stairs")


def label_preferences(
    file: Positional[Annotated[str, tyro.conf.arg(metavar="FILE")]],
    judge: Annotated[str | None, tyro.conf.arg(metavar="MODEL|URL")] = None,
    criterion: Annotated[str | None, tyro.conf.arg(metavar="WORDS")] = None,
    rewards: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="CHOSEN REJECTED")] = None,
    reward_scale: Annotated[float, tyro.conf.arg(metavar="X")] = 1.0,
    votes: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="CHOSEN REJECTED")] = None,
    vote_prior: Annotated[float, tyro.conf.arg(metavar="X")] = 0.0,
    resample: Annotated[str, tyro.conf.arg(metavar="NAME")] = "none",
    size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    columns: Columns = (),
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "train",
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    plain: bool = False,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/label-preferences"),
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    quiet: bool = False,
) -> None:
    """Label preference pairs with P(chosen preferred), for `fiona finetune geometric-dpo` and the other soft losses.

    A judge model sees each pair in both orders, and the label is the mean softmax of its log-probabilities of answering
    (1) or (2). Or labels come from rewards (Bradley-Terry) or from votes that the file has. The same command resumes a
    stopped one.

    For example: fiona label-preferences pairs.jsonl --judge smollm2 --limit 50

    Args:
        file: rows with chosen, rejected and (or split off them) prompt: .jsonl, .json, .csv, .parquet, or hf:NAME.
        judge: a model here, or http://HOST:PORT/v1#MODEL for an endpoint that gives log-probabilities.
        criterion: what better means; default: more helpful, correct and harmless.
        rewards: columns of both rewards, in place of a judge.
        reward_scale: factor of the rewards' difference before the sigmoid.
        votes: columns of the numbers of votes for either, in place of a judge.
        vote_prior: votes added to each side, so that few votes do not make a sure label.
        resample: also write a re-sampling that is mostly modest labels: skewed (each fifth of the confidences half as
            often as the one before), stairs (equal steps), or none.
        size: rows of the re-sampling at most; default: half of all.
        columns: the file's own names, such as chosen=winner.
        split: of a dataset on the hub.
        limit: rows at most.
        plain: let the judge continue a text in place of answering in a conversation, as base models need.
        out: folder of the results: pairs.jsonl is the labelled data.
        seed: of the re-sampling.
        quiet: show no progress.
    """
    from fionalm.commands.outcome import columns as aligned
    from fionalm.commands.outcome import diagnosis
    from fionalm.data import label_histogram, read_rows
    from fionalm.report import Section, Table

    _check_sources(judge, rewards, votes, resample)
    renames = named_columns(columns, NEEDED)
    given = [*(rewards or ()), *(votes or ())]
    rows = read_rows(file, split=split, columns=renames, need=(*NEEDED, *given), limit=limit)
    settings: dict[str, Any] = {
        "file": file,
        "judge": judge,
        "criterion": criterion,
        "rewards": rewards,
        "reward_scale": reward_scale,
        "votes": votes,
        "vote_prior": vote_prior,
        "columns": renames,
        "split": split,
        "limit": limit,
        "plain": plain,
        "resample": resample,
        "size": size,
        "seed": seed,
    }
    asked = None if judge is None else _judge(judge, criterion, plain)
    with diagnosis(out, f"Preference labels of {Path(file).name}", settings) as opened:
        if asked is not None:
            rows, labels, facts = _judged(asked, rows, out, quiet)
        else:
            labels, facts = _computed(rows, rewards, reward_scale, votes, vote_prior), []
        labelled = [{**row, "soft_label": label} for row, label in zip(rows, labels, strict=True)]
        write_rows(out / PAIRS_FILE, labelled)
        facts = [["pairs", len(labels)], *facts, *_facts(labels)]
        if resample != "none":
            chosen = _resampled(labels, resample, size or max(1, len(labels) // 2), seed)
            write_rows(out / RESAMPLED_FILE, [labelled[index] for index in chosen])
            facts.append([f"pairs re-sampled, {resample}", len(chosen)])
        names = ["measure", "value"]
        print(aligned(names, facts))
        print(f"pairs: {(out / PAIRS_FILE).resolve()}")
        result = {"labels": labels, "histogram": label_histogram(labels)}
        text = f"{len(labels)} pairs, labelled by {judge or 'rewards' if rewards or judge else 'votes'}."
        charts = {
            "labels": (
                preferences_chart(labels, "pairs", "soft label, P(chosen preferred)"),
                "Pairs by their soft label, P(chosen preferred to rejected).",
            )
        }
        opened.finish(result, charts, [Section("Labels", text, [Table(names, facts)], ["labels"])])


def _check_sources(judge: Any, rewards: Any, votes: Any, resample: str) -> None:
    given = [name for name, value in (("--judge", judge), ("--rewards", rewards), ("--votes", votes)) if value]
    if len(given) != 1:
        raise UserError(f"{' and '.join(given) or 'no source of labels'}: expected one of --judge, --rewards, --votes")
    if resample not in RESAMPLINGS:
        raise choice_error("re-sampling", resample, RESAMPLINGS)


def _judge(spec: str, criterion: str | None, plain: bool) -> Judge:
    from fionalm.posttraining import load_policy
    from fionalm.posttraining.ai_feedback import PairScorer
    from fionalm.sampling.make import VLLM, is_endpoint, make_sampler
    from fionalm.verifiers import Judge
    from fionalm.verifiers.judge import CRITERION

    local = not is_endpoint(spec) and not spec.startswith(VLLM)
    asked: Any = PairScorer(load_policy(spec)) if local else make_sampler(spec)
    return Judge(asked, criterion=criterion or CRITERION, chat=False if plain else None)


def _judged(
    judge: Judge, rows: Sequence[dict[str, Any]], out: Path, quiet: bool
) -> tuple[list[dict[str, Any]], list[float], list[list[Any]]]:
    """Return the rows that the judge answered in both orders, their labels, and facts; the others have a file too."""
    every = judge_rows(judge, rows, NEEDED, out / JUDGEMENTS_FILE, chunk=CHUNK, quiet=quiet)
    answered = [(row, one) for row, one in zip(rows, every, strict=True) if not one.unanswered]
    missed = [row for row, one in zip(rows, every, strict=True) if one.unanswered]
    if missed:
        write_rows(out / UNANSWERED_FILE, missed)
    if not answered:
        raise UserError(
            "the judge answered no pair in both orders: expected a model that follows the instruction, or --plain"
        )
    judged = [one for _, one in answered]
    count = len(judged)
    facts = [
        ["both orders agree", sum(one.consistent for one in judged) / count],
        [
            "liking for the first place",
            math.fsum(one.shown_first + 1 - one.shown_second for one in judged) / (2 * count),
        ],
        [f"left out without an answer ({UNANSWERED_FILE})", len(missed)],
    ]
    return [row for row, _ in answered], [one.preference for one in judged], facts


def _computed(
    rows: Sequence[Mapping[str, Any]],
    rewards: tuple[str, str] | None,
    reward_scale: float,
    votes: tuple[str, str] | None,
    vote_prior: float,
) -> list[float]:
    from fionalm.data import bradley_terry, vote_share

    names = rewards or votes
    assert names is not None
    labels = []
    for number, row in enumerate(rows, 1):
        try:
            first, second = (float(row[name]) for name in names)
        except (TypeError, ValueError):
            raise UserError(
                f"row {number}: {names[0]} is {row[names[0]]!r} and {names[1]} is {row[names[1]]!r}: expected numbers"
            ) from None
        try:
            if rewards:
                labels.append(bradley_terry(first, second, reward_scale))
            else:
                labels.append(vote_share(first, second, vote_prior))
        except UserError as error:
            raise UserError(f"row {number}: {error}") from error
    return labels


def _resampled(labels: Sequence[float], name: str, size: int, seed: int) -> list[int]:
    from fionalm.data import skewed, stairs

    return {"skewed": skewed, "stairs": stairs}[name](labels, size, seed=seed)


def _facts(labels: Sequence[float]) -> list[list[Any]]:
    confidences = [max(p, 1 - p) for p in labels]
    return [
        ["chosen is preferred (label above 1/2)", sum(p > 0.5 for p in labels) / len(labels)],
        ["mean confidence", math.fsum(confidences) / len(labels)],
        ["modest labels (confidence below 0.7)", sum(c < 0.7 for c in confidences) / len(labels)],
    ]
