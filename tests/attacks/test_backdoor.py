import numpy as np
import pytest
import torch

from fempi.attacks import Knowledge
from fempi.attacks.backdoor import Backdoor
from fempi.columns import Columns
from fempi.rng import stream

IMAGES = torch.full((8, 1, 5, 5), 7, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
MARKED = torch.tensor([[7, 7, 7, 7, 7]] * 3 + [[7, 7, 7, 255, 255]] * 2, dtype=torch.uint8)


def poisoned(attack: Backdoor) -> tuple[torch.Tensor, torch.Tensor]:
    return attack.poison_data(IMAGES, LABELS, 4, stream(0, "poison data"))


def test_chosen_images_get_a_white_corner_and_the_target_label() -> None:
    images, labels = poisoned(Backdoor(target=3, size=2, fraction=0.5))
    marked = [bool((image == MARKED).all()) for image in images]
    assert sum(marked) == 4
    for image, label, old, mark in zip(images, labels, LABELS, marked, strict=True):
        assert label == (3 if mark else old)
        assert mark or (image == 7).all()
    assert (IMAGES == 7).all()


def test_with_a_source_only_its_images_are_touched() -> None:
    images, labels = poisoned(Backdoor(target=3, source=1, size=2, fraction=1.0))
    assert [bool((image == MARKED).all()) for image in images] == [False, True, False, False] * 2
    assert labels.tolist() == [0, 3, 2, 3, 0, 3, 2, 3]


def test_every_channel_is_marked() -> None:
    marked = Backdoor(size=1).trigger(torch.zeros((2, 3, 4, 4), dtype=torch.uint8))
    assert marked[:, :, 3, 3].eq(255).all()
    assert marked.sum() == 2 * 3 * 255


def test_success_is_the_share_of_triggered_images_of_other_classes_taken_for_the_target() -> None:
    # Rows the truth. Class 1 is the target: its own images don't count. (4 + 3) of (4 + 6 + 3 + 1 + 6) = 7 / 20.
    triggered = np.array([[6, 4, 0], [0, 9, 1], [1, 3, 6]])
    clean = np.eye(3, dtype=np.int64) * 10
    assert Backdoor(target=1).success(clean, triggered) == 0.35
    assert Backdoor(target=1, source=2).success(clean, triggered) == 0.3
    assert np.isnan(Backdoor(target=1, source=2).success(clean, triggered * [[1], [1], [0]]))


def test_model_replacement_makes_the_mean_what_the_attackers_trained() -> None:
    # Five rows, two attackers, honest updates of zero: a boost of 5 / 2 gives (2.5 * 4 + 2.5 * 8) / 5 = 6, their mean.
    updates = np.array([[4], [0], [0], [8], [0]], np.float32)
    malicious = np.array([True, False, False, True, False])
    knowledge = Knowledge(
        round=1,
        clients=np.arange(5),
        params=np.zeros(1, np.float32),
        aggregate=lambda rows: rows.mean(axis=0),
        columns=Columns(1),
        rng=stream(0, "attack"),
    )
    sent = Backdoor(model_replacement=True).poison_updates(updates, malicious, knowledge)
    assert sent.tolist() == [[10], [20]]
    assert np.concatenate([sent, updates[~malicious]]).mean() == 6
    assert Backdoor().poison_updates(updates, malicious, knowledge).tolist() == [[4], [8]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": 4}, "two different labels of 0 to 3"),
        ({"source": 4}, "two different labels of 0 to 3"),
        ({"source": 2, "target": 2}, "two different labels"),
        ({"size": 6}, "attack.size: 6, but images are 5 x 5"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        poisoned(Backdoor(**options))
