"""The one workload of all: who trains what on which examples, and how its time is told.

Every peer's script imports this in that peer's own environment, so it wants nothing but numpy and torch.
"""

import argparse
import gzip
import importlib.metadata
import json
import os
import random
import sys
import time
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

CLIENTS, COHORT, EPOCHS, BATCH, LR = 100, 10, 5, 10, 0.01
SHARDS = 2
"""of one label each, that a client has"""
SEED = 1
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may differ between comparisons, and does not between peers."""

    model: str = "cnn"
    rounds: int = 3
    """that count; one before them does not"""
    workers: int = 2
    """processes of one thread that train, or threads of a peer that has one process"""

    def arguments(self) -> list[str]:
        """As a script takes them."""
        return [f"--{name}={value}" for name, value in vars(self).items()]


def options() -> Options:
    """Read them from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=sorted(MODELS), default="cnn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    return Options(**vars(parser.parse_args()))


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def _cnn_small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


MODELS = {"cnn": _cnn, "cnn_small": _cnn_small, "mlp": _mlp}
"""fempi's, as one writes them in torch; without dropout, which not every peer would have"""


def model(name: str) -> nn.Sequential:
    """Make a model with the same parameters each time."""
    torch.manual_seed(SEED)
    return MODELS[name]()


def params(module: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def folder() -> Path:
    """Where MNIST is; SystemExit if it is not there."""
    raw = Path(os.environ.get("FEMPI_DATA", "data")) / "MNIST" / "raw"
    if not any((raw / f"{FILES['train'][0]}{suffix}").is_file() for suffix in ("", ".gz")):
        sys.exit(f"MNIST is not in {raw}; run `fempi fetch mnist`, or name its root in FEMPI_DATA")
    return raw


def _read(path: Path) -> np.ndarray:
    data = path.read_bytes() if path.is_file() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    shape = np.frombuffer(data, ">i4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, prod(shape.tolist()), offset=4 + 4 * data[3]).reshape(shape)


@cache
def examples(part: str = "train") -> TensorDataset:
    """All images, (N, 1, 28, 28) float32 in [0, 1], and labels, (N,) int64, of "train" or "test"."""
    images, labels = (_read(folder() / name) for name in FILES[part])
    return TensorDataset(torch.from_numpy(images[:, None] / np.float32(255)), torch.from_numpy(labels.astype(np.int64)))


def split(labels: np.ndarray) -> list[np.ndarray]:
    """Deal each client two shards of the examples in order of their labels, shuffled: some peers will not do that."""
    rng = np.random.default_rng(SEED)
    pieces = np.array_split(np.argsort(labels, kind="stable"), CLIENTS * SHARDS)
    hands = rng.permutation(len(pieces)).reshape(CLIENTS, SHARDS)
    return [rng.permutation(np.concatenate([pieces[piece] for piece in hand])) for hand in hands]


@cache
def clients() -> list[TensorDataset]:
    """Return what each client holds."""
    images, labels = examples().tensors
    return [TensorDataset(images[own], labels[own]) for own in split(labels.numpy())]


def cohort(round_: int, size: int = COHORT, among: range = range(CLIENTS)) -> list[int]:
    """Draw the clients of a round, where a peer leaves that to its user."""
    return sorted(random.Random(f"{SEED} {round_}").sample(among, size))


def batches(data: TensorDataset) -> DataLoader:
    """Load a client's batches in another order each time, each by one look-up: stacking single images is slower."""
    order = BatchSampler(RandomSampler(data), BATCH, drop_last=False)
    return DataLoader(data, sampler=order, batch_size=None)


@torch.no_grad()
def accuracy(module: nn.Module) -> float:
    """Test a model."""
    module.eval()
    images, labels = examples("test").tensors
    right = [(module(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(sum(right)) / len(labels)


class Clock:
    """Tells how long rounds took, from `start` or the end of the round before to the next `lap`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def start(self) -> None:
        """Begin with the first round."""
        self._last = time.perf_counter()

    def lap(self) -> None:
        """End a round."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def result(package: str, seconds: list[float], *, given: Options, params: int, accuracy: float) -> dict:
    """Describe a run whose rounds took so many seconds, the first included, and tested so well at the end."""
    return {
        "package": package,
        "version": importlib.metadata.version(package),
        "torch": torch.__version__,
        **vars(given),
        "params": params,
        "seconds": seconds,
        "clients_per_second": COHORT / median(seconds[1:]),
        "accuracy": accuracy,
    }


def tell(package: str, clock: Clock, module: nn.Module, given: Options) -> None:
    """Print the result as one line of JSON; SystemExit if rounds are missing."""
    if len(clock.seconds) != given.rounds + 1:
        sys.exit(f"{package} made {len(clock.seconds)} rounds of {given.rounds + 1}")
    found = result(package, clock.seconds, given=given, params=params(module), accuracy=accuracy(module))
    print("\n" + json.dumps(found), flush=True)
