"""The papers' CNN is laid out for speed; it is the same function as written the usual way."""

import torch
from torch import nn
from torch.nn import functional

from fempi.models.cnn import cnn


def usual() -> nn.Module:
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
        nn.Dropout(0.0),
        nn.Linear(512, 10),
    )


def test_it_is_the_usual_network_with_the_usual_gradient() -> None:
    torch.manual_seed(1)
    ours, theirs = cnn((1, 28, 28), 10, dropout=0.0), usual()
    theirs.load_state_dict(ours.state_dict())
    images, labels = torch.rand(7, 1, 28, 28), torch.arange(7)
    gradients = []
    for model in (ours, theirs):
        logits = model(images)
        gradients.append(torch.autograd.grad(functional.cross_entropy(logits, labels), list(model.parameters())))
    torch.testing.assert_close(ours(images), theirs(images))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
