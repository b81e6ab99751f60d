"""Training on the triples of a knowledge graph: padding counts for nothing, and runs resume bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fionalm.data import IGNORED, TripleConfig, load_triples
from fionalm.data.knowledge import SyntheticGraph
from fionalm.errors import UserError
from fionalm.models import Decoder
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig
from fionalm.training import LossModule, TrainConfig, estimate, evaluate, train
from fionalm.training.step import predicted, train_step

DATA = TripleConfig(
    graph="synthetic", synthetic=SyntheticGraph(subjects=20, predicates=3, objects=10), vocab_size=320, seq_len=16
)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig(
        model=DecoderConfig(vocab_size=320, d_model=16, n_layers=2, n_heads=2, max_seq_len=32),
        data=DATA,
        optimizer=OptimizerConfig(lr=1e-2),
        batch_size=8,
        steps=14,
        eval_batches=1,
        log_every=1,
        grad_accumulation=2,
        checkpoint_every=3,
    )


@pytest.mark.parametrize("takes_head", [True, False])
def test_what_is_ignored_changes_neither_loss_nor_gradient(takes_head):
    model = Decoder(DecoderConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2, max_seq_len=16))
    module = LossModule(model)
    module.takes_head = takes_head
    rows = [[3, 5, 7], [9, 11, 13, 15, 17]]
    sums = [module(torch.tensor([row])).total * (len(row) - 1) for row in rows]
    mean = (sums[0] + sums[1]) / 6
    expected = torch.autograd.grad(mean, list(model.parameters()), retain_graph=True)
    padded = torch.tensor([[*row, *[IGNORED] * (7 - len(row))] for row in rows])
    total = module(padded).total
    torch.testing.assert_close(total, mean)
    for found, wanted in zip(torch.autograd.grad(total, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(evaluate(module, [padded[:1], padded[1:]]), total.detach())


def test_parts_of_different_lengths_count_by_their_tokens():
    corpus = load_triples(DATA)
    loader = corpus.loader(6, 0, seed=2)
    batch, gradients = loader.batch(1), []
    assert len({predicted(row[None]) for row in batch}) > 1
    for parts in (1, 3):
        model = Decoder(DecoderConfig(vocab_size=320, d_model=16, n_layers=1, n_heads=2, max_seq_len=16))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        model.load_state_dict(gradients[0][1] if gradients else model.state_dict())
        done = train_step(LossModule(model), optimizer, batch, parts=parts, shares=loader.shares(1, parts))
        gradients.append(([parameter.grad for parameter in model.parameters()], model.state_dict(), done.statistics[0]))
    torch.testing.assert_close(gradients[0][2], gradients[1][2])
    for whole, cut in zip(gradients[0][0], gradients[1][0], strict=True):
        torch.testing.assert_close(whole, cut, atol=1e-6, rtol=1e-4)


def test_the_loss_falls_and_the_model_is_kept(config, tmp_path):
    result = train(replace(config, steps=40), out=tmp_path / "run", quiet=True)
    assert result.losses[-1][1] < result.initial_loss - 1
    assert (tmp_path / "run" / "model" / "tokenizer.json").exists()
    assert TrainConfig.load(tmp_path / "run" / "config.json") == replace(config, steps=40)


def test_a_killed_run_ends_with_the_same_numbers(config, tmp_path):
    class StopAt:
        def begin(self, step: int) -> None:
            if step == 8:
                raise RuntimeError("killed")

        def end(self, step: int) -> None:
            return None

    train(config, out=tmp_path / "whole", quiet=True)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, out=tmp_path / "killed", probes=[StopAt()], quiet=True)
    train(config, out=tmp_path / "killed", quiet=True)
    whole, killed = (_metrics(tmp_path / run) for run in ("whole", "killed"))
    assert whole == killed
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]


def _metrics(run: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def test_a_run_resumed_on_another_graph_is_refused(config, tmp_path):
    path = tmp_path / "graph.tsv"
    path.write_text("".join(f"s{i}\tp\to{i % 7}\n" for i in range(40)))
    chosen = replace(config, data=replace(DATA, graph=str(path)), steps=4, checkpoint_every=1)
    with pytest.raises(RuntimeError, match="stop"):
        train(chosen, out=tmp_path / "run", probes=[_Stop()], quiet=True)
    path.write_text("".join(f"s{i}\tp\to{i % 6}\n" for i in range(40)))
    with pytest.raises(UserError, match="was begun with the corpus"):
        train(chosen, out=tmp_path / "run", quiet=True)
    assert chosen.with_absolute_paths().input_files == [path]


class _Stop:
    def begin(self, step: int) -> None:
        if step == 2:
            raise RuntimeError("stop")

    def end(self, step: int) -> None:
        return None


def test_a_triple_config_survives_json(config):
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.config_hash != replace(config, data=replace(DATA, fraction=0.5)).config_hash
    assert estimate(config).tokens == 14 * 8 * 16


def test_a_model_that_is_too_small_for_the_graph_is_refused(config):
    small = replace(config, model=replace(config.model, vocab_size=100))
    with pytest.raises(UserError, match="model.vocab_size 100 is too small"):
        train(small, quiet=True)


@pytest.mark.slow
def test_two_processes_train_as_one(config, tmp_path):
    one = train(config, out=tmp_path / "one", quiet=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "run.json").write_text(config.to_json())
    script = Path(__file__).parent / "distributed_triples.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    subprocess.run([*command, tmp_path / "two"], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    losses = json.loads((tmp_path / "two" / "run" / "result.json").read_text())["losses"]
    assert len(losses) == len(one.losses)
    for (step, loss), (other_step, other) in zip(losses, one.losses, strict=True):
        assert step == other_step
        assert abs(loss - other) < 1e-4
