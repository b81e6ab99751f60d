"""Detectors: splits that cannot leak, cached features, exact heads, early stops, saving, resuming, bad rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from tiny_policies import make_policy

from fionalm.errors import UserError
from fionalm.optim import OptimizerConfig
from fionalm.posttraining import (
    Detector,
    DetectorConfig,
    Policy,
    RewardConfig,
    RewardTrainer,
    evaluate_detector,
    split_by_group,
    train_detector,
)
from fionalm.posttraining.detector_features import fit_head, head_features
from fionalm.posttraining.detector_rows import SPLITS
from fionalm.posttraining.forward import features
from fionalm.posttraining.reward_model import RewardModel, ScalarHead

FAST = RewardConfig(epochs=6, patience=2, optimizer=OptimizerConfig(lr=5e-3), log_every=10)


def made_up(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of which those with an `a` are made up, more often after a `b`; four a subject."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        subject = "".join(generator.choice(list("abcdefgh"), 3))
        for _ in range(4):
            letters = list("aaacdefgh") if "b" in subject else list("cdefghcda")
            answer = "".join(generator.choice(letters, 3))
            rows.append(
                {
                    "prompt": f"{subject}>",
                    "completion": answer,
                    "label": int("a" in answer),
                    "group": f"{seed}/{number}",
                }
            )
    return rows


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Any]]:
    return split_by_group(made_up(150))


def gpt2_policy() -> Policy:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    return Policy(transformers.GPT2LMHeadModel(config), make_policy().tokenizer, device="cpu")


def texts(rows: list[Any]) -> tuple[list[str], list[str]]:
    return [row["prompt"] for row in rows], [row["completion"] for row in rows]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), min_size=3, max_size=60),
    st.randoms(use_true_random=False),
)
def test_no_group_and_no_prompt_is_on_two_sides(drawn: list[tuple[int, int]], random: Any) -> None:
    rows = [{"prompt": f"Q{prompt}", "group": group, "n": n} for n, (group, prompt) in enumerate(drawn)]
    try:
        found = split_by_group(rows)
    except UserError as error:
        assert "groups that share no prompt" in str(error)
        return
    assert sorted(row["n"] for part in found.values() for row in part) == list(range(len(rows)))
    assert all(found.values()) and tuple(found) == SPLITS
    for column in ("group", "prompt"):
        sides = [{row[column] for row in part} for part in found.values()]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    shuffled = random.sample(rows, len(rows))
    again = split_by_group(shuffled)
    assert {k: {r["n"] for r in v} for k, v in again.items()} == {k: {r["n"] for r in v} for k, v in found.items()}


def test_shares_are_kept_and_questions_that_differ_in_case_alone_are_one() -> None:
    found = split_by_group([{"prompt": f"q{n}"} for n in range(1000)])
    assert [len(found[name]) for name in SPLITS] == [600, 200, 200]
    assert split_by_group([{"prompt": f"q{n}"} for n in range(1000)], seed=1) != found
    with pytest.raises(UserError, match="1 groups"):
        split_by_group([{"prompt": "Who?"}, {"prompt": "who? "}, {"prompt": "WHO?"}])
    with pytest.raises(UserError, match="sum to 1"):
        split_by_group([{"prompt": "q"}], (0.5, 0.5, 0.5))


@pytest.mark.parametrize("kind", ["decoder", "gpt2"])
def test_cached_features_are_the_models(kind: str, tmp_path: Path, splits: dict[str, list[Any]]) -> None:
    """Also where one forward pass reads a prompt once for all its completions."""
    policy = make_policy() if kind == "decoder" else gpt2_policy()
    model = RewardModel(ScalarHead(policy.model), policy.tokenizer)
    examples = model.encode(*texts(splits["train"]))
    assert len({one.prompt_ids for one in examples}) < len(set(examples))
    found = head_features(model, examples, folder=tmp_path, micro_batch_tokens=64)
    assert list(tmp_path.iterdir())
    for index in range(0, len(examples), 37):
        ids = torch.tensor([[*examples[index].prompt_ids, *examples[index].completion_ids]])
        with torch.no_grad():
            alone = features(policy.model, ids)[0, -1]
        torch.testing.assert_close(found[index], alone, rtol=1e-5, atol=1e-5)
    for parameter in policy.model.parameters():
        parameter.data.zero_()  # what is on disk is not computed again
    assert torch.equal(head_features(model, examples, folder=tmp_path), found)


def test_the_head_is_the_exact_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 5)) * [1, 10, 0.1, 1, 0] + [0, 5, 0, 0, 3]
    y = (generator.random(400) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    inputs = torch.tensor(x, dtype=torch.float32)
    head = fit_head(inputs, y, [1e-3, 1e-1, 1e3], validation=(inputs, y))
    assert head.penalty == 1e-3 and head.losses[0] < head.losses[1] < head.losses[2]
    scale = np.where(x.std(0) > 0, x.std(0), 1)
    expected = LogisticRegression(C=1 / (1e-3 * 400), tol=1e-8, max_iter=5000).fit((x - x.mean(0)) / scale, y)
    wanted = expected.decision_function((x - x.mean(0)) / scale)
    assert x @ head.weight + head.bias == pytest.approx(wanted, abs=2e-3)
    assert fit_head(inputs, y, [1e-3, 1e-1, 1e3]).penalty == 1e-1


@pytest.mark.parametrize("variant", ["head", "full"])
def test_both_tasks_are_learnt_saved_and_resumed(variant: Any, tmp_path: Path, splits: dict[str, list[Any]]) -> None:
    policy = make_policy()
    before = copy.deepcopy(policy.model.state_dict())
    found = {}
    for task in ("sentence", "token"):
        config = DetectorConfig(variant=variant, task=task, training=FAST)  # pyright: ignore[reportArgumentType]
        where = {"validation": splits["validation"], "out": tmp_path / task, "quiet": True}
        detector = train_detector(policy, splits["train"], config, **where)
        found[task] = evaluate_detector(detector, splits["test"], resamples=100)
        probabilities = detector.probabilities(*texts(splits["test"]))
        assert min(probabilities) >= 0 and max(probabilities) <= 1
        loaded = Detector.load(tmp_path / task, device="cpu")
        assert loaded.probabilities(*texts(splits["test"])) == pytest.approx(probabilities, abs=1e-5)
        assert loaded.name == f"{variant}-{task}"
        detector.save(tmp_path / "copy" / task)
        copied = Detector.load(tmp_path / "copy" / task, device="cpu")
        assert copied.probabilities(*texts(splits["test"])) == pytest.approx(probabilities, abs=1e-5)
        again = train_detector(policy, splits["train"], config, **where)
        assert again.probabilities(*texts(splits["test"])) == pytest.approx(probabilities, abs=1e-5)
    assert all(torch.equal(before[name], value) for name, value in policy.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in policy.model.parameters())
    sentence, token = (found[task].auc_roc.estimate for task in ("sentence", "token"))
    assert sentence is not None and token is not None
    assert sentence > 0.95 and 0.6 < token < sentence
    ece = found["sentence"].ece
    assert ece is not None and ece < 0.15
    other = [*splits["train"][1:]]
    with pytest.raises(UserError):
        train_detector(policy, other, config, **where)


def test_adapters_are_merged_on_saving(tmp_path: Path, splits: dict[str, list[Any]]) -> None:
    pytest.importorskip("peft")
    config = DetectorConfig(variant="full", training=replace(FAST, epochs=1, lora_rank=2))
    detector = train_detector(make_policy(), splits["train"], config, validation=splits["validation"], quiet=True)
    detector.save(tmp_path)
    expected = detector.probabilities(*texts(splits["test"]))
    found = Detector.load(tmp_path, device="cpu").probabilities(*texts(splits["test"]))
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_token_task_reads_the_prompt_alone(splits: dict[str, list[Any]]) -> None:
    policy = make_policy()
    detector = train_detector(policy, splits["train"], DetectorConfig(task="token"), quiet=True)
    assert len(set(detector.logits(["abc>"] * 2, ["a", "hhhh"]))) == 1
    shown = train_detector(policy, splits["train"], DetectorConfig(), quiet=True)
    assert len(set(shown.logits(["abc>"] * 2, ["a", "hhhh"]))) == 2
    assert shown.calibrator.kind == "none"


def test_token_ids_are_read_as_they_were_drawn(splits: dict[str, list[Any]]) -> None:
    policy = make_policy()
    detector = train_detector(policy, splits["train"], quiet=True)
    prompt, answer = "abc>", "cde"
    ids = policy.tokenizer.encode_completion(answer)
    as_text, as_ids, cut = detector.logits(
        [prompt, policy.tokenizer.encode_prompt(prompt), prompt], [answer, ids, ids[:-1]]
    )
    assert as_text == pytest.approx(as_ids, abs=1e-5) and cut != pytest.approx(as_ids, abs=1e-3)


def test_a_head_knows_its_base_by_its_weights(tmp_path: Path, splits: dict[str, list[Any]]) -> None:
    policy = make_policy()
    policy.save(tmp_path / "base")
    named = Policy(policy.model, policy.tokenizer, device="cpu", name=str(tmp_path / "base"))
    detector = train_detector(named, splits["train"], validation=splits["validation"], quiet=True)
    detector.save(tmp_path / "head")
    assert not (tmp_path / "head" / "model").exists()
    expected = detector.logits(*texts(splits["test"]))
    assert Detector.load(tmp_path / "head", device="cpu").logits(*texts(splits["test"])) == pytest.approx(expected)
    assert Detector.load(tmp_path / "head", policy=policy).logits(*texts(splits["test"])) == pytest.approx(expected)
    make_policy(seed=1).save(tmp_path / "base")
    with pytest.raises(UserError, match="other weights"):
        Detector.load(tmp_path / "head", device="cpu")


def test_a_transformers_model_detects_too(splits: dict[str, list[Any]]) -> None:
    policy = gpt2_policy()
    detector = train_detector(policy, splits["train"], validation=splits["validation"], quiet=True)
    area = evaluate_detector(detector, splits["test"], resamples=0).auc_roc.estimate
    assert area is not None and area > 0.8


def test_a_reward_model_stops_early_with_its_best_weights_and_resumes(tmp_path: Path) -> None:
    """Labels that are noise: validation gets worse after a while, and the best weights come back after a kill, too."""
    generator = np.random.default_rng(0)
    rows = [{**row, "label": int(generator.integers(2))} for row in made_up(30)]
    held = [{**row, "label": int(generator.integers(2))} for row in made_up(15, 1)]
    config = replace(FAST, epochs=40, patience=2, batch_size=16)
    trainer = RewardTrainer(make_policy(), rows, config, validation=held, out=tmp_path / "one", quiet=True)
    found = trainer.run()
    measured = {row["step"] + 1: row["validation_loss"] for row in found.rows if "validation_loss" in row}
    assert found.best_step == min(measured, key=measured.__getitem__) < found.steps < 300
    assert found.validation_loss == pytest.approx(measured[found.best_step], abs=1e-5)
    again = RewardTrainer(make_policy(), rows, config, validation=held, out=tmp_path / "one", quiet=True)
    (tmp_path / "one" / "result.json").unlink()  # killed before the end was written
    resumed = again.run()
    assert (resumed.steps, resumed.best_step) == (found.steps, found.best_step)
    assert resumed.validation_loss == pytest.approx(found.validation_loss, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": 1}, "'train' holds hallucinated rows alone .2 of label 1."),
        ({"label": 0}, "'train' holds right rows alone"),
        ({"label": float("nan")}, "row 1 of the split 'train': the label was nan"),
        ({"prompt": None, "lable": 1}, "no column 'prompt'"),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], sentence: str) -> None:
    rows = [{"prompt": "a>", "completion": "b", "label": 0}, {"prompt": "b>", "completion": "b", "label": 1}]
    rows = [{key: value for key, value in {**row, **change}.items() if value is not None} for row in rows]
    with pytest.raises(UserError, match=sentence):
        train_detector(make_policy(), rows, quiet=True)


def test_other_mistakes_are_named(tmp_path: Path, splits: dict[str, list[Any]]) -> None:
    with pytest.raises(UserError, match="did you mean 'head'"):
        DetectorConfig(variant="heads")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="no rows"):
        train_detector(make_policy(), [], quiet=True)
    with pytest.raises(UserError, match="group .* is in the split 'validation' and in 'train'"):
        train_detector(make_policy(), splits["train"], validation=splits["train"][:3], quiet=True)
    apart = [{**row, "group": "another"} for row in splits["train"][:3]]
    with pytest.raises(UserError, match="prompt .* is in the split 'validation'"):
        train_detector(make_policy(), splits["train"], validation=apart, quiet=True)
    with pytest.raises(UserError, match="no detector"):
        Detector.load(tmp_path)


def test_a_test_split_of_one_class_is_evaluated(splits: dict[str, list[Any]]) -> None:
    detector = train_detector(make_policy(), splits["train"], quiet=True)
    right = [row for row in splits["test"] if row["label"] == 0]
    found = evaluate_detector(detector, right, resamples=50)
    assert found.auc_pr.estimate is None and "holds right rows alone" in str(found.auc_pr.undefined)
    single = train_detector(
        make_policy(),
        splits["train"],
        validation=[row for row in splits["validation"] if row["label"] == 1],
        quiet=True,
    )
    assert single.calibrator.kind == "none" and "only rows of label 1" in single.calibrator.reason
