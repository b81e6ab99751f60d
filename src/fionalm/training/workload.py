"""What post-training will cost: tokens sampled, scored and trained on, before anything runs. Imports no torch.

Training is bound by arithmetic, as in `plan`. Drawing tokens is bound by memory: every step of a batch reads all
weights and the cache of keys and values once, so that its time is the larger of that and its arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from fionalm.errors import UserError, choice_error
from fionalm.models.config import DecoderConfig, flops_per_token
from fionalm.training.config import Precision, Strategy, TrainConfig
from fionalm.training.plan import DEVICES, LOSS_CHUNK_BYTES, Device, Plan, activation_bytes_per_token, estimate

BANDWIDTH_SHARE = 0.6
"""Of a device's memory bandwidth that decoding reaches."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One run of post-training, as counts of tokens over the whole run."""

    model: DecoderConfig
    """The policy's shape; `fionalm.models.shapes.SHAPES` has those of the papers."""
    seq_len: int
    """Tokens of prompt and completion together, a typical one."""
    trained_tokens: int = 0
    """Forward and backward, prompts included; a token counts once an epoch."""
    sampled_tokens: int = 0
    """Drawn, one at a time a sequence."""
    prompt_tokens: int = 0
    """Read before drawing; once a prompt, however many samples it gets."""
    scored_tokens: int = 0
    """Forward only: log-probabilities of a reference, a verifier or a judge of the same shape."""
    sample_batch: int = 64
    """Sequences drawn at once on a device."""
    micro_batch_tokens: int = 8192
    """In one forward and backward pass on a device."""
    trained_share: float = 1.0
    """Of the parameters that get gradients; LoRA has about 0.01."""
    reference: bool = False
    """Whether a frozen copy of all weights is held beside the policy."""
    precision: Precision = "auto"
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        for name in ("trained_tokens", "sampled_tokens", "prompt_tokens", "scored_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} was {getattr(self, name)}: expected 0 or more")
        for name in ("seq_len", "sample_batch", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} was {getattr(self, name)}: expected at least 1")
        if not 0 < self.trained_share <= 1:
            raise UserError(f"trained_share was {self.trained_share}: expected a share of the parameters in (0, 1]")


def estimate_any(
    work: TrainConfig | Workload, runs: int = 1, device: str | Device = "h100-80gb", *, devices: int = 1
) -> Plan:
    """Estimate what `runs` runs cost, of training or of post-training; arguments and errors as `plan.estimate`'s."""
    if isinstance(work, TrainConfig):
        return estimate(work, runs, device, devices=devices)
    if isinstance(device, str):
        if device not in DEVICES:
            raise choice_error("device", device, DEVICES)
        device = DEVICES[device]
    half = work.precision == "bf16" or (work.precision == "auto" and device.bf16_flops is not None)
    peak = device.bf16_flops if half and device.bf16_flops else device.fp32_flops
    rate = peak * device.utilisation
    step = flops_per_token(work.model, work.seq_len)
    # LoRA's backward pass skips the products that give the frozen weights' gradients.
    trained = step * work.trained_tokens * (1 if work.trained_share == 1 else 2 / 3 + work.trained_share / 3)
    read = step / 3 * (work.prompt_tokens + work.scored_tokens)
    drawn = step / 3 * work.sampled_tokens
    seconds = (trained + read) / rate + decoding_seconds(work, device, half=half, rate=rate)
    return Plan(
        runs=runs,
        tokens=runs * work.trained_tokens,
        flops=runs * (trained + read + drawn),
        memory_bytes=memory_bytes(work, half=half, devices=devices),
        device_hours=runs * seconds / 3600,
        device=device,
        devices=devices,
        sampled_tokens=runs * work.sampled_tokens,
    )


def decoding_seconds(work: Workload, device: Device, *, half: bool, rate: float) -> float:
    """Return how long one device draws `sampled_tokens`, `sample_batch` sequences at a time.

    Args:
        work: what is drawn.
        device: gives the bandwidth.
        half: whether weights and cache are bf16.
        rate: FLOP/s that are reached.
    """
    steps = work.sampled_tokens / work.sample_batch
    read = _size(half) * work.model.num_parameters() + work.sample_batch * cache_bytes(work.model, work.seq_len, half)
    arithmetic = work.sample_batch * flops_per_token(work.model, work.seq_len) / 3 / rate
    return steps * max(read / (device.bandwidth * BANDWIDTH_SHARE), arithmetic)


def cache_bytes(model: DecoderConfig, tokens: int, half: bool = False) -> int:
    """Count the keys and values of one sequence."""
    return _size(half) * 2 * model.n_layers * model.kv_heads * model.head_size * tokens


def memory_bytes(work: Workload, *, half: bool = False, devices: int = 1) -> int:
    """Estimate one device's peak memory: weights, and what training or drawing adds, whichever is larger.

    Within a factor of 1.3 of peaks measured on a CPU, for training all weights or adapters and for drawing.

    Args:
        work: one run.
        half: whether forward passes run in bf16; parameters, gradients and Adam's state stay float32.
        devices: that share weights and state, under `fsdp2`.
    """
    model = work.model
    parameters = model.num_parameters()
    head = model.vocab_size * model.d_model
    static = 4 * parameters * (2 if work.reference else 1)
    if work.trained_tokens:
        static += int(12 * parameters * work.trained_share)
    gathered = 2 * parameters if half else 0
    if work.strategy == "fsdp2" and devices > 1:
        # Two blocks are gathered at a time; embedding and head stay gathered.
        block = (parameters - 2 * head) // model.n_layers
        static, gathered = static // devices, _size(half) * (2 * block + 2 * head)
    tokens = work.micro_batch_tokens
    training = tokens * activation_bytes_per_token(model, half) + 4 * tokens * 3 * model.d_model + LOSS_CHUNK_BYTES
    # The cache is copied as it grows.
    drawing = 2 * work.sample_batch * cache_bytes(model, work.seq_len, half)
    return static + gathered + max(training if work.trained_tokens else 0, drawing if work.sampled_tokens else 0)


def _size(half: bool) -> int:
    return 2 if half else 4
