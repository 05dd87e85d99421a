"""The native saliency engine: bounds contain samples, proofs agree with enumeration, witnesses replay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from verifier.engines.base import Answer
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.engines.saliency import SaliencyEngine
from verifier.engines.saliency.engine import SaliencySettings
from verifier.engines.saliency.problem import Infeasible, Problem, State
from verifier.engines.saliency.propagation import contract, propagate
from verifier.engines.saliency.relaxation import Relaxation
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.lp.certificate import dual_bound, refutes
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.network.relu_form import INPUT, relu_form
from verifier.options import Options
from verifier.properties.builders import saliency_robustness
from verifier.verdict import Certainty

TREE = SaliencySettings(exact=ExactSettings.never())
"""The tree alone, without the exact search beside it that would answer for tiny networks."""


def dense_network(seed: int, sizes: tuple[int, ...] = (3, 5, 4, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def mixed_network(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((2, 6, 6))
    builder.add(Conv(rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3), padding=(1, 1, 1, 1)))
    builder.add(relu())
    pooled = builder.add(MaxPool((3, 3), (2, 2), (1, 1, 0, 0)))
    builder.add(Conv(rng.normal(size=(3, 3, 3, 3)), rng.normal(size=3), padding=(1, 1, 1, 1)))
    added = builder.add(Sum((1, -1)), builder.add(leaky_relu(0.1)), pooled)
    left, right = builder.add(absolute(), added), builder.add(clip(-1.0, 2.0), added)
    total = builder.add(Sum((1, 1)), left, right)
    size = int(np.prod(builder.shape(total)))
    builder.add(Reshape((size,)))
    builder.add(Dense(rng.normal(size=(4, size)), rng.normal(size=4)))
    return builder.build()


@pytest.mark.parametrize("make", [dense_network, mixed_network])
def test_the_relu_form_is_the_network(make) -> None:  # type: ignore[no-untyped-def]
    network = make(0)
    form = relu_form(network)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, network.input_size))
    z = form.preactivations(x)
    values = {INPUT: x, **{r: np.maximum(v, 0) for r, v in enumerate(z)}}
    y = form.output.constant + sum((m @ values[s].T).T for s, m in form.output.matrices.items())
    assert np.allclose(y, network.forward(x), rtol=1e-9, atol=1e-9)
    c = rng.normal(size=network.output_size)
    h = {INPUT: np.zeros((5, network.input_size)), **{r: np.zeros((5, n)) for r, n in enumerate(form.sizes)}}
    for s, m in form.output.matrices.items():
        h[s] = h[s] + m.T @ c
    for r in reversed(range(len(z))):
        v = h[r] * (z[r] > 0)
        for s, m in form.layers[r].matrices.items():
            h[s] = h[s] + (m.T @ v.T).T
    assert np.allclose(h[INPUT], network.gradient(x, c).reshape(5, -1), rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.3, 1.5), st.floats(0.3, 3.0))
def test_propagation_and_relaxation_lose_no_witness(seed: int, epsilon: float, delta: float) -> None:
    """Every sampled witness has its preactivations, its h and its phases inside what propagation keeps."""
    network = dense_network(seed)
    x = np.random.default_rng(seed).normal(size=3)
    query = saliency_robustness(network, x, epsilon=epsilon, delta=delta, domain=None)
    points = query.box.sample(2000, np.random.default_rng(seed + 1))
    points = points[query.holds(points)][:50]
    assume(len(points))
    problem = Problem.of(query)
    state = State.root(problem)
    propagate(problem, state)
    for r, z in enumerate(problem.form.preactivations(points)):
        assert (z >= state.z_lower[r]).all()
        assert (z <= state.z_upper[r]).all()
        assert not ((z > 0) & (state.phase[r] < 0)).any()
        assert not ((z < 0) & (state.phase[r] > 0)).any()
    relaxation = Relaxation(problem, state)
    disjunct = next(k for k, part in enumerate(query.disjuncts) if part.holds(points, network.forward(points)).any())
    assert relaxation.solve(disjunct, Deadline.after(10.0)).point is not None


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.booleans())
def test_contraction_keeps_every_solution(seed: int, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    m, k = (3, 6) if wide else (7, 4)
    matrix, v = rng.normal(size=(m, k)), rng.normal(size=k)
    center, radius = v + rng.uniform(-0.5, 0.5, size=k), np.full(k, 0.6)
    slack = 10.0 ** rng.uniform(-8, 0, size=m)
    target = matrix @ v + slack * rng.uniform(-1, 1, size=m)
    new_center, new_radius = contract(matrix, target, slack, center, radius)
    assert (np.abs(v - new_center) <= new_radius).all()
    if not wide and slack.max() < 1e-4:
        assert new_radius.max() < 0.6


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_any_multipliers_bound_and_none_refutes_a_feasible_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(rng.normal(size=(4, 6)))
    x = rng.uniform(-1, 1, size=6)
    lower, upper = np.full(6, -1.0), np.full(6, 1.0)
    rows = matrix @ x
    row_lower, row_upper = rows - rng.uniform(0, 0.1, size=4), np.where(rng.random(4) < 0.3, np.inf, rows)
    cost, y = rng.normal(size=6), rng.normal(size=4)
    assert dual_bound(matrix, row_lower, row_upper, lower, upper, cost, y) <= cost @ x
    assert not refutes(matrix, row_lower, row_upper, lower, upper, y)


def test_a_refutation_is_recognised() -> None:
    matrix = sp.csr_array(np.array([[1.0, 1.0]]))
    ends = np.array([3.0]), np.array([np.inf])
    assert refutes(matrix, *ends, np.zeros(2), np.ones(2), np.array([1.0]))
    assert not refutes(matrix, *ends, np.zeros(2), np.array([1.0, 2.0]), np.array([1.0]))


def _truth(network: Network, query, rng: np.random.Generator) -> bool:  # type: ignore[no-untyped-def]
    """Whether a dense sample of the box holds a witness (one-sided truth)."""
    points = query.box.sample(4000, rng)
    return any(replay(query, x).exact for x in points[query.holds(points)][:3])


@pytest.mark.parametrize("seed", range(12))
def test_no_proof_contradicts_a_sample(seed: int) -> None:
    network = dense_network(seed, (2, 6, 6, 3))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=2)
    size = float(np.abs(network.gradient(x, 0)).max())
    query = saliency_robustness(network, x, epsilon=0.5, delta=float(rng.uniform(0.05, 1.5)) * size, domain=None)
    result = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(20))
    assert result.answer in (Answer.SAT, Answer.UNSAT), result.reason
    if result.answer is Answer.SAT:
        assert result.x is not None
        assert replay(query, result.x).exact
    else:
        assert not _truth(network, query, rng)


def test_a_deadline_is_never_a_proof() -> None:
    query = saliency_robustness(dense_network(3, (4, 30, 30, 3)), np.zeros(4), epsilon=2.0, delta=3.0, domain=None)
    result = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(1e-9))
    assert result.answer is Answer.TIMEOUT


def test_impossible_gradients_are_refuted_by_propagation() -> None:
    network = dense_network(5)
    query = saliency_robustness(network, np.zeros(3), epsilon=0.3, delta=0.0, domain=None)
    problem = Problem.of(query)
    gradient = query.gradient
    assert gradient is not None
    gradient.lower.flags.writeable = gradient.upper.flags.writeable = True
    gradient.lower[:], gradient.upper[:] = 1e3, 1e3 + 1
    with pytest.raises(Infeasible):
        propagate(problem, State.root(problem))


def check_against_z3(query, engine: SaliencyEngine | None = None) -> None:  # type: ignore[no-untyped-def]
    """The engine decides, and as Z3 does, which decides too: a question without an answer would test nothing."""
    from verifier.engines.z3_engine import Z3Engine

    expected = Z3Engine().solve(query, Options(), Deadline.after(20)).answer
    found = (engine or SaliencyEngine(TREE)).solve(query, Options(), Deadline.after(20))
    assert found.answer in (Answer.SAT, Answer.UNSAT), found.reason
    assert found.answer is expected


@pytest.mark.parametrize("seed", range(8))
def test_dives_agree_with_exact_arithmetic(seed: int) -> None:
    """Few first-layer neurons and many in the last one: the search is a dive almost at once."""
    pytest.importorskip("z3")
    network = dense_network(seed, (3, 2, 14, 3))
    x = np.random.default_rng(seed).normal(size=3)
    size = float(np.abs(network.gradient(x, 0)).max())
    query = saliency_robustness(network, x, epsilon=1.0, delta=(0.02, 0.1, 0.4)[seed % 3] * size, domain=None)
    check_against_z3(query)


@pytest.mark.parametrize("seed", range(5))
def test_the_stage_without_the_gradient_agrees_with_exact_arithmetic(seed: int) -> None:
    """From small boxes, where the label holds, to large ones."""
    pytest.importorskip("z3")
    # as in a large network of many inputs
    engine = SaliencyEngine(
        SaliencySettings(exact=ExactSettings.never(), small=0, native=NativeSettings(low_dimension=0))
    )
    network = dense_network(seed, (3, 6, 5, 3))
    x = np.random.default_rng(seed).normal(size=3)
    size = float(np.abs(network.gradient(x, 0)).max())
    query = saliency_robustness(network, x, epsilon=(0.02, 0.3, 1.0)[seed % 3], delta=0.5 * size, domain=None)
    check_against_z3(query, engine)


def test_added_constants_that_round_are_not_called_exact() -> None:
    builder = NetworkBuilder((8,))  # wide enough for the identities to be kept sparse
    for shift in (1e17, 1.0, -1e17):
        builder.add(Scale(np.ones(8), np.full(8, shift)))
    builder.add(relu())
    assert not relu_form(builder.build()).exact
    builder = NetworkBuilder((8,))
    for shift in (0.5, 1.0, -0.25):
        builder.add(Scale(np.ones(8), np.full(8, shift)))
    builder.add(relu())
    assert relu_form(builder.build()).exact


@pytest.mark.parametrize("through_a_matrix", [False, True])
@pytest.mark.parametrize("exactly", [True, False])
def test_nothing_is_proved_by_composed_constants_that_round(exactly: bool, through_a_matrix: bool) -> None:
    """x + 1e17 + 1 - 1e17 is x + 1 <= 1.5, but x <= 0.5 in float64; the other output is 1.2."""
    engine = SaliencyEngine(SaliencySettings(exact=ExactSettings.never(), exact_up_to=300 if exactly else 0))
    builder = NetworkBuilder((1,))
    for shift in (1e17, 1.0, -1e17):
        if through_a_matrix:
            builder.add(Dense(np.eye(1), np.full(1, shift)))
        else:
            builder.add(Scale(np.ones(1), np.full(1, shift)))
    builder.add(relu())
    builder.add(Dense(np.array([[1.0], [0.0]]), np.array([0.0, 1.2])))
    query = saliency_robustness(builder.build(), [0.0], epsilon=0.5, delta=5.0, label=1, domain=None)
    result = engine.solve(query, Options(), Deadline.after(20))
    assert result.answer is not Answer.UNSAT
    assert not exactly or result.answer is Answer.SAT


def test_an_exact_solver_that_is_given_padded_bounds_is_called_rigorous() -> None:
    pytest.importorskip("z3")
    from verifier.engines.z3_engine import Z3Engine

    query = saliency_robustness(dense_network(0), np.zeros(3), epsilon=0.01, delta=0.0, domain=None)
    for propagate_first, certainty in ((False, Certainty.EXACT), (True, Certainty.RIGOROUS)):
        result = Z3Engine().solve(query, Options(propagate=propagate_first), Deadline.after(20))
        assert result.answer is Answer.UNSAT
        assert result.certainty is certainty


@pytest.mark.parametrize("similarity", ["linf", "l1"])
@pytest.mark.parametrize(("delta", "holds"), [(0.1, True), (0.5, False)])
def test_a_network_without_activations_and_a_map_with_the_input(similarity: str, delta: float, holds: bool) -> None:
    # similar maps within 0.1 have x₀ in [0.466, 0.534] and x₁ in [0.4, 0.6]; the label changes where x₁ + 0.1 >= 2 x₀
    network = feedforward([np.array([[1.0, 2.0], [3.0, 1.0]])], [np.array([0.1, 0.0])])
    query = saliency_robustness(
        network, [0.5, 0.5], epsilon=0.5, delta=delta, map="gradient-input", similarity=similarity
    )
    result = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(20))
    assert (result.answer is Answer.UNSAT) == holds
    assert result.x is None or replay(query, result.x).exact


def test_coefficients_of_an_entry_that_is_taken_twice_are_known_to_be_rounded() -> None:
    """y = 0.1 x + 0.2 x: their float64 sum is not the sum of the two, and the form may not call it exact."""
    builder = NetworkBuilder((40,))
    twice = builder.add(Select(np.array([0, 0, *range(2, 40)])), "input")
    weight = np.zeros((3, 40))
    weight[0, :2] = 0.1, 0.2
    network = builder.build(builder.add(Dense(weight, np.zeros(3)), twice))
    assert relu_form(network).output.roundings > 0
    once = NetworkBuilder((40,))
    turned = once.add(Select(np.arange(39, -1, -1)), "input")
    assert relu_form(once.build(once.add(Dense(weight, np.zeros(3)), turned))).output.roundings == 0
