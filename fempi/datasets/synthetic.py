"""A data set made from a seed: no files, quick to learn, as hard as its noise."""

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fempi.datasets import Dataset
from fempi.registry import register
from fempi.rng import stream

WAVES = 4  # a prototype is a sum of the lowest 4 x 4 cosines: smooth enough to survive a convolution and a pooling


@register("dataset", "synthetic")
def synthetic(
    root: Path,
    seed: int,
    *,
    classes: Annotated[int, Field(ge=2)] = 10,
    size: Annotated[int, Field(ge=WAVES)] = 28,
    train_examples: Annotated[int, Field(ge=1)] = 2000,
    test_examples: Annotated[int, Field(ge=1)] = 500,
    noise: Annotated[float, Field(ge=0)] = 0.3,
) -> Dataset:
    """Smooth random prototypes, one a class, under pixel noise: size x size, made from the seed.

    `noise` is the standard deviation of each pixel, where 1 is the distance from black to white. Every class has
    as many examples as the others, give or take one, in shuffled order.
    """
    prototypes = _prototypes(classes, size, stream(seed, "synthetic prototypes"))
    train_images, train_labels = _examples(prototypes, train_examples, noise, stream(seed, "synthetic train"))
    test_images, test_labels = _examples(prototypes, test_examples, noise, stream(seed, "synthetic test"))
    return Dataset(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=classes,
    )


def _prototypes(classes: int, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one image (size, size) a class, its pixels from 0 to 1."""
    pixels = (np.arange(size) + 0.5) / size
    waves = np.cos(np.pi * np.outer(pixels, np.arange(WAVES)))
    images = waves @ rng.standard_normal((classes, WAVES, WAVES)) @ waves.T
    images -= images.min(axis=(1, 2), keepdims=True)
    images /= images.max(axis=(1, 2), keepdims=True)
    return images.astype(np.float32)


def _examples(
    prototypes: NDArray[np.float32], count: int, noise: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images (count, 1, size, size) and their labels (count,)."""
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(prototypes))
    images = rng.standard_normal((count, *prototypes.shape[1:]), dtype=np.float32)
    images *= noise
    images += prototypes[labels]
    pixels = np.rint(255 * images.clip(0, 1)).astype(np.uint8)
    return pixels[:, np.newaxis], labels
