"""What a fine-tuning is about to do, before anything is spent: the first example, lengths, labels, memory, steps.

print(preflight(policy, rows, config, texts=("completion",), steps=100).text())
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fionalm.errors import UserError
from fionalm.models.config import DecoderConfig
from fionalm.posttraining.batches import encode_example
from fionalm.posttraining.config import FinetuneConfig
from fionalm.posttraining.policy import Policy
from fionalm.training.build import wants_bf16
from fionalm.training.workload import Workload, memory_bytes

QUANTILES = (("least", 0.0), ("half", 0.5), ("90%", 0.9), ("99%", 0.99), ("most", 1.0))
SHOWN_CHARACTERS = 2000
BAR = 30


@dataclass(frozen=True)
class Preflight:
    """What will be trained, on what, and what it takes."""

    model: str
    total: int
    """Parameters of the model, adapters included."""
    trained: int
    """Parameters that change."""
    rows: int
    validation: int
    first: dict[str, str]
    """The first row's texts as the model reads them."""
    lengths: dict[str, list[int]]
    """Tokens of each row's texts, ascending."""
    context: int | None
    """Positions that the model has."""
    steps: int
    tokens: int
    """Trained on over all steps, about; of drawn completions, those that reach `max_tokens`."""
    sampled: int
    """Tokens drawn, at most."""
    memory: int
    """Bytes at the peak, about."""
    available: int | None
    """Bytes that the device has free."""
    labels: list[int] | None = None
    """Rows by soft label, in ten equal parts of [0, 1]; None: there are none."""
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return all of it as lines to read."""
        share = f"{self.trained:,} of {self.total:,} parameters are trained"
        lines = [f"model      {self.model}: {share}", f"data       {self.rows:,} rows, {self.validation:,} to validate"]
        for name, text in self.first.items():
            cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " [...]"
            lines += [f"--- first row: {name}", cut]
        lines += ["---", f"{'tokens':<11}" + "".join(f"{name:>8}" for name, _ in QUANTILES)]
        for name, lengths in self.lengths.items():
            found = [lengths[math.ceil(q * (len(lengths) - 1))] for _, q in QUANTILES]
            lines.append(f"{name:<11}" + "".join(f"{value:>8,}" for value in found))
        if self.context is not None:
            lines.append(f"{'context':<11}{self.context:>8,}")
        if self.labels is not None:
            most = max(self.labels)
            lines.append("soft labels (probability that chosen is preferred)")
            for index, count in enumerate(self.labels):
                lines.append(
                    f"  {index / 10:.1f} to {(index + 1) / 10:.1f} {count:>7,} {'#' * round(BAR * count / most)}"
                )
        drawn = f", and at most {self.sampled:,} drawn" if self.sampled else ""
        lines.append(f"steps      {self.steps:,}; about {self.tokens:,} tokens trained on{drawn}")
        free = "" if self.available is None else f" of {_size(self.available)} free"
        lines.append(f"memory     about {_size(self.memory)}{free}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def preflight(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    config: FinetuneConfig,
    *,
    steps: int,
    texts: Sequence[str] = (),
    validation: int = 0,
    draws: int = 0,
    max_tokens: int = 0,
    repeats: float | None = None,
    reference: bool = False,
    notes: Sequence[str] = (),
) -> Preflight:
    """Look at all rows, and estimate what the training takes.

    Args:
        policy: the model, before its training.
        rows: what is learnt from.
        config: how.
        steps: updates, or batches of prompts that are drawn.
        texts: the columns that follow the prompt, such as `completion`, or `chosen` and `rejected`.
        validation: number of validation rows.
        draws: completions drawn of a prompt in a step; 0: none.
        max_tokens: tokens of one of these at most.
        repeats: times that a batch is learnt from; None: 1.
        reference: whether a frozen copy of the model is held beside it.
        notes: what else should be said.

    Raises:
        UserError: a row that cannot be learnt from, such as one longer than the context; it is named.
    """
    if not rows:
        raise UserError("there are no rows to learn from: expected at least one")
    if config.lora is not None:
        policy.add_lora(config.lora, seed=config.seed)
    tokenizer, context = policy.tokenizer, policy.context_length
    lengths: dict[str, list[int]] = {name: [] for name in ("prompt", *texts)}
    first: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        examples = [encode_example(tokenizer, row["prompt"], row[name], context=context, row=number) for name in texts]
        ids = examples[0].prompt_ids if examples else tokenizer.encode_prompt(row["prompt"])
        prompt = len(ids)
        if context is not None and not examples and prompt >= context:
            raise UserError(
                f"row {number}: the prompt's {prompt} tokens leave no room in the model's context: expected at most "
                f"{context - 1}"
            )
        lengths["prompt"].append(prompt)
        for name, example in zip(texts, examples, strict=True):
            lengths[name].append(len(example.completion_ids))
        if number == 1:
            first["prompt"] = tokenizer.decode(ids, special=True)
            for name, example in zip(texts, examples, strict=True):
                first[name] = tokenizer.decode(example.completion_ids, special=True)
    batch = min(config.batch_size, len(rows))
    mean = {name: sum(found) / len(found) for name, found in lengths.items()}
    followed = sum(mean["prompt"] + mean[name] for name in texts) + draws * (mean["prompt"] + max_tokens)
    tokens = round((repeats or 1) * steps * batch * followed)
    sampled = steps * batch * draws * max_tokens
    total = sum(parameter.numel() for parameter in policy.model.parameters())
    trained = sum(parameter.numel() for parameter in policy.model.parameters() if parameter.requires_grad)
    longest = max(lengths["prompt"]) + max([max_tokens, *(max(lengths[name]) for name in texts)])
    memory = _memory(policy, config, longest, trained / total, draws * batch, reference and policy.lora is None)
    labels = [row["soft_label"] for row in rows] if all("soft_label" in row for row in rows) else None
    available = _available(policy.device)
    notes = list(notes)
    if available is not None and memory > available:
        notes.append("that is more than there is: try --lora-rank 8, or fewer --micro-batch-tokens")
    if tokenizer.has_chat_template and isinstance(rows[0]["prompt"], str):
        notes.append("the model has a chat template, which plain prompts leave unused: --chat renders them with it")
    return Preflight(
        model=f"{policy.name or 'model'} ({type(policy.model).__name__})",
        total=total,
        trained=trained,
        rows=len(rows),
        validation=validation,
        first=first,
        lengths={name: sorted(found) for name, found in lengths.items()},
        context=context,
        steps=steps,
        tokens=tokens,
        sampled=sampled,
        memory=memory,
        available=available,
        labels=None if labels is None else histogram(labels),
        notes=notes,
    )


def histogram(labels: Sequence[float]) -> list[int]:
    """Count labels in ten equal parts of [0, 1]; 1 belongs to the last."""
    counts = [0] * 10
    for label in labels:
        counts[min(9, int(label * 10))] += 1
    return counts


def _memory(
    policy: Policy, config: FinetuneConfig, longest: int, trained_share: float, drawn: int, reference: bool
) -> int:
    work = Workload(
        model=_shape(policy.model),
        seq_len=longest,
        trained_tokens=1,
        sampled_tokens=min(drawn, 1),
        sample_batch=max(1, drawn),
        micro_batch_tokens=max(longest, config.micro_batch_tokens),
        trained_share=trained_share,
        reference=reference,
    )
    return memory_bytes(work, half=wants_bf16(config.precision, policy.device))


def _shape(model: Any) -> DecoderConfig:
    """Return the model's shape, of another architecture that of a decoder with the same width and depth."""
    config = model.config
    if isinstance(config, DecoderConfig):
        return config
    found = getattr(config, "get_text_config", lambda: config)()
    width, heads = found.hidden_size, getattr(found, "num_attention_heads", None) or 1
    return DecoderConfig(
        vocab_size=found.vocab_size,
        d_model=width,
        n_layers=found.num_hidden_layers,
        n_heads=heads,
        n_kv_heads=getattr(found, "num_key_value_heads", None),
        d_ff=getattr(found, "intermediate_size", None) or 4 * width,
        tie_embeddings=bool(getattr(found, "tie_word_embeddings", False)),
    )


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, AttributeError):
            return None


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
