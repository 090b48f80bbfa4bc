import numpy as np
import pydantic
import pytest
from adversary import unknown_rule

from fempi.attacks import Knowledge
from fempi.attacks.sign_flip import SignFlip
from fempi.columns import Columns
from fempi.registry import find
from fempi.rng import stream

UPDATES = np.array([[1, -2, 3], [4, 5, 6], [-0.5, 0, 0.25]], np.float32)
PARAMS = np.array([10, -20, 1], np.float32)
KNOWLEDGE = Knowledge(
    round=1,
    clients=np.arange(3),
    params=PARAMS,
    aggregate=unknown_rule,
    columns=Columns(len(PARAMS)),
    rng=stream(0, "attack"),
)


def sent(attack: SignFlip, *malicious: bool) -> list[list[float]]:
    rows: list[list[float]] = attack.poison_updates(UPDATES, np.array(malicious), KNOWLEDGE).tolist()
    return rows


def test_by_default_minus_five_times_the_own_update_is_sent() -> None:
    assert sent(SignFlip(), True, False, True) == [[-5, 10, -15], [2.5, 0, -1.25]]


def test_scale_is_the_factor() -> None:
    assert sent(SignFlip(scale=0.5), False, True, False) == [[-2, -2.5, -3]]


def test_flipped_weights_arrive_as_minus_scale_times_the_trained_weights() -> None:
    # The server adds what is sent to w. w + u is (11, -22, 4), (9.5, -20, 1.25); small numbers: every step is exact.
    rows = np.array(sent(SignFlip(target="weights"), True, False, True), np.float32)
    assert (PARAMS + rows).tolist() == [[-55, 110, -20], [-47.5, 100, -6.25]]
    rows = np.array(sent(SignFlip(target="weights", scale=1.0), False, True, False), np.float32)
    assert (PARAMS + rows).tolist() == [[-14, 15, -7]]


def test_attackers_that_trained_differently_send_different_rows() -> None:
    for attack in (SignFlip(), SignFlip(target="weights")):
        one, other = sent(attack, True, True, False)
        assert one != other


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": -5.0}, {"scale": True}, {"target": "weight"}])
def test_hyper_parameters_have_bounds(wrong: dict[str, float | str]) -> None:
    with pytest.raises(pydantic.ValidationError):
        find("attack", "sign_flip").bind(wrong)
