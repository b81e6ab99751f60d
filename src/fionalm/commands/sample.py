"""`fiona sample`: completions of a prompt or of a dataset's, from a model here or an endpoint, judged if asked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import Flat, Positional
from fionalm.commands.problems import PromptOptions, unescaped
from fionalm.commands.verifying import VerifierOptions, check_answers
from fionalm.errors import UserError
from fionalm.paths import atomic_write_text
from fionalm.sampling.endpoint_config import EndpointConfig
from fionalm.sampling.types import SamplingParams

if TYPE_CHECKING:
    from fionalm.sampling import Sampler, SampleRecord, SampleStore
    from fionalm.sampling.drawing import Problem

DEFAULT_OUT = Path("runs/samples/samples.jsonl")
SHOWN_PROBLEMS, SHOWN_SAMPLES, SHOWN_CHARACTERS = 3, 2, 500


@dataclass(frozen=True)
class EngineOptions:
    """How a model is computed here."""

    max_batch: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """Completions computed at once."""
    context: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Longest prompt and completion together. None: the model's."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu or cuda. None: a GPU if there is one."""


def sample(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    quiet: bool = False,
    problems: Annotated[PromptOptions, Flat] = PromptOptions(),  # noqa: B008 (frozen)
    params: Annotated[SamplingParams, Flat] = SamplingParams(),  # noqa: B008 (frozen)
    temperatures: Annotated[tuple[float, ...], tyro.conf.arg(metavar="T...")] = (),
    judge: Annotated[VerifierOptions, Flat] = VerifierOptions(),  # noqa: B008 (frozen)
    best_of: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    engine: Annotated[EngineOptions, Flat] = EngineOptions(),
    endpoint: EndpointConfig = EndpointConfig(),  # noqa: B008 (frozen)
) -> None:
    """Draw completions; those of a file go into a samples file, which the same command goes on with after a kill.

    For example: fiona sample smollm2 --prompt "What is 2 + 2?" --chat --n 4 --max-tokens 32

    A dataset: fiona sample smollm2 --data problems.jsonl --chat --n 16 --verifier number --out runs/one/samples.jsonl

    An endpoint: fiona sample http://127.0.0.1:8000/v1 --data problems.jsonl --endpoint.budget.requests 100

    Args:
        model: a model or run folder, a .gguf file, hf:NAME, smollm2, an endpoint as http://HOST:PORT/v1#NAME, or
            vllm:NAME.
        out: samples file. None: runs/samples/samples.jsonl for --data, and nothing is kept for --prompt.
        quiet: show no progress.
        problems: what is to be answered.
        params: how completions are drawn.
        temperatures: several in place of --temperature, each with --n samples in the same file, as fiona evaluate
            --co-scaling reads it.
        judge: how they are judged.
        best_of: draw this many of each prompt and keep one in a second file: the one that --reward-model scores
            highest, or, without one, that --verifier rewards most, which is what a perfect selector would reach.
        engine: how a model is computed here.
        endpoint: how an endpoint is asked; its key is read from FIONA_API_KEY.
    """
    from fionalm.sampling import BudgetSpentError, SampleStore

    each = _each_temperature(params, temperatures, judge, best_of)
    wanted = problems.read()
    path = out or (None if problems.data is None else DEFAULT_OUT)
    with ExitStack() as stack:
        verifier = stack.enter_context(judge.open())
        check_answers(verifier, [problem.columns for problem in wanted])
        selector = judge.selector(engine.device)
        place = path or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "samples.jsonl"
        _check_settings(place, model, problems.chat, each, judge)
        store, spent = SampleStore(place), None
        try:
            _draw(model, wanted, each, store, engine, endpoint, quiet=quiet)
        except BudgetSpentError as error:
            spent = error
        records = _selected(store, wanted, each)
        if selector is not None:
            from fionalm.evaluation import score_samples

            records = score_samples(records, selector, store, quiet=quiet)
        if verifier is not None:
            from fionalm.evaluation import judge_samples

            records = judge_samples(records, verifier, store, quiet=quiet)
        store.rewrite([problem.id for problem in wanted])
        _show(wanted, records, best_of is not None, everything=path is None)
        _summarise(wanted, records, len(wanted) * sum(one.n for one in each))
        if best_of is not None:
            _keep_best(wanted, records, path)
    if path is not None:
        print(f"samples: {path.resolve()}")
    if spent is not None:
        raise spent


def _draw(
    model: str,
    problems: Sequence[Problem],
    each: Sequence[SamplingParams],
    store: SampleStore,
    engine: EngineOptions,
    endpoint: EndpointConfig,
    *,
    quiet: bool,
) -> None:
    from fionalm.sampling import EndpointSampler, make_sampler
    from fionalm.sampling.drawing import draw_samples

    total = len(problems) * sum(params.n for params in each)
    if len(_selected(store, problems, each)) == total:
        return  # whatever is missing, it is no sample: the model need not be loaded
    options: dict[str, Any] = asdict(engine)
    sampler: Sampler = make_sampler(model, endpoint=endpoint, **options)
    asked = isinstance(sampler, EndpointSampler)
    try:
        for params in each:
            whole = asked and endpoint.samples_per_request != 1
            draw_samples(sampler, problems, params, store, whole=whole, quiet=quiet)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(_selected(store, problems, each))} of {total} samples are in {store.path}: the same command goes on "
            "from there"
        ) from None
    finally:
        if asked and (sampler.usage.requests or sampler.usage.cached):
            used = sampler.usage
            print(
                f"{used.requests} requests, {used.cached} answers from the cache, {used.retries} retries, "
                f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} completion tokens"
                + (f", {used.money(endpoint.budget):.4g} spent" if endpoint.budget.money is not None else "")
            )


def _each_temperature(
    params: SamplingParams, temperatures: Sequence[float], judge: VerifierOptions, best_of: int | None
) -> list[SamplingParams]:
    """Return how to draw, at each temperature."""
    if best_of is not None:
        if judge.verifier is None and judge.reward_model is None:
            raise UserError(f"--best-of {best_of}: expected a --reward-model or a --verifier to choose by")
        if params.n not in (1, best_of) or best_of < 1 or temperatures:
            raise UserError(f"--best-of {best_of}: expected at least 1, no other --n, and one temperature")
        params = replace(params, n=best_of)
    params = replace(params, stop=tuple(map(unescaped, params.stop)))
    if not temperatures:
        return [params]
    if params.temperature != SamplingParams.temperature or len(set(temperatures)) < len(temperatures):
        raise UserError(
            f"--temperatures {' '.join(f'{one:g}' for one in temperatures)}: expected different ones, and no "
            "--temperature beside them"
        )
    return [replace(params, temperature=one) for one in sorted(temperatures)]


def _check_settings(path: Path, model: str, chat: bool, each: Sequence[SamplingParams], judge: VerifierOptions) -> None:
    """Refuse a samples file of other settings; more samples and temperatures, and a judge where none was, are right."""
    local = Path(model).expanduser()
    settings = {"model": str(local.resolve()) if local.exists() else model, "chat": chat, **asdict(each[0])}
    settings |= {"n": None, "verifier": judge.verifier, "reward_model": judge.reward_model}
    if judge.reward_model is not None:
        settings["reward_model"] = str(Path(judge.reward_model).expanduser().resolve())
    if len(each) > 1:
        settings["temperature"] = [params.temperature for params in each]
    settings = json.loads(json.dumps(settings))
    place = path.with_suffix(".config.json")
    if path.exists() and place.exists():
        try:
            before = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{place} is damaged ({error}): expected the settings of {path}, or another --out"
            ) from error
        for name in ("verifier", "reward_model"):
            if settings[name] is None or before.get(name) is None:
                before[name] = settings[name] = settings[name] or before.get(name)
        if _listed(before.get("temperature")) <= _listed(settings["temperature"]):
            before["temperature"] = settings["temperature"]
        for name in settings:
            if before.get(name) != settings[name]:
                raise UserError(
                    f"{path} was drawn with {name} {before.get(name)!r}, and {settings[name]!r} is asked for: "
                    "expected the same, or another --out"
                )
    atomic_write_text(place, json.dumps(settings, indent=2) + "\n")


def _listed(temperature: Any) -> set[float]:
    return set(temperature) if isinstance(temperature, list) else {temperature}


def _selected(store: SampleStore, problems: Sequence[Problem], each: Sequence[SamplingParams]) -> list[SampleRecord]:
    """Return the samples asked for, of those that are there."""
    keys = ((one.temperature, problem.id, i) for one in each for problem in problems for i in range(one.n))
    return [record for key in keys if (record := store.get(0, *key)) is not None]


def _show(problems: Sequence[Problem], records: Sequence[SampleRecord], best: bool, *, everything: bool) -> None:
    """Print samples: a few, or all of them where no file keeps them."""
    most, cut = (len(records), len) if everything else (SHOWN_SAMPLES, lambda _text: SHOWN_CHARACTERS)
    shown = problems if everything else problems[:SHOWN_PROBLEMS]
    for problem in shown:
        samples = [record for record in records if record.problem == problem.id]
        samples = _best(samples)[:1] if best else samples[:most]
        if not isinstance(problem.prompt, str):
            last: Any = problem.prompt[-1]
            print(f"--- problem {problem.id}, {last['role']}: {_short(last['content'])}")
        else:
            print(f"--- problem {problem.id}: {_short(problem.prompt)}")
        for record in samples:
            judged = "" if record.outcome is None else f", {record.outcome}"
            judged += "" if record.answer is None else f" ({record.answer})"
            judged += "" if record.score is None else f", score {record.score:.3f}"
            print(f"[sample {record.sample}{judged}] {_short(record.completion, cut(record.completion))}")
    if len(problems) > len(shown):
        print(f"--- and {len(problems) - len(shown):,} more problems")


def _summarise(problems: Sequence[Problem], records: Sequence[SampleRecord], total: int) -> None:
    from collections import Counter

    cut = sum(record.finish_reason == "length" for record in records)
    missing = total - len(records)
    line = f"{len(records):,} samples of {len(problems):,} problems, {cut:,} of them cut at the length limit"
    print(line + (f"; {missing:,} are not drawn yet" if missing else ""))
    outcomes = Counter(record.outcome for record in records if record.outcome is not None)
    if outcomes:
        rewards = [record.reward for record in records if record.reward is not None]
        mean = f"; mean reward {sum(rewards) / len(rewards):.4f}" if rewards else ""
        print(", ".join(f"{count:,} {name}" for name, count in outcomes.most_common()) + mean)


def _keep_best(problems: Sequence[Problem], records: Sequence[SampleRecord], path: Path | None) -> None:
    """Write each problem's best sample, and say how good they are."""
    from fionalm.sampling.records import write_samples

    by_problem: dict[str, list[SampleRecord]] = {problem.id: [] for problem in problems}
    for record in records:
        by_problem[record.problem].append(record)
    best = [chosen for samples in by_problem.values() for chosen in _best(samples)[:1]]
    scored = any(record.score is not None for record in best)
    by = "by the reward model's score" if scored else "by the verifier's own rewards, as a perfect selector would"
    rewards = [record.reward for record in best if record.reward is not None]
    mean = f"mean reward {sum(rewards) / len(rewards):.4f}" if rewards else "no rewards, as there was no --verifier"
    if best:
        print(f"best of {max(map(len, by_problem.values()))}, picked {by}: {mean}")
    if path is not None:
        place = path.with_suffix(".best.jsonl")
        write_samples(place, best)
        print(f"best samples: {place.resolve()}")


def _best(samples: Iterable[SampleRecord]) -> list[SampleRecord]:
    """Return samples by score, or by reward where none has one; the highest first, of equal ones the first drawn."""
    samples = list(samples)
    name = "score" if any(record.score is not None for record in samples) else "reward"
    known = [(getattr(record, name), record) for record in samples if getattr(record, name) is not None]
    return [record for _, record in sorted(known, key=lambda pair: (-pair[0], pair[1].sample))]


def _short(text: str, most: int = SHOWN_CHARACTERS) -> str:
    text = text.strip()
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
