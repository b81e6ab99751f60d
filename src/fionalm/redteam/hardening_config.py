"""What can be set about hardening; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.optim.config import OptimizerConfig, ScheduleConfig, require_number
from fionalm.posttraining.best_of_n_config import BestOfNConfig
from fionalm.posttraining.config import FinetuneConfig, SupervisedConfig
from fionalm.redteam.problems import DISTANCES

HardenMethod = Literal["reinforce", "grpo", "ppo", "sft"]
METHODS: tuple[HardenMethod, ...] = get_args(HardenMethod)
PPO_REUSE = 4


@dataclass(frozen=True, kw_only=True)
class HardenConfig(FinetuneConfig):
    """Training on attacked and clean problems, rewarded by arithmetic itself; `batch_size` counts prompts."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5, betas=(0.9, 0.999)))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(name="linear"))
    method: HardenMethod = "reinforce"
    """reinforce (leave-one-out baseline), grpo, ppo (the same advantages, each batch used several times under a
    clipped ratio), or sft on correct answers."""
    steps: int = 100
    """Batches of prompts."""
    rows: int = 512
    """Different prompts in the training mix."""
    clean_share: float = 0.25
    """Of them without anything inserted."""
    control_share: float = 0.25
    """Of them with harmless text inserted, as long as an attack; the rest is attacked."""
    samples_per_prompt: int = 8
    """Answers drawn of each prompt and step."""
    reuse: int | None = None
    """Updates from each batch of answers. None: 4 for ppo, else 1."""
    ratio_clip: float = 0.2
    """How far the probability ratio of a reused answer may move from 1."""
    temperature: float = 1.0
    """Of training answers."""
    max_tokens: int = 24
    """Tokens of an answer at most, in training and evaluation."""
    kl_coef: float = 0.05
    """Weight of KL(policy | start), per answer in nats; sft has none."""
    completion: str = "{answer}"
    """sft: what is learnt after each prompt."""
    distances: tuple[int, ...] = DISTANCES
    """Of the wrong answers that attacks are to bring about, from the true ones."""
    eval_attacks: int = 4
    """Attacks of each family at most whose accuracy is measured; 0: all."""
    eval_temperature: float = 0.0
    """Of measured answers; 0 takes the likeliest."""
    tolerance: float = 0.02
    """Fall of an accuracy, or relative rise of a perplexity, that still counts as none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise choice_error("method", self.method, METHODS)
        for name, least in (
            ("steps", 1),
            ("rows", 1),
            ("samples_per_prompt", 2),
            ("max_tokens", 1),
            ("eval_attacks", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: expected at least {least}")
        if self.reuse is not None and self.reuse < 1:
            raise UserError(f"reuse {self.reuse}: expected at least 1")
        if min(self.clean_share, self.control_share) < 0 or not self.clean_share + self.control_share < 1:
            raise UserError(
                f"clean_share {self.clean_share:g} and control_share {self.control_share:g}: expected shares that "
                "leave some for attacks"
            )
        if "{answer}" not in self.completion:
            raise UserError(f"completion {self.completion!r} has no {{answer}}: expected it where the number goes")
        require_number("eval_temperature", self.eval_temperature, least=0.0)
        require_number("tolerance", self.tolerance, least=0.0)

    def training(self) -> BestOfNConfig | SupervisedConfig:
        """Return the shared trainers' configuration of this method."""
        shared: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(FinetuneConfig)}
        if self.method == "sft":
            return SupervisedConfig(**shared, steps=self.steps, max_tokens=self.max_tokens)
        return BestOfNConfig(
            **shared,
            method="grpo" if self.method == "grpo" else "reinforce",
            n=1,
            steps=self.steps,
            samples_per_prompt=self.samples_per_prompt,
            reuse=self.reuse or (PPO_REUSE if self.method == "ppo" else 1),
            ratio_clip=self.ratio_clip,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            kl_coef=self.kl_coef,
        )
