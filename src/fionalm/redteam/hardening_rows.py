"""The training mix of hardening: attacked, control and clean problems; and that nothing tested is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from fionalm.data.text_tokenizer import Prompt
from fionalm.errors import UserError, nearest
from fionalm.redteam.attacks import Attack
from fionalm.redteam.control import HARMLESS, benign_text
from fionalm.redteam.families import family_split
from fionalm.redteam.hardening_config import HardenConfig
from fionalm.redteam.problems import ArithmeticProblem, wrong_answer

Render = Callable[[str], Prompt]


def check_disjoint(
    train_attacks: Sequence[Attack],
    test_attacks: Sequence[Attack],
    problems: Sequence[ArithmeticProblem],
    test_problems: Sequence[ArithmeticProblem],
) -> None:
    """Refuse attacks of one family, equal attacks and equal sums in training and test.

    Raises:
        UserError: what both have, or that one has nothing.
    """
    for name, items in (
        ("training attacks", train_attacks),
        ("training problems", problems),
        ("test problems", test_problems),
    ):
        if not items:
            raise UserError(f"there are no {name}: expected at least one")
    families = sorted({_kind(attack) for attack in train_attacks} & {_kind(attack) for attack in test_attacks})
    if families:
        raise UserError(
            f"family {families[0]!r} is among the training and the test attacks: expected families that differ, or "
            "what is measured is memory"
        )
    texts = sorted({attack.text for attack in train_attacks} & {attack.text for attack in test_attacks})
    if texts:
        raise UserError(f"the attack {texts[0][:60]!r} is in training and test: expected attacks that differ")
    sums = sorted({problem.operands for problem in problems} & {problem.operands for problem in test_problems})
    if sums:
        raise UserError(
            f"the problem {sums[0]} is in training and test: expected problems of make_problems' two splits"
        )


def split_by_family(attacks: Sequence[Attack], test_families: Sequence[str] = ()) -> tuple[list[Attack], list[Attack]]:
    """Return a library's attacks for training and for test, by family.

    Args:
        attacks: the library.
        test_families: which are for test. Empty: those that `family_split` says.

    Raises:
        UserError: a family that the library lacks, or none for one of the two.
    """
    families = sorted({attack.family for attack in attacks})
    for family in test_families:
        if family not in families:
            raise UserError(
                f"the attacks have no family {family!r}: expected some of {', '.join(families) or 'none'}"
                f"{nearest(family, families)}"
            )
    held = set(test_families) or {family for family in families if family_split(family) == "test"}
    if not held or held == set(families):
        raise UserError(
            f"the attacks' families ({', '.join(families) or 'none'}) are all for {'test' if held else 'training'}: "
            "expected two or more, and some of them named for test, or test attacks of another library"
        )
    return [one for one in attacks if one.family not in held], [one for one in attacks if one.family in held]


def training_rows(
    attacks: Sequence[Attack],
    problems: Sequence[ArithmeticProblem],
    config: HardenConfig,
    *,
    render: Render | None = None,
    sentences: Sequence[str] = HARMLESS,
) -> list[dict[str, Any]]:
    """Return the mix: rows with `prompt`, `answer` (the true one), `completion`, and what was inserted.

    Each attacked or control row draws a family, then an attack of it, so that large families weigh no more; a control
    row has harmless text of the attack's length in the attack's place.

    Args:
        attacks: to learn from.
        problems: to learn from.
        config: shares, number of rows and seed.
        render: writes a prompt as the model reads it. None: it goes to it as it is.
        sentences: of which harmless text is made.
    """
    by_family: dict[str, list[Attack]] = {}
    for attack in attacks:
        by_family.setdefault(attack.family, []).append(attack)
    clean, control = (round(share * config.rows) for share in (config.clean_share, config.control_share))
    rows = []
    for number in range(config.rows):
        generator = Random(f"harden/{config.seed}/{number}")
        attack = generator.choice(by_family[generator.choice(sorted(by_family))])
        fitting = [problem for problem in problems if attack.insertion in problem.insertions]
        if not fitting:
            raise UserError(
                f"no training problem has a place {attack.insertion!r}, where the attack {attack.text[:60]!r} goes: "
                "expected templates with it"
            )
        problem = generator.choice(fitting)
        target = wrong_answer(problem, number, config.distances)
        condition = "clean" if number < clean else "control" if number < clean + control else "attack"
        if condition == "attack":
            text = attack.prompt(problem, target)
        elif condition == "control":
            benign = benign_text(len(attack.render(problem, target)), number, sentences)
            text = problem.prompt(benign, attack.insertion)
        else:
            text = problem.prompt()
        rows.append(
            {
                "prompt": text if render is None else render(text),
                "answer": str(problem.answer),
                "completion": config.completion.replace("{answer}", str(problem.answer)),
                "condition": condition,
                "family": attack.family if condition == "attack" else condition,
                "attack": attack.id if condition == "attack" else "",
                "problem": problem.id,
                "target": str(target),
            }
        )
    Random(f"harden/{config.seed}/order").shuffle(rows)
    return [{"id": str(number), **row} for number, row in enumerate(rows)]


def attacks_to_measure(attacks: Sequence[Attack], most: int) -> list[Attack]:
    """Return at most so many attacks of each family, in the library's order; 0: all."""
    seen: dict[str, int] = {}
    found = []
    for attack in attacks:
        seen[attack.family] = seen.get(attack.family, 0) + 1
        if not most or seen[attack.family] <= most:
            found.append(attack)
    return found


def _kind(attack: Attack) -> str:
    """Return what must not be in training and test: the family, whatever the number of copies of a repetition."""
    return "repetition" if attack.author == "repetition" else attack.family
