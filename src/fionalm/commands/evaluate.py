"""`fiona evaluate`: one samples file in, all metrics out, with intervals over problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import Flat, Positional
from fionalm.commands.verifying import VerifierOptions
from fionalm.errors import UserError

if TYPE_CHECKING:
    from fionalm.posttraining import RewardModel
    from fionalm.sampling import SampleRecord

JUDGED_FILE, SCORED_FILE = "samples.jsonl", "scored.jsonl"


def evaluate(
    samples: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SAMPLES.jsonl...")]],
    ks: Annotated[tuple[int, ...], tyro.conf.arg(metavar="K...")] = (),
    judge: Annotated[VerifierOptions, Flat] = VerifierOptions(),  # noqa: B008 (frozen)
    again: bool = False,
    co_scaling: bool = False,
    right: Annotated[float, tyro.conf.arg(metavar="REWARD")] = 1.0,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    quiet: bool = False,
) -> None:
    """Compute pass@k, best-of-k and majority@k of stored samples, exactly and with intervals over problems.

    Samples come from `fiona sample` or a trainer's run folder. Several files, iterations or temperatures are compared,
    each with the first, paired over the problems that both have. What a verifier could not judge is counted and left
    out, never taken for wrong.

    For example: fiona evaluate runs/samples/samples.jsonl --ks 1 4 16
    Judged later or anew: fiona evaluate samples.jsonl --verifier number --reward-model runs/reward

    Args:
        samples: one or more samples files.
        ks: samples at inference; default: powers of two up to the most that a problem has.
        judge: what judges samples that have no reward; it reads the gold columns that were stored with the samples.
        again: with --verifier, judge the others too.
        co_scaling: also pass@N over temperatures, its fit, and the best temperature for each N: over those of each
            file, or over all files where each has one.
        right: least reward of a right sample.
        out: folder of the results; default: runs/evaluate-NAME, with the first file's name.
        seed: of the bootstrap.
        quiet: show no progress.
    """
    from fionalm.commands.evaluate_report import co_scaling_report, metrics_report
    from fionalm.commands.outcome import diagnosis
    from fionalm.sampling import read_samples

    if not samples:
        raise UserError("no samples file was given: expected one or more, as fiona sample writes")
    if judge.verifier is None and again:
        raise UserError("--again is of --verifier: expected one beside it")
    files = {_name(path, samples): read_samples(path) for path in samples}
    if empty := [name for name, records in files.items() if not records]:
        raise UserError(f"{empty[0]} holds no samples: expected one JSON object a line, as fiona sample writes")
    settings: dict[str, Any] = {
        "samples": [str(path.resolve()) for path in samples],
        "verifier": judge.verifier,
        "reward_model": judge.reward_model,
        "again": again,
        "timeout": judge.verifier_timeout,
        "right": right,
        "seed": seed,
        "ks": list(ks),
        "co_scaling": co_scaling,
    }
    folder = out or Path("runs") / f"evaluate-{_name(samples[0], samples[:1]).split('/')[0]}"
    options: dict[str, Any] = {"right": right, "seed": seed}
    with judge.open() as verifier:
        selector = judge.selector()
        with diagnosis(folder, f"Evaluation of {', '.join(files)}", settings) as opened:
            if selector is not None:
                files = _scored(files, selector, folder, quiet=quiet)
            if verifier is not None:
                files = _judged(files, verifier, folder, again=again, quiet=quiet)
            result, charts, sections = metrics_report(_sets(files), ks, options)
            if co_scaling:
                co_scaling_report(files, ks, options, result, charts, sections)
            opened.finish(result, charts, sections)


def _name(path: Path, among: Sequence[Path]) -> str:
    """Return what to call a file: its stem, or as much of its path as tells it from the others."""
    parts = path.resolve().with_suffix("").parts
    others = [other.resolve().with_suffix("").parts for other in among if other != path]
    for length in range(1 if path.stem != JUDGED_FILE.removesuffix(".jsonl") else 2, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return str(path)


def _judged(
    files: Mapping[str, list[SampleRecord]], verifier: Any, folder: Path, *, again: bool, quiet: bool
) -> dict[str, list[SampleRecord]]:
    from fionalm.evaluation import judge_samples
    from fionalm.sampling import SampleStore

    judged = {}
    for number, (name, records) in enumerate(files.items()):
        store = SampleStore(folder / (JUDGED_FILE if len(files) == 1 else f"samples-{number}.jsonl"))
        judged[name] = judge_samples(records, verifier, store, again=again, quiet=quiet)
    return judged


def _scored(
    files: Mapping[str, list[SampleRecord]], selector: RewardModel, folder: Path, *, quiet: bool
) -> dict[str, list[SampleRecord]]:
    from fionalm.evaluation import score_samples
    from fionalm.sampling import SampleStore

    scored = {}
    for number, (name, records) in enumerate(files.items()):
        store = SampleStore(folder / (SCORED_FILE if len(files) == 1 else f"scored-{number}.jsonl"))
        scored[name] = score_samples(records, selector, store, quiet=quiet)
    return scored


def _sets(files: Mapping[str, list[SampleRecord]]) -> dict[str, list[SampleRecord]]:
    """Part the samples by file, iteration and temperature, named by what tells them apart."""
    iterations = any(len({one.iteration for one in records}) > 1 for records in files.values())
    temperatures = any(len({one.temperature for one in records}) > 1 for records in files.values())
    several = (len(files) > 1, iterations, temperatures)
    sets: dict[str, list[SampleRecord]] = {}
    for name, records in files.items():
        for one in records:
            words = (name, f"iteration {one.iteration}", f"T {one.temperature:g}")
            label = ", ".join(word for word, shown in zip(words, several, strict=True) if shown) or name
            sets.setdefault(label, []).append(one)
    return sets
