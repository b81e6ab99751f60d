"""Texts that say the same: token n-grams compared by Jaccard, or a causal model's hidden states by cosine.

No embedding model comes with the package. N-grams of normalised words find texts that differ by case, punctuation,
numbers or a few words, and not paraphrases in other words; hidden states of a model that is there anyway find more of
these, at one forward pass a text.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fionalm.errors import UserError
from fionalm.redteam.numerals import numerals_of

_FIELD = re.compile(r"\{\s*\w+\s*\}|[-+]?\d[\d.,]*")


def distinct_texts(texts: Sequence[str], threshold: float = 0.6, *, vectors: Any = None) -> list[int]:
    """Return the indices of texts that are unlike every one kept before: the first of those alike stays.

    Args:
        texts: in order of preference.
        threshold: from this similarity on, texts are alike: Jaccard of n-grams, or cosine of vectors.
        vectors: one a text [texts, width], such as `hidden_vectors`; None: n-grams are compared.

    Raises:
        UserError: a threshold outside (0, 1], or as many vectors as texts are not there.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"threshold {threshold}: expected a similarity above 0, at most 1")
    if vectors is not None:
        return _distinct_vectors(np.asarray(vectors, dtype=float), len(texts), threshold)
    kept: list[int] = []
    holders: dict[str, list[int]] = defaultdict(list)
    sets: dict[int, frozenset[str]] = {}
    for index, text in enumerate(texts):
        grams = ngrams(text)
        # Only what shares an n-gram can be alike: the others need no comparison.
        rivals = {other for gram in grams for other in holders[gram]}
        if any(_jaccard(grams, sets[other]) >= threshold for other in rivals):
            continue
        kept.append(index)
        sets[index] = grams
        for gram in grams:
            holders[gram].append(index)
    return kept


def ngrams(text: str) -> frozenset[str]:
    """Return a text's word n-grams with n of 1 and 2; numbers, numerals and placeholders are one word, `#`."""
    words = list(_words(text))
    return frozenset([*words, *(" ".join(pair) for pair in itertools.pairwise(words))])


def similarity(left: str, right: str) -> float:
    """Return the Jaccard similarity of two texts' n-grams; 1 for two empty ones."""
    return _jaccard(ngrams(left), ngrams(right))


def hidden_vectors(model: Any, tokenizer: Any, texts: Sequence[str], *, batch: int = 16) -> np.ndarray:
    """Return the mean of a causal model's last hidden states over each text's tokens, centred [texts, width].

    Without centring all texts of a language model are alike: their common direction is most of each vector.

    Args:
        model: of `transformers`, which gives hidden states.
        tokenizer: of the model.
        texts: not empty.
        batch: texts at once.

    Raises:
        UserError: the model gives no hidden states.
    """
    import torch

    from fionalm.data.text_tokenizer import TextTokenizer
    from fionalm.sampling.inference import evaluating

    coder = TextTokenizer(tokenizer)
    device = next(model.parameters()).device
    rows: list[np.ndarray] = []
    with evaluating(model), torch.inference_mode():
        for start in range(0, len(texts), batch):
            ids = [coder.encode_completion(text, end=False) or [coder.eos_id] for text in texts[start : start + batch]]
            width = max(map(len, ids))
            tokens = torch.tensor([one + [coder.pad_id] * (width - len(one)) for one in ids], device=device)
            mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids], device=device)
            try:
                hidden = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
            except (TypeError, AttributeError) as error:
                raise UserError(
                    f"{type(model).__name__} gives no hidden states: expected a causal model of transformers"
                ) from error
            weights = mask[..., None].to(hidden.dtype)
            rows.append(((hidden * weights).sum(1) / weights.sum(1)).float().cpu().numpy())
    vectors = np.concatenate(rows)
    return vectors - vectors.mean(0)


def _words(text: str) -> Iterator[str]:
    text = unicodedata.normalize("NFKC", text).casefold()
    for numeral in reversed(numerals_of(text)):
        text = f"{text[: numeral.start]} # {text[numeral.end :]}"
    yield from re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*|#", _FIELD.sub(" # ", text))


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def _distinct_vectors(vectors: np.ndarray, count: int, threshold: float) -> list[int]:
    if vectors.ndim != 2 or len(vectors) != count:
        raise UserError(f"vectors of shape {vectors.shape} for {count} texts: expected one row a text")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    kept: list[int] = []
    for index in range(count):
        if not kept or float((units[kept] @ units[index]).max()) < threshold:
            kept.append(index)
    return kept
