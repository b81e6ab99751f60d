"""The derived exponents against the published table, an independent linear program, and their symmetries."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fionalm.errors import UserError
from fionalm.scaling.exponents import (
    PARAMETERIZATIONS,
    Alignment,
    LayerKind,
    Parameterization,
    absorbed_exponents,
    learning_rate_exponents,
    solve_updates,
)

HALF = 0.5


def published(al: float) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Everett et al. 2024, learning-rate exponents; `al` is 1 for full alignment and 1/2 for none."""
    relative = {"standard": (0, al - HALF, al - HALF), "mup": (0, al - HALF, al - 1)}
    return {
        ("adam", "standard"): (0, al, al),
        ("adam", "ntk"): (0, al - HALF, al - HALF),
        ("adam", "mup"): (HALF, al, al - HALF),
        ("adam", "mfp"): (0, al - HALF, al - 1),
        ("adafactor", "standard"): relative["standard"],
        ("adafactor", "ntk"): relative["standard"],
        ("adafactor", "mup"): relative["mup"],
        ("adafactor", "mfp"): relative["mup"],
    }


SGD_FULL = {
    ("sgd", "standard"): (-HALF, HALF, 1),
    ("sgd", "ntk"): (-HALF, -HALF, 0),
    ("sgd", "mup"): (0, 0, 0),
    ("sgd", "mfp"): (-1, -1, -1),
}
ROWS = [
    *(("full", *key, row) for key, row in (published(1.0) | SGD_FULL).items()),
    *(("none", *key, row) for key, row in published(0.5).items()),
]


@pytest.mark.parametrize(("alignment", "optimizer", "parameterization", "expected"), ROWS)
def test_published_table(alignment, optimizer, parameterization, expected) -> None:
    c = learning_rate_exponents(parameterization, optimizer, alignment)
    assert list(c) == ["embedding", "hidden", "readout"]
    assert tuple(c.values()) == expected


@pytest.mark.parametrize("name", ["adamw", "adam_atan2"])
def test_scale_invariant_optimizers_count_as_adam(name: str) -> None:
    assert learning_rate_exponents("mup", name, "none") == learning_rate_exponents("mup", "adam", "none")


def test_sgd_without_alignment_counts_the_readout_update_in_the_gradient() -> None:
    # muP's readout starts at n^-1 but its updates are n^-1/2, so gradients below are n^-1/2 and not n^-1
    assert learning_rate_exponents("mup", "sgd", "none") == {"embedding": 0.5, "hidden": 0.0, "readout": -0.5}
    assert absorbed_exponents("mup", "sgd", "none")[LayerKind.HIDDEN].gradient == 0.5
    assert absorbed_exponents("mup", "sgd", "full")[LayerKind.HIDDEN].gradient == 1.0


def linear_program(total: float, hidden: Alignment, readout: Alignment, n: int) -> np.ndarray:
    """Update exponents (embedding, hidden, readout): least sum over layers, then embedding, then hidden.

    Variables: e_embedding, e_hidden, e_readout, r_0 ... r_n, all r >= 0.
    """
    rows, bounds = [], []

    def at_most(coefficients: dict[int, float], bound: float) -> None:
        row = np.zeros(4 + n)
        for i, value in coefficients.items():
            row[i] = value
        rows.append(row)
        bounds.append(bound)

    at_most({3: 1, 0: -1}, 0)
    for layer in range(1, n + 1):
        r, below = 3 + layer, 2 + layer
        at_most({r: 1, 1: -1}, -hidden.alpha)
        at_most({r: 1, 1: -1, below: -1}, -hidden.u)
        at_most({r: 1, below: -1}, 0.5 - hidden.omega)
    at_most({2: -1}, -readout.alpha)
    at_most({2: -1, 3 + n: -1}, -readout.u)
    at_most({3 + n: -1}, total - readout.omega)
    free, positive = [(None, None)] * 3, [(0, None)] * (n + 1)
    objectives = [np.r_[1, n, 1, np.zeros(n + 1)], np.eye(4 + n)[0], np.eye(4 + n)[1]]
    solution = None
    for objective in objectives:
        solution = linprog(objective, np.array(rows), bounds, bounds=free + positive, method="highs")
        assert solution.success
        rows.append(objective)
        bounds.append(solution.fun + 1e-9)
    assert solution is not None
    return solution.x[:3]


grid = st.integers(0, 10).map(lambda i: i / 10)
alignments = st.builds(Alignment, alpha=grid, omega=grid, u=grid)


@settings(max_examples=150, deadline=None)
@given(total=st.integers(5, 15).map(lambda i: i / 10), hidden=alignments, readout=alignments, n=st.integers(1, 5))
def test_solver_agrees_with_a_linear_program(total, hidden, readout, n) -> None:
    updates = solve_updates(total, {"hidden": hidden, "readout": readout}, n_hidden=n)
    solved = [updates[kind] for kind in (LayerKind.EMBEDDING, LayerKind.HIDDEN, LayerKind.READOUT)]
    np.testing.assert_allclose(solved, linear_program(total, hidden, readout, n), atol=1e-6)


shifts = st.integers(-8, 8).map(lambda i: i / 8)


@given(name=st.sampled_from(sorted(PARAMETERIZATIONS)), alignment=st.sampled_from(["full", "none"]), shift=shifts)
def test_moving_scale_into_the_multiplier_moves_only_the_learning_rate(name, alignment, shift) -> None:
    table = PARAMETERIZATIONS[name]
    moved = {k: (table[k][0] + shift, table[k][1] - shift) for k in ("embedding", "hidden", "readout")}
    for optimizer, power in (("adam", 1), ("sgd", 2), ("adafactor", 0)):
        before = learning_rate_exponents(table, optimizer, alignment)
        after = learning_rate_exponents(moved, optimizer, alignment)
        assert after == {kind: c - power * shift for kind, c in before.items()}


def test_equivalent_parameterizations_have_equal_absorbed_exponents() -> None:
    for optimizer in ("adam", "sgd", "adafactor"):
        for alignment in ("full", "none"):
            for one, other in (("standard", "ntk"), ("mup", "mfp")):
                a = absorbed_exponents(one, optimizer, alignment)
                b = absorbed_exponents(other, optimizer, alignment)
                for kind in LayerKind:
                    assert (a[kind].init, a[kind].lr, a[kind].update) == (
                        b[kind].init,
                        b[kind].lr,
                        b[kind].update,
                    )


def test_omega_above_half_depends_on_the_number_of_hidden_layers() -> None:
    aligned = Alignment(1, 0.75, 1)
    one = learning_rate_exponents("mup", "adam", aligned)
    three = learning_rate_exponents("mup", "adam", aligned, n_hidden=3)
    assert three["embedding"] - one["embedding"] == 0.5  # a quarter more for each of two further layers
    assert three["hidden"] - one["hidden"] == 0.5
    assert learning_rate_exponents("mup", "adam", "full", n_hidden=9) == learning_rate_exponents("mup", "adam", "full")


def test_u_above_alpha_takes_the_smallest_embedding_exponent() -> None:
    c = learning_rate_exponents("standard", "adam", Alignment(0.5, 0.5, 1.0))
    # slowing the embedding by n^-1/2 would allow one more layer n^-1/2 instead of n^-1: the same sum
    assert c == {"embedding": 0.0, "hidden": 1.0, "readout": 1.0}


def test_readout_aligned_with_the_change_of_its_input() -> None:
    aligned = {"hidden": "full", "readout": Alignment(1, 1, 1)}
    assert learning_rate_exponents("standard", "adam", aligned) == {
        "embedding": 0.5,
        "hidden": 1.5,
        "readout": 1.0,
    }
    assert learning_rate_exponents("mup", "adam", aligned) == learning_rate_exponents("mup", "adam", "full")


def test_tables_of_any_number_type() -> None:
    half = Fraction(1, 2)
    table = {LayerKind.EMBEDDING: (0, 0), "hidden": (half / 2, half / 2), "readout": [1, 0]}
    assert learning_rate_exponents(table, "adam", "full") == {
        "embedding": 0.0,
        "hidden": 0.75,
        "readout": 0.0,
    }  # pyright: ignore[reportArgumentType]


TABLE = {"embedding": (0, 0), "hidden": (0, 0.5), "readout": (0, 0.5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mpu", "adam", "full"), "did you mean 'mup'"),
        (("mup", "adm", "full"), "did you mean 'adam'"),
        (("mup", "adam", "ful"), "did you mean 'full'"),
        (({"embedding": (0, 0)}, "adam", "full"), "expected \\(a, b\\) for embedding, hidden, readout"),
        ((TABLE | {"hidden": 3}, "adam", "full"), "expected a name or"),
        ((TABLE | {"inner": (0, 0)}, "adam", "full"), "expected a name or"),
        ((TABLE | {"readout": (0, 0)}, "adam", "full"), "readout has a \\+ b = 0: logits grow"),
        ((TABLE | {"hidden": (0, 0)}, "sgd", "full"), "hidden has a \\+ b = 0"),
        ((TABLE | {"hidden": (1, 0)}, "sgd", "full"), "hidden has a \\+ b = 1"),
        ((TABLE | {"embedding": (0, 1)}, "adam", "none"), "embedding has a \\+ b = 1"),
        ((TABLE | {"readout": (0, float("nan"))}, "adam", "none"), "two finite numbers"),
        (("mup", "adam", {"hidden": "full"}), "expected 'hidden' and 'readout'"),
    ],
)
def test_what_cannot_be_stable_is_refused(arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        learning_rate_exponents(*arguments)


@pytest.mark.parametrize("n_hidden", [0, -1, 1.5, True])
def test_n_hidden_is_a_count(n_hidden) -> None:
    with pytest.raises(UserError, match="n_hidden"):
        learning_rate_exponents("mup", "adam", "full", n_hidden=n_hidden)


@pytest.mark.parametrize("values", [(1.1, 0.5, 1), (0.5, -0.1, 0.5), (0.5, 0.5, float("nan"))])
def test_impossible_alignment_is_refused(values) -> None:
    with pytest.raises(UserError, match="from 0 to 1"):
        Alignment(*values)


def test_parameterizations_are_stable_by_construction() -> None:
    with pytest.raises(UserError, match="logits grow"):
        Parameterization("mine", (0, 0), (0, 0.5), (0, 0.25))


def test_exponents_and_config_load_without_torch() -> None:
    code = (
        "import sys; from fionalm.scaling import learning_rate_exponents, ParameterizationConfig;"
        "assert ParameterizationConfig().gammas['hidden'] == 1; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_functions_are_not_hidden_by_modules() -> None:
    code = (
        "import fionalm.scaling as s; names = list(s.__all__); [getattr(s, n) for n in names];"
        "assert all(callable(getattr(s, n)) for n in names), names"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
