"""The CNN of both papers.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data. AISTATS 2017; the dropout is the Dual-System paper's.
"""

from typing import Annotated

from pydantic import Field
from torch import nn

from fempi.registry import register


@register("model", "cnn", paper="McMahan et al., AISTATS 2017")
def cnn(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> nn.Module:
    """Two 5 x 5 convolutions (32, 64) with max-pooling, dense 512, dropout: 1,663,370 parameters on MNIST."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, num_classes),
    )
