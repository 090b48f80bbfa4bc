"""The same code on a GPU. Skipped where there is none, so nothing is claimed there."""

import numpy as np
import pytest
import torch

from fempi.client import Task, train, train_together
from fempi.models.batched import BatchedModel
from fempi.models.cnn_small import cnn_small
from fempi.models.flat import FlatModel
from fempi.rng import stream

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@needs_gpu
def test_training_on_a_gpu_agrees_with_the_cpu_to_single_precision():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(0, 10, (40,))
    start = FlatModel(cnn_small((1, 28, 28), 10), torch.device("cpu")).params.clone()
    updates = {}
    for device in ("cpu", "cuda"):
        model = FlatModel(cnn_small((1, 28, 28), 10), torch.device(device))
        updates[device] = np.empty(model.d, np.float32)
        train(
            model,
            start.to(device),
            images.to(device),
            labels.to(device),
            epochs=1,
            batch_size=10,
            lr=0.01,
            rng=stream(1, "train"),
            out=updates[device],
        )
    np.testing.assert_allclose(updates["cuda"], updates["cpu"], rtol=1e-3, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-2), ("bfloat16", 0.1)])
def test_clients_trained_together_on_a_gpu_agree_with_the_cpu(precision, rtol):
    torch.manual_seed(0)
    sizes = (40, 25, 10)
    data = [(torch.randint(0, 256, (m, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (m,))) for m in sizes]
    updates = {}
    for device in ("cpu", "cuda"):
        model = FlatModel(cnn_small((1, 28, 28), 10), torch.device(device))
        if device == "cpu":
            start = model.params.clone()
        updates[device] = np.empty((len(sizes), model.d), np.float32)
        tasks = [
            Task(images=images.to(device), labels=labels.to(device), rng=stream(1, "train", 0, i), out=out)
            for i, ((images, labels), out) in enumerate(zip(data, updates[device], strict=True))
        ]
        how = {"epochs": 1, "batch_size": 10, "lr": 0.01, "precision": precision if device == "cuda" else "float32"}
        train_together(BatchedModel(model, 3), start.to(device), tasks, **how)
    away = np.linalg.norm(updates["cuda"] - updates["cpu"], axis=1) / np.linalg.norm(updates["cpu"], axis=1)
    assert (away < rtol).all()
