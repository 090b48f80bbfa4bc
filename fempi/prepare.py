"""How a run's problem is built, alike on every rank from the configuration alone, and tried before its first round."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fempi import privacy, registry
from fempi.aggregators import Context, decide
from fempi.aggregators.pre import rule_of
from fempi.algebra import Bool, Float32, Float64, Updates
from fempi.attacks import Attack, Knowledge, poison, poison_data
from fempi.columns import Columns
from fempi.config import Config, Privacy, Train
from fempi.datasets.partition import share_out, split
from fempi.errors import FempiError
from fempi.models.agreement import batched_model, suitable
from fempi.models.batched import BatchedModel
from fempi.models.flat import FlatModel
from fempi.problem import Images, Problem, label_counts
from fempi.rng import stream, torch_seed

T = TypeVar("T")


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
        make = partial(config.plugin("model").make, image_shape, images.num_classes, **config.parameters("model"))
        _fits_in_memory(make)
        torch.manual_seed(torch_seed(stream(config.seed, "init")))
        return FlatModel(make(), device)

    model = _mend("model", build)
    _mend("model", lambda: model(torch.zeros(1, *image_shape, device=device)))
    batched = _mend("train.clients_per_batch", lambda: _batched(config.train, model, image_shape))
    _updates_fit_in_memory(config, model.d)
    attack = _mend("attack", lambda: config.plugin("attack").make(**config.parameters("attack")))
    rule = config.plugin("aggregator")
    sampling_rate = config.train.cohort / config.data.clients
    mechanism, epsilon = _mend("privacy", lambda: _privacy(config.privacy, config.rounds, sampling_rate))
    test_owner = np.empty(0, np.int64)
    if config.evaluation.per_client:
        counts = label_counts(labels, parts.clients, images.num_classes)
        test_owner = share_out(images.test_labels.cpu().numpy(), counts, stream(config.seed, "test parts"))
    problem = Problem(
        config=config,
        images=images,
        client_examples=parts.clients,
        root_examples=torch.from_numpy(parts.root).to(device),
        malicious=_malicious(config, attack),
        model=model,
        batched=batched,
        attack=attack,
        rule=rule_of(config.aggregator),
        needs_reference="reference" in rule.needs,
        mechanism=mechanism,
        epsilon=epsilon,
        test_owner=test_owner,
    )
    _mend("attack", lambda: _try_attack(problem))
    _mend("aggregator", lambda: _try_rule(problem))
    return problem


def _fits_in_memory(make: Callable[[], torch.nn.Module]) -> None:
    """Raise ValueError for a model that no machine like this one can hold, before it is made and fills the memory."""
    size = 0
    # A model that looks at values while it is made has none to look at here; it is made, or objects, later.
    with suppress(RuntimeError, NotImplementedError), torch.device("meta"):
        size = 4 * sum(parameter.numel() for parameter in make().parameters())
    if 3 * size > _memory():  # the model, its gradient and an update
        raise ValueError(f"its parameters take {size / 1e9:.1f} GB; this machine has {_memory() / 1e9:.1f} GB")


def _updates_fit_in_memory(config: Config, d: int) -> None:
    """Raise FempiError where root could not hold a round's updates."""
    size = 4 * config.train.cohort * d
    if config.aggregator.layout == "root" and size > _memory():
        raise FempiError(
            f"a round's updates take {size / 1e9:.1f} GB; this machine has {_memory() / 1e9:.1f} GB. With "
            'aggregator.layout = "sharded" they are spread over all ranks'
        )


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _batched(options: Train, model: FlatModel, image_shape: tuple[int, ...]) -> BatchedModel | None:
    """Make what trains several clients at once, if this is wanted; ValueError where it would train them otherwise."""
    wanted = options.clients_per_batch
    count = min(options.cohort, suitable(model, image_shape, options.batch_size) if wanted == "auto" else wanted)
    if wanted == 1 or (wanted == "auto" and count == 1):
        return None
    try:
        return batched_model(model, count, image_shape)
    except ValueError:
        if wanted == "auto":
            return None
        raise


@lru_cache  # the accountant takes seconds for "fixed"
def _privacy(options: Privacy, rounds: int, sampling_rate: float) -> tuple[privacy.Mechanism | None, Float64]:
    """Return what clients do to their updates, and the epsilon (rounds,) that it spends."""
    about: Any = {"rounds": rounds, "sampling_rate": sampling_rate, "sampling": options.sampling}
    match options.clip:
        case None | "off":
            return None, np.full(rounds, np.inf)
        case "none":
            mechanism = privacy.Mechanism(clip=None, noise_std=options.noise_std or 0.0)
        case norm:
            multiplier = options.noise_multiplier
            if multiplier is None:
                assert options.epsilon is not None, "the configuration gives one of them"
                multiplier = privacy.noise_multiplier_for(options.epsilon, options.delta, **about)
            mechanism = privacy.Mechanism(clip=norm, noise_std=multiplier * norm)
    return mechanism, privacy.spent(mechanism.noise_multiplier, options.delta, **about)


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
    poison_data(problem.attack, images, labels, problem.images.num_classes, stream(0, "try"))
    shown = problem.attack.trigger(images.clone())
    if shown is not None and shown.shape != images.shape:
        raise ValueError(f"trigger returned images of shape {tuple(shown.shape)}, not {tuple(images.shape)}")
    if problem.config.aggregator.layout == "sharded":
        own = type(problem.attack).poison_updates is not Attack.poison_updates
        if own and not problem.attack.knows_columns:
            raise ValueError(
                'it wants whole updates, which no rank has where aggregator.layout is "sharded"; use "root" (or say '
                "knows_columns in its class, if some columns will do)"
            )
    updates, _, context = _made_up(problem)
    knowledge = Knowledge(
        round=1,
        clients=context.clients,
        params=np.zeros(updates.shape[1], np.float32),
        aggregate=lambda rows: rows.mean(axis=0),
        columns=Columns(updates.shape[1]),
        rng=stream(0, "try"),
    )
    poison(problem.attack, updates, np.arange(len(updates)) % 3 == 0, knowledge)


def _try_rule(problem: Problem) -> None:
    """Let the rule decide on made-up updates, so that it refuses too small a cohort now and not after an hour."""
    rows, reference, context = _made_up(problem)
    columns = Columns(rows.shape[1])
    columns.spread = problem.config.aggregator.layout == "sharded"
    decide(problem.rule, Updates(rows, reference if problem.needs_reference else None, columns), context)


def _made_up(problem: Problem) -> tuple[Float32, Float32, Context]:
    """Updates (n, 8) of a first round that nobody trained, a reference, and what a rule would know."""
    n = problem.config.train.cohort
    rows = stream(0, "try").standard_normal((n + 1, 8)).astype(np.float32)
    context = Context(
        round=1,
        clients=np.arange(n),
        num_examples=np.ones(n, np.int64),
        num_byzantine=problem.config.aggregator.num_byzantine or 0,
        rng=stream(0, "try"),
    )
    return rows[:n], rows[n], context


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
    except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise FempiError(f"{section}: {error}") from error
