"""McMahan's CNN, with dropout. The Dual-System paper describes such a one, and gives no widths.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data. AISTATS 2017; the dropout is the Dual-System paper's.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

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
        _ChannelsLast(channels, 32, 5, padding=2),
        nn.MaxPool2d(2),  # before the ReLU, to the same effect: a quarter is left for it to do
        nn.ReLU(),
        _ChannelsLast(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, num_classes),
    )


class _ChannelsLast(nn.Conv2d):
    """A convolution whose output has its channels last in memory, where a CPU's vector units can pool them."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).contiguous(memory_format=torch.channels_last)
