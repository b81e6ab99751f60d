"""`fiona label-preferences`: from a judge, rewards or votes; resumed after a stop; mistakes in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fionalm.cli import main
from fionalm.data import character_tokenizer
from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.posttraining import Policy
from fionalm.posttraining.ai_feedback import PairScorer
from fionalm.sampling import EngineSampler
from fionalm.verifiers import Judge

ALPHABET = "".join(sorted(set(map(chr, range(32, 127))) | {"\n"}))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model with fresh weights."""
    tokenizer = character_tokenizer(ALPHABET)
    config = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), d_model=32, n_layers=2, max_seq_len=512)
    folder = tmp_path_factory.mktemp("judge")
    Policy(Decoder(config, torch.Generator().manual_seed(0)), tokenizer, device="cpu").save(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": f"Say {n}",
            "chosen": "x" * (n + 1),
            "rejected": f"no {n}",
            "r1": n / 4,
            "r2": 1.0,
            "up": n,
            "down": 3,
        }
        for n in range(10)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object) -> None:
    main([str(argument) for argument in ("label-preferences", *arguments)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_judges_labels_are_those_of_the_plain_engine_and_resume(
    judge: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fionalm.posttraining import load_policy

    out = tmp_path / "out"
    answer, asked = PairScorer.score, []

    def stop_after_one(self: PairScorer, prompts: Any, choices: Any) -> Any:
        if asked:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return answer(self, prompts, choices)

    monkeypatch.setattr(PairScorer, "score", stop_after_one)
    with pytest.raises(SystemExit) as stopped:
        run(pairs, "--judge", judge, "--out", out, "--quiet")
    assert stopped.value.code == 130 and asked == [16]

    def count(self: PairScorer, prompts: Any, choices: Any) -> Any:
        asked.append(len(prompts))
        return answer(self, prompts, choices)

    monkeypatch.setattr(PairScorer, "score", count)
    run(pairs, "--judge", judge, "--out", out, "--quiet")
    assert asked == [16, 16, 8]
    found = read(out / "pairs.jsonl")
    assert [{key: value for key, value in row.items() if key != "soft_label"} for row in found] == read(pairs)
    policy = load_policy(judge)
    rows = read(pairs)
    plain = Judge(EngineSampler(policy.model, policy.tokenizer)).preferences(
        *([row[name] for row in rows] for name in ("prompt", "chosen", "rejected"))
    )
    assert [row["soft_label"] for row in found] == pytest.approx(plain, abs=1e-5)
    assert len({row["soft_label"] for row in found}) > 5
    assert (out / "report.html").exists() and (out / "figures" / "labels.svg").exists()


def test_pairs_that_the_judge_does_not_answer_are_left_out(
    judge: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in answers as an endpoint does that lists neither choice for some questions."""
    from fionalm.commands import label_preferences as module

    class Listing:
        tokenizer = None

        def __init__(self, silent: str) -> None:
            self.silent = silent

        def choice_logps(self, prompts: Any, choices: Any) -> list[list[float]]:
            return [[-math.inf] * 2 if self.silent in str(prompt) else [-0.1, -2.4] for prompt in prompts]

    monkeypatch.setattr(module, "_judge", lambda *_: Judge(Listing("no 3")))
    run(pairs, "--judge", judge, "--out", tmp_path / "some", "--quiet")
    assert len(read(tmp_path / "some" / "pairs.jsonl")) == 9
    assert [row["rejected"] for row in read(tmp_path / "some" / "unanswered.jsonl")] == ["no 3"]
    monkeypatch.setattr(module, "_judge", lambda *_: Judge(Listing("Say")))
    with pytest.raises(SystemExit) as stopped:
        run(pairs, "--judge", judge, "--out", tmp_path / "none", "--quiet")
    assert stopped.value.code == 2


def test_rewards_votes_and_a_re_sampling(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        pairs,
        "--rewards",
        "r1",
        "r2",
        "--reward-scale",
        2,
        "--resample",
        "stairs",
        "--size",
        9,
        "--out",
        tmp_path / "r",
    )
    found = read(tmp_path / "r" / "pairs.jsonl")
    assert [row["soft_label"] for row in found] == pytest.approx(
        [float(torch.sigmoid(torch.tensor(2 * (n / 4 - 1.0)))) for n in range(10)]
    )
    kept = read(tmp_path / "r" / "resampled.jsonl")
    assert kept and all(row in found for row in kept)
    assert "modest labels" in capsys.readouterr().out
    run(pairs, "--votes", "up", "down", "--vote-prior", 1, "--out", tmp_path / "v")
    assert [row["soft_label"] for row in read(tmp_path / "v" / "pairs.jsonl")] == pytest.approx(
        [(n + 1) / (n + 5) for n in range(10)]
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no source of labels: expected one of --judge, --rewards, --votes"),
        (("--votes", "up", "down", "--rewards", "r1", "r2"), "--rewards and --votes: expected one of"),
        (("--votes", "up", "don"), "has no column 'don'.*did you mean 'down'"),
        (("--rewards", "r1", "chosen"), "row 1: r1 is 0.0 and chosen is 'x': expected numbers"),
        (("--votes", "up", "down", "--resample", "stair"), "did you mean 'stairs'"),
        (("--votes", "up", "down", "--columns", "best=up"), "expected OURS=THEIRS with OURS one of"),
        (("--judge", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...], sentence: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    with pytest.raises(SystemExit) as stopped:
        run(pairs, *arguments, "--out", tmp_path / "out")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and re.search(sentence, said), said
    assert len(said.strip().splitlines()) == 1


def test_a_scorer_takes_prompts_in_twos(judge: Path) -> None:
    from fionalm.posttraining import load_policy

    policy = load_policy(judge)
    scorer = PairScorer(policy)
    prompts, completions = ["ab", "ab", "c", "c"], ["x", "yz", "zzz", "q"]
    plain = EngineSampler(policy.model, policy.tokenizer).score(prompts, completions)
    found = scorer.score(prompts, completions)
    assert list(map(len, found)) == [1, 2, 3, 1]
    for mine, theirs in zip(found, plain, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    with pytest.raises(UserError, match="expected each prompt twice"):
        scorer.score(["a", "b"], ["x", "y"])
    with pytest.raises(UserError, match="judge's context of 512"):
        scorer.score(["a" * 600] * 2, ["x", "y"])


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fionalm.cli", "label-preferences", "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--judge", "--rewards", "--votes", "--resample", "--criterion", "--out"):
        assert option in done.stdout
