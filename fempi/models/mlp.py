"""A multi-layer perceptron.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data. AISTATS 2017 (there "2NN").
"""

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from fempi.registry import register


@register("model", "mlp", paper="McMahan et al., AISTATS 2017")
def mlp(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    hidden: list[Annotated[int, Field(ge=1)]] = [200, 200],  # noqa: B006 - never mutated; it is the schema's default
) -> nn.Module:
    """Dense layers with ReLU between them: 199,210 parameters on MNIST."""
    channels, height, width = image_shape
    sizes = [channels * height * width, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
