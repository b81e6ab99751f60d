"""`fiona attack arithmetic`: attacks on a model's sums, beside harmless text, within a budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fionalm.commands.options import Flat, Folder
from fionalm.commands.sample import EngineOptions
from fionalm.errors import UserError
from fionalm.paths import atomic_write_text
from fionalm.redteam.problems import DISTANCES, TEMPLATES, Insertion, Operation, ProblemConfig
from fionalm.sampling.endpoint_config import EndpointConfig

if TYPE_CHECKING:
    from fionalm.redteam.campaign import CampaignConfig
    from fionalm.redteam.querying import Meter, QueryModel
    from fionalm.sampling import Sampler

LIBRARY_FILE, TRIALS_FILE, USAGE_FILE = "attacks.jsonl", "trials.jsonl", "usage.json"
Count = tyro.conf.arg(metavar="N")


@dataclass(frozen=True, kw_only=True)
class KindOptions:
    """Which attacks; without any of these, all kinds."""

    families: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Hand-written families, or all."""
    wordings: Annotated[int, Count] = 3
    """Of each family, at most."""
    random: Annotated[int, Count] = 0
    """Texts of random words."""
    repetition: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")] = ()
    """Copies of a false equation, such as 1 10 100 1000."""
    pirs: bool = False
    """Prompt inversion rejection sampling, by --attacker."""
    library: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()
    """Attacks of an earlier run or your own: JSON lines with text and family."""


@dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    """Which sums, and how the target answers."""

    operations: Annotated[tuple[Operation, ...], tyro.conf.arg(metavar="+|-|*...")] = ("+",)
    digits: Annotated[int, Count] = 1
    """Digits of the operands at most."""
    templates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT...")] = TEMPLATES
    """Questions with {expression}, or {left} and {right}, and a place for attacks: {before}, {inside} or {after}."""
    insertion: Insertion = "after"
    """Where attacks stand."""
    distances: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")] = DISTANCES
    """Of the chosen wrong answers from the true ones."""
    test_problems: Annotated[int, Count] = 8
    """Sums that each attack is tried on."""
    max_tokens: Annotated[int, Count] = 32
    """Of an answer."""
    temperature: float = 0.0
    """Of answers; 0 takes the most likely tokens."""
    samples: Annotated[int, Count] = 1
    """Answers to each question, at a temperature above 0."""
    chat: bool | None = None
    """Ask in conversations. None: endpoints, and models with a chat template, are."""
    max_characters: Annotated[int | None, Count] = None
    """Of a question; longer ones, such as of many repetitions, are left out. None: what the context allows."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Prompt inversion rejection sampling."""

    attacker: Annotated[str | None, tyro.conf.arg(metavar="MODEL|URL")] = None
    """Writes the attacks. None: the target itself."""
    candidates: Annotated[int, Count] = 64
    """Texts to ask for, at most."""
    batch: Annotated[int, Count] = 16
    """Texts a round."""
    trial_problems: Annotated[int, Count] = 6
    """Sums on which a text that fooled the target is tried again."""
    keep: float = 0.3
    """Share of these that it must fool the target on."""
    retest_problems: Annotated[int, Count] = 12
    """Fresh sums for survivors, beside harmless text."""
    goal: Literal["wrong", "targeted"] = "wrong"
    """What counts: any wrong number, or the chosen one."""
    inversions: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Prompts for the attacker, one a line, with {target} and {expression} or {question}. None: six of Fiona's."""
    attacker_tokens: Annotated[int, Count] = 64
    """Of a text."""
    attacker_temperature: float = 0.8


def arithmetic(
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL|URL...")],
    out: Folder = Path("runs/attack"),
    kinds: Annotated[KindOptions, Flat] = KindOptions(),
    search: Annotated[SearchOptions, Flat] = SearchOptions(),
    problems: Annotated[ProblemOptions, Flat] = ProblemOptions(),
    budget_queries: Annotated[int | None, Count] = None,
    budget_cost: Annotated[float | None, tyro.conf.arg(metavar="MONEY")] = None,
    minutes: Annotated[float | None, tyro.conf.arg(metavar="N")] = None,
    engine: Annotated[EngineOptions, Flat] = EngineOptions(),  # noqa: B008 (frozen)
    endpoint: EndpointConfig = EndpointConfig(),  # noqa: B008 (frozen)
    seed: Annotated[int, Count] = 0,
    quiet: bool = False,
) -> None:
    """Attack a model's sums with text beside them, and show what it says to each attack and to harmless text as long.

    The same command goes on after a stop, and with a larger budget from there; replies that were paid are kept.

    For example: fiona attack arithmetic --target smollm2 --minutes 5

    An endpoint: fiona attack arithmetic --target http://127.0.0.1:8000/v1 --pirs --budget-queries 500

    Args:
        target: a model or run folder, a .gguf file, hf:NAME, smollm2, or http://HOST:PORT/v1#NAME; of several the
            first is attacked, and what was tried on it is then tried on the others.
        out: run folder.
        kinds: which attacks.
        search: prompt inversion.
        problems: sums and answers.
        budget_queries: replies of target and attacker, at most. None: no limit.
        budget_cost: money at most for endpoints, in the currency of --endpoint.budget.prompt-price and
            completion-price, which are for a million tokens.
        minutes: of asking, at most.
        engine: how a model is computed here.
        endpoint: how an endpoint is asked; its key is read from FIONA_API_KEY.
        seed: of problems, chosen wrong answers, control texts and sampling.
        quiet: show no progress.
    """
    from fionalm.commands.attack_report import report_campaign
    from fionalm.commands.outcome import diagnosis
    from fionalm.redteam.campaign import run_campaign
    from fionalm.redteam.library import AttackLibrary
    from fionalm.redteam.querying import Meter
    from fionalm.redteam.trials import write_trials

    if not target:
        raise UserError("--target without a model: expected a model or an endpoint")
    if len(set(target)) < len(target):
        raise UserError(f"--target {' '.join(target)}: expected different ones")
    config = _config(kinds, search, problems, seed)
    stems = [path.stem for path in kinds.library]
    libraries = {
        path.stem if stems.count(path.stem) == 1 else str(path): list(AttackLibrary.load(path.expanduser()))
        for path in kinds.library
    }
    if budget_cost is not None:
        endpoint = replace(endpoint, budget=replace(endpoint.budget, money=budget_cost))
    settings: dict[str, Any] = {"target": list(target), "attacker": search.attacker or target[0]}
    settings |= {
        "config": asdict(config),
        "libraries": {name: [a.id for a in found] for name, found in libraries.items()},
    }
    settings |= {
        "answers": {name: getattr(problems, name) for name in ("max_tokens", "temperature", "samples", "chat")}
    }
    settings["attacker_sampling"] = [search.attacker_tokens, search.attacker_temperature]
    with diagnosis(out, f"Attacks on the sums of {target[0]}", settings) as opened:
        meter = Meter(budget_queries)
        models = _Models(out, endpoint, engine, meter, budget_cost)
        asked = [models.target(spec, problems, seed) for spec in target]
        attacker = models.attacker(search.attacker or target[0], search, seed) if config.pirs else None
        meter = models.begin(minutes)
        try:
            campaign = run_campaign(
                asked[0], attacker, config, libraries, others={one.name: one for one in asked[1:]}, quiet=quiet
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{meter.used:,} replies are in {out}: the same command goes on from there"
            ) from None
        finally:
            models.keep_usage()
        write_trials(out / TRIALS_FILE, campaign.everything)
        AttackLibrary(campaign.attacks).save(out / LIBRARY_FILE)
        report_campaign(opened, campaign, meter, models.usage_line())
        print(f"attacks: {(out / LIBRARY_FILE).resolve()}")
        print(f"trials: {(out / TRIALS_FILE).resolve()}")


class _Models:
    """Opens each model once, and counts what endpoints cost over several runs of one folder."""

    def __init__(
        self, out: Path, endpoint: EndpointConfig, engine: EngineOptions, meter: Meter, cost: float | None
    ) -> None:
        self.out, self.endpoint, self.engine, self.meter, self.cost = out, endpoint, engine, meter, cost
        self.usage: Any = None
        self._samplers: dict[str, Sampler] = {}
        self._models: list[QueryModel] = []

    def target(self, spec: str, options: ProblemOptions, seed: int) -> QueryModel:
        """Open a target."""
        from fionalm.sampling import SamplingParams

        params = SamplingParams(options.samples, options.max_tokens, options.temperature, seed=seed)
        return self._open(spec, params, "target", chat=options.chat, max_characters=options.max_characters)

    def attacker(self, spec: str, options: SearchOptions, seed: int) -> QueryModel:
        """Open the attacker."""
        from fionalm.sampling import SamplingParams

        if not options.attacker_temperature > 0:
            raise UserError(
                f"--attacker-temperature {options.attacker_temperature}: expected above 0, to write various texts"
            )
        params = SamplingParams(4, options.attacker_tokens, options.attacker_temperature, top_p=0.95, seed=seed)
        return self._open(spec, params, "attacker")

    def begin(self, minutes: float | None) -> Meter:
        """Start the clock, after models were loaded."""
        from fionalm.redteam.querying import Meter

        self.meter = Meter(self.meter.queries, minutes)
        for model in self._models:
            model.meter = self.meter
        if self.cost is not None and self.usage is None:
            raise UserError(f"--budget-cost {self.cost:g} and only models here: expected an endpoint, which costs")
        return self.meter

    def keep_usage(self) -> None:
        """Write what endpoints cost so far."""
        if self.usage is not None:
            atomic_write_text(self.out / USAGE_FILE, json.dumps(asdict(self.usage)) + "\n")

    def usage_line(self) -> str:
        """Say what endpoints cost; empty without any."""
        if self.usage is None:
            return ""
        used = self.usage
        line = f"{used.requests:,} requests, {used.cached:,} answers from the cache, {used.retries:,} retries, "
        line += f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} completion tokens"
        return line + (f", {used.money(self.endpoint.budget):.4g} spent" if self.cost is not None else "")

    def _open(self, spec: str, params: Any, role: str, **others: Any) -> QueryModel:
        from fionalm.redteam.querying import QueryModel
        from fionalm.sampling import EndpointSampler, make_sampler

        local = Path(spec).expanduser()
        name = str(local.resolve()) if local.exists() else spec
        if name not in self._samplers:
            sampler = make_sampler(spec, endpoint=self.endpoint, **asdict(self.engine))
            if isinstance(sampler, EndpointSampler):
                sampler.usage = self._shared_usage()
            self._samplers[name] = sampler
        store = self.out / f"{role}.jsonl"
        model = QueryModel(name, self._samplers[name], params, store=store, meter=self.meter, **others)
        if role == "target":
            for earlier in self._models:
                model.store = earlier.store  # one file, open once
        self._models.append(model)
        return model

    def _shared_usage(self) -> Any:
        """Return the one count of all endpoints, with what earlier runs of the folder used."""
        from fionalm.sampling import Usage

        if self.usage is None:
            try:
                self.usage = Usage(**json.loads((self.out / USAGE_FILE).read_text(encoding="utf-8")))
            except FileNotFoundError:
                self.usage = Usage()
            except (OSError, ValueError, TypeError) as error:
                raise UserError(
                    f"cannot read {self.out / USAGE_FILE}: {error}; expected what the run cost so far, or another --out"
                ) from error
        return self.usage


def _config(kinds: KindOptions, search: SearchOptions, problems: ProblemOptions, seed: int) -> CampaignConfig:
    from fionalm.redteam.campaign import ALL, CampaignConfig
    from fionalm.redteam.families import COUNTS
    from fionalm.redteam.pirs_config import INVERSIONS, PirsConfig

    names = ("candidates", "batch", "trial_problems", "keep", "retest_problems", "goal")
    shared = {name: getattr(search, name) for name in names}
    config = CampaignConfig(
        families=kinds.families,
        wordings=kinds.wordings,
        random=kinds.random,
        repetition=kinds.repetition,
        pirs=kinds.pirs,
        test_problems=problems.test_problems,
        search=PirsConfig(
            **shared,
            inversions=INVERSIONS if search.inversions is None else _lines(search.inversions),
            problems=ProblemConfig(problems.operations, problems.digits, problems.templates, seed),
            insertion=problems.insertion,
            distances=problems.distances,
            seed=seed,
        ),
    )
    if not config.kinds() and not kinds.library:
        config = replace(config, families=(ALL,), random=4, repetition=COUNTS, pirs=True)
    for kind in config.kinds():
        if kind != "pirs":
            config.attacks(kind)  # a mistake is told before a model is loaded
    return config


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a prompt a line, with {{target}}") from error
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(lines)
