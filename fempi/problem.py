"""Everything a run needs before its first round, built alike on every rank from the configuration alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fempi import client, registry, server
from fempi.aggregators import Context, Rule, decide
from fempi.algebra import Bool, Float32, Int64, Updates
from fempi.attacks import Attack, Knowledge, poison
from fempi.config import Config
from fempi.datasets.partition import split
from fempi.errors import FempiError
from fempi.models.flat import FlatModel
from fempi.rng import stream, torch_seed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Images:
    """A dataset as it lies on the device: uint8 images and int64 labels, indexed in place."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One run's data, model, adversary and rule. C clients, d parameters, K classes."""

    config: Config
    images: Images
    client_examples: list[Int64]
    """for each client, which training examples it holds"""
    root_examples: Tensor
    malicious: Bool
    """(C,) the truth"""
    model: FlatModel
    attack: Attack
    rule: Rule
    needs_reference: bool

    @cached_property
    def num_examples(self) -> Int64:
        """(C,) examples that each client holds."""
        return np.array([len(examples) for examples in self.client_examples])

    @property
    def digest(self) -> str:
        """SHA-256 of what all ranks must have built alike."""
        everything = hashlib.sha256()
        for array in (
            *self.client_examples,
            self.root_examples.cpu().numpy(),
            self.malicious,
            self.images.train_labels.cpu().numpy(),
            self.images.test_labels.cpu().numpy(),
            self.model.params.cpu().numpy(),
        ):
            everything.update(np.ascontiguousarray(array).tobytes() + b"|")
        return everything.hexdigest()

    @property
    def label_counts(self) -> Int64:
        """(C, K) examples of each class that each client holds."""
        labels = self.images.train_labels.cpu().numpy()
        counts = [np.bincount(labels[e], minlength=self.images.num_classes) for e in self.client_examples]
        return np.stack(counts)

    def cohort(self, round: int) -> Int64:  # noqa: A002 - the field's word
        """Clients (n,) that take part in a round, in rising order."""
        rng = stream(self.config.seed, "cohort", round)
        return np.sort(rng.choice(self.config.data.clients, self.config.train.cohort, replace=False))

    def train_client(self, round: int, number: int, params: Tensor, out: Float32) -> float:  # noqa: A002
        """Train one client from `params` (d,), its data poisoned if it is malicious; see `client.train`."""
        examples = torch.from_numpy(self.client_examples[number]).to(self.model.device)
        images, labels = self.images.train_images[examples], self.images.train_labels[examples]
        if self.malicious[number]:
            rng = stream(self.config.seed, "poison data", 0, number)
            images, labels = self.attack.poison_data(images, labels, self.images.num_classes, rng)
        return self._train(params, images, labels, stream(self.config.seed, "train", round, number), out)

    def train_reference(self, round: int, params: Tensor) -> Float32:  # noqa: A002
        """Train the server's reference update (d,) on its root data, just as a client trains."""
        out = np.empty(self.model.d, np.float32)
        images = self.images.train_images[self.root_examples]
        labels = self.images.train_labels[self.root_examples]
        self._train(params, images, labels, stream(self.config.seed, "reference", round), out)
        return out

    def _train(self, params: Tensor, images: Tensor, labels: Tensor, rng: np.random.Generator, out: Float32) -> float:
        options = self.config.train
        return client.train(
            self.model,
            params,
            images,
            labels,
            epochs=options.local_epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            rng=rng,
            out=out,
        )

    def evaluate(self, params: Tensor, rank: int, ranks: int) -> tuple[Int64, np.ndarray]:
        """Test `params` (d,) on this rank's share of the test set.

        Returns the confusion matrix (K, K) and the summed loss of each batch, 0 for batches of other ranks; both are
        to be summed over the ranks.
        """
        self.model.params.copy_(params)
        images, labels = self.images.test_images, self.images.test_labels
        starts = range(0, len(labels), server.EVALUATION_BATCH)
        confusion = np.zeros((self.images.num_classes, self.images.num_classes), np.int64)
        losses = np.zeros(len(starts))
        for number in range(rank, len(starts), ranks):
            batch = slice(starts[number], starts[number] + server.EVALUATION_BATCH)
            counts, losses[number] = server.evaluate_batch(
                self.model, images[batch], labels[batch], self.images.num_classes
            )
            confusion += counts
        return confusion, losses


def prepare(config: Config, data_root: Path, device: torch.device) -> Problem:
    """Build a run's problem; a FempiError says what the user must change."""
    images = _load_images(config, data_root, device)
    image_shape = tuple(images.train_images.shape[1:])
    labels = images.train_labels.cpu().numpy()
    partition = partial(config.plugin("partition").make, **config.parameters("partition"))
    parts = _mend(
        "data",
        lambda: split(
            labels,
            clients=config.data.clients,
            root_examples=config.data.root_examples,
            partition=partition,
            seed=config.seed,
        ),
    )

    def build() -> FlatModel:
        torch.manual_seed(torch_seed(stream(config.seed, "init")))
        make = config.plugin("model").make
        return FlatModel(make(image_shape, images.num_classes, **config.parameters("model")), device)

    model = _mend("model", build)
    _mend("model", lambda: model(torch.zeros(1, *image_shape, device=device)))
    attack = _mend("attack", lambda: config.plugin("attack").make(**config.parameters("attack")))
    rule = config.plugin("aggregator")
    problem = Problem(
        config=config,
        images=images,
        client_examples=parts.clients,
        root_examples=torch.from_numpy(parts.root).to(device),
        malicious=_malicious(config, attack),
        model=model,
        attack=attack,
        rule=partial(rule.make, **config.parameters("aggregator")),
        needs_reference="reference" in rule.needs,
    )
    _mend("attack", lambda: _try_attack(problem))
    _mend("aggregator", lambda: _try_rule(problem))
    return problem


def _malicious(config: Config, attack: Attack) -> Bool:
    malicious = np.zeros(config.data.clients, bool)
    if attack.malicious_clients_exist:
        rng = stream(config.seed, "malicious")
        malicious[rng.permutation(config.data.clients)[: config.attack.malicious]] = True
    return malicious


def _try_attack(problem: Problem) -> None:
    """Let the attack do its worst on a few examples and made-up updates, so that it objects now."""
    few = torch.arange(min(10, len(problem.images.train_labels)))
    images, labels = problem.images.train_images[few], problem.images.train_labels[few]
    problem.attack.poison_data(images, labels, problem.images.num_classes, stream(0, "try"))
    updates = np.outer([1, 2, 3], stream(0, "try").standard_normal(problem.model.d)).astype(np.float32)
    params = np.zeros(problem.model.d, np.float32)
    knowledge = Knowledge(round=1, clients=np.arange(3), params=params, rng=stream(0, "try"))
    poison(problem.attack, updates, np.array([True, False, True]), knowledge)


def _try_rule(problem: Problem) -> None:
    """Let the rule decide on made-up updates, so that it refuses too small a cohort now and not after an hour."""
    n = problem.config.train.cohort
    rows = stream(0, "try").standard_normal((n + 1, 8)).astype(np.float32)
    context = Context(
        round=1,
        clients=np.arange(n),
        num_examples=np.ones(n, np.int64),
        num_byzantine=problem.config.aggregator.num_byzantine or 0,
        rng=stream(0, "try"),
    )
    decide(problem.rule, Updates(rows[:n], rows[n] if problem.needs_reference else None), context)


def _load_images(config: Config, root: Path, device: torch.device) -> Images:
    parameters = json.dumps(config.parameters("dataset"), sort_keys=True)
    return _images_of(config.data.dataset, parameters, tuple(config.plugins.sha256), root, config.seed, device)


@lru_cache(maxsize=1)  # the arms of an experiment share one dataset
def _images_of(
    name: str, parameters: str, plugins: tuple[str, ...], root: Path, seed: int, device: torch.device
) -> Images:
    dataset = _mend("data", lambda: registry.find("dataset", name).make(root, seed, **json.loads(parameters)))
    return Images(
        train_images=torch.from_numpy(dataset.train_images).to(device),
        train_labels=torch.from_numpy(dataset.train_labels).to(device),
        test_images=torch.from_numpy(dataset.test_images).to(device),
        test_labels=torch.from_numpy(dataset.test_labels).to(device),
        num_classes=dataset.num_classes,
    )


def _mend(section: str, work: Callable[[], T]) -> T:
    """Turn what a plugin objects to into a FempiError that names its section of the file."""
    try:
        return work()
    except FempiError:
        raise
    except (ValueError, RuntimeError) as error:
        raise FempiError(f"{section}: {error}") from error
