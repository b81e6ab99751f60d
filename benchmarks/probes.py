"""Training time with the stability and alignment probes on against off: under 5% at every 50 steps.

    python benchmarks/probes.py

Steps of the two kinds alternate, so that a busy machine slows both. A measured step costs more than a plain
one by the median of the differences between neighbours; over `EVERY` steps that is

    overhead = (measured - plain + (EVERY - 1) * idle) / (EVERY * plain)

with `idle` the calls of `begin` and `end` on a step that is not measured, timed alone.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch

from fionalm.models import Decoder, DecoderConfig
from fionalm.objectives import linear_cross_entropy
from fionalm.scaling.alignment import AlignmentProbe
from fionalm.scaling.probes import StabilityProbe

EVERY = 50
BATCH, SEQ_LEN, VOCAB = 16, 128, 4096
SHAPES = ((64, 3, 12), (128, 4, 6))
"""d_model, n_layers and pairs of steps."""


def training_step(
    model: Decoder, optimizer: torch.optim.Optimizer, batch: torch.Tensor, probes: Any, step: int
) -> float:
    """Run one step with `probes` and return its seconds."""
    start = time.perf_counter()
    for probe in probes:
        probe.begin(step)
    loss, _ = model(batch[:, :-1], head=partial(linear_cross_entropy, targets=batch[:, 1:]))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    for probe in probes:
        probe.end(step)
    optimizer.zero_grad()
    return time.perf_counter() - start


def measure(d_model: int, n_layers: int, pairs: int) -> dict[str, float]:
    """Return seconds of a plain step, extra seconds of a measured one, and the overhead, by probes."""
    generator = torch.Generator().manual_seed(0)
    config = DecoderConfig(vocab_size=VOCAB, d_model=d_model, n_layers=n_layers, n_heads=4)
    model = Decoder(config, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = torch.randint(VOCAB, (BATCH, SEQ_LEN + 1), generator=generator)
    stability = StabilityProbe(model, every=EVERY)
    alignment = AlignmentProbe(model, every=EVERY, probe_batch=batch[:2, :-1])
    live = AlignmentProbe(model, every=EVERY)
    choices = {
        "both": [stability, alignment],
        "stability": [stability],
        "alignment": [alignment],
        "live": [live],
    }
    plain: list[float] = []
    extra: dict[str, list[float]] = {name: [] for name in choices}
    for index in range(pairs + 2):
        for name, probes in choices.items():
            off = training_step(model, optimizer, batch, [], 0)
            on = training_step(model, optimizer, batch, probes, 0)
            if index >= 2:  # the first rounds warm up
                plain.append(off)
                extra[name].append(on - off)
    start = time.perf_counter()
    for _ in range(1000):
        for probe in choices["both"]:
            probe.begin(1)
            probe.end(1)
    idle = (time.perf_counter() - start) / 1000
    step = statistics.median(plain)
    result = {"step": step, "idle": idle}
    for name, differences in extra.items():
        result[name] = statistics.median(differences)
        result[f"{name} %"] = 100 * (result[name] + (EVERY - 1) * idle) / (EVERY * step)
    return result


def main() -> bool:
    """Print one line a shape; say whether every overhead is below 5%."""
    threads = torch.get_num_threads()
    print(f"probes every {EVERY} steps, batch {BATCH} x {SEQ_LEN}, vocabulary {VOCAB}, {threads} threads")
    good = True
    for d_model, n_layers, pairs in SHAPES:
        result = measure(d_model, n_layers, pairs)
        good &= result["both %"] < 5
        extra = {name: f"{1e3 * result[name]:.1f}" for name in ("both", "stability", "alignment", "live")}
        print(
            f"d {d_model} L {n_layers}: step {1e3 * result['step']:.1f} ms, measured step +{extra['both']} ms"
            f" (stability {extra['stability']}, alignment on 2 sequences {extra['alignment']},"
            f" alignment in the step {extra['live']}), idle {1e6 * result['idle']:.1f} us:"
            f" overhead {result['both %']:.2f}% (target 5%)",
            flush=True,
        )
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
