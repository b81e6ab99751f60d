"""What `fiona detect` learns from and scores: questions with gold answers, or answers that are labelled already.

Needs no torch until a model is asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fionalm.commands.problems import DataOptions, Row, named_columns
from fionalm.commands.verifying import VerifierOptions, check_answers
from fionalm.errors import UserError, nearest

if TYPE_CHECKING:
    from fionalm.evaluation.semantic_entropy import Equivalent
    from fionalm.sampling import EngineSampler, SampleRecord

Count = tyro.conf.arg(metavar="N")
DRAWN = 8
"""Answers of a question where none are given."""
HIDDEN = {"prompt", "completion", "label", "question"}
ANSWERED = ("response", "output")
"""Other names of the column completion where there are labels; `answer` is the gold one."""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(DataOptions, VerifierOptions):
    """Which questions and answers, and how answers are drawn and labelled."""

    verifier: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Labels drawn answers against the column answer: exact, number, math or python:path.py:function; what is not
    right is hallucinated. None: exact, for a file without labels."""
    reward_model: tyro.conf.Fixed[str | None] = None
    unanswered: Literal["drop", "hallucinated"] = "drop"
    """What answers are in which the verifier finds no answer: left out, for they say nothing, or hallucinated."""
    label_means: Literal["hallucinated", "right"] = "hallucinated"
    """What label 1 says in the file."""
    group: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column whose equal values stay in one split, such as a subject. None: the question."""
    n: Annotated[int | None, Count] = None
    """Answers drawn for each question. None: 8 for a file without answers; else none, and no semantic entropy."""
    max_tokens: Annotated[int, Count] = 64
    """Tokens of a drawn answer at most."""
    temperature: Annotated[float, tyro.conf.arg(metavar="T")] = 1.0
    """Of drawing."""
    entailment: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Model that judges whether answers mean the same, for semantic entropy; `self` is the one that answers. None:
    answers are the same if they are equal once normalised, or have the same answer by the verifier."""
    max_batch: Annotated[int, Count] = 64
    """Answers computed at once."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu or cuda. None: a GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n", "max_tokens", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected at least 1")

    def read(self, source: str, *, labels: bool = True) -> list[Row]:
        """Return rows with `prompt` and `group`, and `completion`, `label` (1: hallucinated) or `answer` besides.

        Args:
            source: a file, a folder or hf:NAME.
            labels: whether rows must be labelled, or have an answer to be labelled by.

        Raises:
            UserError: neither kind of columns, an empty file, a label that is neither 0 nor 1 (the row is named).
        """
        from fionalm.data import read_rows

        place = source if source.startswith("hf:") else Path(source).expanduser()
        first = read_rows(place, split=self.split, limit=1)[0]
        renames = named_columns(self.columns)
        there = {**dict.fromkeys(first), **dict.fromkeys(renames)}
        completion = next((name for name in ("completion", *ANSWERED) if name in there), None)
        if completion not in (None, "completion"):
            renames["completion"] = completion
        if "answer" not in there and "answers" in there:
            renames["answer"] = "answers"
        judged = "label" in there or "reward" in there
        gold = bool({"answer", "answers", "gold", "target", "solution"} & set(there))
        if completion is not None and (judged or gold or not labels):
            need: tuple[str, ...] = ("prompt", "completion")
        else:
            need = ("prompt", "answer") if labels else ("prompt",)
            if labels and not gold:
                raise UserError(
                    f"{source} has neither prompt and answer (gold, by which drawn answers are labelled) nor prompt, "
                    f"completion and label: it has {', '.join(first)}{nearest('answer', first)}; another name can be "
                    "given (--columns answer=NAME)"
                )
        options = DataOptions(
            columns=tuple(f"{ours}={theirs}" for ours, theirs in renames.items()),
            prompt_template=self.prompt_template,
            chat=self.chat,
            split=self.split,
        )
        rows = options.rows(source, need, () if judged or "answer" in need else ("answer",), limit=self.limit)
        if "completion" in need and judged:
            rows = self._labelled(rows)
        return [self._grouped(row, number, source) for number, row in enumerate(rows, 1)]

    def equivalent(self, sampler: EngineSampler) -> Equivalent | None:
        """Return what tells whether two answers mean the same; None: equality of their normal forms."""
        from fionalm.evaluation import bidirectional, entailment_by
        from fionalm.sampling import make_sampler

        if self.entailment is None:
            return None
        judge: Any = sampler if self.entailment == "self" else make_sampler(self.entailment, device=self.device)
        return bidirectional(entailment_by(judge))

    def _labelled(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that have a label, as hallucinated or not; a reward below 1 is a label, too."""
        from fionalm.evaluation.detection import checked_labels

        if any("label" in row for row in rows):
            labels = checked_labels([row.get("label") for row in rows], "data")
            means = labels if self.label_means == "hallucinated" else 1 - labels
            return [{**row, "label": int(label)} for row, label in zip(rows, means, strict=True)]
        judged = [row for row in rows if row.get("reward") is not None]
        if not judged:
            raise UserError("no row has a label or a reward: expected judged samples, as of fiona sample --verifier")
        return [{**row, "label": int(float(row["reward"]) < 1)} for row in judged]

    def _grouped(self, row: Row, number: int, source: str) -> Row:
        if self.group is None:
            return {name: value for name, value in row.items() if name != "group"}
        if row.get(self.group) is None:
            raise UserError(
                f"row {number} of {source} has no {self.group!r}, which --group names: it has {', '.join(row)}"
                f"{nearest(self.group, row)}"
            )
        return {**row, "group": row[self.group]}


def answered(
    rows: Sequence[Row], options: AnswerOptions, sampler: EngineSampler, place: Path, *, labels: bool, quiet: bool
) -> tuple[list[Row], dict[str, list[SampleRecord]], Counter[str]]:
    """Draw answers where they are wanted, and label those that have no label.

    Args:
        rows: of `AnswerOptions.read`.
        options: how.
        sampler: draws.
        place: samples file, which a killed run goes on with.
        labels: whether answers must be labelled; False: only if a verifier was named.
        quiet: show no progress.

    Returns:
        One row an answer, each with its `question`, the number of its source row; the drawn samples by question; and
        how often the verifier gave each outcome. Answers that the verifier could not judge are left
        out, and those that hold none, unless they count as hallucinated.
    """
    from fionalm.verifiers import judged, make_verifier

    given = "completion" in rows[0]
    found = [{**row, "question": str(number)} for number, row in enumerate(rows)]
    with ExitStack() as stack:
        verifier: Any = None
        if "label" not in rows[0] and (labels or options.verifier is not None):
            verifier = stack.enter_context(make_verifier("exact") if options.verifier is None else options.open())
            check_answers(verifier, rows)
        samples = _drawn(found, options, sampler, place, None if given else verifier, quiet=quiet)
        if given and verifier is None:
            return found, samples, Counter()
        if given:
            verdicts = judged(verifier, *_texts(found), {name: [row.get(name) for row in found] for name in found[0]})
            outcomes = [(row, verdict.outcome, verdict.reward) for row, verdict in zip(found, verdicts, strict=True)]
        else:
            sources = {row["question"]: row for row in found}
            outcomes = [
                ({**sources[one.problem], "completion": one.completion}, one.outcome, one.reward)
                for records in samples.values()
                for one in records
            ]
    if verifier is None:
        return [row for row, _, _ in outcomes], samples, Counter()
    out = "no_answer" if options.unanswered == "drop" else None
    kept = [(row, reward) for row, outcome, reward in outcomes if reward is not None and outcome != out]
    labelled = [{**row, "label": int(reward < 1)} for row, reward in kept]
    return labelled, samples, Counter(str(outcome) for _, outcome, _ in outcomes)


def _drawn(
    rows: Sequence[Row], options: AnswerOptions, sampler: EngineSampler, place: Path, verifier: Any, *, quiet: bool
) -> dict[str, list[SampleRecord]]:
    """Return the answers drawn for each question, judged if there is a verifier; none where none are wanted."""
    from fionalm.evaluation import judge_samples
    from fionalm.sampling import SampleStore, SamplingParams
    from fionalm.sampling.drawing import Problem, draw_samples

    count = options.n or (None if "completion" in rows[0] else DRAWN)
    if count is None:
        return {}
    problems = [
        Problem(row["question"], row["prompt"], {name: value for name, value in row.items() if name not in HIDDEN})
        for row in rows
    ]
    params = SamplingParams(n=count, max_tokens=options.max_tokens, temperature=options.temperature)
    store = SampleStore(place)
    draw_samples(sampler, problems, params, store, quiet=quiet)
    keys = [(0, options.temperature, problem.id, sample) for problem in problems for sample in range(count)]
    records = [record for key in keys if (record := store.get(*key)) is not None]
    if verifier is not None:
        records = judge_samples(records, verifier, store, quiet=quiet)
    store.rewrite([problem.id for problem in problems])
    by_question: dict[str, list[SampleRecord]] = defaultdict(list)
    for record in records:
        by_question[record.problem].append(record)
    return dict(by_question)


def baselines(
    rows: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[SampleRecord]],
    sampler: EngineSampler,
    direction: int,
    equivalent: Equivalent | None = None,
) -> dict[str, list[float]]:
    """Return the scores of detectors that learn from no label, high for hallucinated, by name.

    Args:
        rows: answers.
        samples: of their questions, for semantic entropy; empty: there is none.
        sampler: of the model whose log-probabilities count.
        direction: of the length, 1 or -1.
        equivalent: of answers; None: equal normal forms.
    """
    logps = sampler.score(*_texts(rows))
    sums, lengths = [sum(one) for one in logps], [max(len(one), 1) for one in logps]
    found = {
        "answer length": [float(direction * length) for length in lengths],
        "log-probability": [-one for one in sums],
        "log-probability a token": [-one / length for one, length in zip(sums, lengths, strict=True)],
    }
    if samples:
        known = {name: _entropies(samples[name], sampler, equivalent) for name in {row["question"] for row in rows}}
        found["semantic entropy (discrete)"] = [known[row["question"]][0] for row in rows]
        found["semantic entropy"] = [known[row["question"]][1] for row in rows]
    return found


def _entropies(
    samples: Sequence[SampleRecord], sampler: EngineSampler, equivalent: Equivalent | None
) -> tuple[float, float]:
    """Return the discrete and the length-normalised Rao-Blackwellised semantic entropy of a question's samples."""
    from fionalm.data import TextTokenizer
    from fionalm.evaluation import cluster_answers, discrete_entropy, weighted_entropy

    tokenizer: TextTokenizer = sampler.tokenizer
    texts = [one.completion for one in samples]
    prompt = samples[0].prompt
    question = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
    forms = texts if equivalent is not None else [one.answer or one.completion for one in samples]
    clusters = cluster_answers(forms, question=question, equivalent=equivalent)
    lengths = [
        max(len(tokenizer.encode_completion(text, end=one.finish_reason == "stop")), 1)
        for text, one in zip(texts, samples, strict=True)
    ]
    logps = [(one.logp or 0.0) / length for one, length in zip(samples, lengths, strict=True)]
    return discrete_entropy(clusters), weighted_entropy(logps, clusters, texts=texts)


def _texts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    return [row["prompt"] for row in rows], [row["completion"] for row in rows]
