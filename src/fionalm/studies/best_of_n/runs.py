"""The presets of `best-of-n`, the trials that they ask for, and what these cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fionalm.models.config import DecoderConfig
from fionalm.models.shapes import SHAPES
from fionalm.posttraining.best_of_n_config import BestOfNMethod
from fionalm.studies.study import Scale
from fionalm.sweeps import Trial
from fionalm.training.workload import Workload

BASE = "base"
RL, GRPO, SFT = "reinforce", "grpo", "sft"
BON_METHODS: tuple[BestOfNMethod, ...] = ("bon-sft", "bon-rl-v", "bon-rl-s", "bon-rlb", "bon-rlb-p")
TITLES = {
    BASE: "base",
    SFT: "SFT",
    RL: "RL, N = 1",
    GRPO: "GRPO, N = 1",
    "bon-sft": "BoN-SFT",
    "bon-rl-v": "BoN-RL-V",
    "bon-rl-s": "BoN-RL-S",
    "bon-rlb": "BoN-RLB",
    "bon-rlb-p": "BoN-RLB(P)",
}
Key = tuple[str, int, int]
"""(method, N', seed)"""


@dataclass(frozen=True)
class BestOfNStudyConfig:
    """Sizes of the study; the defaults are the scale `laptop`."""

    seeds: int = 5
    n_digits: int = 4
    """Of a number-chain problem."""
    d_model: int = 32
    n_layers: int = 2
    pretraining_steps: int = 1000
    pretraining_batch: int = 128
    pretraining_lr: float = 3e-3
    expert_prompts: int = 400
    """Training problems whose right samples of the base model SFT and BoN-SFT learn from."""
    expert_samples: int = 32
    verifier_rows: int = 20_000
    """Labelled chains of the corpus's problems that the verifier of BoN-RL-V learns from."""
    verifier_steps: int = 400
    ns: tuple[int, ...] = (1, 4, 16, 32)
    """N at test time and N' in training."""
    samples: int = 64
    """Of each prompt in training, for every method and N'."""
    steps: int = 40
    batch: int = 16
    """Prompts of a step."""
    sft_batch: int = 128
    """Examples of a step of SFT, which draws no samples."""
    lr: float = 1e-3
    test_problems: int = 200
    test_samples: int = 64
    grid_problems: int = 120
    """Test problems over temperatures."""
    grid_samples: int = 64
    temperatures: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    real_model: str | None = "smollm2"
    """A model that is also trained on one-digit arithmetic; None: none is."""
    real_steps: int = 8

    @property
    def largest_n(self) -> int:
        """The largest N, which the claims are about."""
        return max(self.ns)

    def base_values(self, seed: int) -> dict[str, Any]:
        """Return what decides a base model and its evaluation, as JSON."""
        names = (
            "n_digits", "d_model", "n_layers", "pretraining_steps", "pretraining_batch", "pretraining_lr",
            "expert_prompts", "expert_samples", "verifier_rows", "verifier_steps", "ns", "test_problems",
            "test_samples", "grid_problems", "grid_samples", "temperatures",
        )  # fmt: skip
        return {"seed": seed, **{name: getattr(self, name) for name in names}}

    def arms(self) -> Iterator[tuple[str, int]]:
        """Yield (method, N') of every training; N' = 1 is the baselines', whose objective every method has there."""
        yield from ((method, 1) for method in (SFT, RL, GRPO))
        yield from ((method, n) for method in BON_METHODS for n in self.ns if n > 1)


def preset(scale: Scale) -> BestOfNStudyConfig:
    """Return the study's size at `scale`; `cluster` is the paper's own set-up."""
    laptop = BestOfNStudyConfig()
    if scale == "laptop":
        return laptop
    if scale == "smoke":
        return replace(
            laptop,
            seeds=1,
            n_digits=3,
            n_layers=1,
            pretraining_steps=150,
            expert_prompts=24,
            expert_samples=8,
            verifier_rows=512,
            verifier_steps=10,
            ns=(1, 4),
            samples=8,
            steps=2,
            batch=4,
            sft_batch=16,
            test_problems=16,
            test_samples=8,
            grid_problems=8,
            grid_samples=8,
            temperatures=(0.6, 1.0, 1.4),
            real_model=None,
        )
    if scale == "quick":
        return replace(
            laptop,
            seeds=3,
            pretraining_steps=500,
            expert_prompts=150,
            expert_samples=16,
            verifier_rows=8000,
            verifier_steps=120,
            ns=(1, 8),
            samples=16,
            steps=15,
            test_problems=80,
            test_samples=32,
            grid_problems=40,
            grid_samples=32,
            temperatures=(0.5, 0.8, 1.1, 1.4),
            real_model=None,
        )
    return replace(
        laptop,
        seeds=1,
        ns=(1, 4, 8, 16, 32),
        samples=64,
        steps=2000,
        batch=32,
        test_problems=500,
        test_samples=256,
        grid_problems=500,
        grid_samples=256,
        real_model="hf:google/gemma-2b",
    )


def base_trials(config: BestOfNStudyConfig) -> dict[int, Trial]:
    """Return the trials that make base models, by seed."""
    return {
        seed: Trial(f"{__package__}.trials:base", config.base_values(seed), cost=4.0) for seed in range(config.seeds)
    }


def training_trials(config: BestOfNStudyConfig) -> dict[Key, Trial]:
    """Return the trials that train them, by (method, N', seed)."""
    shared = {name: getattr(config, name) for name in ("samples", "steps", "batch", "sft_batch", "lr")}
    return {
        (method, n, seed): Trial(
            f"{__package__}.trials:train",
            {"method": method, "n": n, **shared, "base": config.base_values(seed)},
            cost=0.5 if method == SFT else 1.0,
        )
        for seed in range(config.seeds)
        for method, n in config.arms()
    }


def plan(config: BestOfNStudyConfig) -> list[Workload]:
    """Return the study's runs, for estimates of their cost.

    At `cluster` the runs are the paper's: Gemma 2B on MATH and HumanEval, prompts and answers of 512 tokens together.
    """
    paper = config.real_model is not None and config.real_model.startswith("hf:")
    model = SHAPES["gemma-2b"] if paper else _tiny(config)
    prompt, answer = (200, 312) if paper else (config.n_digits + 4, 2 * config.n_digits)
    found = []
    for _ in range(config.seeds):
        tested = config.test_problems * config.test_samples
        tested_grid = config.grid_problems * config.grid_samples * len(config.temperatures)
        pretrained = 0 if paper else config.pretraining_steps * config.pretraining_batch
        found.append(
            Workload(
                model=model,
                seq_len=prompt + answer,
                trained_tokens=pretrained * (prompt + answer),
                sampled_tokens=(tested + tested_grid) * answer,
                prompt_tokens=(config.test_problems + config.grid_problems * len(config.temperatures)) * prompt,
                sample_batch=512 if not paper else 64,
            )
        )
        for method, _ in config.arms():
            drawn = 0 if method == SFT else config.steps * config.batch * config.samples
            learnt = config.steps * config.sft_batch if method == SFT else drawn
            found.append(
                Workload(
                    model=model,
                    seq_len=prompt + answer,
                    trained_tokens=learnt * (prompt + answer),
                    sampled_tokens=(drawn + tested) * answer,
                    prompt_tokens=(config.steps * config.batch + config.test_problems) * prompt,
                    scored_tokens=(tested + (drawn if method == "bon-rl-v" else 0)) * (prompt + answer),
                    sample_batch=512 if not paper else 64,
                    strategy="fsdp2" if paper else "ddp",
                )
            )
    return found


def _tiny(config: BestOfNStudyConfig) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=16,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=max(1, config.d_model // 16),
        max_seq_len=32,
        positions="learned",
        norm="rmsnorm",
        mlp="silu_gated",
    )
