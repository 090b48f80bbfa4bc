"""The only source of randomness: one independent stream per seed, purpose, round and client.

A draw depends on nothing but these four, so it is the same on any rank, in any order, and after a restart.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, purpose: str, round: int = 0, client: int = 0) -> np.random.Generator:  # noqa: A002 - the field's word
    """Return the generator that belongs to these four values.

    `purpose` names what is drawn ("cohort", "batches", "init", ...), so that two uses never share numbers.
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    entropy = [seed, int.from_bytes(digest[:8], "big"), round, client]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def torch_seed(rng: np.random.Generator) -> int:
    """Draw a seed for `torch.manual_seed`, for code that knows only torch's own generator."""
    return int(rng.integers(2**63))
