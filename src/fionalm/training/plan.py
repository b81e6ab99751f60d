"""What training will cost: tokens, FLOPs, memory and device-hours, before anything runs. Imports no torch.

Two assumptions carry the estimate. Time: a device reaches `Device.utilisation` of its peak (model FLOPs utilisation);
that is right for models that fill the device, and far too high for small ones on large GPUs. Memory: what the own
decoder keeps for its backward pass, counted tensor by tensor, within a factor of 1.3 of the peaks measured on a CPU;
`transformers` models keep logits besides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fionalm.errors import UserError, choice_error
from fionalm.models.config import DecoderConfig, flops_per_token
from fionalm.training.config import TrainConfig

GIB = 2**30
# Logits in flight of the chunked loss: entries, and float32 copies of them at its peak.
LOSS_CHUNK_BYTES = 3 * 4 * 2**20


@dataclass(frozen=True)
class Device:
    """A device's peaks as its maker states them, dense (without sparsity)."""

    name: str
    fp32_flops: float
    """FLOP/s in float32, outside of tensor cores."""
    bf16_flops: float | None
    """FLOP/s in bfloat16; None: not faster than float32."""
    memory_bytes: int
    utilisation: float = 0.4
    """Assumed share of the peak that training reaches."""
    bandwidth: float = math.inf
    """Bytes a second from its memory, which bound drawing tokens; infinite: they do not."""


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("cpu-core", 60e9, None, 4 * GIB, utilisation=0.6, bandwidth=10e9),
        Device("l4", 30.3e12, 121e12, 24 * GIB, bandwidth=300e9),
        Device("rtx4090", 82.6e12, 165e12, 24 * GIB, bandwidth=1008e9),
        Device("a100-40gb", 19.5e12, 312e12, 40 * GIB, bandwidth=1555e9),
        Device("a100-80gb", 19.5e12, 312e12, 80 * GIB, bandwidth=2039e9),
        Device("h100-80gb", 67e12, 989e12, 80 * GIB, bandwidth=3350e9),
        Device("h200", 67e12, 989e12, 141 * 10**9, bandwidth=4800e9),
        Device("b200", 75e12, 2250e12, 180 * 10**9, bandwidth=8000e9),
        Device("mi300x", 163e12, 1307e12, 192 * 10**9, bandwidth=5300e9),
    )
}


@dataclass(frozen=True)
class Plan:
    """The cost of `runs` equal runs."""

    runs: int
    tokens: int
    """Trained on, over all runs."""
    flops: float
    """Forward, backward and evaluation, over all runs; the formula is `fionalm.models.flops_per_token`'s."""
    memory_bytes: int
    """At the peak, in each device of one run."""
    device_hours: float
    """Over all runs and devices."""
    device: Device
    devices: int
    """That share one run."""
    sampled_tokens: int = 0
    """Drawn in post-training, over all runs."""

    @property
    def fits(self) -> bool:
        """Whether a device has the memory, a tenth of it left for the allocator and the libraries."""
        return self.memory_bytes <= 0.9 * self.device.memory_bytes


def estimate(config: TrainConfig, runs: int = 1, device: str | Device = "h100-80gb", *, devices: int = 1) -> Plan:
    """Estimate what `runs` runs of `config` cost.

    Args:
        config: one run.
        runs: how many, of equal cost.
        device: a name from `DEVICES`, or a device.
        devices: that share one run, by `config.strategy`.

    Raises:
        UserError: an unknown device, or devices that cannot share the batch.
    """
    if isinstance(device, str):
        if device not in DEVICES:
            raise choice_error("device", device, DEVICES)
        device = DEVICES[device]
    if devices < 1 or config.batch_size % devices:
        raise UserError(f"batch_size {config.batch_size} cannot be shared by {devices} devices: expected a divisor")
    half = config.precision == "bf16" or (config.precision == "auto" and device.bf16_flops is not None)
    peak = device.bf16_flops if half and device.bf16_flops else device.fp32_flops
    tokens = config.steps * config.tokens_per_step
    evaluations = (
        0 if not config.eval_batches else 1 + ((config.steps - 1) // config.eval_every if config.eval_every else 0)
    )
    evaluated = evaluations * config.eval_batches * config.tokens_per_step
    # A forward pass is a third of a training step.
    flops = runs * flops_per_token(config.model, config.data.seq_len) * (tokens + evaluated / 3)
    return Plan(
        runs=runs,
        tokens=runs * tokens,
        flops=flops,
        memory_bytes=memory_bytes(config, half=half, devices=devices),
        device_hours=flops / (peak * device.utilisation) / 3600,
        device=device,
        devices=devices,
    )


def memory_bytes(config: TrainConfig, *, half: bool = False, devices: int = 1) -> int:
    """Estimate one device's peak memory: parameters, gradients, optimizer state and activations.

    Args:
        config: one run.
        half: whether forward passes run in bf16; parameters, gradients and state stay float32.
        devices: that share the run, by `config.strategy`.
    """
    model = config.model
    parameters = model.num_parameters()
    head = model.vocab_size * model.d_model
    static = 4 * parameters + 4 * parameters + optimizer_bytes(config)
    if config.strategy == "fsdp2" and devices > 1:
        # Two blocks are gathered at a time, the one at work and the next; embedding and head stay gathered.
        block = (parameters - 2 * head) // model.n_layers
        static = static // devices + (2 if half else 4) * (2 * block + 2 * head)
    elif half:
        static += 2 * parameters  # autocast keeps the bf16 copies of a forward pass
    rows = -(-config.batch_size // (devices * config.grad_accumulation))
    tokens = rows * config.data.seq_len
    # The chunked loss computes the gradients of features and head in its forward pass.
    loss = 4 * tokens * 3 * model.d_model + 4 * head + LOSS_CHUNK_BYTES
    return static + tokens * activation_bytes_per_token(model, half) + loss


def activation_bytes_per_token(model: DecoderConfig, half: bool = False) -> int:
    """Count what the blocks keep of one token for the backward pass, and one block's gradients on the way."""
    size = 2 if half else 4
    queries, keys = model.n_heads * model.head_size, model.kv_heads * model.head_size
    residual = 2 * model.d_model  # inputs of both norms, in float32 throughout
    normed = 2 * model.d_model
    # The fused projection, the rotated queries and keys, the attention's output and its log-sum-exp.
    attention = (queries + 2 * keys) + (queries + keys) + queries + model.n_heads
    if model.qk_norm:
        attention += queries + keys
    mlp = (4 if model.mlp == "silu_gated" else 2) * model.ffn_size
    kept = model.n_layers * (4 * residual + size * (normed + attention + mlp))
    passing = size * 2 * max(mlp, attention)
    return kept + passing


def optimizer_bytes(config: TrainConfig) -> int:
    """Count the optimizer's state, in float32."""
    parameters, optimizer = config.model.num_parameters(), config.optimizer
    if optimizer.name in ("adamw", "adam_atan2"):
        return 8 * parameters
    if optimizer.name == "adafactor":  # a row and a column of every matrix; a matrix is d_model wide or more
        return 8 * parameters // config.model.d_model
    return 4 * parameters if optimizer.momentum else 0
