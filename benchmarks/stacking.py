"""Training steps of sweep members stacked into one batched model, against one process a member.

    python benchmarks/stacking.py

One process per core runs at once, each with one thread. In each, steps of one model and of 2, 4 and 8 models
stacked by `torch.func` (each with its own data) alternate. The ratio is the time of a member's step alone over
that in the stack: above 1 stacking wins. The stack is favoured: its members share one learning rate, and none
of them diverges, is probed or ends before the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from fionalm.models import Decoder, DecoderConfig
from fionalm.objectives import linear_cross_entropy
from fionalm.sweeps import available_cores

WIDTHS, MEMBERS = (32, 64), (2, 4, 8)
LAYERS, BATCH, SEQ_LEN, VOCAB = 3, 16, 128, 512


def shape(width: int) -> DecoderConfig:
    """Return the configuration that `benchmarks/sweep.py` trains."""
    return DecoderConfig(vocab_size=VOCAB, d_model=width, n_layers=LAYERS, n_heads=width // 16, max_seq_len=SEQ_LEN)


def single(width: int) -> Callable[[], None]:
    """Return a training step of one model, as the trainer makes it."""
    model = Decoder(shape(width))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = torch.randint(VOCAB, (BATCH, SEQ_LEN + 1))

    def step() -> None:
        optimizer.zero_grad()
        loss, _ = model(batch[:, :-1], head=partial(linear_cross_entropy, targets=batch[:, 1:]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    return step


def stacked(width: int, members: int) -> Callable[[], None]:
    """Return a training step of `members` models at once, each clipped by its own gradient's norm."""
    state, _ = stack_module_state([Decoder(shape(width)) for _ in range(members)])
    parameters = {name: values.detach().requires_grad_() for name, values in state.items()}
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-3, fused=True)
    batch = torch.randint(VOCAB, (members, BATCH, SEQ_LEN + 1))
    skeleton = Decoder(shape(width)).to("meta")

    def loss(member: dict[str, Tensor], tokens: Tensor) -> Tensor:
        logits = functional_call(skeleton, member, (tokens[:, :-1],)).logits
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def step() -> None:
        optimizer.zero_grad()
        vmap(loss)(parameters, batch).sum().backward()
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        factors = (1 / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
        optimizer.step()

    return step


def measure(rounds: int) -> dict[int, dict[int, float]]:
    """Return by width and number of members (1: alone) the median seconds of one member's step."""
    torch.set_num_threads(1)
    # vmap has no rule for the fused attention kernel and says so each time that it loops over the members
    warnings.filterwarnings("ignore", message="There is a performance drop")
    found = {}
    for width in WIDTHS:
        steps = {1: single(width)} | {members: stacked(width, members) for members in MEMBERS}
        seconds: dict[int, list[float]] = {members: [] for members in steps}
        for index in range(rounds + 1):
            for members, step in steps.items():
                start = time.perf_counter()
                step()
                if index:  # the first round warms up
                    seconds[members].append((time.perf_counter() - start) / members)
        found[width] = {members: statistics.median(values) for members, values in seconds.items()}
    return found


def main() -> None:
    """Start the processes and print one line a width, with the mean of the processes' ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes at once")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of one step of each kind")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.rounds)))
        return
    command = [sys.executable, __file__, "--measure", "--rounds", str(arguments.rounds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(arguments.workers)]
    found = [json.loads(process.communicate()[0]) for process in running]
    print(f"{arguments.workers} one-thread processes; time of a member's step alone over that in a stack")
    for width in map(str, WIDTHS):
        alone = [one[width]["1"] for one in found]
        ratios = [statistics.mean(one[width]["1"] / one[width][str(members)] for one in found) for members in MEMBERS]
        each = ", ".join(f"{members} members {ratio:.2f}" for members, ratio in zip(MEMBERS, ratios, strict=True))
        print(f"d {width} L {LAYERS}: alone {1e3 * statistics.mean(alone):.1f} ms a step; {each}")


if __name__ == "__main__":
    main()
