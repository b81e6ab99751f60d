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
from fionalm.commands.problems import ProblemOptions, unescaped
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
class JudgeOptions:
    """How samples are judged."""

    verifier: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Judges each sample: math, number, exact, code or python:path.py:function. None: nothing is judged."""
    timeout: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """Seconds that the verifier has for a sample. None: its own."""
    unsafe_execution: bool = False
    """Run programs without a sandbox."""
    best_of: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Draw this many of each prompt and keep the one with the highest reward, in a second file."""


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
    problems: Annotated[ProblemOptions, Flat] = ProblemOptions(),  # noqa: B008 (frozen)
    params: Annotated[SamplingParams, Flat] = SamplingParams(),  # noqa: B008 (frozen)
    judge: Annotated[JudgeOptions, Flat] = JudgeOptions(),
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
        judge: how they are judged.
        engine: how a model is computed here.
        endpoint: how an endpoint is asked; its key is read from FIONA_API_KEY.
    """
    from fionalm.sampling import BudgetSpentError, SampleStore

    if judge.best_of is not None:
        if judge.verifier is None or params.n not in (1, judge.best_of) or judge.best_of < 1:
            raise UserError(
                f"--best-of {judge.best_of}: expected at least 1, a --verifier to choose by, and no other --n"
            )
        params = replace(params, n=judge.best_of)
    params = replace(params, stop=tuple(map(unescaped, params.stop)))
    wanted = problems.read()
    path = out or (None if problems.data is None else DEFAULT_OUT)
    with ExitStack() as stack:
        verifier = _verifier(judge, wanted, stack)
        place = path or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "samples.jsonl"
        _check_settings(place, model, problems.chat, params, judge.verifier)
        store, spent = SampleStore(place), None
        try:
            _draw(model, wanted, params, store, engine, endpoint, quiet=quiet)
        except BudgetSpentError as error:
            spent = error
        records = _selected(store, wanted, params)
        if verifier is not None:
            from fionalm.evaluation import judge_samples

            records = judge_samples(records, verifier, store, quiet=quiet)
        store.rewrite([problem.id for problem in wanted])
        _show(wanted, records, judge.best_of is not None, everything=path is None)
        _summarise(wanted, records, params, path)
        if judge.best_of is not None:
            _keep_best(wanted, records, path)
    if path is not None:
        print(f"samples: {path.resolve()}")
    if spent is not None:
        raise spent


def _draw(
    model: str,
    problems: Sequence[Problem],
    params: SamplingParams,
    store: SampleStore,
    engine: EngineOptions,
    endpoint: EndpointConfig,
    *,
    quiet: bool,
) -> None:
    from fionalm.sampling import EndpointSampler, make_sampler
    from fionalm.sampling.drawing import draw_samples

    if len(_selected(store, problems, params)) == len(problems) * params.n:
        return  # whatever is missing, it is no sample: the model need not be loaded
    options: dict[str, Any] = asdict(engine)
    sampler: Sampler = make_sampler(model, endpoint=endpoint, **options)
    asked = isinstance(sampler, EndpointSampler)
    try:
        draw_samples(sampler, problems, params, store, whole=asked and endpoint.samples_per_request != 1, quiet=quiet)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(_selected(store, problems, params))} of {len(problems) * params.n} samples are in {store.path}: the "
            "same command goes on from there"
        ) from None
    finally:
        if asked and (sampler.usage.requests or sampler.usage.cached):
            used = sampler.usage
            print(
                f"{used.requests} requests, {used.cached} answers from the cache, {used.retries} retries, "
                f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} completion tokens"
                + (f", {used.money(endpoint.budget):.4g} spent" if endpoint.budget.money is not None else "")
            )


def _verifier(judge: JudgeOptions, problems: Sequence[Problem], stack: ExitStack) -> Any:
    """Return the verifier, or None; what it cannot judge is found before anything is drawn."""
    if judge.verifier is None:
        if judge.timeout is not None or judge.unsafe_execution:
            raise UserError("--timeout and --unsafe-execution are of --verifier: expected one beside them")
        return None
    from fionalm.verifiers import make_verifier

    given: dict[str, Any] = {} if judge.timeout is None else {"timeout": judge.timeout}
    given |= {"unsafe_execution": True} if judge.unsafe_execution else {}
    verifier = stack.enter_context(make_verifier(judge.verifier, **given))
    check = getattr(verifier, "check", None)
    if check is not None:
        names = dict.fromkeys(name for problem in problems for name in problem.columns)
        check({name: [problem.columns.get(name) for problem in problems] for name in names})
    return verifier


def _check_settings(path: Path, model: str, chat: bool, params: SamplingParams, verifier: str | None) -> None:
    """Refuse a samples file of other settings; more samples, and a verifier where there was none, may be asked for."""
    local = Path(model).expanduser()
    settings = {"model": str(local.resolve()) if local.exists() else model, "chat": chat, **asdict(params)}
    settings = json.loads(json.dumps({**settings, "n": None, "verifier": verifier}))
    place = path.with_suffix(".config.json")
    if path.exists() and place.exists():
        try:
            before = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{place} is damaged ({error}): expected the settings of {path}, or another --out"
            ) from error
        if verifier is None or before.get("verifier") is None:
            before["verifier"] = settings["verifier"] = verifier or before.get("verifier")
        for name in settings:
            if before.get(name) != settings[name]:
                raise UserError(
                    f"{path} was drawn with {name} {before.get(name)!r}, and {settings[name]!r} is asked for: "
                    "expected the same, or another --out"
                )
    atomic_write_text(place, json.dumps(settings, indent=2) + "\n")


def _selected(store: SampleStore, problems: Sequence[Problem], params: SamplingParams) -> list[SampleRecord]:
    """Return the samples asked for, of those that are there."""
    keys = ((problem.id, number) for problem in problems for number in range(params.n))
    return [record for name, number in keys if (record := store.get(0, name, number)) is not None]


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
            print(f"[sample {record.sample}{judged}] {_short(record.completion, cut(record.completion))}")
    if len(problems) > len(shown):
        print(f"--- and {len(problems) - len(shown):,} more problems")


def _summarise(
    problems: Sequence[Problem], records: Sequence[SampleRecord], params: SamplingParams, path: Path | None
) -> None:
    from collections import Counter

    cut = sum(record.finish_reason == "length" for record in records)
    missing = len(problems) * params.n - len(records)
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
    rewards = [record.reward or 0.0 for record in best]
    if rewards:
        print(f"best of {max(map(len, by_problem.values()))}: mean reward {sum(rewards) / len(rewards):.4f}")
    if path is not None:
        place = path.with_suffix(".best.jsonl")
        write_samples(place, best)
        print(f"best samples: {place.resolve()}")


def _best(samples: Iterable[SampleRecord]) -> list[SampleRecord]:
    """Return judged samples, the highest reward first, of equal ones the first drawn."""
    judged = [record for record in samples if record.reward is not None]
    return sorted(judged, key=lambda record: (-(record.reward or 0.0), record.sample))


def _short(text: str, most: int = SHOWN_CHARACTERS) -> str:
    text = text.strip()
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
