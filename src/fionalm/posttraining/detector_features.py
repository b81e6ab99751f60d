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
from fionalm.posttraining.reward_model import RewardModel, stacked
from fionalm.progress import Progress, progress

CHUNK = 1024
"""Different rows whose features are written together."""


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
    # Rows of like length together: little is padded.
    distinct = sorted(numbers, key=lambda one: one.length)
    chunks: list[Tensor] = []
    with progress(len(distinct), "features", "rows", quiet=quiet) as bar:
        for start in range(0, len(distinct), CHUNK):
            part = distinct[start : start + CHUNK]
            chunks.append(_kept(model, part, folder, start, micro_batch_tokens, bar))
    order = torch.empty(len(distinct), dtype=torch.long)
    order[[numbers[example] for example in distinct]] = torch.arange(len(distinct))
    return torch.cat(chunks)[order[places]]


def fit_head(
    features: Tensor,
    labels: np.ndarray,
    penalties: Sequence[float],
    *,
    validation: tuple[Tensor, np.ndarray] | None = None,
) -> Head:
    """Fit the head: mean cross-entropy plus half the penalty times the squared norm, on standardised features.

    Args:
        features: [n, d].
        labels: 0 and 1, both of them [n].
        penalties: of which the one with the lowest validation loss is taken; without validation, the middle one.
        validation: features and labels that decide.
    """
    regression = require("sklearn.linear_model", "evaluation").LogisticRegression
    middle, scale = features.mean(0).numpy(), features.std(0, correction=0).numpy()
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-12), scale, 1.0)
    x = (features.numpy() - middle) / scale
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
    model: RewardModel, part: Sequence[Example], folder: Any, start: int, micro_batch_tokens: int, bar: Progress
) -> Tensor:
    from safetensors.torch import load_file

    from fionalm.models.weight_files import write_safetensors

    path = None if folder is None else Path(folder) / f"features-{start:09d}.safetensors"
    if path is not None and path.exists():
        bar.advance(len(part))
        return load_file(path)["features"]
    found = _computed(model, part, micro_batch_tokens, bar)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {"features": found})
    return found


def _computed(model: RewardModel, part: Sequence[Example], micro_batch_tokens: int, bar: Progress) -> Tensor:
    found: Tensor | None = None
    for group in length_buckets([one.length for one in part], micro_batch_tokens):
        ids, lengths = stacked([part[index] for index in group], model.tokenizer.pad_id, model.device)
        values = model.module.features(ids, lengths).float().cpu()
        if found is None:
            found = torch.empty(len(part), values.shape[1])
        found[group] = values
        bar.advance(len(group))
    assert found is not None
    return found
