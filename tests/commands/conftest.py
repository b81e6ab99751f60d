"""The command line inside the test's process: importing torch anew for every command would cost seconds each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fionalm.cli import main

TINY_MODEL = "--model.d-model 16 --model.n-layers 1 --model.n-heads 2 --model.vocab-size 300"
TINY_DATA = "--data.vocab-size 300 --data.max-bytes 200000 --data.seq-len 32"
TINY = f"{TINY_MODEL} {TINY_DATA} --batch-size 4 --eval-batches 2 --steps 6 --quiet".split()


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.strip().splitlines()[-1]


Fiona = Callable[..., Done]


@pytest.fixture
def fiona(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fiona:
    """Run a command in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A configuration of transformers' GPT-2 as small as TINY."""
    # Ids within the vocabulary: with GPT-2's own, transformers warns.
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    return _written(tmp_path / "gpt2.json", {"model_type": "gpt2", "vocab_size": 280, **shape})


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A configuration of transformers' Llama as small as TINY."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return _written(tmp_path / "llama.json", {"model_type": "llama", "vocab_size": 300, **shape})


@pytest.fixture
def mamba(tmp_path: Path) -> Path:
    """A causal model whose parameters include some that have no layer kind."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    return _written(tmp_path / "mamba.json", {"model_type": "mamba", "vocab_size": 300, **shape})


def _written(path: Path, values: dict[str, object]) -> Path:
    path.write_text(json.dumps(values))
    return path
