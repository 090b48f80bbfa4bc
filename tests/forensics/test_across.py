"""Inner products across rounds are those of the updates, and from sketches within the error that is stated."""

import numpy as np
import pytest
from records import make_runs
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

import fempi
from fempi.algebra import distances
from fempi.errors import FempiError
from fempi.forensics.across import Vector, inner_products
from fempi.forensics.figures.rows import principal_components
from fempi.forensics.geometry import Round, round_at
from fempi.sketch import standard_error

SIZE = 512
CONFIG = """
name = "x"
rounds = 4
[data]
dataset = "synthetic"
size = 8
train_examples = 300
test_examples = 50
clients = 12
root_examples = 20
[model]
name = "mlp"
hidden = [250]
[train]
cohort = 10
local_epochs = 1
[attack]
name = "{attack}"
malicious = 3
[aggregator]
name = "fltrust"
[record]
updates = "{updates}"
every = {every}
sketch_size = 512
"""


def made(folder, updates="full", attack="sign_flip", every=1):
    return make_runs(folder, CONFIG.format(updates=updates, attack=attack, every=every)) / "x.h5"


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    with fempi.open(made(tmp_path_factory.mktemp("full"))) as run:
        yield run


@pytest.fixture(scope="module")
def sketched(tmp_path_factory):
    with fempi.open(made(tmp_path_factory.mktemp("sketched"), "sketch")) as run:
        yield run


def everything(run):
    """Every vector of the run."""
    vectors = [Vector(number, slot) for number in (1, 2, 3, 4) for slot in range(10)]
    vectors += [Vector(number, name=name) for number in (1, 2, 3, 4) for name in ("aggregate", "reference")]
    trained = np.argwhere(run.read("rounds/malicious")).tolist()
    return [*vectors, *(Vector(place + 1, slot, "trained_update") for place, slot in trained)]


def cosines_of(products):
    norms = np.sqrt(np.diagonal(products))
    return products / np.outer(norms, norms)


def test_vectors_of_any_round_and_kind_are_multiplied(full):
    vectors = everything(full)
    rows = [full[f"rounds/{v.name}"][(v.round - 1, *([] if v.slot is None else [v.slot]))] for v in vectors]
    rows = np.array(rows, np.float64)
    assert len(rows[0]) == full.layout.size("param") > 1 << 14  # more than one block
    np.testing.assert_allclose(inner_products(full, vectors), rows @ rows.T, rtol=1e-9, atol=1e-12)


def test_within_a_round_they_are_the_recorded_gram_matrix(full):
    vectors = [*(Vector(2, slot) for slot in range(10)), Vector(2, name="reference")]
    np.testing.assert_allclose(inner_products(full, vectors), full["rounds/gram"][1], rtol=1e-4, atol=1e-6)


def test_cosines_and_distances_from_sketches_have_the_stated_error(full, sketched):
    exact, estimated = (inner_products(run, everything(run)) for run in (full, sketched))
    norms = np.sqrt(np.diagonal(exact))
    pairs = np.triu_indices(len(exact), 1)
    errors = ((estimated - exact) / np.outer(norms, norms))[pairs]
    assert 0.1 * standard_error(SIZE) < np.sqrt(np.mean(errors**2)) < 1.2 * standard_error(SIZE)
    assert np.abs(errors).max() < 5 * standard_error(SIZE)
    far = distances(exact)[pairs] > 0.1 * np.median(distances(exact)[pairs])
    relative = np.sqrt(distances(estimated)[pairs][far] / distances(exact)[pairs][far]) - 1
    assert np.sqrt(np.mean(relative**2)) < 1.2 * standard_error(SIZE) / 2


def test_a_sketched_record_has_the_gram_matrices_and_the_map_of_the_full_one(full, sketched):
    np.testing.assert_array_equal(full.read("rounds/gram"), sketched.read("rounds/gram"))
    one, other = (principal_components(round_at(run, 3)) for run in (full, sketched))
    np.testing.assert_array_equal(one[0], other[0])


def test_a_map_and_groups_of_the_updates_of_all_rounds_can_be_had_from_sketches(full, sketched):
    updates = [vector for vector in everything(full) if vector.name == "update"]
    exact, estimated = (inner_products(run, updates) for run in (full, sketched))
    shares = [
        principal_components(Round(1, np.arange(len(updates)), gram, np.zeros(len(updates))))[1]
        for gram in (exact, estimated)
    ]
    np.testing.assert_allclose(shares[1], shares[0], atol=2 * standard_error(SIZE))
    grouping = AgglomerativeClustering(2, metric="precomputed", linkage="average")
    attacking = full.read("rounds/attacking").ravel()
    for gram in (exact, estimated):  # rows at right angles with the others may go either way
        assert adjusted_rand_score(attacking, grouping.fit_predict(1 - cosines_of(gram))) > 0.7


def test_what_is_not_finite_or_not_there_is_nan(tmp_path):
    with fempi.open(made(tmp_path, attack="nan")) as run:
        finite, malicious = run.read("rounds/finite")[0], run.read("rounds/malicious")[0]
        products = inner_products(run, [Vector(1, slot) for slot in range(10)])
        honest = int(np.flatnonzero(~malicious)[0])
        assert np.isnan(inner_products(run, [Vector(1, honest, "trained_update")])).all()
    assert not finite.all()
    assert np.array_equal(np.isfinite(products), np.outer(finite, finite))


@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_round_that_was_not_kept_is_refused(number, tmp_path):
    with (
        fempi.open(made(tmp_path, every=2)) as run,
        pytest.raises(FempiError, match=f"keeps no update of round {number}"),
    ):
        inner_products(run, [Vector(number, 1)])


def test_a_record_without_updates_says_so(tmp_path):
    with fempi.open(made(tmp_path, "none")) as run, pytest.raises(FempiError, match=r'record.updates = "none"'):
        inner_products(run, [Vector(1, 1)])
