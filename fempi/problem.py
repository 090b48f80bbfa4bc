"""One run's data, model, adversary and rule, and what a rank does with them in a round."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import torch
from torch import Tensor

from fempi import client, privacy, server
from fempi.aggregators import Rule
from fempi.algebra import Bool, Float32, Float64, Int64
from fempi.attacks import Attack, poison_data
from fempi.config import Config
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
    attack: Attack
    rule: Rule
    needs_reference: bool
    mechanism: privacy.Mechanism | None
    epsilon: Float64
    """(rounds,) privacy spent after each round"""
    test_owner: Int64
    """(test examples,) which client each belongs to; empty unless clients are tested one by one"""

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

    def train_client(self, round: int, number: int, params: Tensor, out: Float32) -> float:  # noqa: A002
        """Train one client from `params` (d,), its data poisoned if it attacks, its update made private.

        See `client.train`.
        """
        examples = torch.from_numpy(self.client_examples[number]).to(self.model.device)
        images, labels = self.images.train_images[examples], self.images.train_labels[examples]
        if self.attacking(round)[number]:
            rng = stream(self.config.seed, "poison data", 0, number)
            images, labels = poison_data(self.attack, images, labels, self.images.num_classes, rng)
        loss = self._train(params, images, labels, stream(self.config.seed, "train", round, number), out)
        if self.mechanism is not None:
            privacy.privatize(out, self.mechanism, stream(self.config.seed, "privacy", round, number))
        return loss

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
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            prox=options.prox,
            rng=rng,
            out=out,
        )

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
