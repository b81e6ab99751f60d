"""`fiona plan`, `report`, `studies` and `doctor`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fionalm.commands import doctor
from fionalm.errors import nearest
from fionalm.studies import STUDIES

from .conftest import TINY, Fiona


def test_plan_says_cost_in_units_that_can_be_read(fiona: Fiona) -> None:
    small = fiona("plan", "all", "--scale", "smoke", "--device", "cpu-core").out
    large = fiona("plan", "scaling-exponents", "--scale", "cluster").out
    for part in ("runs", "tokens", "FLOPs", "device-hours", "memory"):
        assert small.count(f"  {part}") == len(STUDIES) and large.count(f"  {part}") == 1
    assert all(float(size) > 1 for size in re.findall(r"([\d.]+) MiB for the largest run", small))
    assert "GiB" not in small and "GiB for the largest run" in large
    assert "devices share it with FSDP2" in large
    assert "Assumed: 60% of cpu-core's fp32 peak" in small and "Assumed: 40% of h100-80gb's bf16 peak" in large


def test_plan_grows_with_the_seeds(fiona: Fiona) -> None:
    one, two = (
        re.search(r"runs +([\d,]+)", fiona("plan", "training-instabilities", "--scale", "smoke", "--seeds", seeds).out)
        for seeds in (1, 2)
    )
    assert one is not None and two is not None
    assert int(two[1]) == 2 * int(one[1])


@pytest.mark.parametrize(
    ("given", "choices", "meant"),
    [
        ("h100", ["a100-40gb", "h100-80gb", "h200"], "h100-80gb"),
        ("H2", ["h100-80gb", "h200"], "h200"),
        ("mupp", ["standard", "ntk", "mup"], "mup"),
        ("", ["standard"], None),
        ("zzz", ["standard"], None),
    ],
)
def test_the_nearest_choice_begins_with_what_was_given(given: str, choices: list[str], meant: str | None) -> None:
    assert nearest(given, choices) == (f"; did you mean {meant!r}?" if meant else "")


def test_report_is_rebuilt_for_any_run_folder(fiona: Fiona, tmp_path: Path) -> None:
    assert fiona("train", "runs/one", *TINY).code == 0
    for folder in ("runs/one", "runs"):
        report = tmp_path / "runs" / "one" / "report.html"
        report.unlink()
        done = fiona("report", folder)
        assert done.code == 0, done.err
        assert report.is_file() and "runs/one/report.html" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("report nowhere", "no such run folder: nowhere"),
        ("report empt", "did you mean 'empty'?"),
        ("report empty", "empty holds no run"),
        ("report corrupt", "cannot read corrupt/config.json"),
        ("plan scaling", "did you mean 'scaling-exponents'?"),
        ("plan all --scale lapto", "did you mean 'laptop'?"),
        ("plan all --device h100", "did you mean 'h100-80gb'?"),
        ("plan all --seeds 0", "expected at least 1"),
        ("reproduce al", "did you mean 'all'?"),
        ("trian", "did you mean 'train'?"),
        ("studies --all", "nrecognized"),
    ],
)
def test_a_mistake_gets_one_sentence(fiona: Fiona, tmp_path: Path, words: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "config.json").write_text("{")
    done = fiona(*words.split())
    assert done.code == 2
    assert sentence in done.err
    assert done.err.startswith("fiona: ") and len(done.err.splitlines()) == 1


def test_studies_lists_every_claim_with_what_supports_it(fiona: Fiona) -> None:
    said = fiona("studies").out
    from fionalm.studies import get_study

    claims = [claim for name in STUDIES for claim in get_study(name).claims]
    assert all(claim.claim in said for claim in claims)
    assert said.count("supported if") == len(claims)


def test_doctor_names_what_mends_a_missing_part(fiona: Fiona, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fiona("doctor")
    assert whole.code == 0 and "torch" in whole.out
    monkeypatch.setattr(doctor, "CORE", (*doctor.CORE, "nosuchpackage"))
    monkeypatch.setattr(doctor, "EXTRAS", {"odd": ("nosuchextra",)})
    monkeypatch.setenv("PATH", "")
    done = fiona("doctor")
    assert done.code == 1
    assert "fiona: missing: nosuchpackage" in done.err
    lines = done.out.splitlines()
    assert any("pip install nosuchpackage" in line and line.startswith("missing") for line in lines)
    assert any("pip install 'fiona-lm[odd]'" in line and line.startswith("absent") for line in lines)
    assert any("apt-get install chromium" in line for line in lines)
