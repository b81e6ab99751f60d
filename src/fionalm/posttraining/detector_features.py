"""A head on frozen features: the features computed once and kept, the head a logistic regression on them.

With the model below frozen, the loss of a linear head is convex: it is minimised exactly (scikit-learn's L-BFGS), a
regularisation for each penalty, in the time of a few products of matrices; there is no learning rate to choose.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fionalm.errors import require
from fionalm.posttraining.batches import Example, length_buckets
from fionalm.posttraining.forward import features
from fionalm.posttraining.pairs import PROMPT, attention_mask, can_share
from fionalm.posttraining.reward_model import RewardModel, stacked
from fionalm.progress import Progress, progress

CHUNK = 1024
"""Different rows whose features are written together."""
PACKED = 512
"""Tokens of a prompt and its completions in one row at most; a mask has the square of it."""


@dataclass(frozen=True)
class Head:
    """A linear head."""

    weight: np.ndarray
    """[d]."""
    bias: float
    penalty: float
    """The one that was taken."""
    losses: tuple[float, ...]
    """Validation loss in nats a row under each penalty, or the training loss without validation."""


@torch.no_grad()
def head_features(
    model: RewardModel,
    examples: Sequence[Example],
    *,
    folder: str | Path | None = None,
    micro_batch_tokens: int = 16384,
    quiet: bool = True,
) -> Tensor:
    """Return what the head reads of each example, float32 on the CPU [n, d]; equal ones are computed once.

    Args:
        model: whose features.
        examples: token ids.
        folder: keeps what was computed, chunk by chunk: a killed run goes on from there. None: nothing is written.
        micro_batch_tokens: tokens of one forward pass.
        quiet: no progress.
    """
    numbers: dict[Example, int] = {}
    places = [numbers.setdefault(example, len(numbers)) for example in examples]
    # Completions of one prompt together, which then is read once; prompts of like length together: little is padded.
    distinct = sorted(numbers, key=lambda one: (len(one.prompt_ids), one))
    shared = len({one.prompt_ids for one in distinct}) < len(distinct) and can_share(model.module.model)
    chunks: list[Tensor] = []
    with progress(len(distinct), "features", "rows", quiet=quiet) as bar:
        for start in range(0, len(distinct), CHUNK):
            part = distinct[start : start + CHUNK]
            chunks.append(_kept(model, part, folder, start, micro_batch_tokens, shared, bar))
    order = torch.empty(len(distinct), dtype=torch.long)
    order[[numbers[example] for example in distinct]] = torch.arange(len(distinct))
    return torch.cat(chunks)[order[places]]


def fit_head(
    inputs: Tensor,
    labels: np.ndarray,
    penalties: Sequence[float],
    *,
    validation: tuple[Tensor, np.ndarray] | None = None,
) -> Head:
    """Fit the head: mean cross-entropy plus half the penalty times the squared norm, on standardised features.

    Args:
        inputs: features [n, d].
        labels: 0 and 1, both of them [n].
        penalties: of which the one with the lowest validation loss is taken; without validation, the middle one.
        validation: features and labels that decide.
    """
    regression = require("sklearn.linear_model", "evaluation").LogisticRegression
    middle, scale = inputs.mean(0).numpy(), inputs.std(0, correction=0).numpy()
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-12), scale, 1.0)
    x = (inputs.numpy() - middle) / scale
    tried, wanted = (x, labels) if validation is None else ((validation[0].numpy() - middle) / scale, validation[1])
    losses: list[float] = []
    fitted: list[Any] = []
    for penalty in penalties:
        with warnings.catch_warnings():
            # Where the steps end, the loss is flat: what is not the optimum to the last digit is no error.
            warnings.simplefilter("ignore")
            fitted.append(regression(C=1 / (penalty * len(labels)), max_iter=500, tol=1e-5).fit(x, labels))
        logits = fitted[-1].decision_function(tried)
        losses.append(float(np.mean(np.logaddexp(0, logits) - wanted * logits)))
    best = int(np.argmin(losses)) if validation is not None else len(penalties) // 2
    weight = fitted[best].coef_[0].astype(float) / scale
    bias = float(fitted[best].intercept_[0]) - float(weight @ middle)
    return Head(weight, bias, penalties[best], tuple(losses))


def weights_digest(model: nn.Module) -> str:
    """Return 16 hex digits that name a model's weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _kept(
    model: RewardModel,
    part: Sequence[Example],
    folder: str | Path | None,
    start: int,
    micro_batch_tokens: int,
    shared: bool,
    bar: Progress,
) -> Tensor:
    from safetensors.torch import load_file

    from fionalm.models.weight_files import write_safetensors

    path = None if folder is None else Path(folder) / f"features-{start:09d}.safetensors"
    if path is not None and path.exists():
        bar.advance(len(part))
        return load_file(path)["features"]
    rows = _by_prompt(part) if shared else [[index] for index in range(len(part))]
    lengths = [len(part[row[0]].prompt_ids) + sum(len(part[index].completion_ids) for index in row) for row in rows]
    found = torch.empty(len(part), model.module.score.in_features)
    for group in length_buckets(lengths, micro_batch_tokens):
        members = [rows[number] for number in group]
        indices = [index for row in members for index in row]
        found[indices] = _features(model, [[part[index] for index in row] for row in members]).float().cpu()
        bar.advance(len(indices))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {"features": found})
    return found


def _by_prompt(part: Sequence[Example]) -> list[list[int]]:
    """Return the indices of neighbours with one prompt as one row, of at most `PACKED` tokens."""
    rows: list[list[int]] = []
    length = 0
    for index, example in enumerate(part):
        own = len(example.completion_ids)
        if rows and part[rows[-1][0]].prompt_ids == example.prompt_ids and length + own <= PACKED:
            rows[-1].append(index)
            length += own
        else:
            rows.append([index])
            length = example.length
    return rows


def _features(model: RewardModel, rows: Sequence[Sequence[Example]]) -> Tensor:
    """Return the features [n, d] at the last token of each completion; a row's completions follow one prompt."""
    pad, device = model.tokenizer.pad_id, model.device
    if all(len(row) == 1 for row in rows):
        return model.module.features(*stacked([example for [example] in rows], pad, device))
    lengths = [len(row[0].prompt_ids) + sum(len(one.completion_ids) for one in row) for row in rows]
    ids = torch.full((len(rows), max(lengths)), pad)
    segments = torch.full_like(ids, -1)
    positions = torch.zeros_like(ids)
    ends: list[int] = []
    for number, row in enumerate(rows):
        prompt = end = len(row[0].prompt_ids)
        ids[number, :prompt] = torch.tensor(row[0].prompt_ids)
        segments[number, :prompt] = PROMPT
        positions[number, :prompt] = torch.arange(prompt)
        for segment, example in enumerate(row, PROMPT + 1):
            start, end = end, end + len(example.completion_ids)
            ids[number, start:end] = torch.tensor(example.completion_ids)
            segments[number, start:end] = segment
            positions[number, start:end] = torch.arange(prompt, prompt + end - start)
            ends.append(number * ids.shape[1] + (end if end > start else prompt) - 1)
    mask = attention_mask(segments.to(device))
    found = features(model.module.model, ids.to(device), positions=positions.to(device), mask=mask)
    return found.flatten(0, 1)[torch.tensor(ends, device=device)]
