"""Training tokens/s of the decoder against `transformers`' Llama of the same shape, and the share of peak FLOPs.

    python benchmarks/training_throughput.py --out training_throughput.json

The loops differ in the model and its loss only. The peer is loaded from the decoder's own weights, computes
logits and then `cross_entropy`; the decoder uses `linear_cross_entropy`. Both take the same batches, clip to norm
1 and step with torch's fused AdamW. Steps of all loops and a 2048-cubed fp32 product alternate, so that a busy
machine slows them alike; medians are compared. With several threads it has to be idle all the same: threads wait
for each other many times a step, and whoever waits for a core in one place holds up all. FLOPs are counted by
`fionalm.models.flops_per_token`: 6 (P + L H (seq + 1)) a token, with P the entries of all matrices but the
embedding, L layers, and H the width of the heads together.

Targets: 1.2 times the peer at widths 64 and 128 and never slower at 256; at least 60% of the product's FLOP/s at
128 and 75% at 256. `compiled` is the decoder after `compile_blocks()`; its first step's time is printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.compiler.config
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from fionalm.models import Decoder, DecoderConfig
from fionalm.objectives import linear_cross_entropy

VOCAB, BATCH, SEQ_LEN, PEAK_SIZE = 4096, 16, 128, 2048
SHAPES = ((64, 3), (128, 4), (256, 6))
"""d_model and n_layers."""
RATIO_TARGETS = {64: 1.2, 128: 1.2, 256: 1.0}
UTILIZATION_TARGETS = {64: None, 128: 0.60, 256: 0.75}
WARM_UP = 3


def llama_shaped(d_model: int, n_layers: int) -> DecoderConfig:
    """Return the decoder that computes what Llama does: heads of 64 (at least two), d_ff = 4 d_model, untied."""
    return DecoderConfig(
        vocab_size=VOCAB,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=max(2, d_model // 64),
        max_seq_len=SEQ_LEN,
        norm="rmsnorm",
        mlp="silu_gated",
    )


def training_step(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], float]:
    """Return a function that trains `model` on tokens [batch, seq + 1] once and gives its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(tokens[:, :-1], tokens[:, 1:])
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.item()

    return step


def own_loss(model: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy that never holds all logits."""
    return model(inputs, head=partial(linear_cross_entropy, targets=targets))[0]


def peer_loss(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy from logits."""
    logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def measure(d_model: int, n_layers: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """Return every loop's tokens/s, its ratio to the peer's and its share of the matrix product's FLOP/s."""
    config = llama_shaped(d_model, n_layers)
    names = ["eager", "compiled"] if compiled else ["eager"]
    models = {name: Decoder(config, torch.Generator().manual_seed(0)) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        models["eager"].save_pretrained(folder)
        peer = AutoModelForCausalLM.from_pretrained(folder)
    if compiled:
        models["compiled"].compile_blocks()
    loops = {name: training_step(model, partial(own_loss, model)) for name, model in models.items()}
    loops["transformers"] = training_step(peer, partial(peer_loss, peer))

    generator = torch.Generator().manual_seed(1)
    batches = torch.randint(VOCAB, (WARM_UP + repeats, BATCH, SEQ_LEN + 1), generator=generator)
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE, generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in [*loops, "product"]}
    losses: dict[str, list[float]] = {name: [] for name in loops}
    for tokens in batches:
        for name, step in loops.items():
            start = time.perf_counter()
            losses[name].append(step(tokens))
            seconds[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        torch.mm(left, right)
        seconds["product"].append(time.perf_counter() - start)
    for name, values in losses.items():
        torch.testing.assert_close(values, losses["transformers"], rtol=0, atol=1e-2, msg=f"{name} differs")

    peak = 2 * PEAK_SIZE**3 / statistics.median(seconds["product"][WARM_UP:])
    medians = {name: statistics.median(seconds[name][WARM_UP:]) for name in loops}
    flops = config.flops_per_token(SEQ_LEN)
    rows = {
        name: {
            "tokens_per_second": BATCH * SEQ_LEN / median,
            "ratio": medians["transformers"] / median,
            "utilization": flops * BATCH * SEQ_LEN / median / peak,
            "first_step_seconds": seconds[name][0],
            "step_seconds": seconds[name][WARM_UP:],
        }
        for name, median in medians.items()
    }
    return {"d_model": d_model, "n_layers": n_layers, "peak": peak, "flops_per_token": flops, "loops": rows}


def meets_targets(result: dict[str, Any]) -> bool:
    """Say whether the better of the decoder's loops meets the shape's targets."""
    own = [row for name, row in result["loops"].items() if name != "transformers"]
    wanted = UTILIZATION_TARGETS[result["d_model"]]
    fast = max(row["ratio"] for row in own) >= RATIO_TARGETS[result["d_model"]]
    return fast and (wanted is None or max(row["utilization"] for row in own) >= wanted)


def main() -> bool:
    """Print a table, write JSON, and say whether every target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every loop")
    parser.add_argument("--repeats", type=int, default=15, help="measured steps a loop")
    parser.add_argument("--widths", type=int, nargs="+", default=[d for d, _ in SHAPES], help="of 64, 128, 256")
    parser.add_argument("--eager", action="store_true", help="leave the compiled loop out")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_progress_bar()
    # A second run would report no time of compiling.
    torch.compiler.config.force_disable_caches = True
    warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
    print(f"batch {BATCH} x {SEQ_LEN}, vocabulary {VOCAB}, fp32, {arguments.threads} threads")
    print("  d  L  loop          tokens/s  ratio  of peak  first step  targets")
    results = []
    for d_model, n_layers in SHAPES:
        if d_model not in arguments.widths:
            continue
        result = measure(d_model, n_layers, arguments.repeats, not arguments.eager)
        results.append(result)
        share = UTILIZATION_TARGETS[d_model]
        target = f"{RATIO_TARGETS[d_model]:.1f}x" + ("" if share is None else f", {share:.0%}")
        for name, row in result["loops"].items():
            print(
                f"{d_model:3} {n_layers:2}  {name:12} {row['tokens_per_second']:9.0f} {row['ratio']:6.2f}"
                f" {row['utilization']:8.1%} {row['first_step_seconds']:9.1f} s  "
                f"{'' if name == 'transformers' else target}",
                flush=True,
            )
        verdict = "met" if meets_targets(result) else "missed"
        peak = f"{result['peak'] / 1e9:.0f} GFLOP/s"
        print(
            f"        fp32 product of {PEAK_SIZE} cubed: {peak}; the faster own loop's targets: {verdict}", flush=True
        )
    good = all(meets_targets(result) for result in results)
    if arguments.out is not None:
        payload = {"threads": arguments.threads, "repeats": arguments.repeats, "good": good, "results": results}
        arguments.out.write_text(json.dumps(payload, indent=2) + "\n")
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
