"""Kill a ReST-EM run in each of its phases until it ends, in a process that imports torch once and forks per attempt.

    python killed_rest_em.py OUT

Prints the phases in which it was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from tiny_policies import make_policy, make_rows

from fionalm.optim import OptimizerConfig
from fionalm.posttraining import Policy, RestEM, RestEMConfig, SupervisedConfig, encode_example, fit
from fionalm.verifiers import Verdict

CONFIG = RestEMConfig(
    iterations=2,
    samples_per_problem=6,
    temperature=1.0,
    max_tokens=8,
    problems_at_once=2,
    optimizer=OptimizerConfig(lr=3e-3),
    batch_size=8,
    epochs=6,
    patience=0,
    checkpoint_every=1,
)


def base_policy() -> Policy:
    """Return a policy that copies its prompt now and then."""
    policy = make_policy()
    rows = make_rows(100, seed=9)
    examples = [encode_example(policy.tokenizer, row["prompt"], row["completion"]) for row in rows]
    fit(policy, examples, SupervisedConfig(optimizer=OptimizerConfig(lr=1e-2), batch_size=30, steps=60), quiet=True)
    return Policy(policy.model, policy.tokenizer, device="cpu")  # as loaded: nothing of the one-process training stays


def problems(count: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    """Return different copying problems, with ids and gold answers."""
    words = dict.fromkeys(row["completion"] for row in make_rows(4 * count, seed=seed))
    rows = [{"id": word, "prompt": f"{word}>", "completion": word, "answer": word} for word in words]
    return rows[:count]


def exact(prompts: Sequence[Any], completions: Sequence[Any], *, answer: Sequence[str], **_: Any) -> list[Verdict]:
    """Tell whether the completion is the answer, with the answer in the verdict."""
    return [
        Verdict("right", 1.0, gold) if str(text) == gold else Verdict("wrong", 0.0, str(text))
        for text, gold in zip(completions, answer, strict=True)
    ]


def run(policy: Policy, out: str, config: RestEMConfig = CONFIG) -> None:
    """Train in the folder, or go on there."""
    RestEM(policy, problems(), exact, config, validation=problems(8, seed=1), out=out, quiet=True).run()


def phases(out: Path) -> dict[str, Callable[[], bool]]:
    """Return for each phase whether the run is past its beginning."""
    store = out / "samples.jsonl"

    def lines() -> int:
        return store.read_text().count("\n") if store.exists() else 0

    return {
        "generating": lambda: lines() >= 12,
        "improving": lambda: any(out.glob("iteration-01/checkpoints/step-*")),
        "measuring": lambda: (out / "iteration-01" / "weights.safetensors").exists(),
        "generating again": lambda: lines() >= 16 * 6 + 12,
        "improving again": lambda: any(out.glob("iteration-02/checkpoints/step-*")),
        "saving": lambda: (out / "iteration-02" / "result.json").exists(),
    }


def main(out: str) -> None:
    policy = base_policy()
    killed = []
    for name, reached in [*phases(Path(out)).items(), ("", lambda: False)]:
        child = os.fork()
        if child == 0:
            run(policy, out)
            os._exit(0)
        ended = 0
        while not ended and not reached():
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.0005)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, status
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed.append(name)
    print(", ".join(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
