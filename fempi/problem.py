"""One run's data, model, adversary and rule, and what a rank does with them in a round."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fempi import client, privacy, server
from fempi.aggregators import Rule
from fempi.algebra import Bool, Float32, Float64, Int64
from fempi.attacks import Attack, poison_data
from fempi.config import Config
from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel
from fempi.rng import stream


@dataclass(frozen=True, kw_only=True)
class Images:
    """A dataset as it lies on the device: uint8 images and int64 labels, indexed in place."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all images and labels."""
        everything = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            everything.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return everything.digest()


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What a rank's share of the test set adds to each count; all are to be summed over the ranks."""

    confusion: Int64
    """(K, K) rows the true class, columns the predicted one"""
    losses: Float64
    """summed loss of each batch, 0 for batches of other ranks"""
    triggered: Int64
    """(K, K) of the same images with the attack's trigger, (0, 0) where it has none"""
    clients: Int64
    """(C, K, K) confusion on each client's part of the test set, empty where these are not wanted"""


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
    batched: BatchedModel | None
    """in place of `model` for clients, where several of them are trained at once"""
    attack: Attack
    rule: Rule
    needs_reference: bool
    mechanism: privacy.Mechanism | None
    epsilon: Float64
    """(rounds,) privacy spent after each round"""
    test_owner: Int64
    """(test examples,) which client each belongs to; empty unless clients are tested one by one"""

    @property
    def root_epochs(self) -> int:
        """Passes of the server over its root data."""
        return self.config.train.root_epochs or self.config.train.local_epochs

    @property
    def root_cost(self) -> int:
        """What the reference takes to train: of how many examples a client would take as long; 0 without one."""
        if not self.needs_reference:
            return 0
        return ceil(len(self.root_examples) * self.root_epochs / self.config.train.local_epochs)

    @cached_property
    def num_examples(self) -> Int64:
        """(C,) examples that each client holds."""
        return np.array([len(examples) for examples in self.client_examples])

    @property
    def digest(self) -> str:
        """SHA-256 of what all ranks must have built alike."""
        everything = hashlib.sha256(self.images.digest)
        for array in (
            *self.client_examples,
            self.root_examples.cpu().numpy(),
            self.malicious,
            self.test_owner,
            self.epsilon,
            self.model.params.cpu().numpy(),
        ):
            everything.update(np.ascontiguousarray(array).tobytes() + b"|")
        return everything.hexdigest()

    @property
    def label_counts(self) -> Int64:
        """(C, K) examples of each class that each client holds."""
        return label_counts(self.images.train_labels.cpu().numpy(), self.client_examples, self.images.num_classes)

    def cohort(self, round: int) -> Int64:  # noqa: A002 - the field's word
        """Clients (n,) that take part in a round, in rising order."""
        rng = stream(self.config.seed, "cohort", round)
        return np.sort(rng.choice(self.config.data.clients, self.config.train.cohort, replace=False))

    def attacking(self, round: int) -> Bool:  # noqa: A002
        """Clients (C,) that attack in a round, should they take part in it."""
        options = self.config.attack
        since = round - options.start_round
        if since < 0 or since % (options.on_rounds + options.off_rounds) >= options.on_rounds:
            return np.zeros_like(self.malicious)
        active = np.flatnonzero(self.malicious)
        rng = stream(self.config.seed, "attacking", round)
        count = ceil(options.active_share * len(active) - 1e-9)  # in floating point, 0.28 * 25 is more than 7
        out = np.zeros_like(self.malicious)
        out[rng.permutation(active)[:count]] = True
        return out

    def groups(self, clients: Int64, slots: Sequence[int]) -> list[list[int]]:
        """Split slots of the cohort into those whose clients are trained at once: one by one, unless batched."""
        if self.batched is None or not slots:
            return [[slot] for slot in slots]
        by_size = sorted(slots, key=lambda slot: -self.num_examples[clients[slot]])  # those of a group end together
        return [part.tolist() for part in np.array_split(by_size, -(-len(slots) // self.batched.clients))]

    def train_clients(self, round: int, clients: Int64, params: Tensor, outs: Sequence[Float32]) -> list[float]:  # noqa: A002
        """Train a group of clients from `params` (d,), write their updates to `outs`, and return their mean losses.

        The data of those that attack are poisoned, and updates are made private. See `client.train`.
        """
        tasks = [self._task(round, int(number), out) for number, out in zip(clients, outs, strict=True)]
        if self.batched is None:
            losses = [self._train(params, task) for task in tasks]
        else:
            # A smaller batch is computed as a whole one: what is larger than the largest client would be for nothing.
            options = self._options | {"batch_size": min(self.config.train.batch_size, int(self.num_examples.max()))}
            losses = client.train_together(self.batched, params, tasks, **options)
        if self.mechanism is not None:
            for number, out in zip(clients, outs, strict=True):
                privacy.privatize(out, self.mechanism, stream(self.config.seed, "privacy", round, int(number)))
        return losses

    def _task(self, round: int, number: int, out: Float32) -> client.Task:  # noqa: A002
        examples = torch.from_numpy(self.client_examples[number]).to(self.model.device)
        images, labels = self.images.train_images[examples], self.images.train_labels[examples]
        if self.attacking(round)[number]:
            rng = stream(self.config.seed, "poison data", 0, number)
            images, labels = poison_data(self.attack, images, labels, self.images.num_classes, rng)
        rng = stream(self.config.seed, "train", round, number)
        return client.Task(images=images, labels=labels, rng=rng, out=out)

    def train_reference(self, round: int, params: Tensor) -> Float32:  # noqa: A002
        """Train the server's reference update (d,) on its root data, as a client trains alone, for its own epochs."""
        out = np.empty(self.model.d, np.float32)
        images = self.images.train_images[self.root_examples]
        labels = self.images.train_labels[self.root_examples]
        rng = stream(self.config.seed, "reference", round)
        task = client.Task(images=images, labels=labels, rng=rng, out=out)
        self._train(params, task, epochs=self.root_epochs)
        return out

    def _train(self, params: Tensor, task: client.Task, **options: Any) -> float:
        options = self._options | options
        return client.train(self.model, params, task.images, task.labels, rng=task.rng, out=task.out, **options)

    @property
    def _options(self) -> dict[str, Any]:
        alike = {"batch_size", "lr", "momentum", "weight_decay", "prox", "precision"}
        return {"epochs": self.config.train.local_epochs, **self.config.train.model_dump(include=alike)}

    def evaluate(self, params: Tensor, rank: int, ranks: int) -> Tested:
        """Test `params` (d,) on this rank's share of the test set: every `ranks`-th batch."""
        self.model.params.copy_(params)
        images, labels = self.images.test_images, self.images.test_labels
        starts = range(0, len(labels), server.EVALUATION_BATCH)
        k, parts = self.images.num_classes, self.config.data.clients if len(self.test_owner) else 0
        confusion, clients = np.zeros((k, k), np.int64), np.zeros((parts, k, k), np.int64)
        has_trigger = self.attack.trigger(images[:1].clone()) is not None
        triggered = np.zeros((k, k) if has_trigger else (0, 0), np.int64)
        losses = np.zeros(len(starts))
        for number in range(rank, len(starts), ranks):
            batch = slice(starts[number], starts[number] + server.EVALUATION_BATCH)
            predicted, losses[number] = server.predict(self.model, images[batch], labels[batch])
            actual = labels[batch].cpu().numpy()
            np.add.at(confusion, (actual, predicted), 1)
            if parts:
                owned = self.test_owner[batch] >= 0
                np.add.at(clients, (self.test_owner[batch][owned], actual[owned], predicted[owned]), 1)
            if has_trigger:
                shown = self.attack.trigger(images[batch].clone())
                assert shown is not None, "as for the first image"
                np.add.at(triggered, (actual, server.predict(self.model, shown, labels[batch])[0]), 1)
        return Tested(confusion=confusion, losses=losses, triggered=triggered, clients=clients)


def label_counts(labels: Int64, parts: list[Int64], num_classes: int) -> Int64:
    """Count (C, K) the examples of each class in each part."""
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts])
