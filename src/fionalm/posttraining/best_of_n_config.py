"""What can be set about best-of-N-aware fine-tuning; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.optim.config import require_number
from fionalm.posttraining.config import FinetuneConfig

BestOfNMethod = Literal["bon-sft", "bon-rl-v", "bon-rl-s", "bon-rlb", "bon-rlb-p", "sft", "reinforce", "grpo"]
EstimatorName = Literal["default", "paper", "unbiased"]
METHODS: tuple[BestOfNMethod, ...] = get_args(BestOfNMethod)
SUPERVISED = ("sft", "bon-sft")
"""Methods that learn from the column `completion`."""
ONE_SAMPLE = ("sft", "reinforce", "grpo")
"""Baselines, which train for one sample at inference."""
BINARY = ("bon-rlb", "bon-rlb-p")
"""Methods whose gradient is for rewards of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig(FinetuneConfig):
    """Fine-tuning for a model that will be sampled N times (Chow et al. 2024); `batch_size` counts prompts."""

    method: BestOfNMethod = "bon-rlb-p"
    """bon-sft, bon-rl-v (a verifier selects), bon-rl-s (the reward selects), bon-rlb, bon-rlb-p (rewards of 0 and 1;
    p: right samples alone); baselines for one sample: sft, reinforce, grpo."""
    n: int = 16
    """Samples at inference, of which the best is used; the baselines have 1."""
    samples_per_prompt: int | None = None
    """Samples drawn in training, M. None: 2 n, at least 8."""
    steps: int = 100
    """Batches of prompts that are drawn."""
    reuse: int = 1
    """Updates from each batch; after the first the samples are an older policy's, and PPO's clipped ratio is used."""
    ratio_clip: float = 0.2
    """How far that ratio may move from 1."""
    estimator: EstimatorName = "default"
    """`paper`: the tilted distribution, and for bon-rlb the plug-in N p^(N-1), which is biased; `unbiased`: means over
    all subsets of the samples. Default: unbiased for bon-rlb and bon-rlb-p, else paper."""
    weight_clip: float | None = None
    """Largest absolute weight of a sample; 0: none is clipped. None: 4 n, which only weights that explode exceed."""
    temperature: float = 1.0
    """Of training samples; the policy that is trained is the model at this temperature."""
    max_tokens: int = 256
    """Tokens of a completion at most."""
    kl_coef: float = 0.0
    """Weight of KL(policy | start), per completion in nats."""
    kl_final: float | None = None
    """That weight at the last step, reached linearly; None: constant."""
    sample_batch: int = 256
    """Samples that are drawn at a time."""
    eval_every: int = 0
    """Steps between evaluations on the validation rows; 0: only before the first step and after the last."""
    eval_samples: int | None = None
    """Samples of each validation problem. None: as many as in training."""
    store_samples: bool = True
    """Keep every training sample in the run folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise choice_error("method", self.method, METHODS)
        if self.estimator not in get_args(EstimatorName):
            raise choice_error("estimator", self.estimator, get_args(EstimatorName))
        for name, least in (("n", 1), ("steps", 1), ("reuse", 1), ("max_tokens", 1), ("sample_batch", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name} was {value!r}: expected a whole number of at least {least}")
        if self.method in ONE_SAMPLE and self.n != 1:
            raise UserError(f"method {self.method} trains for one sample, and n is {self.n}: expected n 1")
        if self.samples_per_prompt is not None and self.samples_per_prompt < self.least_samples:
            raise UserError(
                f"samples_per_prompt {self.samples_per_prompt} with method {self.method} and n {self.n}: expected at "
                f"least {self.least_samples}, best 2 n to 4 n"
            )
        require_number("temperature", self.temperature, above=0.0)
        require_number("ratio_clip", self.ratio_clip, above=0.0)
        require_number("kl_coef", self.kl_coef, least=0.0)
        if self.kl_final is not None:
            require_number("kl_final", self.kl_final, least=0.0)
        if self.weight_clip is not None:
            require_number("weight_clip", self.weight_clip, least=0.0)

    @property
    def samples(self) -> int:
        """Samples drawn of each prompt in training."""
        return max(2 * self.n, 8) if self.samples_per_prompt is None else self.samples_per_prompt

    @property
    def least_samples(self) -> int:
        """Fewest samples a prompt from which the method's weights can be estimated."""
        return max(2, self.n + 1 if self.method in BINARY else self.n)

    @property
    def unbiased(self) -> bool:
        """Whether weights are means over all subsets of the samples."""
        return self.method in BINARY if self.estimator == "default" else self.estimator == "unbiased"

    @property
    def largest_weight(self) -> float:
        """Where weights are clipped; 0: nowhere."""
        return 4.0 * self.n if self.weight_clip is None else self.weight_clip

    def kl_weight(self, step: int) -> float:
        """Return the KL's weight at a step, the first being 0."""
        if self.kl_final is None or self.steps == 1:
            return self.kl_coef
        return self.kl_coef + (self.kl_final - self.kl_coef) * min(1.0, step / (self.steps - 1))
