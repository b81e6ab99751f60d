"""`fiona kg hallucinate`: objects drawn from a trained model of a graph, judged, measured and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.knowledge import spoken
from fionalm.commands.options import Positional
from fionalm.data.knowledge.config import TripleConfig
from fionalm.errors import UserError
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from fionalm.data.knowledge import GraphSplit, TripleCorpus
    from fionalm.evaluation import GeneratedTriple, Hallucination
    from fionalm.report import Chart, Table

GENERATED_FILE = "generated.jsonl"
VERDICTS = {"seen": "right, trained on", "held_out": "right, held out", "hallucinated": "hallucinated"}
SHOWN_TRUTHS = 4


def hallucinate(
    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]],
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    pairs: Annotated[int, tyro.conf.arg(metavar="N")] = 200,
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 16,
    temperatures: Annotated[tuple[float, ...], tyro.conf.arg(metavar="T...")] = (0.0, 0.25, 0.5, 0.75, 1.0),
    ask: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="SUBJECT PREDICATE")] = None,
    detector: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    shown: Annotated[int, tyro.conf.arg(metavar="N")] = 60,
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    max_batch: Annotated[int, tyro.conf.arg(metavar="N")] = 256,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    quiet: bool = False,
) -> None:
    """Draw objects for pairs that a model saw, saw in part or never saw, and measure how many it made up.

    Precision is the share of generated objects that the graph holds, recall the share of a pair's objects that are
    generated; both over temperatures, with intervals over pairs. The report shows generated triples with verdicts.
    generated.jsonl holds all of them, as `fiona detect train --data` reads them. The same command goes on after a stop.

    For example: fiona kg hallucinate runs/countries --pairs 100 --temperatures 0 0.5 1

    Args:
        run: run folder of fiona kg train, or one below its models folder.
        out: folder of the results. None: RUN/hallucination.
        pairs: of each split, at most.
        samples: objects of a pair; at temperature 0 one.
        temperatures: to draw at.
        ask: print what the model says of one pair, with verdicts, in place of measuring.
        detector: of fiona detect train; the report then shows its probability of hallucination of each triple.
        shown: triples of each split in the report.
        seed: of the choice of pairs and of the draws.
        max_batch: objects that are drawn at once.
        device: cpu or cuda. None: a GPU if there is one.
        quiet: show no progress.
    """
    from fionalm.commands.outcome import diagnosis
    from fionalm.data.knowledge import load_triples
    from fionalm.sampling import EngineSampler
    from fionalm.sampling.make import load_for_sampling
    from fionalm.sweeps import Measures

    measures = Measures(pairs, samples, temperatures, seed)
    data = _data_of(run)
    corpus = load_triples(replace(data, tokenizer=str(run / "model")))

    def sampler() -> EngineSampler:
        return EngineSampler(load_for_sampling(run, device)[0], corpus.tokenizer, max_batch=max_batch)

    if ask is not None:
        _answer(corpus, sampler(), ask, measures)
        return
    settings = {"run": str(run.resolve()), "graph": corpus.fingerprint, **vars(measures), "shown": shown}
    settings["detector"] = None if detector is None else str(detector)
    with diagnosis(
        run / "hallucination" if out is None else out, "Hallucination of a knowledge graph", settings
    ) as opened:
        generated = _drawn(corpus, sampler, measures, opened.folder.path / GENERATED_FILE, quiet)
        _report(corpus, generated, opened, detector, shown, seed)


def _data_of(run: Path) -> TripleConfig:
    """Return the data of a run folder.

    Raises:
        UserError: no run there, one of a sweep, one that has not ended, or one on text.
    """
    if (run / "models").is_dir():
        there = sorted(path.name for path in (run / "models").iterdir() if path.is_dir())
        raise UserError(f"{run} holds {len(there)} models: expected one of them, such as {run / 'models' / there[0]}")
    if not (run / "config.json").is_file():
        raise UserError(f"no run in {run}: expected the --out of fiona kg train")
    data = TrainConfig.load(run / "config.json").data
    if not isinstance(data, TripleConfig):
        raise UserError(f"{run} was trained on a text corpus: expected a run of fiona kg train")
    if not (run / "model" / "tokenizer.json").is_file():
        raise UserError(f"{run} holds no model yet: expected a run that has ended; fiona kg train goes on with it")
    return data


def _drawn(corpus: TripleCorpus, sampler: Any, measures: Any, path: Path, quiet: bool) -> list[GeneratedTriple]:
    """Draw what is not in the file yet, a temperature at a time."""
    from fionalm.evaluation import choose_pairs, sample_objects
    from fionalm.paths import append_text

    pairs = choose_pairs(corpus.split, measures.pairs, seed=measures.seed)
    found = _kept(path, {one: len(pairs) * (1 if one == 0 else measures.samples) for one in measures.temperatures})
    engine = None
    for temperature in measures.temperatures:
        if any(one.temperature == temperature for one in found):
            continue
        engine = engine or sampler()
        if not quiet:
            print(f"temperature {temperature:g}: {len(pairs):,} pairs", flush=True)
        drawn = sample_objects(
            engine,
            corpus.tokens,
            corpus.split,
            pairs,
            temperatures=[temperature],
            samples=measures.samples,
            max_tokens=corpus.longest_object,
            seed=measures.seed,
            quiet=quiet,
        )
        append_text(path, "".join(json.dumps(row(one), ensure_ascii=False) + "\n" for one in drawn))
        found += drawn
    return found


def row(one: GeneratedTriple) -> dict[str, Any]:
    """Return a generated triple as a row that detectors learn from: label 1 is hallucinated, groups are subjects."""
    from fionalm.data.knowledge import pair_text

    prompt = pair_text((one.subject, one.predicate))
    label = {"prompt": prompt, "completion": one.object, "label": int(one.hallucinated), "group": one.subject}
    return {**label, **one.to_dict()}


def _kept(path: Path, wanted: Mapping[float, int]) -> list[GeneratedTriple]:
    """Read what an earlier command drew; drop a temperature that a kill left in part."""
    from fionalm.evaluation import GeneratedTriple
    from fionalm.paths import atomic_write_text, drop_torn_line

    if not path.exists():
        return []
    rows = [json.loads(line) for line in drop_torn_line(path).splitlines()]
    counts = {one: sum(row["temperature"] == one for row in rows) for one in wanted}
    whole = [row for row in rows if counts.get(row["temperature"]) == wanted.get(row["temperature"])]
    if len(whole) < len(rows):
        atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole))
    extra = ("prompt", "completion", "label", "group")
    values = [{key: value for key, value in row.items() if key not in extra} for row in whole]
    return [GeneratedTriple(**{**one, "token_ids": tuple(one["token_ids"])}) for one in values]


def _answer(corpus: TripleCorpus, sampler: Any, pair: tuple[str, str], measures: Any) -> None:
    from collections import Counter

    from fionalm.commands.outcome import columns
    from fionalm.evaluation import sample_objects

    temperature = max(measures.temperatures)
    drawn = sample_objects(
        sampler, corpus.tokens, corpus.split, [pair], temperatures=[temperature], samples=measures.samples
    )
    counts = Counter((one.object, one.verdict) for one in drawn)
    rows = [[name, times, VERDICTS[verdict]] for (name, verdict), times in counts.most_common()]
    print(columns(["object", "times", "verdict"], rows))
    print(f"temperature {temperature:g}; the pair is {spoken(corpus.split.visibility[pair])}; the graph has:")
    print(", ".join(corpus.split.graph.objects(*pair)))


def _report(
    corpus: TripleCorpus,
    generated: Sequence[GeneratedTriple],
    opened: Any,
    detector: Path | None,
    shown: int,
    seed: int,
) -> None:
    from fionalm.commands.outcome import columns
    from fionalm.evaluation import measure_hallucination
    from fionalm.report import Section, Table

    measured = measure_hallucination(generated, corpus.split)
    names = ["split", "T", "pairs", "objects of each", "hallucinated", "recall", "right, held out", "cut off"]
    rows = [
        [
            spoken(one.visibility),
            one.temperature,
            one.pairs,
            one.samples,
            *map(_written, (one.rate, one.recall)),
            one.held_out.estimate,
            one.unfinished,
        ]
        for one in measured
    ]
    print(columns(names, rows))
    caption = "Means over pairs with 95% intervals over pairs. Precision is 1 minus the share that is hallucinated."
    charts = {
        "precision-recall": (_precision_recall(measured), "Precision against recall, by temperature. " + caption),
        "rate-temperature": (_rates(measured), "Share of generated objects that the graph does not hold."),
    }
    sections = [Section("Measures", "", [Table(names, rows, caption)], list(charts))]
    sections.append(_gallery(corpus.split, generated, detector, shown, seed))
    opened.finish({"measures": [one.to_dict() for one in measured]}, charts, sections)


def _gallery(
    split: GraphSplit, generated: Sequence[GeneratedTriple], detector: Path | None, shown: int, seed: int
) -> Any:
    """Return the section of generated triples, the same few of each split whatever the run's other options."""
    from fionalm.data.knowledge.graph import rank
    from fionalm.report import Section

    hottest = max(one.temperature for one in generated)
    distinct = {one.triple: one for one in reversed(generated) if one.temperature == hottest}
    chosen = sorted(distinct.values(), key=lambda one: rank(one.triple, f"shown/{seed}"))
    by_split = {name: [one for one in chosen if one.visibility == name][:shown] for name, _ in split.visibilities()}
    scores = _scores(detector, [one for some in by_split.values() for one in some])
    tables = [_examples(name, some, split, scores) for name, some in by_split.items() if some]
    text = f"Different objects drawn at temperature {hottest:g}, chosen at random. "
    text += "logp is the object's log-probability in nats. "
    text += (
        "No detector was given (--detector)."
        if detector is None
        else f"Detector: probability of hallucination by {detector}; high is hallucinated."
    )
    return Section("Generated triples", text, tables)


def _examples(
    name: str, some: Sequence[GeneratedTriple], split: GraphSplit, scores: Mapping[tuple[str, str, str], float]
) -> Table:
    from fionalm.report import Table

    columns = ["subject", "predicate", "generated object", "verdict", "logp", "detector", "objects in the graph"]
    rows = []
    for one in some:
        truths = split.graph.by_pair[one.subject, one.predicate]
        more = f" and {len(truths) - SHOWN_TRUTHS} more" if len(truths) > SHOWN_TRUTHS else ""
        verdict = VERDICTS[one.verdict] if one.finished else "hallucinated (cut off)"
        rows.append(
            [
                one.subject,
                one.predicate,
                one.object,
                verdict,
                one.logp,
                scores.get(one.triple),
                ", ".join(truths[:SHOWN_TRUTHS]) + more,
            ]
        )
    return Table(columns, rows, f"{spoken(name)} pairs".capitalize())


def _scores(detector: Path | None, some: Sequence[GeneratedTriple]) -> dict[tuple[str, str, str], float]:
    """Return a detector's probability of hallucination of each triple; empty without one."""
    if detector is None or not some:
        return {}
    from fionalm.posttraining import Detector

    rows = [row(one) for one in some]
    found = Detector.load(detector).probabilities([one["prompt"] for one in rows], [one["completion"] for one in rows])
    return {one.triple: score for one, score in zip(some, found, strict=True)}


def _precision_recall(measured: Sequence[Hallucination]) -> Chart:
    from fionalm.report import Line, lines_with_intervals

    lines = []
    for name, some in _by_split(measured):
        lines.append(
            Line(
                spoken(name),
                [one.recall.estimate for one in some],
                [one.precision.estimate for one in some],
                [one.precision.low for one in some],
                [one.precision.high for one in some],
            )
        )
    return lines_with_intervals(lines, x_label="recall", y_label="precision")


def _rates(measured: Sequence[Hallucination]) -> Chart:
    from fionalm.report import Line, lines_with_intervals

    lines = [
        Line(
            spoken(name),
            [one.temperature for one in some],
            [one.rate.estimate for one in some],
            [one.rate.low for one in some],
            [one.rate.high for one in some],
        )
        for name, some in _by_split(measured)
    ]
    return lines_with_intervals(lines, x_label="temperature", y_label="hallucination rate")


def _by_split(measured: Sequence[Hallucination]) -> Iterable[tuple[str, list[Hallucination]]]:
    for name in dict.fromkeys(one.visibility for one in measured):
        yield name, [one for one in measured if one.visibility == name]


def _written(interval: Any) -> str:
    from fionalm.report.wording import format_interval, format_number

    ends = "" if math.isnan(interval.low) else f" {format_interval(interval.low, interval.high)}"
    return f"{format_number(interval.estimate)}{ends}"
