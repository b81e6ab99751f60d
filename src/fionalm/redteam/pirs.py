"""Prompt inversion rejection sampling (PIRS): a model writes what makes a model answer wrongly, and what works stays.

    attacker = QueryModel.open("smollm2", SamplingParams(n=4, max_tokens=64))
    result = pirs(attacker, QueryModel.open("smollm2"), PirsConfig(candidates=32))
    result.found[0].attack.text, result.found[0].retest.success

Freeman et al. 2023 (arXiv 2311.07587), section 3. In rounds: the attacker is asked for texts (inversion), each is put
into its problem and the target answers, those that do not fool it are rejected, the others are tried on more problems,
and survivors on fresh ones beside harmless text. What was chosen for its success looks better than it is (the winner's
curse): so both rates are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple

from fionalm.errors import UserError
from fionalm.progress import Progress, progress
from fionalm.redteam.attacks import Attack
from fionalm.redteam.candidates import candidate_of, reads_like
from fionalm.redteam.metrics import Summary, excess, summarise
from fionalm.redteam.pirs_config import PirsConfig, inversion_prompt
from fionalm.redteam.problems import ArithmeticProblem, make_problems, wrong_answer
from fionalm.redteam.querying import QueryModel
from fionalm.redteam.similarity import distinct_texts
from fionalm.redteam.trials import Trial, run_trials, try_attacks
from fionalm.statistics import Interval

Inversion = Callable[[ArithmeticProblem, int], str]


class Written(NamedTuple):
    """A text, and the problem and wrong answer that it was written for."""

    attack: Attack
    problem: ArithmeticProblem
    target: int


@dataclass(frozen=True)
class Found:
    """An attack that survived."""

    attack: Attack
    selection: Summary
    """On the problems by which it was chosen: too good, by the winner's curse."""
    retest: Summary = Summary()  # noqa: RUF009 (frozen)
    """On fresh problems; of no replies where the budget ended before."""
    control: Summary = Summary()  # noqa: RUF009 (frozen)
    """Of harmless text as long, on the same fresh problems."""


@dataclass
class PirsResult:
    """What was found, most effective first, and what it took."""

    found: list[Found] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Texts: `asked` for; of these `refused`, `empty`, `too long`, `duplicate`; `tried` on their problem; `fooled`
    the target there; `survived` more problems; `retested`."""
    clean: Summary = Summary()  # noqa: RUF009 (frozen)
    """Of the problems that texts were written for, without any; those answered wrongly were left out."""
    screened: list[Trial] = field(default_factory=list)
    """Each text on its own problem."""
    tried: list[Trial] = field(default_factory=list)
    """Texts that fooled the target, on more problems."""
    retested: list[Trial] = field(default_factory=list)
    """Survivors on fresh problems, clean and with controls too."""
    stopped: str | None = None
    """The limit that ended the search; None: all texts were tried."""

    @property
    def selection(self) -> Summary:
        """All survivors on the problems by which they were chosen."""
        ids = {one.attack.id for one in self.found}
        return summarise(trial for trial in (*self.screened, *self.tried) if trial.attack in ids)

    @property
    def retest(self) -> Summary:
        """All survivors on fresh problems."""
        return summarise(trial for trial in self.retested if trial.condition == "attack")

    @property
    def control(self) -> Summary:
        """Harmless text of their lengths on the same problems."""
        return summarise(trial for trial in self.retested if trial.condition == "control")

    @property
    def above_control(self) -> Interval:
        """How much more often survivors fool the target on fresh problems than their controls do."""
        return excess(self.retested)

    @property
    def attacks(self) -> list[Attack]:
        """What survived, most effective first."""
        return [one.attack for one in self.found]


def pirs(
    attacker: QueryModel,
    target: QueryModel,
    config: PirsConfig = PirsConfig(),  # noqa: B008 (frozen)
    *,
    inversions: Sequence[Inversion] | None = None,
    quiet: bool = True,
) -> PirsResult:
    """Search for attacks on `target` that `attacker` writes.

    Both may be one model; with stores, a killed search goes on with the same result, and nothing is paid twice. A
    budget that ends it leaves what was found so far.

    Args:
        attacker: writes; `params.n` texts an inversion prompt, at a temperature above 0.
        target: answers.
        config: what is tried and what survives.
        inversions: functions of problem and chosen wrong answer, in the place of the config's prompts.
        quiet: show no progress.

    Raises:
        UserError: the target answers none of the problems rightly without an attack, or a sampler's own.
    """
    return _Search(attacker, target, config, inversions).run(quiet)


class _Search:
    def __init__(
        self, attacker: QueryModel, target: QueryModel, config: PirsConfig, inversions: Sequence[Inversion] | None
    ) -> None:
        self.attacker, self.target, self.config = attacker, target, config
        self.inversions = list(inversions or (_filled(text) for text in config.inversions))
        train = make_problems(config.inversion_problems + config.trial_problems, "train", config.problems)
        self.own, self.more = train[: config.inversion_problems], train[config.inversion_problems :]
        self.fresh = make_problems(config.retest_problems, "test", config.problems)
        self.result = PirsResult()
        self.texts: list[str] = []

    def run(self, quiet: bool) -> PirsResult:
        """Run rounds until all texts are tried, or a budget is spent."""
        result, config = self.result, self.config
        problems = self._answered()
        inverted = self._inversions(problems)
        with progress(config.candidates, "prompt inversion", "texts", quiet=quiet) as bar:
            while result.counts["asked"] < config.candidates and not self._spent():
                written = self._write(inverted, bar)
                if written is None:
                    break
                self._retest(self._select(written))
        result.stopped = self._spent()
        result.found.sort(key=self._effect, reverse=True)
        return result

    def _answered(self) -> list[ArithmeticProblem]:
        """Return the problems that the target answers rightly without an attack: a text can only spoil these."""
        targets = [(None, problem, self._target(problem)) for problem in self.own]
        trials = try_attacks(self.target, targets)
        self.result.clean = summarise(trials)
        right = {trial.problem for trial in trials if trial.outcome == "right"}
        problems = [problem for problem in self.own if problem.id in right]
        if not problems and self._spent() is None:
            raise UserError(
                f"{self.target.name} answers none of {len(self.own)} problems rightly without an attack, such as "
                f"{trials[0].prompt!r} with {trials[0].reply!r}: expected a model that can do them"
                if trials
                else f"{self.target.name} could be asked none of {len(self.own)} problems: expected a longer context"
            )
        return problems

    def _inversions(self, problems: Sequence[ArithmeticProblem]) -> Iterator[tuple[str, ArithmeticProblem, int, int]]:
        """Yield different prompts of the attacker, with other wrong answers once all problems had one."""
        seen: set[str] = set()
        for turn in count():
            before = len(seen)
            for step in range(len(self.inversions)):
                for number, problem in enumerate(problems):
                    # Each problem begins with another inversion, so that few texts already try all of them.
                    index = (number + step + turn) % len(self.inversions)
                    target = self._target(problem, turn)
                    prompt = self.inversions[index](problem, target)
                    if prompt not in seen:
                        seen.add(prompt)
                        yield prompt, problem, target, index
            if len(seen) == before and turn > 8:
                return

    def _write(
        self, inverted: Iterator[tuple[str, ArithmeticProblem, int, int]], bar: Progress
    ) -> list[Written] | None:
        """Return a round's new texts; None if there is nothing more to ask."""
        config, counts = self.config, self.result.counts
        size = min(config.batch, config.candidates - counts["asked"])
        prompts = [each for each, _ in zip(inverted, range(max(1, -(-size // self.attacker.params.n))), strict=False)]
        if not prompts:
            return None
        written: list[Written] = []
        for (prompt, problem, target, index), asked in zip(
            prompts, self.attacker.ask([one[0] for one in prompts]), strict=True
        ):
            for number, reply in enumerate(asked.replies):
                counts["asked"] += 1
                bar.advance(1, survivors=len(self.result.found), fooled=counts["fooled"])
                candidate = candidate_of(reply, config.max_characters)
                if candidate.status != "usable":
                    counts[candidate.status] += 1
                    continue
                origin = {
                    "attacker": self.attacker.name,
                    "target_model": self.target.name,
                    "problem": problem.id,
                    "wrong_answer": target,
                    "inversion": index,
                    "inversion_prompt": prompt,
                    "sample": number,
                    "seed": self.attacker.params.seed,
                    "reads_like": reads_like(candidate.text),
                }
                attack = Attack.from_text(
                    candidate.text,
                    problem,
                    target,
                    family="pirs",
                    author="pirs",
                    insertion=config.insertion,
                    provenance=origin,
                )
                written.append(Written(attack, problem, target))
        return self._new(written)

    def _new(self, written: Sequence[Written]) -> list[Written]:
        """Drop texts like earlier ones."""
        texts = [*self.texts, *(one.attack.text for one in written)]
        kept = set(distinct_texts(texts, self.config.alike))
        fresh = [one for place, one in enumerate(written, len(self.texts)) if place in kept]
        self.result.counts["duplicate"] += len(written) - len(fresh)
        self.texts += [one.attack.text for one in fresh]
        return fresh

    def _select(self, written: Sequence[Written]) -> list[Found]:
        """Reject texts that do not fool the target on their own problem, and then on enough others."""
        config, counts = self.config, self.result.counts
        screened = try_attacks(self.target, [(one.attack, one.problem, one.target) for one in written])
        self.result.screened += screened
        fooled = {trial.attack for trial in screened if self._fools(trial)}
        counts["tried"] += len({trial.attack for trial in screened})
        counts["fooled"] += len(fooled)
        attacks = [one.attack for one in written if one.attack.id in fooled]
        tried = run_trials(
            self.target,
            attacks,
            self.more,
            seed=config.seed,
            distances=config.distances,
            clean=False,
            control=False,
        )
        self.result.tried += tried
        found: list[Found] = []
        for attack in attacks:
            own = [trial for trial in tried if trial.attack == attack.id]
            if own and sum(map(self._fools, own)) >= config.keep * len(own):
                first = [trial for trial in screened if trial.attack == attack.id]
                found.append(Found(attack, summarise([*first, *own])))
        counts["survived"] += len(found)
        return found

    def _retest(self, found: Sequence[Found]) -> None:
        """Test survivors on fresh problems, beside their controls."""
        config = self.config
        trials = run_trials(
            self.target,
            [one.attack for one in found],
            self.fresh,
            seed=config.seed,
            distances=config.distances,
            clean=bool(found) and not self.result.retested,
            sentences=config.sentences,
        )
        self.result.retested += trials
        for one in found:
            retest, control = (
                summarise(trial for trial in trials if (trial.attack, trial.condition) == (one.attack.id, condition))
                for condition in ("attack", "control")
            )
            self.result.counts["retested"] += bool(retest.total)
            scores: dict[str, Any] = {"selection": one.selection.as_json(), "retest": retest.as_json()}
            provenance = {**one.attack.provenance, **scores, "control": control.as_json()}
            attack = replace(one.attack, provenance=provenance)
            self.result.found.append(Found(attack, one.selection, retest, control))

    def _effect(self, one: Found) -> tuple[float, float]:
        """Return how effective a survivor was where it was chosen: the fresh problems only judge."""
        rates = (one.selection.success.estimate, one.selection.targeted_success.estimate)
        return rates if self.config.goal == "wrong" else (rates[1], rates[0])

    def _fools(self, trial: Trial) -> bool:
        return trial.outcome == "targeted" if self.config.goal == "targeted" else trial.fooled

    def _target(self, problem: ArithmeticProblem, turn: int = 0) -> int:
        return wrong_answer(problem, self.config.seed + 1000 * turn, self.config.distances)

    def _spent(self) -> str | None:
        for model in (self.target, self.attacker):
            model.meter.left()
            if model.meter.spent is not None:
                return model.meter.spent
        return None


def _filled(text: str) -> Inversion:
    def prompt(problem: ArithmeticProblem, target: int) -> str:
        values = {
            "expression": problem.expression,
            "question": problem.prompt(),
            "target": str(target),
            "answer": str(problem.answer),
            "left": str(problem.left),
            "right": str(problem.right),
            "symbol": problem.operation,
        }
        return inversion_prompt(text, values)

    return prompt
