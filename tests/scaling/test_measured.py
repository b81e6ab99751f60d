"""The derived exponents against a width sweep of a network that shares no code with `parameterize`."""

from __future__ import annotations

import pytest
import torch

from fionalm.optim import Adafactor
from fionalm.scaling.measured import ALIGNED_READOUT, MeasuredExponent, measured_exponents

WIDTHS = (128, 256, 512, 1024)


def make_adam(groups):
    return torch.optim.Adam(groups, betas=(0.9, 0.95))


def make_sgd(groups):
    return torch.optim.SGD(groups, lr=0.0)


def sweep(parameterization, optimizer, alignment, steps=2) -> dict[tuple[str, str, int], MeasuredExponent]:
    make = {"adam": make_adam, "sgd": make_sgd, "adafactor": Adafactor}[optimizer]
    rows = measured_exponents(
        parameterization, optimizer, alignment, widths=WIDTHS, steps=steps, seeds=2, make_optimizer=make
    )
    return {(row.kind, row.quantity, row.step): row for row in rows}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor"])
@pytest.mark.parametrize("parameterization", ["mup", "mfp"])
def test_full_alignment_is_measured_at_every_step(parameterization: str, optimizer: str) -> None:
    for (_, quantity, _), row in sweep(parameterization, optimizer, "full").items():
        if quantity == "change":
            assert row.measured < 0.1, row
        else:
            assert row.measured == pytest.approx(row.derived, abs=0.1), row


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_standard_readout_is_aligned_with_the_change_of_its_input(parameterization: str) -> None:
    rows = sweep(parameterization, "adam", "full", steps=1)
    for kind, derived in (("embedding", 0.0), ("hidden", -1.0), ("readout", -1.0)):
        assert rows[kind, "update", 1].derived == derived
        assert rows[kind, "update", 1].measured == pytest.approx(derived, abs=0.02)
    assert rows["hidden", "gradient", 1].measured == pytest.approx(-0.5, abs=0.1)
    # omega is 1 and not 1/2 in the readout: the change of the logits grows, unless the layers below slow down
    assert rows["readout", "change", 1].measured > 0.25
    slower = sweep(parameterization, "adam", ALIGNED_READOUT, steps=1)
    assert slower["readout", "change", 1].measured < 0.1


def test_readout_updates_raise_the_gradient_below() -> None:
    rows = sweep("mup", "sgd", "none")
    first, second = rows["hidden", "gradient", 1], rows["hidden", "gradient", 2]
    assert (first.derived, second.derived) == (-1.0, -0.5)
    assert first.measured == pytest.approx(-1.0, abs=0.05)
    assert second.measured == pytest.approx(-0.5, abs=0.15)


def test_parameter_scaled_updates_outgrow_their_exponent_where_they_outgrow_the_parameter() -> None:
    rows = sweep("mup", "adafactor", "none", steps=3)
    # each step of n^1/2 times the readout's own size makes the next one larger
    assert [rows["readout", "update", step].derived for step in (1, 2, 3)] == [-0.5] * 3
    assert rows["readout", "update", 1].measured == pytest.approx(-0.5, abs=0.02)
    assert rows["readout", "update", 3].measured > rows["readout", "update", 2].measured > -0.4


@pytest.mark.parametrize("alignment", ["full", "none"])
@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_parameter_scaled_updates_follow_their_exponents(parameterization: str, alignment: str) -> None:
    for (_, quantity, _), row in sweep(parameterization, "adafactor", alignment).items():
        if quantity == "update":
            assert row.measured == pytest.approx(row.derived, abs=0.1), row
