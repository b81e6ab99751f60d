"""`fiona attack constitution`: what a model's review of its own answers recovers, and what it spoils."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fionalm.commands.options import Flat, Folder, Positional
from fionalm.commands.sample import EngineOptions
from fionalm.errors import UserError
from fionalm.redteam.problems import ProblemConfig
from fionalm.sampling.endpoint_config import EndpointConfig

if TYPE_CHECKING:
    from fionalm.redteam.answers import Outcome
    from fionalm.redteam.attacks import Attack
    from fionalm.redteam.constitution import ConstitutionConfig, Transcript
    from fionalm.redteam.paired import PairedAccuracy
    from fionalm.redteam.trials import Condition
    from fionalm.report import Section
    from fionalm.sampling import Sampler

TRANSCRIPTS_FILE = "transcripts.jsonl"
GALLERY = 12
Count = tyro.conf.arg(metavar="N")


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What is asked, and how the loop runs."""

    attacks: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Attack library of fiona attack arithmetic. None: the hand-written families."""
    trials: Annotated[int, Count] = 24
    """Pairs of a problem and an attack; each is asked with the attack, with harmless text, and clean."""
    problems: ProblemConfig = field(default_factory=ProblemConfig)
    """Which problems."""
    constitution: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A principle a line, or JSON with `principles` and the texts that ask. None: the built-in one."""
    rounds: Annotated[int, Count] = 1
    """Reviews, with a revision each."""
    reviewer: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Another model or endpoint that reviews. None: the model itself."""
    max_tokens: Annotated[int, Count] = 48
    """Tokens of an answer at most."""
    review_tokens: Annotated[int, Count] = 160
    """Tokens of a review at most."""
    temperature: float = 0.0
    """Of all turns; 0 takes the likeliest tokens."""
    seed: int = 0
    """Of problems, attacks and draws."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials {self.trials}: expected at least 1")


@dataclass(frozen=True)
class _Question:
    id: str
    condition: Condition
    family: str
    problem: str
    answer: int
    target: int
    text: str


def constitution(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    out: Folder = Path("runs/constitution"),
    loop: Annotated[LoopOptions, Flat] = LoopOptions(),
    engine: Annotated[EngineOptions, Flat] = EngineOptions(),  # noqa: B008 (frozen)
    endpoint: EndpointConfig = EndpointConfig(),  # noqa: B008 (frozen)
    quiet: bool = False,
) -> None:
    """Let a model answer, review its answer against a constitution and revise it, under attack and without.

    Every turn is kept with its conversation. The same command goes on after a stop, or with a larger budget.

    For example: fiona attack constitution smollm2 --trials 8 --out runs/constitution

    Args:
        model: a model or run folder, a .gguf file, hf:NAME, smollm2, an endpoint as http://HOST:PORT/v1#NAME, or
            vllm:NAME.
        out: folder of the transcripts and the report.
        loop: what is asked, and how.
        engine: how a model is computed here.
        endpoint: how an endpoint is asked, and its budget.
        quiet: show no progress.
    """
    from fionalm.commands.outcome import diagnosis
    from fionalm.redteam.constitution import USER_LABEL, ConstitutionConfig, constitutional_answers, plain_dialogue
    from fionalm.redteam.principles import Constitution
    from fionalm.sampling import make_sampler

    rules = Constitution() if loop.constitution is None else Constitution.from_file(loop.constitution)
    questions = _questions(loop)
    sampler = make_sampler(model, endpoint=endpoint, **asdict(engine))
    reviewer = None
    if loop.reviewer is not None:
        reviewer = make_sampler(loop.reviewer, endpoint=endpoint, **asdict(engine))
    plain = not all(_takes_conversations(one) for one in (sampler, reviewer) if one is not None)
    config = ConstitutionConfig(
        constitution=rules,
        rounds=loop.rounds,
        max_tokens=loop.max_tokens,
        review_tokens=loop.review_tokens,
        temperature=loop.temperature,
        stop=(f"\n{USER_LABEL}",) if plain else (),
        seed=loop.seed,
    )
    settings = {"model": model, **_plain_settings(loop), "constitution": asdict(rules)}
    with diagnosis(out, "Constitutional loop", settings) as opened:
        transcripts = constitutional_answers(
            sampler,
            [question.text for question in questions],
            config,
            reviewer=reviewer,
            render=plain_dialogue if plain else None,
            ids=[question.id for question in questions],
            columns=[asdict(question) for question in questions],
            out=out / TRANSCRIPTS_FILE,
            quiet=quiet,
        )
        _show(questions, transcripts, config, out, opened)


def _questions(loop: LoopOptions) -> list[_Question]:
    """Return the questions: of each pair of problem and attack, attacked, with harmless text, and clean once."""
    from fionalm.redteam.families import family_attacks
    from fionalm.redteam.library import AttackLibrary
    from fionalm.redteam.problems import make_problems, wrong_answer
    from fionalm.redteam.trials import control_text

    attacks = family_attacks() if loop.attacks is None else list(AttackLibrary.load(loop.attacks))
    by_family: dict[str, list[Attack]] = {}
    for attack in attacks:
        by_family.setdefault(attack.family, []).append(attack)
    generator = Random(f"constitution/{loop.seed}")
    families = list(by_family)
    generator.shuffle(families)
    problems = make_problems(min(loop.trials, 24), "test", loop.problems)
    found: dict[str, _Question] = {}
    for number in range(loop.trials):
        problem = problems[number % len(problems)]
        attack = generator.choice(by_family[families[number % len(families)]])
        target = wrong_answer(problem, loop.seed)
        harmless = problem.prompt(control_text(attack, problem, target, loop.seed), attack.insertion)
        texts: dict[Condition, str] = {
            "attack": attack.prompt(problem, target),
            "control": harmless,
            "clean": problem.prompt(),
        }
        for condition, text in texts.items():
            name = "clean" if condition == "clean" else f"{condition}/{attack.id}"
            family = attack.family if condition == "attack" else condition
            key = f"{problem.id}/{name}"
            found[key] = _Question(key, condition, family, problem.id, problem.answer, target, text)
    return list(found.values())


def _takes_conversations(sampler: Sampler) -> bool:
    tokenizer = getattr(sampler, "tokenizer", None)
    return tokenizer is None or bool(getattr(tokenizer, "has_chat_template", False))


def _plain_settings(loop: LoopOptions) -> dict[str, Any]:
    settings = {**asdict(loop), "constitution": None}
    settings["attacks"] = None if loop.attacks is None else str(loop.attacks.resolve())
    return settings


def _show(
    questions: list[_Question], transcripts: list[Transcript], config: ConstitutionConfig, out: Path, opened: Any
) -> None:
    from fionalm.commands.outcome import columns
    from fionalm.redteam.answers import judge_answer, parse_answer
    from fionalm.redteam.paired import paired_accuracy
    from fionalm.report import Section, Table, forest

    outcomes: list[list[Outcome]] = [
        [judge_answer(parse_answer(text), question.answer, question.target) for text in transcript.answers]
        for question, transcript in zip(questions, transcripts, strict=True)
    ]
    found: dict[str, PairedAccuracy] = {}
    for condition, name in (("attack", "attacked"), ("control", "harmless text"), ("clean", "clean")):
        chosen = [index for index, question in enumerate(questions) if question.condition == condition]
        found[name] = paired_accuracy(
            [outcomes[index][0] for index in chosen],
            [outcomes[index][-1] for index in chosen],
            [questions[index].problem for index in chosen],
        )
    names = ["asked", "prompts", "first", "95% interval", "revised", "95% interval", "change", "95% interval"]
    names += ["right to wrong", "wrong to right"]
    rows = [_row(name, one) for name, one in found.items()]
    print(columns(names, rows))
    print(f"transcripts: {(out / TRANSCRIPTS_FILE).resolve()}")
    chart = forest(
        {f"{name}, {when}": getattr(one, which) for name, one in found.items() for when, which in WHEN},
        x_label="share of right answers",
    )
    caption = "Accuracy of first answers and of revised ones, with 95% intervals (Wilson)."
    table = Table(names, rows, "Changes have intervals over problems.")
    words = f"{config.rounds} rounds of review.\n\n{config.constitution.listed}"
    result = {"conditions": {name: asdict(one) for name, one in found.items()}, "questions": len(questions)}
    sections = [Section("What came of it", words, [table], ["accuracy"]), _gallery(questions, transcripts, outcomes)]
    opened.finish(result, {"accuracy": (chart, caption)}, sections)


WHEN = (("first", "before"), ("revised", "after"))


def _row(name: str, one: PairedAccuracy) -> list[Any]:
    from fionalm.report.wording import format_interval

    cells: list[Any] = [name, one.prompts]
    for interval in (one.before, one.after, one.change):
        cells += [round(interval.estimate, 3), format_interval(interval.low, interval.high)]
    return [*cells, one.right_to_wrong, one.wrong_to_right]


def _gallery(questions: list[_Question], transcripts: list[Transcript], outcomes: list[list[Outcome]]) -> Section:
    """Return whole transcripts: attacked ones whose outcome changed come first."""
    from fionalm.report import Section, Table

    order = sorted(
        range(len(questions)),
        key=lambda index: (outcomes[index][0] == outcomes[index][-1], questions[index].condition != "attack"),
    )
    rows = []
    for index in order[:GALLERY]:
        question, transcript = questions[index], transcripts[index]
        right = iter(outcomes[index])
        for place, (turn, text) in enumerate(transcript.turns):
            head = [question.family, question.text] if place == 0 else ["", ""]
            rows.append([*head, turn, text, "" if turn == "review" else next(right)])
    return Section(
        "Transcripts", "Outcomes that changed come first.", [Table(["", "question", "turn", "text", ""], rows)]
    )
