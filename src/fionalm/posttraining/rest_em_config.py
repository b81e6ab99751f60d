"""What can be set about ReST-EM, and the two methods that are settings of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.posttraining.config import Average, FinetuneConfig, SupervisedConfig
from fionalm.sampling.types import SamplingParams, sample_seed
from fionalm.training.config_json import to_plain

Start = Literal["base", "last"]
Take = Literal["last", "best"]
Variant = Literal["rest-em", "rest", "rft"]


@dataclass(frozen=True, kw_only=True)
class RestEMConfig(FinetuneConfig):
    """ReST-EM (Singh et al. 2023): sample, keep what a verifier finds right, fine-tune the base model on it, repeat."""

    iterations: int = 3
    """Fine-tunings, each on samples of the policy before it."""
    samples_per_problem: int = 32
    """Completions drawn of each problem; the paper's: 32 for MATH, 64 for APPS."""
    temperature: float = 0.7
    """Of the samples."""
    top_k: int = 40
    """Draw from the k most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the most likely tokens that hold this much probability."""
    max_tokens: int = 256
    """Tokens of a completion at most; one that is cut off there is never learnt from."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are cut off."""
    max_per_problem: int = 10
    """Distinct right completions of a problem that are learnt from, at most; 0: all."""
    min_solution_tokens: int = 0
    """Shorter completions are not learnt from."""
    max_solution_tokens: int = 0
    """Longer completions are not learnt from; 0: no limit."""
    thresholds: tuple[float, ...] = (1.0,)
    """Reward from which on a completion is learnt from, one an iteration; the last one holds for the rest."""
    generate_every: int = 1
    """Iterations that share one generation of samples, as ReST's rising thresholds do."""
    start: Start = "base"
    """Weights that each fine-tuning starts from: `base`, as ReST-EM, or those of the `last` policy, as ReST."""
    human_data: bool = False
    """Learn from the rows' own completions too, as ReST does."""
    prompt_prefix: str = ""
    """Few-shot examples before each prompt, when sampling and when training alike; in a conversation, before the first
    message's text."""
    epochs: float = 3.0
    """Times that a completion is learnt from in an iteration, at most: validation stops it earlier."""
    steps: int = 0
    """Updates of an iteration, in place of epochs; 0: as many as the epochs have."""
    average: Average = "token"
    """A batch's loss is the mean over its completions' tokens, or over its completions."""
    validate_every: int = 0
    """Steps between validations; 0: after every epoch."""
    patience: int = 1
    """Validations in a row without a better reward until an iteration's fine-tuning stops; 0: it goes on."""
    take: Take = "last"
    """The policy that is the result: of the `last` iteration, or the one with the `best` validation reward."""
    max_batch: int = 64
    """Samples that are drawn at a time."""
    problems_at_once: int = 16
    """Problems that are sampled, verified and written together; a kill loses no more than their samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (
            ("iterations", 1),
            ("samples_per_problem", 1),
            ("max_per_problem", 0),
            ("min_solution_tokens", 0),
            ("max_solution_tokens", 0),
            ("generate_every", 1),
            ("max_batch", 1),
            ("problems_at_once", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: expected at least {least}")
        if 0 < self.max_solution_tokens < self.min_solution_tokens:
            raise UserError(
                f"max_solution_tokens {self.max_solution_tokens}: expected at least min_solution_tokens "
                f"{self.min_solution_tokens}, or 0 for no limit"
            )
        if not self.thresholds or not all(math.isfinite(threshold) for threshold in self.thresholds):
            raise UserError(f"thresholds {self.thresholds}: expected a number for each iteration, or one for all")
        for name, choices in (("start", get_args(Start)), ("take", get_args(Take))):
            if getattr(self, name) not in choices:
                raise choice_error(name, getattr(self, name), choices)
        self.sampling_params()
        self.supervised(1)

    @classmethod
    def variant(cls, name: Variant, **changes: Any) -> RestEMConfig:
        """Return the settings that make this code another method.

        `rest`: ReST (Gulcehre et al. 2023) continues from the last policy, mixes human data in and raises the threshold
        over the iterations that share samples. `rft`: rejection sampling fine-tuning (Yuan et al. 2023) is one
        iteration on every distinct right sample.

        Raises:
            UserError: an unknown name.
        """
        settings: dict[str, dict[str, Any]] = {
            "rest-em": {},
            "rest": {
                "start": "last",
                "human_data": True,
                "iterations": 4,
                "generate_every": 4,
                "thresholds": (0.7, 0.8, 0.9, 0.95),
            },
            "rft": {"iterations": 1, "samples_per_problem": 100, "max_per_problem": 0},
        }
        if name not in settings:
            raise choice_error("variant", name, settings)
        return cls(**{**settings[name], **changes})

    def sampling_params(self) -> SamplingParams:
        """Return how samples are drawn."""
        return SamplingParams(
            n=self.samples_per_problem,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop=self.stop,
            seed=self.seed,
        )

    def greedy_params(self) -> SamplingParams:
        """Return how validation problems are answered."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=0.0, stop=self.stop)

    def supervised(self, iteration: int) -> SupervisedConfig:
        """Return the fine-tuning of an iteration, whose order of data is its own."""
        shared = {name: getattr(self, name) for name in FinetuneConfig.__dataclass_fields__}
        shared["seed"] = sample_seed(self.seed, "improve", iteration) % 2**31
        return SupervisedConfig(
            **shared,
            epochs=self.epochs,
            steps=self.steps,
            average=self.average,
            validate_every=self.validate_every,
            patience=self.patience,
            samples=0,
        )

    def threshold(self, iteration: int) -> float:
        """Return the reward from which on iteration 1, 2, ... learns from a completion."""
        return self.thresholds[min(iteration, len(self.thresholds)) - 1]

    def generation(self, iteration: int) -> int:
        """Return which policy's samples iteration 1, 2, ... learns from: 0 is the base."""
        return (iteration - 1) // self.generate_every * self.generate_every

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return to_plain(self)
