"""`fiona finetune`: every method from its command, the preflight, the run folder, and mistakes in one sentence."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.posttraining import Policy

from .conftest import Fiona

SHORT = ["--batch-size", "4", "--micro-batch-tokens", "200", "--quiet"]
DRAWS = ["--verifier", "number", "--steps", "2", "--samples-per-prompt", "4", "--max-tokens", "4"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A decoder of single digits, in a folder."""
    tokenizer = character_tokenizer("0123456789+= ")
    config = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), d_model=16, n_layers=1, n_heads=2, max_seq_len=32)
    Policy(Decoder(config, torch.Generator().manual_seed(0)), tokenizer, device="cpu").save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """Rows of every kind: a sum, its solution and answer, and a wrong one with a soft label."""
    chance = random.Random(0)
    rows = []
    for _ in range(12):
        a, b = chance.randrange(5), chance.randrange(5)
        wrong = (a + b + 1 + chance.randrange(8)) % 10
        rows.append(
            {
                "prompt": f"{a}+{b}=",
                "completion": str(a + b),
                "answer": str(a + b),
                "chosen": str(a + b),
                "rejected": str(wrong),
                "soft_label": chance.choice([0.05, 0.6, 0.95, 1]),
            }
        )
    return _written(tmp_path / "sums.jsonl", rows)


def _written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


PAIR = {"prompt": "1", "chosen": "2", "rejected": "3"}
EM = "--verifier number --iterations 1 --samples-per-problem 64 --temperature 1 --max-tokens 3 --epochs 1"
METHODS = {
    "sft": ["--epochs", "1", "--max-tokens", "4"],
    "rest-em": [*EM.split(), "--top-k", "0"],
    "bon-sft": [*DRAWS, "--n", "2"],
    "bon-rl-s": [*DRAWS, "--n", "2"],
    "bon-rlb": [*DRAWS, "--n", "2"],
    "bon-rlb-p": [*DRAWS, "--n", "2", "--lora-rank", "2", "--kl-coef", "0.1"],
    "reinforce": DRAWS,
    "grpo": DRAWS,
    "dpo": ["--steps", "2"],
    "cdpo": ["--steps", "2"],
    "geometric-dpo": ["--steps", "2", "--lora-rank", "2"],
    "ipo": ["--steps", "2"],
    "cipo": ["--steps", "2"],
    "geometric-ipo": ["--steps", "2"],
    "ropo": ["--steps", "2"],
    "geometric-ropo": ["--steps", "2"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_model_metrics_and_a_report(
    fiona: Fiona, tiny: Path, sums: Path, tmp_path: Path, method: str
) -> None:
    words = ["--model", tiny, "--data", sums, "--validation", "0.25", *SHORT, *METHODS[method]]
    done = fiona("finetune", method, *words, "--out", "run")
    assert done.code == 0, done.err
    out = tmp_path / "run"
    assert done.last_line.startswith(f"figure: {out / 'figures'}")
    assert all((out / name).is_file() for name in ("report.html", "result.json", "model/config.json"))
    assert _metrics(out)
    assert (out / "model" / "adapter").exists() == ("--lora-rank" in METHODS[method])


def test_a_reward_model_selects_in_bon_rl_v(fiona: Fiona, tiny: Path, sums: Path, tmp_path: Path) -> None:
    words = ["--model", tiny, "--data", sums, *SHORT]
    done = fiona("finetune", "reward", *words, "--steps", "2", "--validation", "0.25", "--out", "pairs")
    assert done.code == 0, done.err
    assert "right in validation" in done.out and done.last_line.endswith("loss.svg")
    judged = [{"prompt": f"{i}+1=", "completion": str(i), "right": i % 2} for i in range(8)]
    labelled = ["--data", _written(tmp_path / "j.jsonl", judged), "--columns", "label=right", "--steps", "2", *SHORT]
    done = fiona("finetune", "reward", "--model", tiny, *labelled, "--out", "labels")
    assert done.code == 0, done.err
    done = fiona("finetune", "bon-rl-v", *words, *DRAWS, "--n", "2", "--reward-model", "pairs", "--out", "v")
    assert done.code == 0, done.err
    assert (tmp_path / "v" / "model" / "config.json").is_file()
    done = fiona("finetune", "bon-rl-v", *words, *DRAWS, "--n", "2", "--out", "w")
    assert done.code == 2 and "bon-rl-v was given no selecting verifier" in done.err


def test_a_finished_run_is_read_and_its_model_goes_on(fiona: Fiona, tiny: Path, sums: Path, tmp_path: Path) -> None:
    words = ["--data", sums, "--validation", "0.25", *SHORT, "--steps", "2", "--samples", "1", "--max-tokens", "2"]
    done = fiona("finetune", "sft", "--model", tiny, *words, "--out", "run")
    assert done.code == 0, done.err
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = fiona("finetune", "sft", "--model", tiny, *words, "--out", "run")
    assert again.code == 0 and again.out == done.out
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written
    other = fiona("finetune", "sft", "--model", tiny, *words, "--out", "run", "--seed", "1")
    assert other.code == 2 and "folder of another run, whose seed is 0 and not 1" in other.err
    following = fiona("finetune", "sft", "--model", "run", *words, "--out", "next", "--preflight-only")
    assert following.code == 0, following.err
    assert not (tmp_path / "next").exists()


def test_the_preflight_shows_what_the_model_reads(fiona: Fiona, tiny: Path, sums: Path) -> None:
    done = fiona("finetune", "geometric-dpo", "--model", tiny, "--data", sums, "--preflight-only", "--epochs", "2")
    assert done.code == 0, done.err
    first = json.loads(sums.read_text().splitlines()[0])
    assert f"--- first row: prompt\n{first['prompt']}\n" in done.out
    assert f"--- first row: chosen\n{first['chosen']}<|endoftext|>\n" in done.out
    assert "12 rows, 0 to validate" in done.out
    assert "steps      2; about" in done.out
    assert "memory     about" in done.out
    assert "there is no soft_label" not in done.out
    labels = [json.loads(line)["soft_label"] for line in sums.read_text().splitlines()]
    for low, high in ((0.0, 0.1), (0.6, 0.7), (0.9, 1.01)):
        count = sum(low <= label < high for label in labels)
        assert f"{low:.1f} to {min(high, 1):.1f} {count:>7}" in done.out


def test_the_preflight_says_when_there_are_no_soft_labels(fiona: Fiona, tiny: Path, tmp_path: Path) -> None:
    words = ["--model", tiny, "--data", _written(tmp_path / "d.jsonl", [PAIR]), "--preflight-only"]
    assert "note: there is no soft_label: every pair" in fiona("finetune", "geometric-dpo", *words).out
    assert "soft_label" not in fiona("finetune", "dpo", *words).out


def test_columns_templates_limits_and_held_out_rows(fiona: Fiona, tiny: Path, tmp_path: Path) -> None:
    data = _written(tmp_path / "d.jsonl", [{"a": i, "b": 1, "sum": str(i + 1)} for i in range(8)])
    words = ["--model", tiny, "--data", data, "--columns", "completion=sum", "--limit", "7", "--preflight-only"]
    template = ["--prompt-template", "{a}+{b}=\\n"]
    done = fiona("finetune", "sft", *words, *template, "--validation", "2")
    assert done.code == 2 and "--validation 2: expected a share between 0 and 1" in done.err
    done = fiona("finetune", "sft", *words, *template, "--validation", "0.2")
    assert done.code == 0, done.err
    assert "6 rows, 1 to validate" in done.out
    assert "--- first row: prompt\n0+1=" in done.out
    text = _written(tmp_path / "e.jsonl", [{"ask": "1+1=", "completion": "2"}])
    done = fiona("finetune", "sft", "--model", tiny, "--data", text, "--columns", "prompt=ask", "--preflight-only")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("method", "rows", "words", "sentence"),
    [
        ("sft", [{"promt": "1", "completion": "2"}], [], "no column 'prompt': it has promt, completion; did you mean"),
        ("sft", [{"prompt": "1", "completion": " "}], [], "row 1 of d.jsonl: completion is empty"),
        ("sft", [{"prompt": "1" * 40, "completion": "2"}], [], "row 1: the prompt's 40 tokens"),
        ("sft", [{"prompt": "1", "completion": "2"}], ["--chat"], "has no chat template"),
        (
            "dpo",
            [{"prompt": "1", "chosen": "2", "rejected": "3", "soft_label": 2}],
            [],
            "row 1 of d.jsonl: soft_label is 2",
        ),
        ("grpo", [{"prompt": "1", "answer": "none"}], ["--verifier", "number"], "answer number 1 holds no number"),
        ("grpo", [{"prompt": "1", "answer": "2"}], ["--verifier", "numbr"], "did you mean 'number'"),
        ("grpo", [{"prompt": "1", "answer": "2"}], [], "--verifier"),
        ("grpo", [{"prompt": "1" * 40, "answer": "2"}], ["--verifier", "number"], "row 1: the prompt's 40 tokens"),
        ("sft", [{"prompt": "1", "completion": "2"}], ["--limit", "0"], "--limit 0: expected at least 1"),
    ],
)
def test_a_mistake_gets_one_sentence(
    fiona: Fiona, tiny: Path, tmp_path: Path, method: str, rows: list[Any], words: list[str], sentence: str
) -> None:
    _written(tmp_path / "d.jsonl", rows)
    done = fiona("finetune", method, "--model", tiny, "--data", "d.jsonl", "--out", "run", *words)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_out_and_model_are_asked_for(fiona: Fiona, tiny: Path, sums: Path) -> None:
    done = fiona("finetune", "sft", "--model", tiny, "--data", sums, "--quiet")
    assert done.code == 2 and "--out was not given" in done.err
    done = fiona("finetune", "sft", "--model", "smolm2", "--data", sums, "--out", "run")
    assert done.code == 2 and "did you mean 'smollm2'" in done.err
    done = fiona("finetune", "geometric-dp")
    assert done.code == 2 and "did you mean 'geometric-dpo'" in done.err


def test_the_pages_commands_parse_and_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    from fionalm import cli
    from fionalm.commands import finetune

    page = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text()
    lines = [line for line in re.findall(r"^(?:fiona|torchrun) .*$", page, re.MULTILINE) if "--model" in line]
    assert len(lines) == 4
    for line in lines:
        method, *words = shlex.split(line.partition("finetune ")[2])
        command = getattr(finetune, method.replace("-", "_"))
        assert str(cli._parse(command, f"fiona finetune {method}", words)["model"]) in line
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(program, {})
    assert float(capsys.readouterr().out.split()[0]) > 0
