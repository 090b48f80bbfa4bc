"""MNIST.

LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition. Proceedings of the IEEE, 1998.
"""

from pathlib import Path

from fempi.datasets import Dataset, idx
from fempi.errors import FempiError
from fempi.registry import register


@register("dataset", "mnist", paper="LeCun et al., Proceedings of the IEEE 1998")
def mnist(root: Path, seed: int, *, folder: str | None = None) -> Dataset:
    """70,000 handwritten digits: 28 x 28, 10 classes, 60,000 to train on.

    `folder` holds the four IDX files; by default it is `<root>/MNIST/raw`, where torchvision keeps them too.
    """
    if folder is not None:
        return idx.read_folder(Path(folder).expanduser())
    raw = root / "MNIST" / "raw"
    if idx.missing(raw):
        raise FempiError(
            f"MNIST is not in {raw}; run `fempi fetch mnist --root {root}` on a machine with a network "
            "(on a cluster: the login node); a run never downloads"
        )
    return idx.read_folder(raw)
