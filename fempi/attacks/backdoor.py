"""A backdoor with a pixel trigger, and model replacement to push it through.

Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain.
arXiv:1708.06733, 2017 (the trigger). Bagdasaryan, Veit, Hua, Estrin, Shmatikov: How To Backdoor Federated Learning.
AISTATS 2020 (model replacement).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from fempi.algebra import Bool, Float32, Int64
from fempi.attacks import Attack, Knowledge
from fempi.attacks.examples import chosen, require_two_labels
from fempi.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("attack", "backdoor", paper="Gu et al., arXiv:1708.06733; Bagdasaryan et al., AISTATS 2020", cost="f d")
@dataclass(frozen=True, kw_only=True)
class Backdoor(Attack):
    """Teach the model to take every image with a white square in its corner for `target`.

    `fraction` of a malicious client's images, the nearest whole number of them, get the square of `size` x `size`
    pixels at the lower right and the label `target`; with a `source`, only images of that class do. The rest are
    trained on as they are, so that the model stays good without the trigger. `model_replacement` multiplies what a
    malicious client sends by the cohort's size over the number of attackers in it: under a plain mean, what they
    trained replaces the model, as far as the honest updates cancel. Attack success: the share of test images of
    `source` (of all classes but the target where there is none) that are taken for the target once they carry the
    square.
    """

    target: Annotated[int, Field(ge=0)] = 0
    source: Annotated[int, Field(ge=0)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    size: Annotated[int, Field(ge=1)] = 3
    model_replacement: bool = False

    def poison_data(
        self, images: "Tensor", labels: "Tensor", num_classes: int, rng: np.random.Generator
    ) -> "tuple[Tensor, Tensor]":
        """Put the square on some images and the target in place of their labels."""
        require_two_labels(self.source, self.target, num_classes)
        if self.size > min(images.shape[-2:]):
            raise ValueError(f"attack.size: {self.size}, but images are {images.shape[-2]} x {images.shape[-1]} pixels")
        old = labels.cpu().numpy()
        marked = chosen(old, self.source, self.fraction, rng)
        poisoned, new = images.clone(), old.copy()
        poisoned[marked] = self.trigger(images[marked])
        new[marked] = self.target
        return poisoned, labels.new_tensor(new)

    knows_columns = True

    def poison_updates(self, updates: Float32, malicious: Bool, knowledge: Knowledge) -> Float32:
        """Boost what was trained, for model replacement; otherwise send it as it is."""
        own = updates[malicious]
        return own * np.float32(len(updates) / max(len(own), 1)) if self.model_replacement else own

    def trigger(self, images: "Tensor") -> "Tensor":
        """Return the images (m, channels, height, width) with the square."""
        marked = images.clone()
        marked[..., -self.size :, -self.size :] = 255
        return marked

    def success(self, confusion: Int64, triggered: Int64 | None) -> float:
        """The share of triggered images that are taken for the target."""
        assert triggered is not None, "there is a trigger"
        rows = [label for label in range(len(triggered)) if label != self.target]
        shown = triggered[rows if self.source is None else [self.source]]
        return float(shown[:, self.target].sum() / shown.sum()) if shown.any() else float("nan")
