"""`fiona detect train|score`: which of a model's answers are made up, learnt on questions of your own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.detect_data import AnswerOptions, answered, baselines
from fionalm.commands.detect_measure import groups_of, key_of, measured, say_areas, say_outcomes
from fionalm.commands.options import Flat, Positional
from fionalm.errors import UserError, choice_error, require
from fionalm.posttraining.detector_config import DetectorConfig, Task, Variant

if TYPE_CHECKING:
    from fionalm.posttraining import Detector, Policy
    from fionalm.posttraining.detector_rows import Row

DETECTORS, SAMPLES_FILE, RESULT_FILE = "detectors", "samples.jsonl", "result.json"
Name = tyro.conf.arg(metavar="NAME")
DATA_HELP = "Questions and gold answers (prompt, answer), or labelled answers (prompt, completion, label)."


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(DetectorConfig):
    """How detectors learn; variant and task are the command's own options."""

    variant: tyro.conf.Fixed[Variant] = "head"
    task: tyro.conf.Fixed[Task] = "sentence"


def train(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    data: Annotated[str, tyro.conf.arg(metavar="DATA", help=DATA_HELP)],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/detect"),
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ("head",),
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ("sentence", "token"),
    detector_model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None,
    answers: Annotated[AnswerOptions, Flat] = AnswerOptions(),  # noqa: B008 (frozen)
    settings: Annotated[DetectorSettings, Flat] = DetectorSettings(),
    shares: Annotated[tuple[float, float, float], tyro.conf.arg(metavar="P P P")] = (0.6, 0.2, 0.2),
    resamples: Annotated[int, tyro.conf.arg(metavar="N")] = 2000,
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    quiet: bool = False,
) -> None:
    """Train and measure detectors of a model's hallucinations, beside baselines that need no labels.

    The model answers each question several times, a verifier labels the answers, and they are split by question. Label
    1, high scores and high probabilities all mean hallucinated. The same command resumes a stopped one.

    For example: fiona detect train smollm2 --data questions.jsonl --chat --verifier number --out runs/detect

    Args:
        model: whose answers they are: a model or run folder, a .gguf file, hf:NAME or smollm2.
        data: a .jsonl, .json, .csv or .parquet file, a folder, or hf:NAME.
        out: run folder: report, figures, samples, detectors.
        variants: head (linear, on frozen features), full (all weights learn).
        tasks: sentence (reads question and answer), token (reads the question alone, before there is an answer).
        detector_model: another model whose representation is read. None: the one that answers.
        answers: which questions and answers.
        settings: how detectors learn.
        shares: of the rows for training, validation and test.
        resamples: of the bootstrap intervals.
        seed: of the split and the bootstrap.
        quiet: show no progress.
    """
    from fionalm.commands.outcome import diagnosis
    from fionalm.posttraining import load_policy, split_by_group
    from fionalm.posttraining.run import fingerprint
    from fionalm.training.config_json import to_plain

    require("sklearn.metrics", "evaluation")
    if not variants or not tasks:
        raise UserError("--variants and --tasks: expected at least one each")
    configs = [_config(settings, variant, task) for variant in variants for task in tasks]
    rows = answers.read(data)
    policy = load_policy(model, device=answers.device)
    reader = policy if detector_model is None else load_policy(detector_model, device=answers.device)
    told: dict[str, Any] = {"model": policy.name, "detector_model": detector_model, "data": fingerprint(rows)}
    told |= {"detectors": [to_plain(config) for config in configs], "shares": list(shares), "seed": seed}
    told |= {k: v for k, v in asdict(answers).items() if k not in ("device", "max_batch")}
    with diagnosis(out, f"Hallucination detectors of {model}", told) as opened:
        sampler: Any = policy.sampler(max_batch=answers.max_batch)
        found, samples, outcomes = answered(rows, answers, sampler, out / SAMPLES_FILE, labels=True, quiet=quiet)
        say_outcomes(found, outcomes)
        splits = split_by_group(found, shares, seed=seed)
        detectors = {
            config.name: _train(reader, splits, config, out / DETECTORS / config.name, quiet) for config in configs
        }
        result, charts, sections = measured(splits, samples, sampler, answers, detectors, resamples, seed, out)
        result |= {"model": policy.name, "outcomes": dict(outcomes)}
        opened.finish(result, charts, sections)
    print(f"detectors: {(out / DETECTORS).resolve()}")


def score(
    detector: Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]],
    data: Annotated[str, tyro.conf.arg(metavar="DATA", help="Rows with prompt and completion, or prompt alone.")],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("runs/detect-scores.jsonl"),
    name: Annotated[str | None, Name] = None,
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None,
    answers: Annotated[AnswerOptions, Flat] = AnswerOptions(),  # noqa: B008 (frozen)
    quiet: bool = False,
) -> None:
    """Write each answer's calibrated probability of being hallucinated, and baselines that need no labels.

    Rows without a completion are answered by the model. With labels, or --verifier and gold answers, the areas are
    printed too. High values mean hallucinated.

    For example: fiona detect score runs/detect --data more.jsonl --chat --out scores.jsonl

    Args:
        detector: run folder of fiona detect train, or one of the folders in its detectors/.
        data: a .jsonl, .json, .csv or .parquet file, a folder, or hf:NAME.
        out: JSONL file of the scores.
        name: which detector of a run folder, such as head-sentence. None: the best in validation.
        model: whose answers they are. None: the one of the run.
        answers: which questions and answers.
        quiet: show no progress.
    """
    from fionalm.commands.outcome import columns
    from fionalm.evaluation import evaluate_detection
    from fionalm.paths import atomic_write_text
    from fionalm.posttraining import Detector, load_policy

    require("sklearn.metrics", "evaluation")
    folder, spec, direction = _chosen(detector, name, model)
    rows = answers.read(data, labels=False)
    policy = load_policy(spec, device=answers.device)
    chosen = _loaded(Detector, folder, policy, answers.device)
    sampler: Any = policy.sampler(max_batch=answers.max_batch)
    place = out.with_suffix(".samples.jsonl")
    found, samples, outcomes = answered(rows, answers, sampler, place, labels=False, quiet=quiet)
    say_outcomes(found, outcomes)
    texts = [row["prompt"] for row in found], [row["completion"] for row in found]
    probabilities = chosen.probabilities(*texts)
    others = baselines(found, samples, sampler, direction, answers.equivalent(sampler))
    keys = {label: key_of(label) for label in others}
    written = [
        {
            **{key: value for key, value in row.items() if key != "question"},
            "hallucination_probability": probabilities[index],
            **{key: others[label][index] for label, key in keys.items()},
        }
        for index, row in enumerate(found)
    ]
    atomic_write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
    print(
        f"{len(found):,} answers scored by {chosen.name}: mean probability of hallucination "
        f"{sum(probabilities) / len(probabilities):.3f}; all columns are high for hallucinated"
    )
    if all("label" in row for row in found):
        from fionalm.commands.detect_report import detection_table

        labels = [row["label"] for row in found]
        every = {
            chosen.name: evaluate_detection(
                probabilities, labels, groups=groups_of(found), probabilities=probabilities, split=data
            ),
            **{
                label: evaluate_detection(one, labels, groups=groups_of(found), split=data)
                for label, one in others.items()
            },
        }
        say_areas(every)
        print(columns(*detection_table(every)))
    print(f"scores: {out.resolve()}")


def _config(settings: DetectorConfig, variant: str, task: str) -> DetectorConfig:
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return DetectorConfig(**{**values, "variant": variant, "task": task})


def _train(
    reader: Policy, splits: Mapping[str, Sequence[Row]], config: DetectorConfig, out: Path, quiet: bool
) -> Detector:
    from fionalm.posttraining import train_detector

    if not quiet:
        print(f"{config.name}: {len(splits['train']):,} answers", flush=True)
    return train_detector(reader, splits["train"], config, validation=splits["validation"], out=out, quiet=quiet)


def _chosen(folder: Path, name: str | None, model: str | None) -> tuple[Path, str, int]:
    """Return the detector's folder, the model whose answers it judges, and the direction of the length."""
    folder = folder.expanduser()
    run = folder if (folder / DETECTORS).is_dir() else folder.parent.parent
    facts: dict[str, Any] = {}
    if (run / RESULT_FILE).exists():
        facts = json.loads((run / RESULT_FILE).read_text(encoding="utf-8"))
    if folder == run:
        names = sorted(path.name for path in (run / DETECTORS).iterdir())
        chosen = name or facts.get("best")
        if chosen is None:
            raise UserError(f"{folder} is not finished: expected one whose `fiona detect train` has ended, or --name")
        if chosen not in names:
            raise choice_error("detector", chosen, names)
        folder = run / DETECTORS / chosen
    elif name is not None:
        raise UserError(f"--name {name} and {folder}, which is one detector: expected a run folder with --name")
    spec = model or facts.get("model")
    if spec is None:
        raise UserError(f"{folder} does not say whose answers it judges: expected --model")
    return folder, spec, facts.get("length_direction", 1)


def _loaded(kind: type[Detector], folder: Path, policy: Policy, device: str | None) -> Detector:
    """Load a detector, on the weights that are there already if they are its base."""
    path = folder / "detector.json"
    base = json.loads(path.read_text(encoding="utf-8")).get("base") if path.exists() else None
    shared = policy if base is not None and base["name"] == _absolute(policy.name) else None
    return kind.load(folder, policy=shared, device=device)


def _absolute(name: str | None) -> str | None:
    path = Path(name or "").expanduser()
    return str(path.resolve()) if name and path.exists() else name
