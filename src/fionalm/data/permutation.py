"""A random permutation of range(n) with random access: no list of n numbers, however long the corpus.

A Feistel network over the mixed-radix pair (index // b, index % b), with cycle walking for the few values
past n (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 5).
"""

from __future__ import annotations

import hashlib
from math import isqrt

import numpy as np

ROUNDS = 4  # pairs of half-rounds


def permute(indices: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """Map `indices` [k], each in range(n), to where the permutation of (seed, epoch) sends them, [k] int64.

    Time and memory are proportional to k alone. Distinct indices have distinct images.
    """
    left_size = isqrt(n - 1) + 1
    right_size = -(-n // left_size)
    keys = _round_keys(seed, epoch)
    images = _feistel(indices.astype(np.uint64), left_size, right_size, keys)
    # The network permutes left_size * right_size >= n numbers: follow its cycle back into range(n).
    while (outside := images >= n).any():
        images[outside] = _feistel(images[outside], left_size, right_size, keys)
    return images.astype(np.int64)


def _feistel(values: np.ndarray, left_size: int, right_size: int, keys: np.ndarray) -> np.ndarray:
    n_left, n_right = np.uint64(left_size), np.uint64(right_size)
    left, right = values // n_right, values % n_right
    for for_left, for_right in keys:
        left = (left + _mix(right ^ for_left) % n_left) % n_left
        right = (right + _mix(left ^ for_right) % n_right) % n_right
    return left * n_right + right


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    """Return keys [ROUNDS, 2] that no other (seed, epoch) shares."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=16 * ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").reshape(ROUNDS, 2).astype(np.uint64)
