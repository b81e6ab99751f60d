"""The presets of `best-of-n` and the trials that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fionalm.posttraining.best_of_n_config import BestOfNMethod
from fionalm.studies.study import Scale
from fionalm.sweeps import Trial

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
class RealConfig:
    """A real model; the defaults are SmolLM2-135M-Instruct on one-digit arithmetic, a few minutes."""

    model: str = "smollm2"
    data: str | None = None
    """Dataset with `answer`; None: one-digit arithmetic."""
    columns: dict[str, str] = field(default_factory=dict)
    verifier: str = "math"
    """Of the dataset."""
    n: int = 8
    """N' of BoN-RLB(P); REINFORCE is beside it."""
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)
    """N at test time."""
    samples: int = 16
    steps: int = 8
    batch: int = 16
    lr: float = 1e-3
    lora_rank: int = 8
    max_tokens: int = 3
    micro_batch_tokens: int = 2048
    sample_batch: int = 64
    test_problems: int = 48
    test_samples: int = 16
    seed: int = 0


@dataclass(frozen=True)
class BestOfNStudyConfig:
    """Sizes of the study; the defaults are the scale `laptop`."""

    seeds: int = 3
    n_digits: int = 3
    """Of a number-chain problem."""
    d_model: int = 32
    n_layers: int = 2
    pretraining_steps: int = 400
    pretraining_batch: int = 128
    pretraining_lr: float = 3e-3
    expert_prompts: int = 400
    """Training problems that the base model is sampled on: for the verifier, and the right ones for SFT and BoN-SFT."""
    expert_samples: int = 32
    verifier_steps: int = 1500
    ns: tuple[int, ...] = (1, 4, 16, 32)
    """N at test time and N' in training."""
    samples: int = 64
    """Of each prompt in training, for every method and N'."""
    steps: int = 100
    batch: int = 16
    """Prompts of a step."""
    sft_batch: int = 128
    """Examples of a step of SFT, which draws no samples."""
    lr: float = 3e-4
    """The largest of 3e-4 and 1e-3 at which REINFORCE raises pass@1 on the validation problems."""
    test_problems: int = 200
    test_samples: int = 64
    grid_problems: int = 120
    """Test problems over temperatures."""
    grid_samples: int = 64
    temperatures: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    real: RealConfig | None = field(default_factory=lambda: RealConfig())
    """A real model that is trained beside the tiny ones; None: none is."""

    @property
    def largest_n(self) -> int:
        """The largest N, which the claims are about."""
        return max(self.ns)

    def base_values(self, seed: int) -> dict[str, Any]:
        """Return what decides a base model and its evaluation, as JSON."""
        names = (
            "n_digits", "d_model", "n_layers", "pretraining_steps", "pretraining_batch", "pretraining_lr",
            "expert_prompts", "expert_samples", "verifier_steps", "ns", "test_problems",
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
            pretraining_steps=120,
            expert_prompts=24,
            expert_samples=8,
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
            real=None,
        )
    if scale == "quick":
        return replace(
            laptop,
            seeds=3,
            expert_prompts=200,
            expert_samples=16,
            verifier_steps=300,
            ns=(1, 8),
            samples=16,
            steps=40,
            test_problems=80,
            test_samples=32,
            grid_problems=40,
            grid_samples=32,
            temperatures=(0.5, 0.8, 1.1, 1.4),
            real=None,
        )
    return replace(
        laptop,
        n_digits=4,
        d_model=128,
        n_layers=4,
        pretraining_steps=5000,
        ns=(1, 4, 8, 16, 32),
        steps=500,
        batch=64,
        test_problems=1000,
        test_samples=256,
        grid_problems=1000,
        grid_samples=256,
        real=RealConfig(
            model="hf:google/gemma-2b",
            data="hf:EleutherAI/hendrycks_math:algebra",
            columns={"prompt": "problem", "answer": "solution"},
            n=32,
            ns=(1, 4, 8, 16, 32, 64, 128, 256),
            samples=64,
            steps=2000,
            batch=32,
            lr=1e-6,
            lora_rank=0,
            max_tokens=512,
            micro_batch_tokens=16_384,
            sample_batch=256,
            test_problems=500,
            test_samples=256,
        ),
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


def real_trials(config: BestOfNStudyConfig) -> dict[str, Trial]:
    """Return the trials of the real model, by method."""
    if config.real is None:
        return {}
    values = {name: value for name, value in asdict(config.real).items() if name != "n"}
    return {
        method: Trial(f"{__package__}.real:run", {**values, "method": method, "n": n}, cost=8.0)
        for method, n in ((BASE, 1), (RL, 1), ("bon-rlb-p", config.real.n))
    }
