"""The Lagrangian of the last layer's phases: it loses no witness, and what it refutes is empty."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from verifier.engines.base import Answer
from verifier.engines.native.settings import ExactSettings
from verifier.engines.saliency import SaliencyEngine
from verifier.engines.saliency.dive import Dive, PseudoCosts
from verifier.engines.saliency.engine import SaliencySettings
from verifier.engines.saliency.leaf import Leaf, leaf_of
from verifier.engines.saliency.leaf_lagrangian import Columns, Lagrangian
from verifier.engines.saliency.leaf_search import LeafSearch
from verifier.engines.saliency.problem import Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.engines.saliency.relaxation import Relaxation
from verifier.engines.saliency.settings import LeafSettings, TreeSettings
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Array, Dense, Reshape, Sum
from verifier.network.piecewise import relu
from verifier.options import Options
from verifier.properties.builders import saliency_robustness
from verifier.properties.query import Query

TREE = SaliencySettings(exact=ExactSettings.never())
"""The tree alone, without the exact search beside it that would answer for tiny networks."""


def dense_network(seed: int, sizes: tuple[int, ...]) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def residual_network(seed: int) -> Network:
    """Convolution, ReLU, convolution, the sum with the input, ReLU, outputs: the last layer reads the input too."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 3, 3))
    first = builder.add(Reshape((1, 3, 3)))
    builder.add(Conv(rng.normal(size=(1, 1, 3, 3)), rng.normal(size=1), padding=(1, 1, 1, 1)))
    builder.add(relu())
    inner = builder.add(Conv(rng.normal(size=(1, 1, 3, 3)), rng.normal(size=1), padding=(1, 1, 1, 1)))
    builder.add(Sum((1, 1)), inner, first)
    builder.add(relu())
    builder.add(Reshape((9,)))
    builder.add(Dense(rng.normal(size=(3, 9)), rng.normal(size=3)))
    return builder.build()


def query_of(network: Network, seed: int, epsilon: float, delta: float) -> Query:
    x = np.random.default_rng(seed).normal(size=network.input_size)
    size = float(np.abs(network.gradient(x, 0)).max())
    return saliency_robustness(network, x, epsilon=epsilon, delta=delta * size + 1e-3, domain=None)


def leaf_with_witness(query: Query, seed: int) -> tuple[Leaf, Array, Array, int] | None:
    """A leaf around a sampled witness, with the witness's phases and coordinates; None if no sample is one."""
    points = query.box.sample(3000, np.random.default_rng(seed + 1))
    points = points[query.holds(points)][:1]
    if not len(points):
        return None
    problem = Problem.of(query)
    state = State.root(problem)
    propagate(problem, state)
    preactivations = [z[0] for z in problem.form.preactivations(points)]
    for r, z in enumerate(preactivations[:-1]):
        for sign in (1, -1):
            state.fix(r, np.flatnonzero(sign * z > 0), sign)
    propagate(problem, state)
    y = query.network.forward(points)
    disjunct = next(k for k, part in enumerate(query.disjuncts) if part.holds(points, y).any())
    state.disjuncts = (disjunct,)
    leaf = leaf_of(problem, state)
    return leaf, (preactivations[-1][leaf.neurons] > 0).astype(float), leaf.coordinates @ points[0], disjunct


def some_leaf() -> Leaf:
    """The first of some random leaves that has a witness."""
    for seed in range(50):
        found = leaf_with_witness(query_of(dense_network(seed, (3, 4, 9, 3)), seed, 0.7, 0.5), seed)
        if found is not None and len(found[1]):
            return found[0]
    raise AssertionError("no sample is a witness")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_a_witness_meets_every_row_and_no_multipliers_refute_it(seed: int, residual: bool) -> None:
    network = residual_network(seed) if residual else dense_network(seed, (3, 4, 9, 3))
    found = leaf_with_witness(query_of(network, seed, 1.5, 1.0), seed)
    assume(found is not None)
    assert found is not None
    leaf, d, y, _ = found
    z = leaf.slope_matrix @ y + leaf.offset
    assert (z >= leaf.low - 1e-9).all()
    assert (z <= leaf.high + 1e-9).all()
    rows = leaf.outputs @ (d * z) + leaf.phase_rows @ d + leaf.coordinate_rows @ y
    assert (rows >= leaf.row_low - 1e-9).all()
    assert (rows <= leaf.row_high + 1e-9).all()
    lagrangian, rng = Lagrangian(leaf), np.random.default_rng(seed)
    columns = some_columns(lagrangian, leaf, rng)
    targets = np.where(columns.sign == 0, 0.0, columns.sign * z[columns.neuron])
    for steps in (0, 1, 20):
        lagrangian.ascend(columns, leaf.low, leaf.high, steps, 0.2, 0.98)
        proof = lagrangian.prove(columns, leaf.low, leaf.high)
        assert (proof.bounds <= targets + 1e-9).all()
        opposite = np.where(d[:, None] > 0, proof.inactive, proof.active)
        own = np.where(d[:, None] > 0, proof.active, proof.inactive)
        assert (proof.bounds + own <= targets + 1e-9).all()
        assert np.minimum(own, opposite)[leaf.phases == 0] == pytest.approx(0.0)
    search = LeafSearch(leaf, lambda disjunct, phases: None)
    part = search._root(np.arange(1))
    assert search._tighten(part, Deadline.after(20)) is not None
    assert (z >= part.low - 1e-9).all()
    assert (z <= part.high + 1e-9).all()
    assert not ((part.phases > 0) & (z < -1e-9)).any()
    assert not ((part.phases < 0) & (z > 1e-9)).any()


def some_columns(lagrangian: Lagrangian, leaf: Leaf, rng: np.random.Generator) -> Columns:
    """Random multipliers for a leaf of one case: its bound, and those of all preactivations."""
    m, count = lagrangian.m, 1 + 2 * lagrangian.m
    multipliers = rng.normal(size=(m + lagrangian.rows, count)).astype(np.float32)
    one_sided = np.isinf(lagrangian.row_low)
    multipliers[m:][one_sided] = np.abs(multipliers[m:][one_sided])
    return Columns(
        multipliers=multipliers,
        phases=np.repeat(leaf.phases.astype(np.int8)[:, None], count, axis=1),
        sign=np.array([0] + [1, -1] * m, dtype=np.int8),
        neuron=np.array([0, *np.repeat(np.arange(m), 2)]),
        allowed=np.ones((len(lagrangian.disjuncts), count), dtype=np.float32),
    )


def unstable_last_layer() -> tuple[Problem, State]:
    """The first of some random problems in which only phases of the last layer are open."""
    for seed in range(50):
        problem = Problem.of(query_of(dense_network(seed, (3, 3, 14, 3)), seed, 1.0, 5.0))
        state = State.root(problem)
        propagate(problem, state)
        z = problem.form.preactivations(problem.query.box.center[None])[0][0]
        for sign in (1, -1):
            state.fix(0, np.flatnonzero((state.phase[0] == 0) & (sign * z > 0)), sign)
        propagate(problem, state)
        if (state.phase[1] == 0).sum() > 3:
            return problem, state
    raise AssertionError("no problem is open")


def test_a_dive_leaves_the_program_as_it_was() -> None:
    """Several dives follow one another on one LP."""
    problem, state = unstable_last_layer()
    free = np.flatnonzero(state.phase[1] == 0)
    relaxation = Relaxation(problem, state)
    before = relaxation.lp.lower.copy(), relaxation.lp.upper.copy()
    for phase in (1, -1):
        dive = Dive(relaxation, state.disjuncts[0], PseudoCosts(), lambda point, deadline: None)
        dive.run(Deadline.after(20), (((1, int(free[0])), phase),))
        assert (relaxation.lp.lower == before[0]).all()
        assert (relaxation.lp.upper == before[1]).all()


def test_the_first_step_follows_the_supergradient_of_the_bound() -> None:
    """Adam's first step goes by the sign of the supergradient alone, here found by differences of proved bounds."""
    leaf = some_leaf()
    lagrangian = Lagrangian(leaf)
    columns = some_columns(lagrangian, leaf, np.random.default_rng(0))
    columns.keep(columns.sign != 0)
    start, count = columns.multipliers.copy(), len(columns)
    slopes = np.zeros((len(start), count))
    for v in range(len(start)):
        ends = []
        for change in (-(2.0**-14), 2.0**-14):
            columns.multipliers[:] = start
            columns.multipliers[v] += np.float32(change)
            ends.append(lagrangian.prove(columns, leaf.low, leaf.high).bounds)
        slopes[v] = (ends[1] - ends[0]) * 2.0**13
    columns.multipliers[:] = start
    lagrangian.ascend(columns, leaf.low, leaf.high, 1, 1e-3, 1.0)
    moved = columns.multipliers - start
    clear = (np.abs(slopes) > 1e-2) & (moved != 0)
    assert clear.mean() > 0.5
    assert (np.sign(moved[clear]) == np.sign(slopes[clear])).mean() > 0.98  # but for a difference across a kink


def test_bounds_below_zero_do_not_take_from_the_reserve_for_rounding() -> None:
    leaf = some_leaf()
    low, high = leaf.low - 2000.0, np.zeros(len(leaf.high))
    at_zero = Lagrangian(replace(leaf, low=low, high=high))
    below = Lagrangian(replace(leaf, low=low, high=high - 1000.0))
    assert (below.row_size >= at_zero.row_size).all()
    assert (below.neuron_size >= at_zero.neuron_size).all()


def test_multipliers_that_are_not_numbers_prove_nothing() -> None:
    leaf = some_leaf()
    lagrangian = Lagrangian(leaf)
    columns = some_columns(lagrangian, leaf, np.random.default_rng(0))
    for v, value in ((0, np.nan), (lagrangian.m, np.inf), (0, -np.inf)):
        columns.multipliers[v] = value
        proof = lagrangian.prove(columns, leaf.low, leaf.high)
        assert (proof.bounds == -np.inf).all()
        assert not (proof.bounds + proof.inactive > 0).any()
        assert not (proof.bounds + proof.active > 0).any()
        columns.multipliers[v] = 0.0


def test_ascents_improve() -> None:
    leaf = some_leaf()
    lagrangian = Lagrangian(leaf)
    columns = some_columns(lagrangian, leaf, np.random.default_rng(0))
    bounds = []
    for steps in (0, 20, 200):
        lagrangian.ascend(columns, leaf.low, leaf.high, steps, 0.2, 0.98)
        bounds.append(lagrangian.prove(columns, leaf.low, leaf.high).bounds)
    assert (bounds[1] > bounds[0]).mean() > 0.9
    assert bounds[2].mean() > bounds[1].mean()


@pytest.mark.parametrize("seed", range(10))
def test_the_search_agrees_with_exact_arithmetic(seed: int) -> None:
    """Small networks, treated as large ones: dense ones and one whose last layer reads the input."""
    pytest.importorskip("z3")
    from verifier.engines.z3_engine import Z3Engine

    tree = replace(TREE, tree=TreeSettings(small=0, leaf=LeafSettings(few=1 + 3 * (seed % 2))))
    residual = seed % 5 == 4
    network = residual_network(seed) if residual else dense_network(seed, (3, 3, 14, 3))
    epsilon = 0.3 if residual else (0.3, 1.0)[seed % 2]  # larger ones Z3 does not decide
    query = query_of(network, seed, epsilon, (0.02, 0.1, 0.4)[seed % 3])
    expected = Z3Engine().solve(query, Options(), Deadline.after(20)).answer
    found = SaliencyEngine(tree).solve(query, Options(), Deadline.after(20))
    assert found.answer in (Answer.SAT, Answer.UNSAT), found.reason
    assert found.answer is expected
    assert found.x is None or replay(query, found.x).exact
