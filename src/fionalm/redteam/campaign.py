"""Several kinds of attack on one model within one budget: what `fiona attack arithmetic` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fionalm.errors import UserError
from fionalm.redteam.attacks import Attack
from fionalm.redteam.families import family_attacks, random_attacks, repetition_attack
from fionalm.redteam.pirs import PirsResult, pirs
from fionalm.redteam.pirs_config import PirsConfig
from fionalm.redteam.problems import ProblemConfig, make_problems
from fionalm.redteam.querying import Meter, QueryModel
from fionalm.redteam.transfer import Transfer, transfer
from fionalm.redteam.trials import Trial, run_trials

ALL = "all"
PIRS_WEIGHT = 3
"""Shares of the budget that PIRS gets, against one of each other kind: it asks most."""
MOST_TRANSFERRED = 12
"""Attacks of a source that are tried on other models, the first of it."""


@dataclass(frozen=True)
class CampaignConfig:
    """Which attacks, on which problems."""

    families: tuple[str, ...] = ()
    """Hand-written families; `all`: every one."""
    wordings: int = 3
    """Of each family, at most."""
    random: int = 0
    """Texts of random words."""
    repetition: tuple[int, ...] = ()
    """Numbers of copies of a false equation."""
    pirs: bool = False
    """Search by prompt inversion."""
    test_problems: int = 8
    """Problems of the test split that each attack is tried on."""
    search: PirsConfig = field(default_factory=PirsConfig)
    """How to search; its problems, insertion point, distances, control text and seed hold for all kinds."""

    @property
    def problems(self) -> ProblemConfig:
        """Which problems are drawn."""
        return self.search.problems

    def attacks(self, kind: str) -> list[Attack]:
        """Return the attacks of a kind that are written in advance: `families`, `random` or `repetition`.

        Raises:
            UserError: an unknown family.
        """
        place = self.search.insertion
        if kind == "families":
            named = None if ALL in self.families else self.families
            return [
                attack
                for attack in family_attacks(families=named, insertion=place)
                if attack.provenance["wording"] < self.wordings
            ]
        if kind == "random":
            return random_attacks(self.random, seed=self.search.seed, insertion=place)
        return [repetition_attack(copies, insertion=place) for copies in sorted(set(self.repetition))]

    def kinds(self) -> list[str]:
        """Return the kinds that are asked for, in the order in which they run."""
        asked = {"families": self.families, "random": self.random, "repetition": self.repetition, "pirs": self.pirs}
        return [kind for kind, wanted in asked.items() if wanted]


@dataclass
class Campaign:
    """What came of it."""

    trials: dict[str, list[Trial]] = field(default_factory=dict)
    """By kind of attack, or name of a library; each with clean questions and controls. PIRS' are those of its re-test
    on fresh problems."""
    search: PirsResult | None = None
    stopped: dict[str, str] = field(default_factory=dict)
    """Kinds that the budget ended, and the limit."""
    attacks: list[Attack] = field(default_factory=list)
    """All that were tried; PIRS' survivors first."""
    transfers: list[Transfer] = field(default_factory=list)

    @property
    def everything(self) -> list[Trial]:
        """All trials, each clean question once."""
        found: dict[tuple[str, str, str, int, str], Trial] = {}
        for trials in self.trials.values():
            for trial in trials:
                found[trial.condition, trial.attack, trial.problem, trial.sample, trial.family] = trial
        return list(found.values())


def run_campaign(
    target: QueryModel,
    attacker: QueryModel | None,
    config: CampaignConfig,
    libraries: Mapping[str, Sequence[Attack]] | None = None,
    *,
    others: Mapping[str, QueryModel] | None = None,
    quiet: bool = False,
) -> Campaign:
    """Attack a model in every way asked for; each gets a share of what is left of the budget.

    Args:
        target: is attacked.
        attacker: writes, for PIRS.
        config: which attacks.
        libraries: sets of attacks to try too.
        others: models on which attacks are tried after, for transfer.
        quiet: show no progress.

    Raises:
        UserError: nothing to do, a kind's or a model's own mistakes.
    """
    libraries = libraries or {}
    kinds = [*config.kinds(), *libraries]
    if not kinds:
        raise UserError("no kind of attack: expected families, random, repetition, pirs or a library")
    if config.test_problems < 1:
        raise UserError(f"{config.test_problems} test problems: expected at least 1")
    if config.pirs and attacker is None:
        raise UserError("PIRS without an attacker: expected a model that writes")
    result, search = Campaign(), config.search
    problems = make_problems(config.test_problems, "test", config.problems)
    how = {"seed": search.seed, "distances": search.distances, "sentences": search.sentences}
    whole = target.meter
    weights = [PIRS_WEIGHT if kind == "pirs" else 1 for kind in kinds]
    for number, kind in enumerate(kinds):
        part = weights[number] / (sum(weights[number:]) + bool(others))
        with _share(whole, part, [target, *([attacker] if attacker else [])]) as meter:
            if kind == "pirs" and attacker is not None:
                result.search = pirs(attacker, target, search, quiet=quiet)
                result.trials[kind] = result.search.retested
                result.attacks = [*result.search.attacks, *result.attacks]
            else:
                attacks = list(libraries[kind]) if kind in libraries else config.attacks(kind)
                result.attacks += attacks
                result.trials[kind] = []
                # Few copies on all problems before many, which cost most and may not fit.
                turns = [[attack] for attack in attacks] if kind == "repetition" else _turns(attacks)
                for turn, part in enumerate(turns):
                    result.trials[kind] += run_trials(target, part, problems, clean=not turn, quiet=quiet, **how)
        if meter.spent is not None:
            result.stopped[kind] = meter.spent
    if others:
        sources = {
            "pirs": result.search.attacks if result.search else [],
            **{kind: config.attacks(kind) for kind in config.kinds() if kind in ("families", "random")},
            **libraries,
        }
        chosen = {name: _first(attacks) for name, attacks in sources.items() if attacks}
        result.transfers, _ = transfer(chosen, {target.name: target, **others}, problems, quiet=quiet, **how)
        if whole.spent is not None:
            result.stopped["transfer"] = whole.spent
    return result


def _turns(attacks: Sequence[Attack]) -> list[list[Attack]]:
    """Return first the first attack of each family, then the second ones, and so on: a budget may end before all."""
    families: dict[str, list[Attack]] = {}
    for attack in attacks:
        families.setdefault(attack.family, []).append(attack)
    longest = max(map(len, families.values()), default=0)
    return [[group[turn] for group in families.values() if turn < len(group)] for turn in range(longest)]


def _first(attacks: Sequence[Attack]) -> list[Attack]:
    """Return some attacks, of as many families as there are."""
    return [attack for turn in _turns(attacks) for attack in turn][:MOST_TRANSFERRED]


class _share:
    """Lend models a part of a meter for a while."""

    def __init__(self, whole: Meter, part: float, models: Sequence[QueryModel]) -> None:
        self.whole, self.part, self.models = whole, part, models

    def __enter__(self) -> Meter:
        self.before = [model.meter for model in self.models]
        meter = self.whole.share(self.part)
        for model in self.models:
            model.meter = meter
        return meter

    def __exit__(self, *_: object) -> None:
        for model, meter in zip(self.models, self.before, strict=True):
            model.meter = meter
