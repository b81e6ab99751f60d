"""`fiona attack gcg`: optimize an adversarial string on a local model, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import Flat, Folder, Positional
from fionalm.errors import UserError
from fionalm.redteam.gcg_config import GcgConfig
from fionalm.redteam.problems import DISTANCES, Insertion, ProblemConfig

if TYPE_CHECKING:
    from fionalm.posttraining import Policy
    from fionalm.redteam.gcg import GcgResult
    from fionalm.redteam.problems import ArithmeticProblem
    from fionalm.redteam.trials import Trial

LIBRARY_FILE = "library.jsonl"
Count = tyro.conf.arg(metavar="N")


@dataclass(frozen=True, kw_only=True)
class GcgData:
    """Which problems the string is for."""

    train_problems: Annotated[int, Count] = 1
    """Problems that one string should serve."""
    test_problems: Annotated[int, Count] = 8
    """Problems of other sums that it is tried on afterwards, beside harmless text; 0: none."""
    problems: ProblemConfig = field(default_factory=ProblemConfig)
    """What is asked."""
    insertion: Insertion = "after"
    """Where the string goes: before, inside or after."""
    completion: str = "{target}"
    """The wrong answer as the model would write it, with {target} in it."""
    distances: tuple[int, ...] = DISTANCES
    """Of the wrong answers from the true ones."""


def gcg(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    out: Folder = Path("runs/gcg"),
    data: Annotated[GcgData, Flat] = GcgData(),
    config: Annotated[GcgConfig, Flat] = GcgConfig(),  # noqa: B008 (frozen)
    chat: bool | None = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    quiet: bool = False,
) -> None:
    """Search a string that makes a local model give a chosen wrong answer, by greedy coordinate gradient.

    The same command goes on after a stop. The string is added to an attack library, which fiona harden reads.

    For example: fiona attack gcg smollm2 --length 10 --steps 20 --candidates 32 --out runs/gcg

    Args:
        model: a model or run folder, a .gguf file, hf:NAME or smollm2.
        out: run folder.
        data: the problems.
        config: the search.
        chat: ask in the model's chat template. None: where it has one.
        device: cpu or cuda. None: a GPU if there is one.
        quiet: show no progress.
    """
    from fionalm.posttraining import load_policy
    from fionalm.redteam.gcg import arithmetic_tasks
    from fionalm.redteam.gcg import gcg as search
    from fionalm.redteam.library import AttackLibrary
    from fionalm.redteam.problems import make_problems

    if data.train_problems < 1 or data.test_problems < 0:
        raise UserError(f"{data.train_problems} problems and {data.test_problems} for test: expected 1, and 0 or more")
    learnt = make_problems(data.train_problems, "train", data.problems)
    measured = make_problems(data.test_problems, "test", data.problems) if data.test_problems else []
    policy = load_policy(model, device=device)
    render = _as_message if (policy.tokenizer.has_chat_template if chat is None else chat) else None
    how: dict[str, Any] = {"insertion": data.insertion, "distances": data.distances, "seed": config.seed}
    tasks = arithmetic_tasks(learnt, **how, completion=data.completion, render=render)
    found = search(policy, tasks, config, out=out, quiet=quiet)
    attack = found.attack(data.insertion, model=model, problems=[problem.id for problem in learnt])
    AttackLibrary([attack]).save(out / LIBRARY_FILE)
    print(f"string: {found.text}")
    print(
        f"loss {found.loss:.4g} nats, {sum(found.hits)} of {len(found.hits)} problems answered as targeted, after "
        f"{found.steps} steps, {found.queries:,} queries and {found.flops:.3g} operations; {found.rejected:,} "
        "candidates were rejected because their text has other tokens"
    )
    if measured:
        print(_retest(policy, found, data, config.seed, measured, render))
    _report(found, out)


def _as_message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _retest(
    policy: Policy, found: GcgResult, data: GcgData, seed: int, problems: list[ArithmeticProblem], render: Any
) -> str:
    """Try the string on other problems, beside the clean question and harmless text, and say what came of it."""
    from fionalm.redteam.querying import QueryModel
    from fionalm.redteam.trials import run_trials
    from fionalm.sampling import SamplingParams
    from fionalm.statistics import wilson

    model = QueryModel(
        "gcg", policy.sampler(), SamplingParams(max_tokens=24, temperature=0.0), chat=False, render=render
    )
    trials = run_trials(model, [found.attack(data.insertion)], problems, seed=seed, distances=data.distances)
    parts = []
    for condition, name in (("clean", "clean"), ("control", "with harmless text"), ("attack", "with the string")):
        chosen: list[Trial] = [trial for trial in trials if trial.condition == condition]
        share = wilson(sum(trial.outcome == "right" for trial in chosen), len(chosen))
        parts.append(f"{name} {share.estimate:.2f} ({share.low:.2f} to {share.high:.2f})")
    return f"right answers to {len(problems)} other problems: {', '.join(parts)}"


def _report(found: GcgResult, out: Path) -> None:
    from fionalm.report import Line, Section, Table, lines_with_intervals, save_figure, write_report, write_sections
    from fionalm.report.folder import FIGURES_FOLDER

    queries = [row["queries"] for row in found.rows]
    line = Line("best string", queries, [row["loss"] for row in found.rows])
    chart = lines_with_intervals([line], x_label="queries", y_label="-log p(target) (nats a problem)")
    figure = save_figure(chart, out / FIGURES_FOLDER, "loss", "Loss of the best string against queries.")
    changed = [row for before, row in zip([None, *found.rows], found.rows, strict=False) if _differs(before, row)]
    rows = [[row["step"], row["loss"], row["hits"], row["queries"], row["text"]] for row in changed[-40:]]
    names = ["step", "loss (nats)", "problems fooled", "queries", "string"]
    write_sections(out, [Section("The search", found.text, [Table(names, rows)], ["loss"])])
    report = write_report(out)
    print(f"library: {(out / LIBRARY_FILE).resolve()}")
    print(f"report: {report.resolve()}")
    print(f"figure: {figure.resolve()}")


def _differs(before: dict[str, Any] | None, row: dict[str, Any]) -> bool:
    return before is None or before["text"] != row["text"]
