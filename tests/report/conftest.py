"""A run folder as a study leaves it: claims of all three verdicts, five figures, tables, configuration."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fionalm.report import (
    Claim,
    Line,
    Section,
    Table,
    exact,
    extrapolation,
    forest,
    lines_with_intervals,
    loss_against_lr,
    measure,
    power_law,
    save_figure,
    write_claims,
    write_run_facts,
    write_sections,
)
from fionalm.statistics import Interval

LRS = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
WIDTHS = [64, 128, 256, 512]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A finished study; tests read it and write nothing but its report."""
    return build_run(tmp_path_factory.mktemp("runs") / "training-instabilities")


@pytest.fixture(scope="session")
def studies_folder(tmp_path_factory):
    """What `fiona reproduce all` leaves: two studies side by side."""
    folder = tmp_path_factory.mktemp("all")
    build_run(folder / "training-instabilities")
    build_run(folder / "scaling exponents", title="Scaling exponents", claims=_claims()[:3])
    return folder


@pytest.fixture(scope="session")
def make_run():
    return build_run


def build_run(folder: Path, title: str = "Small-scale proxies for large-scale instabilities", claims=None) -> Path:
    folder.mkdir(parents=True)
    config = {
        "study": "training-instabilities",
        "title": title,
        "paper": {
            "title": "Small-scale proxies for large-scale Transformer training instabilities",
            "authors": "Wortsman et al.",
            "year": 2023,
            "url": "https://arxiv.org/abs/2309.14322",
        },
        "scale": "laptop",
        "seeds": 3,
        "command": "fiona reproduce training-instabilities --scale laptop --seeds 3 --out runs/instabilities",
        "model": {"d_model": 64, "n_layers": 3, "qk_norm": False, "norm_eps": 1e-6, "head_dim": None},
        "optimizer": {"name": "adamw", "lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-8},
        "lrs": LRS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    environment = {
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "numpy": "2.3.1"},
        "commit": "4f0c2f6a3f1d0c0c9a7be1d2a9b6c4d8e0f13579",
        "machine": "x86_64, 2 cores, Linux 6.1",
        "threads": 1,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    write_run_facts(folder, seconds=2312.4, trials=168, trials_from_cache=12, finished="2025-03-14 16:02 UTC")
    write_claims(folder, claims if claims is not None else _claims())
    _figures(folder)
    table = Table(
        columns=["intervention", "LR sensitivity", "low", "high", "diverged runs"],
        rows=[
            ["none", 1.213, 0.98, 1.44, 31],
            ["qk-layernorm", 0.402, 0.31, 0.53, 4],
            ["z-loss", 1.02, None, None, 22],
        ],
        caption="LR sensitivity of each intervention, in nats",
    )
    text = "The sweep is the paper's, in half-decades.\n\nRuns that diverged count at the initial loss."
    write_sections(folder, [Section("Interventions", text, [table], ["sensitivity"])])
    return folder


def _claims():
    return [
        measure(
            Claim(
                id="qk-layernorm-survives",
                claim="Without qk-layernorm high learning rates diverge that qk-layernorm survives.",
                paper="Figure 1: diverges above 1e-2, survives 3e-1",
                statistic="highest surviving LR with over without qk-layernorm",
                direction="greater",
                threshold=2.0,
                unit="times",
                paper_effect=30.0,
            ),
            Interval(10.0, 3.3, 30.0),
            n=3,
        ),
        measure(
            Claim(
                id="warm-up-lowers-sensitivity",
                claim="Longer warm-up lowers LR sensitivity.",
                paper="Figure 6: 0.35 lower",
                statistic="LR sensitivity at 5% warm-up less that at 1%",
                direction="less",
                threshold=-0.05,
                unit="nats",
                paper_effect=-0.35,
            ),
            Interval(0.08, 0.02, 0.13),
            n=3,
            detail="At 300 steps a warm-up of 5% leaves few steps at the peak learning rate.",
        ),
        measure(
            Claim(
                id="extrapolation",
                claim="The attention logit of the largest size follows from the smaller sizes.",
                paper="Figure 7: the fit predicts the 4.8B model's divergence",
                statistic="log10 of measured over predicted maximum attention logit",
                direction="within",
                threshold=0.3,
            ),
            Interval(0.12, -0.21, 0.44),
            n=3,
        ),
        measure(
            Claim(
                id="z-loss-log-z",
                claim="z-loss keeps the output logits from drifting.",
                paper="Figure 4: log Z stays near 0",
                statistic="mean |log Z| at the end with over without z-loss",
                direction="less",
                threshold=0.5,
            ),
            Interval(0.31, math.nan, math.nan),
            n=1,
        ),
        measure(
            Claim(
                id="atan2-scale-free",
                claim="Adam-atan2's update does not change when all gradients are scaled by a power of two.",
                paper="Section 4.3: invariant",
                statistic="largest difference of an update, bit for bit",
                direction="within",
                threshold=0.0,
                exact=True,
            ),
            exact(0.0),
        ),
    ]


def _figures(folder: Path) -> None:
    generator = np.random.default_rng(0)

    def curve(width, drift):
        octaves = math.log2(width / 64)
        loss = [3.2 - 0.25 * octaves + 0.35 * (math.log10(lr) + 2 + drift * octaves) ** 2 for lr in LRS]
        loss[-1] = math.nan if width > 64 else 9.1
        loss[-2] = math.inf if width > 256 and drift else loss[-2]
        return Line(f"width {width}", LRS, loss, [value - 0.08 for value in loss], [value + 0.08 for value in loss])

    panels = {
        "standard, global LR": [curve(width, 0.35) for width in WIDTHS],
        "muP, LR per layer": [curve(width, 0.0) for width in WIDTHS],
    }
    save_figure(
        loss_against_lr(panels, initial_loss=8.3),
        folder / "figures",
        "loss-against-lr",
        "Final loss against learning rate, a line a width; bands are 95% intervals over 3 seeds. "
        "The best learning rate of each width is filled; crosses are runs that diverged.",
        title="Loss against learning rate",
        order=1,
    )
    best = [0.03 * (width / 64) ** -0.9 for width in WIDTHS]
    save_figure(
        power_law(
            [
                Line("standard", WIDTHS, best, [lr * 0.7 for lr in best], [lr * 1.4 for lr in best]),
                Line("muP", WIDTHS, [0.02, 0.022, 0.018, 0.021], [0.015] * 4, [0.026] * 4),
            ],
            x_label="width",
            y_label="best learning rate",
            theory={"theory, slope -1": -1.0},
        ),
        folder / "figures",
        "best-lr",
        "Best learning rate against width with fitted slopes.",
        title="Best learning rate against width",
        order=2,
    )
    steps = np.arange(0, 1000, 10)
    save_figure(
        lines_with_intervals(
            [
                Line(
                    f"block {block}",
                    steps,
                    (block + 1) * np.exp(steps / 300) + generator.normal(size=100) ** 2,
                )
                for block in range(3)
            ],
            x_label="step",
            y_label="maximum attention logit",
            y_scale="log",
            ordered=True,
            references={"attention collapses": 60},
        ),
        folder / "figures",
        "attention-logits",
        "Maximum attention logit of each block over training at LR 0.1.",
        title="Attention logits over training",
        order=3,
    )
    sizes = [2e5, 5e5, 1.2e6, 3e6, 8e6]
    fitted, predicted, held_out = [], [], []
    for lr, factor in ((0.01, 10.0), (0.03, 30.0)):
        values = [factor * (size / 1e5) ** 0.8 for size in sizes]
        band = ([value * 0.7 for value in values], [value * 1.4 for value in values])
        fitted.append(Line(f"LR {lr}", sizes[:4], values[:4]))
        predicted.append(Line(f"LR {lr}", sizes, values, *band))
        held_out.append(Line(f"LR {lr}", sizes[4:], [values[4] * 1.2], [values[4]], [values[4] * 1.4]))
    save_figure(
        extrapolation(
            fitted, predicted, held_out, x_label="parameters", y_label="maximum attention logit",
            threshold={"divergence expected": 1e3},
        ),
        folder / "figures",
        "extrapolation",
        "Fitted on the four smaller sizes; the open points were held out.",
        title="Which size diverges",
        order=4,
    )  # fmt: skip
    intervals = {
        "none": Interval(1.21, 0.98, 1.44),
        "qk-layernorm": Interval(0.40, 0.31, 0.53),
        "z-loss": Interval(1.02, math.nan, math.nan),
        "independent weight decay": Interval(0.83, 0.7, 0.95),
    }
    save_figure(
        forest(intervals, x_label="LR sensitivity (nats)", reference=1.21),
        folder / "figures",
        "sensitivity",
        "Mean excess loss over the sweep; the dashed line is no intervention.",
        title="LR sensitivity by intervention",
    )


class _Page(HTMLParser):
    """Checks that tags balance, and collects ids, references to them, headings and words."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.headings: list[int] = []

    def handle_starttag(self, tag, attrs, *, closed=False):
        names = [name for name, _ in attrs]
        assert not any(name.startswith("on") for name in names) and tag not in (
            "script",
            "img",
            "foreignobject",
        )
        assert len(names) == len(set(names)), f"an attribute of <{tag}> occurs twice"
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.append(values["id"])
        self.references += values.get("aria-labelledby", "").split()
        self.references += [values["href"][1:]] if values.get("href", "").startswith("#") else []
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            assert "aria-label" in values or "interval" in values.get("class", "")
        if not closed and tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs, closed=True)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)


@pytest.fixture(scope="session")
def check_html():
    """Check that a page is well formed and return its words, space between them made single."""

    def check(text: str) -> str:
        assert text.startswith('<!doctype html>\n<html lang="en">')
        page = _Page()
        page.feed(text)
        page.close()
        assert page.open == []
        assert len(page.ids) == len(set(page.ids))
        assert set(page.references) <= set(page.ids)
        assert page.headings[0] == 1 and page.headings.count(1) == 1
        assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
        return " ".join(" ".join(page.words).split())

    return check
