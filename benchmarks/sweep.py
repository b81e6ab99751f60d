"""Runs per hour of the `local` sweep executor against a sequential loop in one process with all threads.

    python benchmarks/sweep.py --out sweep.json

Both train the same configurations, which differ in seed and learning rate. Rounds are interleaved, so that a
change of the machine's speed meets both; medians are compared. Workers are started before the clock: their
start, once a sweep, is printed beside. Target: at least 1.4 times at width 64 or less on two cores.
`benchmarks/stacking.py` measures the alternative, members stacked into one batched model, which did not win.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fionalm.data.config import DataConfig
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig
from fionalm.sweeps import LocalExecutor, TrialStore, available_cores, run_sweep
from fionalm.sweeps.training_trial import run, training_trial
from fionalm.training.config import TrainConfig

SHAPES = ((32, 3), (64, 3))
TARGET = 1.4


def configurations(width: int, layers: int, runs: int, steps: int, seed: int) -> list[TrainConfig]:
    """Return `runs` configurations of one shape: 16 sequences of 128 tokens a step, vocabulary 512."""
    model = DecoderConfig(vocab_size=512, d_model=width, n_layers=layers, n_heads=width // 16, max_seq_len=128)
    data = DataConfig(vocab_size=512, seq_len=128)
    return [
        TrainConfig(model, data, OptimizerConfig(lr=1e-3 * (1 + i)), steps=steps, seed=seed, eval_batches=2)
        for i in range(runs)
    ]


def sequential(configs: Sequence[TrainConfig], threads: int) -> float:
    """Return the seconds of a loop in this process with `threads` threads."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    for config in configs:
        run(config.to_dict())
    return time.perf_counter() - started


def swept(configs: Sequence[TrainConfig], executor: LocalExecutor) -> float:
    """Return the seconds of the same runs on workers, storing of results included."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        outcomes = run_sweep(
            [training_trial(config) for config in configs],
            store=TrialStore(folder),
            executor=executor,
            quiet=True,
        )
        seconds = time.perf_counter() - started
    crashed = [outcome.error for outcome in outcomes if outcome.status == "crashed"]
    if crashed:
        raise RuntimeError(f"{len(crashed)} runs crashed; the first:\n{crashed[0]}")
    return seconds


def measure(width: int, layers: int, executor: LocalExecutor, arguments: argparse.Namespace) -> dict:
    """Return one row of the table."""
    loop, sweep = [], []
    for index in range(arguments.rounds):
        configs = configurations(width, layers, arguments.runs, arguments.steps, seed=index)
        loop.append(sequential(configs, executor.workers) / len(configs))
        sweep.append(swept(configs, executor) / len(configs))
    ratios = [one / two for one, two in zip(loop, sweep, strict=True)]
    return {
        "width": width,
        "layers": layers,
        "steps": arguments.steps,
        "loop_runs_per_hour": 3600 / statistics.median(loop),
        "sweep_runs_per_hour": 3600 / statistics.median(sweep),
        "ratio": statistics.median(loop) / statistics.median(sweep),
        "ratios": ratios,
        "target": TARGET,
    }


def main() -> None:
    """Measure every shape, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes, and threads of the loop")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--runs", type=int, default=4, help="training runs a round")
    parser.add_argument("--steps", type=int, default=40, help="steps a run")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    rows = []
    print(f"{arguments.workers} one-thread processes against a loop with {arguments.workers} threads")
    print("width layers  loop runs/h  sweep runs/h  ratio (each round)         target")
    with LocalExecutor(arguments.workers) as executor:
        warm = configurations(*SHAPES[0], runs=arguments.workers, steps=2, seed=0)
        sequential(warm, executor.workers)  # which also trains the tokenizer that all runs share
        started = time.perf_counter()
        swept(warm, executor)
        start = time.perf_counter() - started
        for width, layers in SHAPES:
            row = measure(width, layers, executor, arguments)
            rows.append(row)
            each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
            print(
                f"{width:5} {layers:6} {row['loop_runs_per_hour']:12.0f} {row['sweep_runs_per_hour']:13.0f}  "
                f"{row['ratio']:5.2f} ({each})  {TARGET}",
                flush=True,
            )
    print(f"start of the workers, once a sweep: {start:.1f} s")
    if arguments.out is not None:
        values = {"workers": arguments.workers, "start_seconds": start, "rows": rows}
        arguments.out.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
