"""Where a step of best-of-N-aware training spends its time, and what it holds.

    python benchmarks/best_of_n.py --out best-of-n.json

A decoder with width 256 and 6 layers draws 16 samples of each of 4 prompts, at most 64 tokens, and is trained on them
by BoN-RL-S for N = 8. The verifier is a function in this process, or math-verify in worker processes. The peer is the
same trainer whose samples are verified only when all are drawn. Reported: the shares of sampling, of waiting for the
verifier and of training, tokens a second, and the peak memory. Target: at most 10% of a step is spent waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fionalm.data import Prompt, character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.posttraining import BestOfN, BestOfNConfig, Policy
from fionalm.sampling import Completion, EngineSampler, Sampler, SamplingParams
from fionalm.sampling.types import OnCompletion
from fionalm.verifiers import FunctionVerifier, MathVerifier, Verdict, Verifier

TARGET = 0.10
ALPHABET = "0123456789+-*/=()[]{}: \nabcdefghijklmnopqrstuvwxyz_"
SHAPE = {"d_model": 256, "n_layers": 6, "n_heads": 4, "d_ff": 704, "norm": "rmsnorm", "mlp": "silu_gated"}
PROMPTS, SAMPLES, TOKENS = 4, 16, 64


class Later:
    """A sampler that tells of its completions only when all are drawn."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        seeds: Sequence[Sequence[int]] | None = None,
        on_completion: OnCompletion | None = None,
        quiet: bool = True,
    ) -> list[list[Completion]]:
        """Draw, then tell."""
        drawn = self.sampler.sample(prompts, params, seeds=seeds, quiet=quiet)
        for index, completions in enumerate(drawn):
            for sample, completion in enumerate(completions):
                if on_completion is not None:
                    on_completion(index, sample, completion)
        return drawn


class LaterPolicy(Policy):
    """A policy whose samples are told of late."""

    def sampler(self, *, max_batch: int = 64) -> Sampler:
        """Return such a sampler."""
        return Later(EngineSampler(self.model, self.tokenizer, max_batch=max_batch))


def even(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    """Reward completions with an even digit, about half of what an untrained model writes."""
    return [float(any(digit in text for digit in "02468")) for text in completions]


class Answers:
    """Has math-verify judge an answer beside each completion, and rewards as `even` does."""

    def __init__(self) -> None:
        self.verifier = MathVerifier()

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[Verdict]:
        """Return verdicts: the work is math-verify's, the reward differs by completion."""
        texts = [f"\\boxed{{\\frac{{{len(text)}}}{{7}} + x}}" for text in completions]
        done = self.verifier(prompts, texts, answer=["\\frac{1}{7} + x"] * len(texts))
        return [
            verdict if verdict.reward is None else Verdict("right" if mark else "wrong", mark)
            for verdict, mark in zip(done, even(prompts, completions), strict=True)
        ]

    def close(self) -> None:
        """End the workers."""
        self.verifier.close()


def measure(policy_class: type[Policy], verifier: Verifier, steps: int) -> list[dict[str, Any]]:
    """Return the metrics of the steps after the first."""
    tokenizer = character_tokenizer(ALPHABET)
    shape = DecoderConfig(vocab_size=tokenizer.get_vocab_size(), max_seq_len=128, **SHAPE)  # type: ignore[arg-type]
    policy = policy_class(Decoder(shape, torch.Generator().manual_seed(0)), tokenizer, device="cpu")
    rows = [{"prompt": f"{number:02d} + {number:02d} =" * 3, "answer": "4"} for number in range(PROMPTS)]
    config = BestOfNConfig(
        method="bon-rl-s",
        n=8,
        samples_per_prompt=SAMPLES,
        steps=steps + 1,
        batch_size=PROMPTS,
        max_tokens=TOKENS,
        sample_batch=PROMPTS * SAMPLES,
    )
    return BestOfN(policy, rows, verifier, config, quiet=True).run().rows[1:]


def main() -> bool:
    """Print a table, write JSON, and say whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--steps", type=int, default=4, help="steps a run, besides a first one that is not counted")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kinds: dict[str, Callable[[], Any]] = {"a function": lambda: FunctionVerifier(even), "math-verify": Answers}
    results, met = [], True
    for name, make in kinds.items():
        verifier = make()
        runs = {"beside": measure(Policy, verifier, arguments.steps)}
        runs["after"] = measure(LaterPolicy, verifier, arguments.steps)
        verifier.close()
        result: dict[str, Any] = {"verifier": name}
        print(f"{name}: {PROMPTS} prompts x {SAMPLES} samples, d {SHAPE['d_model']}, {arguments.threads} threads")
        for when, rows in runs.items():
            parts = {part: statistics.median(row[f"seconds_{part}"] for row in rows) for part in PARTS}
            total = sum(parts.values())
            rate, memory = statistics.median(row["tokens_per_second"] for row in rows), rows[-1]["peak_memory_mb"]
            result[when] = {"seconds": parts, "tokens_per_second": rate, "peak_memory_mb": memory}
            shares = ", ".join(f"{part} {seconds / total:5.1%}" for part, seconds in parts.items())
            print(f"  verified {when:6} sampling: {total:6.2f} s a step ({shares})")
            print(f"    {rate:,.0f} tokens/s drawn, peak memory {memory:,.0f} MB", flush=True)
        seconds = {when: sum(result[when]["seconds"].values()) for when in runs}
        waiting = result["beside"]["seconds"]["waiting"] / seconds["beside"]
        result["ratio"] = seconds["after"] / seconds["beside"]
        good = waiting <= TARGET
        met &= good
        print(
            f"  ratio {result['ratio']:.2f}; waiting {waiting:.1%}, target {TARGET:.0%}: {'met' if good else 'missed'}"
        )
        results.append(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    return met


PARTS = ("sampling", "waiting", "training")

if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
