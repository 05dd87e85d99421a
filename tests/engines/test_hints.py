"""What propagation tells other engines: it holds at every witness, and no verdict changes by it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import z3
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds import bounds, gradient_bounds
from verifier.encodings.network import UNKNOWN
from verifier.encodings.query import Encoding, encode
from verifier.encodings.z3_terms import Z3Terms, rational
from verifier.engines.base import Answer
from verifier.engines.highs_engine import HighsEngine
from verifier.engines.native.settings import ExactSettings
from verifier.engines.saliency import SaliencyEngine, hints
from verifier.engines.saliency.engine import SaliencySettings
from verifier.engines.subproblem import Subproblem
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.options import Options
from verifier.properties.builders import saliency_robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box

TREE = SaliencySettings(exact=ExactSettings.never())
"""The tree alone, without the exact search beside it that would answer for tiny networks."""


def dense(seed: int, sizes: tuple[int, ...] = (3, 5, 4, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def branched(seed: int, *, clipped: bool = False) -> Network:
    """Convolution, MaxPool, a residual sum, LeakyReLU and |x| (or Clip, which has intercepts)."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 3, 3))
    builder.add(Conv(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2)))
    hidden = builder.add(relu())
    pooled = builder.add(MaxPool((2, 2), (1, 1)), hidden)
    flat = builder.add(Reshape((2,)), pooled)
    first = builder.add(leaky_relu(0.1), builder.add(Dense(rng.normal(size=(2, 2)), rng.normal(size=2)), flat))
    total = builder.add(Sum((1, -1)), first, flat)
    last = builder.add(clip(-0.5, 0.7) if clipped else absolute(), total)
    return builder.build(builder.add(Dense(rng.normal(size=(2, 2)), rng.normal(size=2)), last))


def contains(part: Subproblem, x: np.ndarray) -> bool:
    """Whether a part's case, bounds and phases admit a witness."""
    query = part.query
    network = query.network
    assert query.gradient is not None
    values, gradients = network.values(x), network.gradients(x, query.gradient.output)
    return bool(
        query.holds(x[None])[0]
        and all(part.values[n].contains(values[n].reshape(1, -1), 1e-9)[0] for n in part.values)
        and all(part.gradients[n].contains(gradients[n].reshape(1, -1), 1e-9)[0] for n in part.gradients)
        and part.gradient.contains(gradients[network.input].reshape(1, -1), 1e-9)[0]
        and all(
            ((part.known[n] == UNKNOWN) | (part.known[n] == p.reshape(-1))).all() for n, p in network.pattern(x).items()
        )
    )


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.05, 0.8), st.floats(0.01, 2.0), st.booleans())
def test_every_witness_is_in_a_part_and_in_a_part_of_that(seed: int, epsilon: float, delta: float, few: bool) -> None:
    network = dense(seed)
    query = saliency_robustness(
        network, np.random.default_rng(seed).normal(size=3), epsilon=epsilon, delta=delta, domain=None
    )
    points = query.box.sample(2000, np.random.default_rng(seed + 1))
    settings_of = hints.SplitSettings(few=2 if few else 0)
    parts = hints.witness_subproblems(query, bounds(network, query.box, "crown"), settings_of)
    assert parts is not None
    for x in points[query.holds(points)][:20]:
        mine = [part for part in parts if contains(part, x)]
        assert mine
        for part in mine:
            assert part.split is None or any(contains(smaller, x) for smaller in part.split())


def encoding_of(network: Network, box: Box, *, identity: bool) -> Encoding:
    """Values and gradient of output 0, no condition."""
    n = network.input_size
    free = GradientBox(output=np.eye(network.output_size)[0], lower=np.full(n, -np.inf), upper=np.full(n, np.inf))
    query = Query(network=network, box=box, disjuncts=(Conjunction(bound=np.zeros(0)),), gradient=free)
    values = bounds(network, box, "interval")
    gradients = gradient_bounds(network, box, 0, values, "interval")
    return encode(query, values, gradients, identity=gradients[network.input] if identity else None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [dense, branched])
def test_eulers_identity_excludes_no_input(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    network = make(seed)
    box = Box(np.full(network.input_size, -1.0), np.full(network.input_size, 1.5))
    encoding = encoding_of(network, box, identity=True)
    assert encoding.model.row_count == encoding_of(network, box, identity=False).model.row_count + 1
    context = z3.Context()
    terms = Z3Terms(encoding.model, context, strict=True)
    solver = z3.Solver(ctx=context)
    solver.add(terms.assertions)
    for x in (*box.sample(4, np.random.default_rng(seed)), box.lower, box.upper):
        fixed = [terms.variables[c] == rational(v, context) for c, v in zip(encoding.x, x.tolist(), strict=True)]
        assert solver.check(fixed) == z3.sat


def test_eulers_identity_is_an_equation_where_the_gradient_is_known() -> None:
    network = dense(0)
    x = np.zeros(3)
    encoding = encoding_of(network, Box(x - 1e-9, x + 1e-9), identity=True)
    matrix, lower, upper, _ = encoding.model.system()
    assert upper[-1] - lower[-1] < 1e-8
    assert abs(matrix[[-1]]).max() > 0.1


def test_eulers_identity_is_left_out_where_units_have_intercepts() -> None:
    network = branched(0, clipped=True)
    box = Box(np.full(9, -1.0), np.full(9, 1.0))
    plain, with_identity = (encoding_of(network, box, identity=flag) for flag in (False, True))
    assert with_identity.model.row_count == plain.model.row_count


@pytest.mark.parametrize("propagated", [True, False])
@pytest.mark.parametrize("entries", ["telling", "none"])
def test_a_solver_with_few_entries_of_the_gradient_decides_the_same(
    entries: str, propagated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it starts with no entry at all, and gets them as its points violate them."""
    if entries == "none":
        nothing = np.zeros(0, dtype=np.int64)
        monkeypatch.setattr("verifier.encodings.query.basis_of_rows", lambda model, gradient, width: nothing)
    count = {Answer.SAT: 0, Answer.UNSAT: 0}
    for seed in range(14):
        network = dense(seed, (4, 6, 5, 3))
        x = np.random.default_rng(seed).normal(size=4)
        size = float(np.abs(network.gradient(x, int(np.argmax(network.forward(x))))).max())
        query = saliency_robustness(network, x, epsilon=0.8, delta=(0.05 + 0.1 * (seed % 4)) * size, domain=None)
        truth = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(20))
        found = HighsEngine().solve(query, Options(propagate=propagated), Deadline.after(20))
        assert found.answer is truth.answer
        count[found.answer] += 1
        assert found.x is None or replay(query, found.x).exact
    assert min(count.values()) >= 3


def test_without_time_a_part_is_no_proof() -> None:
    network = dense(3, (4, 6, 5, 3))
    query = saliency_robustness(network, np.zeros(4), epsilon=0.8, delta=5.0, domain=None)
    assert HighsEngine().solve(query, Options(propagate=True), Deadline.after(0.0)).answer is Answer.TIMEOUT


def test_a_query_that_speaks_of_the_gradient_keeps_all_entries() -> None:
    network = dense(1)
    query = saliency_robustness(network, np.zeros(3), epsilon=0.8, delta=5.0, domain=None)
    row = Conjunction(g_rows=np.ones((1, 3)), bound=np.array([50.0]))
    parts = hints.witness_subproblems(replace(query, common=row), bounds(network, query.box, "crown"))
    assert parts
    assert not any(part.few_entries for part in parts)
