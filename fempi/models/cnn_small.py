"""A CNN small enough that a whole experiment takes a minute."""

from math import ceil

from torch import nn

from fempi.registry import register


@register("model", "cnn_small")
def cnn_small(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Two 5 x 5 convolutions of stride 2 (8, 16), dense 24: 22,514 parameters on MNIST."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * ceil(height / 4) * ceil(width / 4), 24),
        nn.ReLU(),
        nn.Linear(24, num_classes),
    )
