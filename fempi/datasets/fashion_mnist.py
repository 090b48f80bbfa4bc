"""Fashion-MNIST.

Xiao, Rasul, Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms.
arXiv:1708.07747, 2017.
"""

from pathlib import Path

from fempi.datasets import Dataset, idx
from fempi.errors import FempiError
from fempi.registry import register


@register("dataset", "fashion_mnist", paper="Xiao et al., arXiv:1708.07747")
def fashion_mnist(root: Path, seed: int, *, folder: str | None = None) -> Dataset:
    """70,000 pictures of clothes: 28 x 28, 10 classes, 60,000 to train on.

    `folder` holds the four IDX files; by default it is `<root>/FashionMNIST/raw`, where torchvision keeps them too.
    """
    if folder is not None:
        return idx.read_folder(Path(folder).expanduser())
    raw = root / "FashionMNIST" / "raw"
    if idx.missing(raw):
        raise FempiError(
            f"Fashion-MNIST is not in {raw}; run `fempi fetch fashion_mnist --root {root}` on a machine with a network "
            "(on a cluster: the login node); a run never downloads. Any folder with the four IDX files will do: "
            'data.folder = "..." (Debian\'s package dataset-fashion-mnist installs one)'
        )
    return idx.read_folder(raw)
