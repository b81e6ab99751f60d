"""Initialisation and parameter groups: what each parameter gets, and that absorbed multipliers are exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fionalm.errors import UserError
from fionalm.optim import Adafactor, AdamAtan2
from fionalm.scaling import parameterize
from fionalm.scaling.exponents import PARAMETERIZATIONS, learning_rate_exponents
from fionalm.scaling.measured import MultiplierMlp

from .networks import KINDS, Mlp, TinyDecoder, vector_batches

CUSTOM = {"embedding": (0.25, -0.25), "hidden": (-0.5, 1.0), "readout": (0.25, 0.5)}
TABLES = {**PARAMETERIZATIONS, "custom": CUSTOM}


def by_name(groups: list[dict]) -> dict[str, dict]:
    """{parameter name: its group}."""
    return {name: group for group in groups for name in group["param_names"]}


def make_adam(groups):
    return torch.optim.Adam(groups, betas=(0.9, 0.95))


def make_sgd(groups):
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def make_atan2(groups):
    return AdamAtan2(groups, lr=0.0)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(
    ("optimizer", "make", "base_lr", "eps", "tolerance"),
    [
        ("adam", make_adam, 0.02, 1e-3, 1e-10),  # an epsilon as large as the gradients
        ("adam_atan2", make_atan2, 0.02, None, 1e-10),
        ("sgd", make_sgd, 0.3, None, 1e-10),
        ("adafactor", Adafactor, 0.1, None, 1e-10),
    ],
    ids=["adam", "adam_atan2", "sgd", "adafactor"],
)
def test_absorbed_multipliers_train_the_same_network(table, optimizer, make, base_lr, eps, tolerance) -> None:
    width, base_width = 48, 12
    explicit = MultiplierMlp(width, table, base_width=base_width, generator=torch.Generator().manual_seed(1))
    absorbed = Mlp(width).double()
    with torch.no_grad():
        for matrix, kind in zip(absorbed.matrices, KINDS, strict=True):
            matrix.copy_(explicit.matrix(kind))
    explicit_groups = explicit.groups(learning_rate_exponents(table, optimizer, "full"), base_lr)
    if eps is not None:
        explicit_groups = [{**group, "eps": eps} for group in explicit_groups]
    absorbed_groups = parameterize(
        absorbed,
        table,
        optimizer=optimizer,
        base_lr=base_lr,
        base_width=base_width,
        eps=eps,
        initialize=False,
    )
    steppers = make(explicit_groups), make(absorbed_groups)
    losses = []
    for x, y in vector_batches(1, dtype=torch.float64) * 10:
        pair = []
        for model, stepper in zip((explicit, absorbed), steppers, strict=True):
            stepper.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            stepper.step()
            pair.append(loss.item())
        losses.append(pair)
    assert losses[-1][0] < losses[0][0] - 0.05  # it has learned something
    for one, other in losses:
        assert one == pytest.approx(other, rel=tolerance)
    for matrix, kind in zip(absorbed.matrices, KINDS, strict=True):
        torch.testing.assert_close(matrix, explicit.matrix(kind), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor"])
@pytest.mark.parametrize("alignment", ["full", "none"])
def test_all_parameterizations_coincide_at_the_base_width(optimizer: str, alignment: str) -> None:
    results = []
    for table in TABLES.values():
        model = TinyDecoder(32)
        groups = parameterize(
            model,
            table,
            optimizer=optimizer,
            base_lr=0.1,
            base_width=32,
            alignment=alignment,
            generator=torch.Generator().manual_seed(3),
        )
        plain = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        results.append((plain, model.state_dict()))
    for plain, state in results[1:]:
        assert plain == results[0][0]
        assert {group["lr"] for group in plain} == {0.1}
        for name, value in state.items():
            assert torch.equal(value, results[0][1][name]), name


@pytest.mark.parametrize("name", ["standard", "ntk", "mup", "mfp"])
def test_initial_standard_deviations(name: str) -> None:
    width, base = 256, 64
    model = TinyDecoder(width, vocab=512, length=256)
    parameterize(
        model,
        name,
        optimizer="adam",
        base_lr=1.0,
        base_width=base,
        generator=torch.Generator().manual_seed(0),
    )
    readout = width**-0.5 if name in ("standard", "ntk") else width**-0.5 * (base / width) ** 0.5
    expected = {
        "tokens.weight": base**-0.5,
        "positions.weight": base**-0.5,
        "up.weight": width**-0.5,
        "down.weight": (4 * width) ** -0.5,
        "lm_head.weight": readout,
    }
    state = model.state_dict()
    for parameter, std in expected.items():
        assert float(state[parameter].std()) == pytest.approx(std, rel=0.02), parameter
    assert float(state["up.bias"].abs().max()) == 0.0
    assert torch.equal(state["norm.weight"], torch.ones(width))
    mlp = Mlp(width, inputs=50)
    parameterize(mlp, name, optimizer="adam", base_lr=1.0, base_width=base)
    assert float(mlp.matrices[0].detach().std()) == pytest.approx(50**-0.5, rel=0.05)


def test_initialize_false_touches_nothing_and_generators_repeat() -> None:
    model = TinyDecoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=8, initialize=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    draws = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=8, generator=generator)
        draws.append(model.up.weight.detach().clone())
    assert torch.equal(*draws)


def test_padding_rows_stay_zero_and_half_precision_is_drawn() -> None:
    table, hidden = nn.Embedding(10, 64, padding_idx=2), nn.Linear(64, 64)
    model = nn.Sequential(table, hidden, nn.Linear(64, 5)).bfloat16()
    parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=16)
    assert float(table.weight[2].detach().abs().max()) == 0.0
    assert float(table.weight[3].detach().abs().max()) > 0.0
    assert float(hidden.weight.detach().float().std()) == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [  # exponent of the ratio, by parameter, with full alignment in muP
        ("adam", {"tokens": 0, "positions": 0, "up": -1, "lm_head": -1, "norm": 0}),
        ("adafactor", {"tokens": 0, "positions": 0, "up": -0.5, "lm_head": 0, "norm": 0}),
        ("sgd", {"tokens": 1, "positions": 1, "up": 0, "lm_head": -1, "norm": 1}),
    ],
)
def test_learning_rates_of_each_layer(optimizer: str, expected: dict[str, float]) -> None:
    model = TinyDecoder(64)
    groups = by_name(parameterize(model, "mup", optimizer=optimizer, base_lr=0.5, base_width=16))
    for layer, exponent in expected.items():
        assert groups[f"{layer}.weight"]["lr"] == pytest.approx(0.5 * 4.0**exponent), layer
    assert groups["up.bias"]["lr"] == groups["norm.weight"]["lr"]


def test_kinds_weight_decay_and_gammas() -> None:
    groups = parameterize(
        TinyDecoder(64),
        "standard",
        optimizer="adam",
        base_lr=1.0,
        base_width=16,
        gammas={"hidden": 3.0, "embedding": 5.0},
        weight_decay=0.1,
    )
    kinds = {group["name"]: group for group in groups}
    assert [(n, g["kind"], g["weight_decay"]) for n, g in kinds.items()] == [
        ("embedding", "embedding", 0.1),
        ("vector", "vector", 0.0),
        ("hidden", "hidden", 0.1),
        ("readout", "readout", 0.1),
    ]
    assert kinds["hidden"]["lr"] == 3 / 4
    assert kinds["embedding"]["lr"] == kinds["vector"]["lr"] == 5.0
    assert kinds["readout"]["lr"] == 1 / 4
    assert all(len(g["params"]) == len(g["param_names"]) for g in groups)


def test_global_learning_rate_ignores_width() -> None:
    for width in (16, 128):
        model = TinyDecoder(width)
        groups = parameterize(model, "standard", optimizer="adam", base_lr=0.25, base_width=32, alignment="global")
        assert {group["lr"] for group in groups} == {0.25}
        assert {group["eps"] for group in groups} == {1e-8}


def test_epsilon_per_layer_follows_the_gradient() -> None:
    groups = by_name(
        parameterize(
            TinyDecoder(64),
            "mup",
            optimizer="adamw",
            base_lr=1.0,
            base_width=16,
            eps=1e-6,
            eps_scaling="per_layer",
        )
    )
    # gradients below muP's readout are n^-1, the readout's own are O(1)
    assert groups["tokens.weight"]["eps"] == groups["up.weight"]["eps"] == pytest.approx(1e-6 / 4)
    assert groups["norm.weight"]["eps"] == pytest.approx(1e-6 / 4)
    assert groups["lm_head.weight"]["eps"] == pytest.approx(1e-6)
    for optimizer in ("adam_atan2", "sgd", "adafactor"):
        plain = parameterize(TinyDecoder(64), "mup", optimizer=optimizer, base_lr=1.0, base_width=16, eps=1e-6)
        assert all("eps" not in group for group in plain)


def test_readout_bias_and_gains_shared_by_heads_have_no_width() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(10, 64)
            self.q_norm = nn.LayerNorm(16, bias=False)
            self.mix = nn.Linear(64, 64, bias=True)
            self.score = nn.Linear(64, 3, bias=True)

    for optimizer, shared in (("adam", 1.0), ("sgd", 4.0**-0.5)):
        groups = by_name(parameterize(Headed(), "standard", optimizer=optimizer, base_lr=1.0, base_width=16))
        assert groups["score.bias"]["lr"] == 1.0
        assert groups["q_norm.weight"]["lr"] == shared
        assert groups["mix.bias"]["lr"] == (1.0 if optimizer == "adam" else 2.0)


def test_omega_above_half_counts_the_model_s_hidden_layers() -> None:
    from fionalm.scaling import Alignment

    options = {"optimizer": "adam", "base_lr": 1.0, "base_width": 16, "alignment": Alignment(1, 0.75, 1)}
    counted = by_name(parameterize(TinyDecoder(64), "mup", **options))
    given = by_name(parameterize(TinyDecoder(64), "mup", n_hidden=2, **options))
    one = by_name(parameterize(TinyDecoder(64), "mup", n_hidden=1, **options))
    assert counted["tokens.weight"]["lr"] == given["tokens.weight"]["lr"] == 4**-0.5
    assert one["tokens.weight"]["lr"] == 4**-0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_lr": 0.0}, "base_lr is 0.0"),
        ({"base_lr": math.nan}, "base_lr is nan"),
        ({"base_width": 0}, "base_width is 0"),
        ({"optimizer": "adamm"}, "did you mean 'adam"),
        ({"parameterization": "nkt"}, "did you mean 'ntk'"),
        ({"alignment": "globl"}, "unknown alignment 'globl'"),
        ({"eps_scaling": "layer"}, "unknown eps_scaling"),
        ({"gammas": {"hiden": 1.0}}, "did you mean 'hidden'"),
        ({"gammas": {"hidden": -1.0}}, "gamma of hidden is -1.0"),
        ({"roles": {"up.*": "hiden"}}, "did you mean 'hidden'"),
        ({"roles": {"upp.weight": "hidden"}}, "matches no trainable parameter; did you mean 'up.weight'"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    arguments = {"parameterization": "mup", "optimizer": "adam", "base_lr": 1.0, "base_width": 8} | options
    with pytest.raises(UserError, match=message):
        parameterize(TinyDecoder(), **arguments)


def test_meta_tensors_cannot_be_drawn() -> None:
    with torch.device("meta"):
        model = TinyDecoder()
    with pytest.raises(UserError, match=r"tokens\.weight is on the meta device"):
        parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=8)
    assert parameterize(model, "mup", optimizer="adam", base_lr=1.0, base_width=8, initialize=False)
