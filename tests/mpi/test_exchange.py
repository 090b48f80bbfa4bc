"""Columns spread over ranks: every rule and every attack makes the same bits of them as one rank makes of all."""

from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

from fempi import registry
from fempi.aggregators import Context, decide
from fempi.aggregators.pre import compose
from fempi.algebra import Updates
from fempi.attacks import Knowledge, poison
from fempi.columns import BLOCK, Columns
from fempi.comm import Comm
from fempi.exchange import ColumnGather, SpreadColumns
from fempi.rng import stream

pytestmark = pytest.mark.mpi
world = Comm(MPI.COMM_WORLD)
N, F = 11, 2
LONG = 4 * BLOCK + 17
WHOLE_ONLY = ("foolsgold", "fl_detector")
"""Rules that take every client's row apart by themselves"""
every_length = pytest.mark.parametrize("d", [1, 100, BLOCK + 1, LONG])


def rows_of(d, seed=0, n=N):
    """Rows around a common mean; of many, one is far too long and one too short."""
    rng = stream(seed, "rows")
    rows = (rng.standard_normal(d) + rng.standard_normal((n, d))).astype(np.float32)
    rows[n // 3] *= np.float32(1e20)
    rows[n // 4] *= np.float32(1e-25)
    rows[n // 2, ::3] = -0.0
    return rows


def equal(one, other):
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@every_length
def test_every_column_is_with_one_rank_and_blocks_are_whole(d):
    columns = SpreadColumns(world, d)
    parts = world.mpi.allgather((columns.start, columns.stop))
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == d
    assert all(start % BLOCK == 0 or start == d for start, _ in parts)
    blocks = [-(-(stop - start) // BLOCK) for start, stop in parts]
    assert max(blocks) - min(blocks) <= 1


@every_length
def test_a_sum_has_the_bits_of_one_ranks_sum_in_the_order_of_the_blocks(d):
    terms = stream(1, "terms").standard_normal((-(-d // BLOCK), 300, 300)) * 1e8
    columns = SpreadColumns(world, d)
    mine = [terms[(columns.start + block.start) // BLOCK] for block in columns.blocks()]
    assert equal(columns.sum(iter(mine)), Columns(d).sum(terms))
    assert equal(columns.sum([term[0, 0] for term in mine]), Columns(d).sum(terms[:, 0, 0]))


@every_length
def test_parts_are_joined_and_the_largest_is_found_with_nan_above_all(d):
    vector = stream(2, "vector").standard_normal(d).astype(np.float32)
    columns = SpreadColumns(world, d)
    assert equal(columns.join(vector[columns.here]), vector)
    said = np.array([float(world.rank), np.nan if world.rank == world.size - 1 else 0.0, -np.inf])
    np.testing.assert_array_equal(columns.largest(said), [world.size - 1, np.nan, -np.inf])


@every_length
@pytest.mark.parametrize("owners", [[0] * 5, [3, 2, 1, 0, 0, 1, 2, 3], [2, 2, 2]])
def test_every_rank_gets_its_columns_of_all_rows_and_root_can_have_them_whole(d, owners):
    owners = np.array(owners) % world.size
    sent = rows_of(d, n=len(owners))
    gather = ColumnGather(world, owners, d)
    assert gather.slots == np.flatnonzero(owners == world.rank).tolist()
    for slot in reversed(gather.slots):
        gather.row(slot)[:] = sent[slot]
        gather.send(slot)
    received = gather.wait()
    assert equal(received, sent[:, gather.columns.here])
    whole = [row.copy() for row in gather.columns.whole(received[1:])]
    assert equal(whole, sent[1:]) if world.is_root else whole == []


def context_of(n, round_, state):
    return Context(
        round=round_,
        clients=np.arange(n) * 3,
        num_examples=np.arange(1, n + 1),
        num_byzantine=F,
        rng=stream(0, "aggregate", round_),
        state=state,
    )


def decisions(rule, d, columns):
    """What a rule decides in three rounds; in the second a row is not finite."""
    state, made = {}, []
    for round_ in (1, 2, 3):
        rows, reference = rows_of(d, round_), rows_of(d, 50 + round_, n=1)[0]
        if round_ == 2:
            rows[4, d // 2] = np.nan
        updates = Updates(rows[:, columns.here].copy(), reference, columns)
        decision = decide(rule, updates, context_of(N, round_, state))
        state = decision.state
        made.append((decision, updates.full_gram, updates.norms, updates.finite))
    return made


def assert_same(rule, d):
    alone, spread = decisions(rule, d, Columns(d)), decisions(rule, d, SpreadColumns(world, d))
    for (expected, *facts), (decision, *found) in zip(alone, spread, strict=True):
        for name in ("weights", "trust", "selected", "scale", "update"):
            assert equal(getattr(decision, name), getattr(expected, name)), name
        assert decision.state.keys() == expected.state.keys()
        assert all(equal(decision.state[name], value) for name, value in expected.state.items())
        assert all(equal(one, other) for one, other in zip(found, facts, strict=True))


@pytest.mark.parametrize("d", [100, LONG])
@pytest.mark.parametrize("name", sorted(set(registry.names("aggregator")) - {*WHOLE_ONLY}))
def test_a_rule_decides_the_same_bits(name, d):
    plugin = registry.find("aggregator", name)
    assert_same(partial(plugin.make, **plugin.bind({})), d)


@pytest.mark.parametrize("rule", ["median", "geometric_median"])
@pytest.mark.parametrize("name", registry.names("pre_aggregator"))
def test_so_does_one_on_mixed_rows(name, rule):
    pre, plugin = registry.find("pre_aggregator", name), registry.find("aggregator", rule)
    mix = partial(pre.make, **pre.bind({}))
    assert_same(compose([mix], partial(plugin.make, **plugin.bind({}))), LONG)


@pytest.mark.parametrize("name", WHOLE_ONLY)
def test_a_rule_that_wants_all_columns_says_so(name):
    plugin = registry.find("aggregator", name)
    with pytest.raises(ValueError, match='layout = "root"'):
        decisions(partial(plugin.make, **plugin.bind({})), LONG, SpreadColumns(world, LONG))


def sent(attack, d, columns, malicious):
    rows, params = rows_of(d), stream(3, "params").standard_normal(d).astype(np.float32)
    rows[5, -1] = np.inf  # an honest client has diverged
    krum = registry.find("aggregator", "krum").make

    def answer(rows):
        update = decide(krum, Updates(rows, columns=columns), context_of(N, 1, {})).update
        return update[columns.here]

    knowledge = Knowledge(
        round=1,
        clients=np.arange(N),
        params=params[columns.here],
        aggregate=answer,
        columns=columns,
        rng=stream(0, "attack"),
    )
    return poison(attack, rows[:, columns.here].copy(), malicious, knowledge)


@pytest.mark.parametrize("d", [100, LONG])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in registry.names("attack")),
        ("fang", {"variant": "krum"}),
        ("min_max", {"perturbation": "unit"}),
        ("min_sum", {"perturbation": "sign"}),
        ("sign_flip", {"target": "weights"}),
        ("backdoor", {"model_replacement": True}),
    ],
)
def test_an_attack_sends_the_same_bits(name, options, d):
    plugin = registry.find("attack", name)
    attack = plugin.make(**plugin.bind(options))
    malicious = np.isin(np.arange(N), [0, 7])
    columns = SpreadColumns(world, d)
    alone = sent(attack, d, Columns(d), malicious)
    assert equal(sent(attack, d, columns, malicious), alone[:, columns.here])
