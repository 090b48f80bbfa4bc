"""A seeded random projection that keeps inner products approximately.

Charikar, Chen, Farach-Colton: Finding Frequent Items in Data Streams. ICALP 2002 (count sketch); its use on inner
products: Weinberger et al., ICML 2009.
"""

from __future__ import annotations

import numpy as np

from fempi.algebra import Float32
from fempi.rng import stream


def standard_error(size: int) -> float:
    """At most, of an inner product of two sketches of this size, in units of both vectors' norms."""
    return float(np.sqrt(2 / size))


class Sketch:
    """Project d coordinates to `size` buckets: each coordinate goes to one bucket, with a random sign.

    Over the draw of the seed, inner products of sketches are unbiased, with variance at most
    (|x|^2 |y|^2 + <x, y>^2) / size: a standard error of at most `standard_error(size)` |x| |y|.
    """

    def __init__(self, seed: int, d: int, size: int) -> None:
        rng = stream(seed, "sketch")
        self._bucket = rng.integers(size, size=d)
        self._sign = np.where(rng.integers(2, size=d), 1.0, -1.0)
        self.size = size

    def __call__(self, vector: Float32) -> Float32:
        """Sketch (size,) of a vector (d,)."""
        sums = np.bincount(self._bucket, weights=self._sign * vector, minlength=self.size)
        with np.errstate(over="ignore"):  # hostile updates may be near float32's limit
            return sums.astype(np.float32)
