from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fionalm.errors import UserError
from fionalm.scaling import Alignment, learning_rate_exponents, parameterize
from fionalm.scaling.alignment import (
    TERMS,
    AlignmentProbe,
    log_alignment_ratio,
    mean_alignment,
    measured_alignment,
)

from .probe_models import batch, count_hooks, decoder, loss_of, transformers_model


class TwoLayers(nn.Module):
    """Token table, one hidden layer with a bias, readout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 24)
        self.hidden = nn.Linear(24, 40)
        self.readout = nn.Linear(40, 64, bias=False)

    def forward(self, ids):
        return self.readout(self.hidden(self.embed(ids)).relu())


@pytest.mark.parametrize("n", [256, 4096])
def test_independent_gives_one_half(n) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 3.0 * torch.randn(64, n, generator=generator)
    weight = 0.01 * torch.randn(n, 96, generator=generator)
    assert log_alignment_ratio(z, weight).item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n", [2, 64, 1000])
def test_aligned_gives_one(n) -> None:
    direction = torch.randn(n, generator=torch.Generator().manual_seed(0))
    z = torch.randn(5, 1) * direction
    weight = direction[:, None] * torch.randn(1, 7)
    assert log_alignment_ratio(z, weight).item() == pytest.approx(1.0, abs=1e-5)


def test_one_common_direction_lies_between() -> None:
    # z has one component in sqrt(n) along the weights' direction: n^(3/4) products' size.
    n = 4096
    direction = torch.ones(n)
    noise = torch.randn(256, n, generator=torch.Generator().manual_seed(0))
    z = noise - noise.mean(dim=1, keepdim=True) + n**-0.25
    assert log_alignment_ratio(z, direction[:, None]).item() == pytest.approx(0.75, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.floats(1e-6, 1e6))
def test_ratio_is_at_most_one_and_free_of_scale(n, rows, out, seed, scale) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, weight = torch.randn(rows, n, generator=generator), torch.randn(n, out, generator=generator)
    ratio = log_alignment_ratio(z, weight).item()
    assert ratio <= 1 + 1e-5
    assert log_alignment_ratio(scale * z, weight / scale).item() == pytest.approx(ratio, abs=1e-4)


@pytest.mark.parametrize("z, weight", [(torch.zeros(2, 4), torch.ones(4, 3)), (torch.ones(2, 1), torch.ones(1, 3))])
def test_undefined_is_nan(z, weight) -> None:
    assert math.isnan(log_alignment_ratio(z, weight))


@torch.no_grad()
def test_all_terms_against_the_definition() -> None:
    torch.manual_seed(0)
    model, ids = TwoLayers(), batch()
    before = copy.deepcopy(model)
    probe = AlignmentProbe(model, every=1, probe_batch=ids)
    assert probe.begin(0)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    metrics = probe.end(0)
    assert metrics is not None

    z, z_0 = model.embed(ids), before.embed(ids)
    weight, weight_0 = model.hidden.weight.mT, before.hidden.weight.mT
    z_next, z_next_0 = model.hidden(z).relu(), before.hidden(z_0).relu()
    head, head_0 = model.readout.weight.mT, before.readout.weight.mT
    for layer, now, then, w, w_0 in (
        ("hidden", z, z_0, weight, weight_0),
        ("readout", z_next, z_next_0, head, head_0),
    ):
        pairs = {
            "weight": (now, w),
            "update": (now, w - w_0),
            "alpha": (then, w - w_0),
            "omega": (now - then, w_0),
            "u": (now - then, w - w_0),
        }
        for term, (activations, matrix) in pairs.items():
            product = activations @ matrix
            sizes = [tensor.square().mean().sqrt() for tensor in (product, activations, matrix)]
            expected = math.log(sizes[0] / (sizes[1] * sizes[2]), matrix.shape[0])
            assert metrics[f"alignment/{term}/{layer}"] == pytest.approx(expected, abs=1e-4), (term, layer)
    assert len(metrics) == 2 * len(TERMS)
    means = mean_alignment(metrics | {"other/weight/x": 9.0})
    assert means["u"] == pytest.approx((metrics["alignment/u/hidden"] + metrics["alignment/u/readout"]) / 2)


def test_a_gradient_step_on_one_token_is_fully_aligned() -> None:
    torch.manual_seed(0)
    model: Any = TwoLayers()
    ids = torch.full((1, 1), 7)
    probe = AlignmentProbe(model, every=1, probe_batch=ids)
    probe.begin(0)
    model(ids).square().sum().backward()
    with torch.no_grad():
        # The gradient is an outer product with the activation itself.
        model.hidden.weight -= 0.01 * model.hidden.weight.grad
    metrics = probe.end(0)
    assert metrics is not None
    assert metrics["alignment/alpha/hidden"] == pytest.approx(1.0, abs=1e-3)
    assert "alignment/omega/hidden" not in metrics  # the embedding has not changed
    assert "alignment/alpha/readout" not in metrics


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_transformers_models_have_every_layer(family) -> None:
    model, ids = transformers_model(family), batch()
    probe = AlignmentProbe(model, every=2, probe_batch=ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(3):
        assert probe.begin(step) == (step % 2 == 0)
        loss_of(model, ids).backward()
        optimizer.step()
        metrics = probe.end(step)
        assert (metrics is None) == (step == 1)
    assert metrics is not None
    per_block = {"llama": 7, "gpt2": 4, "neox": 4}[family]
    names = {name.split("/", 2)[2] for name in metrics}
    assert len(names) == 2 * per_block + 1
    for name in names:
        assert metrics[f"alignment/weight/{name}"] == pytest.approx(0.5, abs=0.12)
        assert 0.2 < metrics[f"alignment/alpha/{name}"] <= 1 + 1e-5


def test_live_mode_agrees_with_the_training_batch() -> None:
    model, ids = decoder(), batch(4, 16)
    live = AlignmentProbe(model, every=1, max_tokens=64)
    fixed = AlignmentProbe(model, every=1, probe_batch=ids)
    fixed.begin(0)
    expected = fixed.end(0)
    live.begin(0)
    loss = loss_of(model, ids)
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.zero_()  # the update must not count in a step's own measurement
    metrics = live.end(0)
    assert metrics is not None and expected is not None and loss.isfinite()
    assert metrics.keys() == expected.keys() == {name for name in metrics if name.startswith("alignment/weight/")}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5)


def test_live_mode_samples_tokens_and_ignores_autocast() -> None:
    model, ids = decoder(), batch(8, 16)
    probe = AlignmentProbe(model, every=1, max_tokens=50)
    values = []
    for enabled in (False, True):
        probe.begin(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            model(ids)
        values.append(probe.end(0))
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, abs=5e-3)
        assert value == pytest.approx(0.5, abs=0.1)


def test_probe_leaves_no_trace() -> None:
    model, ids = transformers_model("gpt2"), batch()
    model.train()
    model.get_submodule("transformer.h.0").eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    probe = AlignmentProbe(model, every=1, probe_batch=ids)
    probe.begin(0)
    probe.end(0)
    live = AlignmentProbe(model, every=1)
    live.begin(0)
    assert count_hooks(model) > 0
    live.begin(1)
    live.close()
    assert count_hooks(model) == 0
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert live.end(1) is None


def test_snapshot_can_be_stored_and_taken_anew() -> None:
    model, ids = decoder(), batch()
    first = AlignmentProbe(model, every=1, probe_batch=ids)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.01)
    resumed = AlignmentProbe(model, every=1, probe_batch=ids)
    resumed.begin(0)
    assert set(mean_alignment(resumed.end(0) or {})) == {"weight"}
    resumed.load_state_dict(first.state_dict())
    metrics = []
    for probe in (first, resumed):
        probe.begin(0)
        metrics.append(probe.end(0))
    assert metrics[0] == metrics[1]
    assert set(mean_alignment(metrics[0])) == set(TERMS)
    first.reset()
    first.begin(0)
    assert set(mean_alignment(first.end(0) or {})) == {"weight"}


def test_compiled_model_is_not_compiled_again() -> None:
    model, ids = decoder(), batch()
    compiled: Any = torch.compile(model, backend="eager")
    compiled(ids)
    probes = [AlignmentProbe(compiled, every=1, probe_batch=ids), AlignmentProbe(compiled, every=1)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for probe in probes:
            probe.begin(0)
            compiled(ids)
            metrics = probe.end(0)
            assert metrics is not None and "alignment/weight/blocks.0.mlp.up" in metrics
            compiled(ids)


def test_bad_input() -> None:
    with pytest.raises(UserError, match="every=0"):
        AlignmentProbe(decoder(), every=0)
    with pytest.raises(UserError, match="no linear layer"):
        AlignmentProbe(nn.Embedding(4, 4))


@pytest.mark.parametrize("build", [decoder, lambda: decoder(tie_embeddings=True), lambda: transformers_model("gpt2")])
def test_measured_alignment_gives_exponents(build) -> None:
    torch.manual_seed(0)
    model, ids = build(), batch(4)
    probe = AlignmentProbe(model, every=1, probe_batch=ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    metrics: dict[str, float] = {}
    for step in range(3):
        probe.begin(step)
        loss_of(model, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
        metrics = probe.end(step) or {}
    found = measured_alignment(model, metrics)
    assert list(found) == ["hidden", "readout"]
    heads = [name for name in metrics if name.startswith("alignment/alpha/") and "lm_head" in name]
    assert len(heads) == 1 and found["readout"].alpha == pytest.approx(metrics[heads[0]])
    inner = [value for name, value in metrics.items() if name.startswith("alignment/u/") and "lm_head" not in name]
    assert found["hidden"].u == pytest.approx(sum(inner) / len(inner))
    exponents = learning_rate_exponents("mup", "adam", found, n_hidden=2)
    groups = parameterize(
        model, "mup", optimizer="adam", base_lr=1.0, base_width=16, alignment=found, n_hidden=2, initialize=False
    )
    (readout,) = [group for group in groups if group["kind"] == "readout"]
    assert readout["lr"] == pytest.approx(2 ** -(exponents["readout"] + 0.5))  # a of muP's readout is 1/2


def test_measured_alignment_is_cut_to_its_range_and_needs_every_term() -> None:
    model = TwoLayers()
    metrics = {f"alignment/{term}/{layer}": 1.5 for term in ("alpha", "omega", "u") for layer in ("hidden", "readout")}
    metrics["alignment/u/hidden"] = -0.25
    assert measured_alignment(model, metrics) == {"hidden": Alignment(1, 1, 0), "readout": Alignment(1, 1, 1)}
    with pytest.raises(UserError, match="no omega of a readout layer"):
        measured_alignment(model, {key: value for key, value in metrics.items() if key != "alignment/omega/readout"})
    with pytest.raises(UserError, match="no alpha of a hidden layer"):
        measured_alignment(model, {"alignment/weight/hidden": 0.5})
