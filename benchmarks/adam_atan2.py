"""Time of one AdamAtan2 step against torch's fused AdamW and adam-atan2-pytorch: 10M parameters in 100 tensors.

    python benchmarks/adam_atan2.py --threads 1 2

Each round makes one step of every optimizer, in an order that turns, so that a busy machine slows all of them;
medians over the rounds are compared. Every optimizer has parameters, gradients and state of its own: 100 tensors
together do not fit into the cache, as in training. The first steps, which allocate and compile, are not counted;
the first of the compiled optimizer is printed as its compile time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from adam_atan2_pytorch.adam_atan2 import AdamAtan2 as PeerAdamAtan2
from adam_atan2_pytorch.foreach import AdamAtan2 as PeerForeachAdamAtan2
from torch import Tensor

from fionalm.optim import AdamAtan2

TENSORS, ROWS, COLUMNS = 100, 250, 400
WARM_UP = 2
OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "torch AdamW, fused": lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
    "AdamAtan2, eager": lambda params: AdamAtan2(params, lr=1e-3),
    "AdamAtan2, compiled": lambda params: AdamAtan2(params, lr=1e-3, compiled=True),
    "adam-atan2-pytorch": lambda params: PeerAdamAtan2(params, lr=1e-3),
    "adam-atan2-pytorch, foreach": lambda params: PeerForeachAdamAtan2(params, lr=1e-3),
}
TARGETS = (
    ("AdamAtan2, compiled", "torch AdamW, fused", "at most", 1.6),
    ("AdamAtan2, eager", "torch AdamW, fused", "at most", 2.2),
    ("adam-atan2-pytorch", "AdamAtan2, eager", "at least", 1.2),
    ("adam-atan2-pytorch", "AdamAtan2, compiled", "at least", 1.2),
    ("adam-atan2-pytorch, foreach", "AdamAtan2, eager", "at least", 2.0),
    ("adam-atan2-pytorch, foreach", "AdamAtan2, compiled", "at least", 2.0),
)
"""Time of the first over time of the second, and what it should be."""


def make_parameters() -> list[Tensor]:
    """Return `TENSORS` parameters [rows, columns] with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = []
    for _ in range(TENSORS):
        param = torch.randn(ROWS, COLUMNS, generator=generator).requires_grad_()
        param.grad = torch.randn(ROWS, COLUMNS, generator=generator)
        params.append(param)
    return params


def timed_step(optimizer: torch.optim.Optimizer) -> float:
    """Make one step and return its seconds."""
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def measure(threads: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every counted step, by optimizer; the first entry of each is its first step."""
    torch.set_num_threads(threads)
    optimizers = {name: make(make_parameters()) for name, make in OPTIMIZERS.items()}
    seconds = {name: [timed_step(optimizer)] for name, optimizer in optimizers.items()}
    names = list(optimizers)
    for index in range(WARM_UP + rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            taken = timed_step(optimizers[name])
            if index >= WARM_UP:
                seconds[name].append(taken)
    return seconds


def report(threads: int, rounds: int) -> dict:
    """Measure, print the table and the ratios, and return them."""
    seconds = measure(threads, rounds)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print(f"{TENSORS} tensors of {ROWS} x {COLUMNS}, threads {threads}, median of {rounds} interleaved steps")
    for name, median in medians.items():
        print(f"  {name:<28} {1e3 * median:7.2f} ms (fastest {1e3 * min(seconds[name][1:]):.2f} ms)")
    print(f"  first step of the compiled one: {seconds['AdamAtan2, compiled'][0]:.1f} s")
    ratios = []
    for slower, faster, word, target in TARGETS:
        ratio = medians[slower] / medians[faster]
        met = ratio <= target if word == "at most" else ratio >= target
        print(f"  {slower} / {faster}: {ratio:.2f} (target {word} {target}: {'met' if met else 'MISSED'})", flush=True)
        ratios.append({"of": slower, "to": faster, "ratio": ratio, "target": f"{word} {target}", "met": met})
    return {"threads": threads, "milliseconds": {n: 1e3 * m for n, m in medians.items()}, "ratios": ratios}


def main() -> bool:
    """Run every number of threads; say whether all targets are met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to measure with")
    parser.add_argument("--rounds", type=int, default=30, help="interleaved steps of every optimizer")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:  # each in a process of its own, for what is compiled keeps its threads
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(report, threads, arguments.rounds).result())
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")
    return all(ratio["met"] for row in rows for ratio in row["ratios"])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
