"""The configuration of a training run: everything that its numbers depend on. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from fionalm.data.config import DataConfig
from fionalm.data.knowledge.config import TripleConfig
from fionalm.errors import UserError, choice_error
from fionalm.models.config import DecoderConfig
from fionalm.optim.config import OptimizerConfig, ScheduleConfig
from fionalm.scaling.config import ParameterizationConfig
from fionalm.training.config_json import config_hash, from_plain, to_plain

Precision = Literal["auto", "fp32", "bf16"]
Strategy = Literal["ddp", "fsdp2"]


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: DecoderConfig = field(default_factory=DecoderConfig)
    data: DataConfig | TripleConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parameterization: ParameterizationConfig | None = None
    """How width sets initial weights and each layer's learning rate. None: the model's own, one learning rate."""
    model_path: str | None = None
    """A model in place of `model`: a folder, a GGUF file, a transformers config.json (fresh weights), or hf:NAME."""
    batch_size: int = 16
    """Sequences in one update, over all processes and accumulation steps."""
    steps: int = 200
    """Updates."""
    grad_accumulation: int = 1
    """Parts that a batch is cut into, one after the other, where it does not fit the memory."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    z_loss: float = 0.0
    """Weight of log(Z)^2 in the loss; training-instabilities' is 1e-4."""
    seed: int = 0
    """Of the initial weights, the order of the data and dropout."""
    eval_every: int = 0
    """Steps between evaluations on the validation tokens; 0: only after the last step."""
    eval_batches: int = 8
    """Batches of one evaluation; 0: none, and the final loss is the last training losses' mean."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: only after the last step, and when stopped."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 10
    """Steps between rows of metrics."""
    probe_every: int = 0
    """Steps between measurements of probes that the trainer builds; 0: none may be given."""
    precision: Precision = "auto"
    """`auto`: bf16 autocast on a GPU that has it, else fp32. Parameters and optimizer stay fp32."""
    compile: bool = False
    """Whether to compile the blocks' forward and backward; takes up to a minute at the start."""
    strategy: Strategy = "ddp"
    """What several processes hold: `ddp` the whole model each, `fsdp2` a shard of it each."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "grad_accumulation", "keep_checkpoints", "log_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("seed", "eval_every", "eval_batches", "checkpoint_every", "probe_every"):
            _at_least(name, getattr(self, name), 0)
        for name in ("clip_norm", "z_loss"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} was {getattr(self, name)!r}: expected a number of at least 0")
        for name, choices in (("precision", get_args(Precision)), ("strategy", get_args(Strategy))):
            if getattr(self, name) not in choices:
                raise choice_error(name, getattr(self, name), choices)
        if self.batch_size % self.grad_accumulation:
            raise UserError(
                f"batch_size {self.batch_size} cannot be cut into grad_accumulation {self.grad_accumulation} equal "
                f"parts: expected a divisor of {self.batch_size}"
            )
        if self.model_path is None and self.data.seq_len > self.model.max_seq_len:
            raise UserError(
                f"data.seq_len {self.data.seq_len} is over model.max_seq_len {self.model.max_seq_len}: "
                f"expected at most {self.model.max_seq_len}"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update learns from."""
        return self.batch_size * self.data.seq_len

    def with_absolute_paths(self) -> TrainConfig:
        """Return the config with the files that it names by absolute paths: it means the same from every folder."""

        def absolute(name: str) -> str:
            prefix, path = ("hf:", name[3:]) if name.startswith("hf:") else ("", name)
            return prefix + str(Path(path).resolve()) if Path(path).exists() else name

        data = replace(self.data, **{key: absolute(name) for key, name in self.data.files.items()})
        return replace(self, data=data, model_path=self.model_path and absolute(self.model_path))

    @property
    def input_files(self) -> list[Path]:
        """Files on this machine that the run reads: its data, tokenizer and model, but not the standard library."""
        named = (*(name.removeprefix("hf:") for name in self.data.files.values()), self.model_path)
        paths = [Path(name) for name in named if name is not None]
        found = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
        return sorted({file for file in found if file.is_file()})

    @property
    def config_hash(self) -> str:
        """Name of this config: the same in every process and version of Python."""
        return config_hash(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON holds."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, values: Any) -> TrainConfig:
        """Build a config from `to_dict`'s values; absent fields take their defaults.

        Raises:
            UserError: an unknown field or a value of another type, named by its dotted path.
        """
        return from_plain(cls, values)

    def to_json(self) -> str:
        """Return indented JSON that `from_json` reads back to an equal config."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read `to_json`'s text.

        Raises:
            UserError: as `from_dict`, or text that is not JSON.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"the training config is not JSON: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read a JSON file.

        Raises:
            UserError: as `from_json`, or the file cannot be read.
        """
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read the training config {path}: {reason}; expected a JSON file") from error
        try:
            return cls.from_json(text)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _at_least(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} was {value!r}: expected a whole number of at least {least}")
