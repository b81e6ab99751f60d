"""What every fine-tuning has in common, checked on creation; a method's own configuration inherits it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.optim.config import OptimizerConfig, ScheduleConfig, require_number
from fionalm.training.config import Precision, Strategy

Average = Literal["token", "example"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in place of the weights (Hu et al. 2021): W + alpha / rank * B A, with B A of this rank."""

    rank: int = 16
    """Rank of each update."""
    alpha: float = 32.0
    """Scale of the update, divided by the rank."""
    targets: tuple[str, ...] = ()
    """Last names of the linear layers; empty: all but the head."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora rank {self.rank}: expected at least 1")
        require_number("lora alpha", self.alpha, above=0.0)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a model's weights are changed, whichever the loss."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5, betas=(0.9, 0.999)))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(name="linear"))
    batch_size: int = 32
    """Examples (pairs, prompts) in one update, over all processes and micro-batches."""
    micro_batch_tokens: int = 8192
    """Tokens, padding included, that one forward and backward pass holds at most; a longer example goes alone."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    lora_rank: int = 0
    """Rank of low-rank adapters; 0: all weights are trained."""
    lora_alpha: float = 32.0
    """Scale of the adapters' update, divided by the rank."""
    precision: Precision = "auto"
    """`auto`: bf16 autocast on a GPU that has it, else fp32. Parameters and optimizer stay fp32."""
    strategy: Strategy = "ddp"
    """What several processes hold: `ddp` the whole model each, `fsdp2` a shard of it each."""
    seed: int = 0
    """Of the order of the data, of samples and of fresh weights."""
    checkpoint_every: int = 100
    """Steps between checkpoints; 0: only when stopped and at the end."""
    keep_checkpoints: int = 1
    """Newest checkpoints that are kept."""
    log_every: int = 1
    """Steps between rows of metrics."""

    def __post_init__(self) -> None:
        for name, least in (
            ("batch_size", 1),
            ("micro_batch_tokens", 1),
            ("keep_checkpoints", 1),
            ("log_every", 1),
            ("lora_rank", 0),
            ("seed", 0),
            ("checkpoint_every", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} was {value!r}: expected a whole number of at least {least}")
        require_number("clip_norm", self.clip_norm, least=0.0)
        require_number("lora_alpha", self.lora_alpha, above=0.0)
        for name, choices in (("precision", get_args(Precision)), ("strategy", get_args(Strategy))):
            if getattr(self, name) not in choices:
                raise choice_error(name, getattr(self, name), choices)

    @property
    def lora(self) -> LoraConfig | None:
        """The adapters to train, None: all weights."""
        return LoraConfig(self.lora_rank, self.lora_alpha) if self.lora_rank else None


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(FinetuneConfig):
    """Supervised fine-tuning."""

    epochs: float = 1.0
    """Times that each example is learnt from."""
    steps: int = 0
    """Updates, in place of epochs; 0: as many as the epochs have."""
    average: Average = "token"
    """A batch's loss is the mean over its completions' tokens, or over its examples, each with its tokens' sum."""
    validate_every: int = 0
    """Steps between validations; 0: after every epoch. There is one after the last step too."""
    patience: int = 0
    """Validations in a row without a new best until training stops; 0: it never stops early."""
    samples: int = 4
    """Prompts whose greedy completions are kept in the run folder at the end."""
    max_tokens: int = 128
    """Tokens of such a completion at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epochs < math.inf:
            raise UserError(f"epochs {self.epochs}: expected a number above 0")
        for name in ("steps", "validate_every", "patience", "samples"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)}: expected 0 or more")
        if self.average not in get_args(Average):
            raise choice_error("average", self.average, get_args(Average))

    def total_steps(self, examples: int) -> int:
        """Return the updates of a training on so many examples."""
        return self.steps or max(1, math.ceil(self.epochs * examples / min(self.batch_size, examples)))
