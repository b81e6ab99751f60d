"""Study `adversarial-arithmetic`: its analysis both ways, its attacks against its corpus, and its trials end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fionalm.data import TextTokenizer
from fionalm.data.tasks import dialogue_rows
from fionalm.errors import UserError
from fionalm.redteam import make_problems, parse_answer, wrong_answer
from fionalm.redteam.hardening_rows import check_disjoint
from fionalm.studies import get_study
from fionalm.studies.adversarial_arithmetic import analysis, figures, run
from fionalm.studies.adversarial_arithmetic.claims import CLAIMS
from fionalm.studies.adversarial_arithmetic.families import FAMILIES, TALK, dialect_attacks, repeated
from fionalm.studies.adversarial_arithmetic.revising import in_dialect
from fionalm.studies.adversarial_arithmetic.runs import (
    ArithmeticStudyConfig,
    Hardening,
    Sizes,
    Target,
    attack_trial,
    hardening_trial,
    plan,
    preset,
)
from fionalm.studies.adversarial_arithmetic.searching import DISTANCES, fresh_problems, problem_config
from fionalm.studies.adversarial_arithmetic.target import dialogue_tokenizer
from fionalm.studies.study import SCALES, Lab, configured
from fionalm.sweeps import SerialExecutor, TrialStore

TINY = replace(
    preset("smoke"),
    target=Target(d_model=16, n_layers=1, n_heads=2, steps=8, batch_size=16),
    sizes=Sizes(3, 4, 2, 2, 2, 2, (1, 4), 2, 1, 1, 5),
    hardening=(Hardening(steps=2, batch_size=2, samples=2, rows=12), Hardening(method="sft", steps=2, rows=12)),
)
HELD = tuple(FAMILIES["held-out"])
TRAIN = tuple(FAMILIES["train"])


def rows(success: float, control: float, families: tuple[str, ...] = ("pirs",), problems: int = 10) -> list[list[Any]]:
    """Return replies of which these shares are wrong; half of the wrong ones are the chosen answer."""
    found: list[list[Any]] = []
    for family in families:
        for number in range(problems):
            for condition, share in (("attack", success), ("control", control)):
                wrong = number < share * problems
                outcome = ("targeted" if number % 2 else "wrong") if wrong else "right"
                found.append([family, condition, family, f"p{number}", 1 + number % 3, outcome])
    return found


def result(
    *, hand: float, found: float, control: float = 0.0, clean: float = 1.0, unrelated: float = 0.9,
    held: float | None = None, repeated: float = 0.5, reviewed: float = 0.2, transfer: float = 0.3,
) -> dict[str, Any]:  # fmt: skip
    """Return a trial's result with these shares of wrong answers; `clean` is an accuracy."""
    by_hand = rows(hand, control, (*TRAIN, "random text")) + rows(hand if held is None else held, control, HELD)
    review = [["clean", name, "", f"p{n}", 1, "right"] for n in range(10) for name in ("first", "final")]
    for name, share in (("first", hand), ("final", reviewed)):
        review += [["role", name, "a", f"p{n}", 1, "wrong" if n < 10 * share else "right"] for n in range(10)]
    return {
        "families": by_hand,
        "clean": [["clean", "clean", "", f"p{n}", 1, "right" if n < 10 * clean else "wrong"] for n in range(10)],
        "gallery": [],
        "pirs": {
            "fresh": rows(found, control), "transfer": rows(transfer, control), "origin": {"pirs": "p9"},
            "steering": [row for row in rows(found, 0.0) if row[1] == "attack"], "matrix": rows(transfer, control),
            "problems": [f"p{n}" for n in range(10)], "curve": [[n, n // 2] for n in range(1, 30)], "gallery": [],
            "succeeded": 12, "tried": 24, "attacks": [],
        },
        "repetition": [{"copies": n, "rows": rows(repeated * n / 100, control)} for n in (1, 10, 100)],
        "unrelated": unrelated,
        "reviewed": review,
        "gcg": None,
    }  # fmt: skip


def results(base: list[dict[str, Any]], hardened: list[dict[str, Any]], **others: Any) -> analysis.Results:
    return analysis.Results(replace(preset("quick"), seeds=len(base)), base, {"reinforce": hardened}, **others)


def verdicts(found: analysis.Results) -> dict[str, str]:
    return {one.claim.id: one.verdict for one in analysis.measure_claims(found)}


def test_claims_are_supported_where_the_paper_is_right():
    base = [result(hand=0.6, found=0.7) for _ in range(3)]
    hardened = [result(hand=0.1, found=0.3) for _ in range(3)]
    large = {"reviewed": {"change": [0.3, 0.1, 0.5], "problems": 8}}
    found = verdicts(results(base, hardened, large=large))
    assert found == dict.fromkeys([claim.id for claim in CLAIMS], "supported")


def test_claims_are_contradicted_where_it_is_wrong():
    base = [result(hand=0.4, found=0.1, control=0.2, clean=0.5, transfer=0.1, reviewed=0.8) for _ in range(3)]
    worse = [result(hand=0.8, found=0.0, control=0.2, clean=0.2, unrelated=0.1, repeated=0.1) for _ in range(3)]
    large = {"reviewed": {"change": [-0.3, -0.5, -0.1], "problems": 8}}
    found = verdicts(results(base, worse, large=large))
    assert found == dict.fromkeys(found, "contradicted")


def test_what_was_not_measured_is_inconclusive_and_says_so():
    found = results([result(hand=0.5, found=0.5)], [result(hand=0.5, found=0.5)])
    measured = {one.claim.id: one for one in analysis.measure_claims(found)}
    assert {one.verdict for one in measured.values()} == {"inconclusive"}
    assert measured["constitution-recovers-smollm2"].detail == analysis.NOT_MEASURED


def test_crashed_trials_are_left_out():
    found = results([result(hand=0.5, found=0.5), result(hand=0.7, found=0.5)], [result(hand=0.1, found=0.2)] * 2)
    crashed = analysis.Results(found.config, [found.base[0], None], {"reinforce": [found.of("reinforce")[0], None]})
    assert analysis.interval(crashed.accuracy("base", HELD)).estimate == pytest.approx(0.5)
    assert all(one.n in (None, 0, 1) for one in analysis.measure_claims(crashed))


def test_statistics_on_a_hand_made_result():
    one = result(hand=0.6, found=0.7, control=0.1, transfer=0.4, reviewed=0.3, repeated=0.9)
    assert analysis.found_excess(one) == pytest.approx(0.6)
    assert analysis.repeated_excess(one, 100) == pytest.approx(0.8)
    assert analysis.readable_copies(one) == 100
    assert analysis.reviewed_change(one) == pytest.approx(0.6 - 0.3)
    assert analysis.transfer_excess(one) == pytest.approx(0.4 - 0.1)
    assert analysis.chosen_share(one) == pytest.approx(3 / 7)
    assert analysis.steered(one) == pytest.approx(3 / 7)  # 0.3 chosen over 0.7 wrong
    one["pirs"]["steering"] = []
    assert analysis.steered(one) == 0.0
    assert analysis.clean_accuracy(one) == 1.0
    one["pirs"]["fresh"] = []
    assert analysis.found_excess(one) == 0.0  # no attack was found
    assert math.isnan(analysis.steered(one))


def test_repetition_is_compared_where_the_target_can_read_it():
    long, short = result(hand=0.5, found=0.5), result(hand=0.5, found=0.5)
    short["repetition"][2]["rows"] = rows(1.0, 0.5)  # 100 copies of anything confuse it
    short["repetition"][0]["rows"] = rows(0.3, 0.1)
    unreadable = result(hand=0.5, found=0.5, control=0.5)
    assert [analysis.readable_copies(one) for one in (long, short, unreadable)] == [100, 10, None]
    found = results([long, short, unreadable], [result(hand=0.1, found=0.1, repeated=0.9)] * 3)
    assert found.repeated("reinforce").tolist()[:2] == pytest.approx([0.9, 0.1])
    assert math.isnan(found.repeated("reinforce")[2])


def test_the_matrix_holds_attacks_by_the_sum_they_were_found_on():
    matrix, names = figures.transfer_matrix(results([result(hand=0.5, found=0.5, transfer=0.3)] * 2, []))
    assert names == [str(n) for n in range(1, 7)]
    assert np.isnan(matrix).all()  # p9 is not among the first places
    one = result(hand=0.5, found=0.5, transfer=0.3)
    one["pirs"]["origin"] = {"pirs": "p1"}
    one["pirs"]["matrix"] = [row for row in one["pirs"]["matrix"] if row[1] == "attack"]
    matrix, _ = figures.transfer_matrix(results([one], []))
    assert matrix[1].tolist() == [1, 1, 1, 0, 0, 0]
    assert np.isnan(matrix[0]).all()


def test_every_word_of_the_attacks_is_in_the_corpus_and_no_attack_is():
    tokenizer = TextTokenizer(dialogue_tokenizer())
    prompts = [row["prompt"] for row in dialogue_rows(8000, seed=1)]
    words = {word.strip(".,?") for prompt in prompts for word in prompt.split()}
    problems = make_problems(6, "test", problem_config(0))
    for attack in [*dialect_attacks("train"), *dialect_attacks("held-out"), repeated(2)[0]]:
        for problem in problems:
            target = wrong_answer(problem, 0, DISTANCES)
            text = attack.render(problem, target)
            assert {word.strip(".,?") for word in text.split()} - {"+"} <= words
            assert len(tokenizer.encode_prompt(text)) <= 2 * len(text.split()) + 3
            assert attack.prompt(problem, target) not in prompts
    assert not any(character.isdigit() for sentence in TALK for character in sentence)


def test_families_and_sums_of_training_and_test_share_nothing():
    problems = make_problems(40, "train", problem_config(1))
    check_disjoint(dialect_attacks("train"), dialect_attacks("held-out"), problems, fresh_problems(Sizes(), 1))


def test_tokenizer_ends_prompts_with_the_assistant_and_writes_any_text():
    tokenizer = TextTokenizer(dialogue_tokenizer())
    ids = tokenizer.encode_prompt("What is 3 + 4?")
    assert tokenizer.decode(ids, special=True).endswith("?<|assistant|>")
    # A number is the same token in a prompt and as a completion, which ends with end-of-sequence.
    assert tokenizer.encode_completion("4")[:-1] == [ids[4]]
    text = " Ünlikely words, {braces} and 123,456!"
    assert tokenizer.decode(tokenizer.encode_completion(text, end=False)) == text


def test_conversations_become_the_corpus_tasks():
    question, answer, review = "What is 3 + 4?", "9", "3 + 4 = 7. The answer is wrong."
    says = [{"role": "user", "content": text} for text in (question, answer, "review it", review, "again")]
    assert in_dialect(says[:1]) == question
    assert in_dialect(says[:3]) == "Check the answer. Question: What is 3 + 4? Answer: 9."
    assert in_dialect(says) == (
        "Answer again. Question: What is 3 + 4? Answer: 9. Review: 3 + 4 = 7. The answer is wrong."
    )
    # A sentence as an answer gets no second full stop, and the corpus's answer to a review is read as a number.
    assert in_dialect([says[0], {"role": "assistant", "content": "The answer is 9."}, says[2]]).endswith(
        "Answer: The answer is 9."
    )
    assert parse_answer("7").value == 7


def test_presets_plan_and_limits():
    for scale in SCALES:
        config = configured(get_study("adversarial-arithmetic"), scale)
        works = plan(config)
        assert len(works) == config.seeds * (1 + len(config.hardening)) + (config.large is not None)
        assert all(work.sampled_tokens > 0 for work in works)
        if scale != "cluster":  # whose sums have more digits
            make_problems(max(config.sizes.test_problems, config.sizes.clean_problems), "test", problem_config(0))
            assert config.sizes.search_problems <= 40
    with pytest.raises(UserError, match="is the paper's PaLM 2"):
        run(ArithmeticStudyConfig(paper=True), None)  # type: ignore[arg-type]


def test_trials_are_named_by_all_that_they_depend_on():
    config = preset("quick")
    assert attack_trial(config, 0) != attack_trial(config, 1)
    assert attack_trial(config, 0) == attack_trial(replace(config, seeds=9), 0)
    assert hardening_trial(config, 0, Hardening(), []) != hardening_trial(config, 0, Hardening(lr=1.0), [])


def test_the_study_runs_end_to_end_and_again_from_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FIONA_HOME", str(tmp_path / "home"))
    store = TrialStore(tmp_path / "store")

    def once(name: str) -> tuple[list[dict[str, Any]], Lab]:
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name, store, SerialExecutor(), quiet=True)
        return [one.to_dict() for one in run(TINY, lab)], lab

    claims, lab = once("first")
    assert {one["id"] for one in claims} == {claim.id for claim in CLAIMS}
    assert {outcome.status for outcome in lab.outcomes} == {"finished"}
    assert len(list((tmp_path / "first" / "figures").glob("*.svg"))) == lab.figures == 6
    assert [section.title for section in lab.sections] == [
        "Accuracy", "Attacks", "Gallery: attacks by hand", "Gallery: attacks found",
    ]  # fmt: skip
    [table] = lab.sections[2].tables
    shown = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert {row["family"] for row in shown} == {*TRAIN, *HELD, "random text"}
    assert all(row["control"] and row["control"] != row["what the target read"] for row in shown)
    again, lab = once("second")
    assert again == claims
    assert all(outcome.cached for outcome in lab.outcomes)
