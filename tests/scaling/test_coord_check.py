"""Coordinate check: it passes and fails what it should, and agrees with the `mup` package's own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.models import Decoder, DecoderConfig
from fionalm.scaling import coord_check, parameterize, scale_config
from fionalm.scaling.coord_result import fit_exponent

from .networks import Mlp, token_batches, vector_batches

WIDTHS = (32, 64, 128, 256)


def check_mlp(parameterization: str, alignment: str, optimizer: str = "adam", **options):
    make = {
        "adam": lambda groups: torch.optim.Adam(groups, betas=(0.9, 0.95)),
        "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0),
        "adafactor": None,  # the library's own
    }[optimizer]
    settings = {
        "base_lr": {"adam": 0.02, "sgd": 0.5, "adafactor": 0.05}[optimizer],
        "base_width": 32,
        "steps": 3,
        "seeds": 3,
    }
    return coord_check(
        Mlp,
        WIDTHS,
        vector_batches(),
        parameterization=parameterization,
        optimizer=optimizer,
        alignment=alignment,
        make_optimizer=make,
        **(settings | options),
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor"])
@pytest.mark.parametrize("parameterization", ["mup", "mfp"])
def test_full_alignment_keeps_an_mlp_in_bounds(parameterization: str, optimizer: str) -> None:
    result = check_mlp(parameterization, "full", optimizer)
    assert result.matches
    for row in result.select("update"):
        assert row.theory == {"embedding": "= 0", "hidden": "= -1", "readout": "= -1"}[row.kind]
        assert row.allowed, row


def test_a_global_learning_rate_does_not() -> None:
    result = check_mlp("standard", "global")
    assert not result.matches
    (hidden,) = result.select("change", "hidden")
    assert hidden.exponent > 0.5 and not hidden.allowed
    assert all(row.allowed and row.theory == "any" for row in result.select("update"))


def test_updates_that_assume_no_alignment_overshoot() -> None:
    result = check_mlp("mup", "none")
    (hidden,) = result.select("change", "hidden")
    assert 0.3 < hidden.exponent < 0.6  # they are aligned in the first steps: n^1/2 too large
    assert not result.matches


def test_divergence_is_a_failed_check() -> None:
    result = check_mlp("standard", "global", "sgd", base_lr=1e30)
    assert not result.matches
    assert any(math.isnan(row.exponent) for row in result.rows)


def test_result_as_table_series_and_json() -> None:
    result = check_mlp("mup", "full", seeds=[5])
    table = result.table()
    assert len(table) == 3 * 4
    columns = "layer kind quantity n=32 n=64 n=128 n=256 exponent stderr theory allowed"
    assert list(table[0]) == columns.split()
    series = result.series("activation")
    assert [w for w, _ in series["layers.0"]] == list(WIDTHS)
    assert series["layers.0"][0][1] == table[0]["n=32"]
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["matches"] is True and len(plain["rows"]) == len(table)


def test_the_same_seeds_give_the_same_numbers_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    assert check_mlp("mup", "full") == check_mlp("mup", "full")
    assert torch.equal(state, torch.random.get_rng_state())


def gpt2(tied: bool):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=64,
        n_positions=16,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=tied,
    )
    return lambda width: transformers.GPT2LMHeadModel(scale_config(config, width))


def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return lambda width: transformers.LlamaForCausalLM(scale_config(config, width))


def decoder():
    config = DecoderConfig(vocab_size=64, d_model=32, n_layers=1, n_heads=2, positions="learned", max_seq_len=16)
    return lambda width: Decoder(scale_config(config, width))


MODELS = {"gpt2": lambda: gpt2(False), "gpt2_tied": lambda: gpt2(True), "llama": llama, "decoder": decoder}


@pytest.mark.parametrize("name", MODELS)
def test_language_models(name: str) -> None:
    build = MODELS[name]()
    options = {"optimizer": "adam", "base_lr": 0.005, "base_width": 32, "steps": 3, "seeds": 2}
    batches = token_batches(3, batch=8, length=17)
    result = coord_check(build, (32, 64, 128), batches, parameterization="mup", **options)
    assert result.matches, [row for row in result.rows if not row.allowed]
    kinds = {row.kind for row in result.rows}
    assert kinds == ({"hidden", "readout"} if name == "gpt2_tied" else {"embedding", "hidden", "readout"})
    for row in result.select("update"):
        assert row.allowed, row
    baseline = coord_check(build, (32, 64, 128), batches, parameterization="standard", alignment="global", **options)
    assert not baseline.matches


@pytest.mark.parametrize(("optimizer", "base_lr"), [("adafactor", 0.03), ("adam_atan2", 0.005), ("sgd", 0.3)])
def test_own_optimizers_on_the_own_decoder(optimizer: str, base_lr: float) -> None:
    result = coord_check(
        decoder(),
        (32, 64, 128),
        token_batches(3, batch=8, length=17),
        parameterization="mup",
        optimizer=optimizer,
        base_lr=base_lr,
        base_width=32,
        steps=3,
        seeds=2,
    )
    assert result.matches, [row for row in result.rows if not row.allowed]
    for row in result.select("update"):
        assert row.allowed, row


def test_dropout_does_not_count_as_change() -> None:
    build = lambda width: nn.Sequential(nn.Linear(8, width), nn.Dropout(0.9), nn.Linear(width, 4))  # noqa: E731
    result = coord_check(
        build,
        (32, 64),
        vector_batches(),
        parameterization="mup",
        optimizer="sgd",
        base_lr=1e-12,
        base_width=32,
        make_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0),
    )
    assert max(max(v) for row in result.select("change") for v in row.values) < 1e-6


@pytest.mark.parametrize(
    ("widths", "batches", "options", "message"),
    [
        ((32, 32), vector_batches(), {}, "1 widths given"),
        ((32, 64), [], {}, "0 batches given"),
        ((32, 64), vector_batches(), {"steps": 0}, "0 steps given"),
        ((32, 64), vector_batches(), {"seeds": 0}, "0 seeds given"),
        ((32, 64), vector_batches(), {"parameterization": "mupp"}, "did you mean 'mup'"),
    ],
)
def test_mistakes_are_named(widths, batches, options, message) -> None:
    settings = {"parameterization": "mup", "optimizer": "adam", "base_lr": 0.1, "base_width": 32} | options
    with pytest.raises(UserError, match=message):
        coord_check(Mlp, widths, batches, **settings)


def test_fit_recovers_an_exponent_and_its_error() -> None:
    generator = np.random.default_rng(0)
    widths = (16, 32, 64, 128, 256)
    inside = 0
    for _ in range(200):
        values = [(w**-0.75 * np.exp(generator.normal(0, 0.1, size=3))).tolist() for w in widths]
        exponent, stderr = fit_exponent(widths, values)
        inside += abs(exponent + 0.75) < 2 * stderr
    assert 170 < inside < 200  # two standard errors hold about 94% with 13 degrees of freedom
    assert fit_exponent((2, 4), [[1.0], [8.0]])[0] == pytest.approx(3.0)
    assert math.isnan(fit_exponent((2, 4), [[1.0], [8.0]])[1])
    assert math.isnan(fit_exponent((2, 4), [[0.0], [8.0]])[0])


def test_scale_config_of_own_and_transformers_models() -> None:
    own = scale_config(DecoderConfig(d_model=64, n_heads=4, n_kv_heads=2, d_ff=100), 128)
    assert (own.d_model, own.n_heads, own.n_kv_heads, own.d_ff, own.head_size) == (128, 8, 4, 200, 16)
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=172
    )
    wide = scale_config(config, 96)
    assert (wide.hidden_size, wide.num_attention_heads, wide.num_key_value_heads) == (96, 6, 3)
    assert (wide.intermediate_size, wide.head_dim, config.hidden_size) == (258, 16, 64)
    small = scale_config(transformers.GPT2Config(n_embd=64, n_head=4, n_inner=128), 32)
    assert (small.n_embd, small.n_head, small.n_inner) == (32, 2, 64)
    with pytest.raises(UserError, match=r"width 40 .*num_attention_heads.*multiple of 16 .nearest: 32 and 48"):
        scale_config(config, 40)
    with pytest.raises(UserError, match="has no width"):
        scale_config(object(), 8)


# what the mup package's imports and pandas' use of them warn about is not ours to mend
@pytest.mark.filterwarnings("ignore")
class TestAgainstMup:
    """The package's model, optimizer and coordinate check against ours, on one network and batch."""

    base_width = 32

    def build(self, width: int, seed: int) -> tuple[nn.Module, Mlp]:
        """The package's network and ours with equal functions: its readout is W = w / width_mult."""
        mup = pytest.importorskip("mup")

        class MuMlp(Mlp):
            def __init__(self, width: int) -> None:
                super().__init__(width)
                self.layers[-1] = mup.MuReadout(width, 4, bias=False)

        torch.manual_seed(seed)
        theirs = MuMlp(width)
        mup.set_base_shapes(theirs, MuMlp(self.base_width), delta=MuMlp(2 * self.base_width))
        theirs.double()
        for name, parameter in theirs.named_parameters():  # .double() keeps the parameters and their infshape
            assert hasattr(parameter, "infshape"), name
        ours = Mlp(width).double()
        ratio = width / self.base_width
        with torch.no_grad():
            for mine, its in zip(ours.matrices, theirs.matrices, strict=True):
                mine.copy_(its)
            ours.matrices[-1].div_(ratio)
        return theirs, ours

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_trajectories_are_the_same(self, optimizer: str) -> None:
        mup = pytest.importorskip("mup")
        theirs, ours = self.build(128, seed=0)
        lr = {"adam": 0.02, "sgd": 0.3}[optimizer]
        groups = parameterize(
            ours,
            "mup",
            optimizer=optimizer,
            base_lr=lr,
            base_width=self.base_width,
            eps=1e-30,
            initialize=False,
        )
        if optimizer == "adam":
            pair = mup.MuAdam(theirs.parameters(), lr=lr, eps=1e-30), torch.optim.Adam(groups)
        else:
            pair = mup.MuSGD(theirs.parameters(), lr=lr), torch.optim.SGD(groups)
        losses = []
        for x, y in vector_batches(1, dtype=torch.float64) * 8:
            row = []
            for model, stepper in zip((theirs, ours), pair, strict=True):
                stepper.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                stepper.step()
                row.append(loss.item())
            losses.append(row)
        assert losses[-1][0] < losses[0][0] - 0.05
        for one, other in losses:
            assert one == pytest.approx(other, rel=1e-9)

    def test_coordinate_checks_agree(self) -> None:
        pytest.importorskip("mup")
        from mup.coord_check import get_coord_data

        batches = vector_batches(1, dtype=torch.float64)
        steps, lr = 3, 0.02
        lazy = {width: (lambda width=width: self.build(width, seed=0)[0]) for width in WIDTHS}
        frame = get_coord_data(
            lazy,
            batches,
            optimizer="adam",
            lr=lr,
            nsteps=steps + 1,  # it records before each step
            cuda=False,
            show_progress=False,
            output_fdict={"l2": "l2"},
        )
        theirs = frame[frame.t == steps + 1].pivot_table(index="module", columns="width", values="l2")
        ours = coord_check(
            lambda width: self.build(width, seed=0)[1],
            WIDTHS,
            batches,
            parameterization="mup",
            optimizer="adam",
            base_lr=lr,
            base_width=self.base_width,
            steps=steps,
            seeds=1,
            initialize=False,
            make_optimizer=torch.optim.Adam,
        )
        for row in ours.select("activation"):
            measured = [v[0] for v in row.values]
            np.testing.assert_allclose(measured, theirs.loc[row.layer, list(WIDTHS)].to_numpy(), rtol=1e-4)
