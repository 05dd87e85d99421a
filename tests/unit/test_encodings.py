"""The solver-neutral encodings against exact evaluation: values, gradients, kinks, exactness of the numbers."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import z3
from hypothesis import given
from hypothesis import strategies as st

from verifier.bounds import bounds, gradient_bounds
from verifier.encodings.milp import mixed_integer
from verifier.encodings.model import Atom, Disjunction, Expressions, Model
from verifier.encodings.phases import phases, possible_phases
from verifier.encodings.query import Encoding, encode
from verifier.encodings.region import Region
from verifier.encodings.scaling import rescaled
from verifier.encodings.smtlib import script
from verifier.encodings.z3_terms import Z3Terms, fraction_of, rational
from verifier.errors import EngineError
from verifier.highs import new_highs
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.properties.builders import saliency_robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box


def test_the_folder_must_not_become_a_package() -> None:
    """``encodings`` is a package of the standard library: an ``__init__.py`` here would replace it and kill Python."""
    assert not (Path(__file__).resolve().parents[2] / "encodings" / "__init__.py").exists()


# -- networks with every operator ------------------------------------------------------------------------------
def convolutional(seed: int) -> Network:
    """Convolution, batch normalisation, ReLU, overlapping MaxPool, a padded slice, dense layers."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 4, 4))
    builder.add(Conv(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2), stride=(1, 1), padding=(0, 1, 1, 0)))
    builder.add(Scale(rng.normal(size=(2, 4, 4)), rng.normal(size=(2, 4, 4))))
    builder.add(relu())
    builder.add(MaxPool((2, 2), (1, 1)) if seed % 2 else MaxPool((2, 2), (2, 2)))
    flat = int(np.prod(builder.shape(builder._last)))
    builder.add(Reshape((flat,)))
    builder.add(Select(np.array([0, 1, -1, 1, flat - 1, 2]), fill=0.5))
    builder.add(Dense(rng.normal(size=(3, 6)), rng.normal(size=3)))
    builder.add(leaky_relu(0.1))
    builder.add(Dense(rng.normal(size=(2, 3)), rng.normal(size=2)))
    return builder.build()


def residual(seed: int) -> Network:
    """Shared nodes, sums and differences of affine layers, concatenation, |x|, Clip, a duplicated variable."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((3,))
    start = builder._last
    first = builder.add(Dense(rng.normal(size=(3, 3)), rng.normal(size=3)), start)
    second = builder.add(Sum((1, -1)), first, start)
    hidden = builder.add(absolute() if seed % 2 else clip(-0.5, 0.7), second)
    third = builder.add(Dense(rng.normal(size=(3, 3)), rng.normal(size=3)), hidden)
    joined = builder.add(Sum((-1, 1)), third, hidden)
    active = builder.add(relu(), joined)
    both = builder.add(Concat(0), active, hidden)
    doubled = builder.add(Select(np.array([0, 0, 3, 5, 1])), both)
    return builder.build(builder.add(Dense(rng.normal(size=(2, 5)), rng.normal(size=2)), doubled))


NETWORKS = [convolutional(0), convolutional(1), residual(0), residual(1)]


def gradient_query(network: Network, box: Box, output: np.ndarray | None = None) -> Query:
    """A query that asks nothing but that the gradient is finite: its encoding holds values and gradients."""
    m, n = network.output_size, network.input_size
    weights = np.eye(m)[0] if output is None else output
    free = GradientBox(output=weights, lower=np.full(n, -np.inf), upper=np.full(n, np.inf))
    return Query(network=network, box=box, disjuncts=(Conjunction(bound=np.zeros(0)),), gradient=free)


def encoding_of(query: Query, method: str = "interval") -> Encoding:
    values = bounds(query.network, query.box, method)  # type: ignore[arg-type]
    gradients = None
    if query.gradient is not None:
        gradients = gradient_bounds(query.network, query.box, query.gradient.output, values, method)  # type: ignore[arg-type]
    return encode(query, values, gradients)


@pytest.mark.parametrize("number", range(len(NETWORKS)))
@pytest.mark.parametrize("output", [None, np.array([0.3, -1.7])], ids=["unit", "combination"])
def test_a_fixed_input_has_exactly_its_values_and_gradient(number: int, output: np.ndarray | None) -> None:
    network = NETWORKS[number]
    rng = np.random.default_rng(number)
    box = Box(np.full(network.input_size, -1.0), np.full(network.input_size, 1.0))
    query = gradient_query(network, box, output)
    encoding = encoding_of(query)
    assert encoding.free_neurons >= 5
    exact = ExactNetwork(network)
    context = z3.Context()
    terms = Z3Terms(encoding.model, context, strict=True)
    solver = z3.Solver(ctx=context)
    solver.add(terms.assertions)
    assert encoding.g is not None
    assert query.gradient is not None
    for x in (box.sample(1, rng)[0], np.zeros(network.input_size)):
        truth = exact.output(x) + exact.gradient(x, query.gradient.output)
        columns = [*encoding.y.tolist(), *encoding.g.tolist()]
        solver.push()
        solver.add([terms.variables[c] == rational(v, context) for c, v in zip(encoding.x, x.tolist(), strict=True)])
        assert solver.check() == z3.sat
        model = solver.model()
        found = [fraction_of(model.eval(terms.variables[c], model_completion=True)) for c in columns]
        assert found == truth
        solver.add(z3.Or([terms.variables[c] != rational(v, context) for c, v in zip(columns, truth, strict=True)]))
        assert solver.check() == z3.unsat
        solver.pop()


def test_both_neighbours_at_a_kink_when_closed_and_the_convention_when_not() -> None:
    network = feedforward([[[1.0]], [[3.0]]], [[0.0], [0.0]])
    query = gradient_query(network, Box(np.array([-1.0]), np.array([1.0])))
    encoding = encoding_of(query)
    assert encoding.g is not None
    for strict, expected in ((False, {0, 3}), (True, {0})):
        context = z3.Context()
        terms = Z3Terms(encoding.model, context, strict=strict)
        found = set()
        for g in (0, 1, 3):
            solver = z3.Solver(ctx=context)
            solver.add(terms.assertions)
            solver.add(terms.variables[encoding.x[0]] == 0, terms.variables[encoding.g[0]] == g)
            if solver.check() == z3.sat:
                found.add(g)
        assert found == expected


def test_a_slope_that_only_the_breakpoint_has_is_never_lost() -> None:
    """|z|' is 0 at 0 by the convention: neither neighbour's slope, so the closed form needs it as well."""
    everything = possible_phases(absolute(), -1.0, 1.0, gradient=True)
    assert sorted(p.derivative for p in everything) == [-1.0, 0.0, 1.0]
    assert [p.derivative for p in possible_phases(absolute(), 0.0, 0.0, gradient=True)] == [0.0]


@given(
    st.fractions(-3, 3),
    st.sampled_from([relu(), leaky_relu(0.1), absolute(), clip(-0.5, 1.0), clip(0.0, 6.0)]),
    st.booleans(),
)
def test_every_preactivation_is_on_exactly_one_phase(z: Fraction, operator: object, gradient: bool) -> None:
    from verifier.network.piecewise import PiecewiseLinear

    assert isinstance(operator, PiecewiseLinear)
    found = [p for p in phases(operator, gradient=gradient) if p.contains(z)]
    assert len(found) == 1
    x = np.array([float(z)])
    if Fraction(float(z)) == z:
        value = Fraction(found[0].slope) * z + Fraction(found[0].intercept)
        assert float(value) == pytest.approx(float(operator.forward(x)[0]))
        if gradient:
            assert found[0].derivative == operator.slope(x)[0]


def test_weights_are_read_as_the_binary_numbers_they_are() -> None:
    """0.1 + 0.2 > 0.3 in binary rationals; read as decimals the query would have a solution."""
    network = feedforward([[[0.1, 0.2]]], [[0.0]])
    box = Box(np.ones(2), np.ones(2))
    for bound, expected in ((0.3, z3.unsat), (np.nextafter(0.3, 1.0), z3.sat)):
        query = Query(
            network=network, box=box, disjuncts=(Conjunction(y_rows=np.ones((1, 1)), bound=np.array([bound])),)
        )
        encoding = encoding_of(query)
        context = z3.Context()
        solver = z3.Solver(ctx=context)
        solver.add(Z3Terms(encoding.model, context, strict=False).assertions)
        answer = solver.check() if not encoding.model.contradiction else z3.unsat
        assert answer == expected


def test_fixed_variables_keep_the_rows_that_define_them() -> None:
    """A gradient box of width 0 fixes a variable; its definition must then hold as a constraint."""
    network = feedforward([[[1.0], [1.0]], [[1.0, 2.0]]], [[0.0, -0.5], [0.0]])
    box = Box(np.array([-1.0]), np.array([1.0]))
    target = GradientBox(output=np.ones(1), lower=np.array([2.0]), upper=np.array([2.0]))
    query = Query(network=network, box=box, disjuncts=(Conjunction(bound=np.zeros(0)),), gradient=target)
    encoding = encoding_of(query)
    context = z3.Context()
    solver = z3.Solver(ctx=context)
    solver.add(Z3Terms(encoding.model, context, strict=True).assertions)
    assert solver.check() == z3.unsat


# -- renderers and reductions -----------------------------------------------------------------------------------
def small_queries(count: int) -> list[Query]:
    """Random saliency queries on 3-4-3-2 networks."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        sizes = [3, 4, 3, 2]
        network = feedforward(
            [np.round(rng.normal(size=(b, a)) * 4) / 4 for a, b in itertools.pairwise(sizes)],
            [np.round(rng.normal(size=b) * 4) / 4 for b in sizes[1:]],
        )
        found.append(saliency_robustness(network, rng.random(3), epsilon=1.0, delta=float(rng.choice([0.5, 1.0, 4.0]))))
    return found


@pytest.mark.parametrize("strict", [False, True])
def test_smt_lib_text_says_what_the_z3_terms_say(strict: bool) -> None:
    answers = set()
    for query in small_queries(12):
        encoding = encoding_of(query)
        if encoding.model.contradiction:
            continue
        context = z3.Context()
        own, read = z3.Solver(ctx=context), z3.Solver(ctx=context)
        own.add(Z3Terms(encoding.model, context, strict=strict).assertions)
        read.from_string(script(encoding.model, strict=strict, comment="two\nlines"))
        assert own.check() == read.check()
        answers.add(str(own.check()))
    assert answers == {"sat", "unsat"}


def test_mixed_integer_rows_hold_at_every_true_point() -> None:
    """With the binaries that a point's activation pattern sets, all big-M rows hold at the point's values."""
    import highspy

    from verifier.encodings.highs import highs_program

    for query in small_queries(6):
        free = gradient_query(query.network, query.box)
        encoding = encoding_of(free)
        program = mixed_integer(encoding.model)
        for x in query.box.sample(3, np.random.default_rng(0)):
            fixed = highs_program(program.model)
            lower, upper = np.array(fixed.col_lower_), np.array(fixed.col_upper_)
            lower[encoding.x] = upper[encoding.x] = x
            fixed.col_lower_, fixed.col_upper_ = lower, upper
            solver = new_highs()
            solver.passModel(fixed)
            solver.run()
            assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
            solution = np.array(solver.getSolution().col_value)
            assert encoding.g is not None
            np.testing.assert_allclose(solution[encoding.y], query.network.forward(x), atol=1e-6)
            np.testing.assert_allclose(solution[encoding.g], query.network.gradient(x, 0), atol=1e-5)


def test_mixed_integer_refuses_unbounded_variables() -> None:
    model = Model()
    model.add_variables(np.array([0.0]), np.array([np.inf]))
    with pytest.raises(EngineError, match="not bounded"):
        mixed_integer(model)


@given(st.integers(0, 10_000))
def test_rescaling_keeps_the_solutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Model()
    lower = rng.normal(size=4)
    upper = lower + rng.choice([0.0, 1e-6, 1.0], size=4)
    v = model.add_variables(lower, upper)
    point = lower + rng.random(4) * (upper - lower)
    weights = rng.normal(size=4)
    total = float(weights @ point)
    model.add_atoms([Atom(tuple(v.tolist()), tuple(weights.tolist()), total - 1e-9, total + 1e-9)])
    model.disjunctions.append(
        Disjunction([[Atom((0,), (1.0,), float(point[0]), np.inf)], [Atom((1,), (1.0,), 5.0, 6.0)]])
    )
    scaled = rescaled(model)
    moved = np.where(scaled.scale == 0, 0.0, (point - scaled.offset) / np.where(scaled.scale == 0, 1.0, scaled.scale))
    assert (moved >= scaled.model.lower - 1e-6).all()
    assert (moved <= scaled.model.upper + 1e-6).all()
    width = scaled.model.upper - scaled.model.lower
    assert ((width == 0) | (width >= 1e-4)).all()
    np.testing.assert_allclose(scaled.original(moved), point, rtol=1e-12)
    matrix, low, high, _ = scaled.model.system()
    value = matrix @ moved
    assert (value >= low - 1e-6).all()
    assert (value <= high + 1e-6).all()


def test_definitions_are_exact_rows() -> None:
    model = Model()
    x = model.add_variables(np.zeros(2), np.ones(2))
    plain = Expressions.of_variables(x)
    y = model.define(Expressions(plain.matrix, np.array([0.1, 0.2])), np.zeros(2), np.full(2, 2.0))
    matrix, low, high, _ = model.system()
    assert matrix.toarray().tolist() == [[-1.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 1.0]]
    assert low.tolist() == high.tolist() == [0.1, 0.2]
    assert set(model.definitions) == set(y.tolist())


# -- linear regions ------------------------------------------------------------------------------------------------
def test_empty_regions_name_the_units_that_suffice_to_refute_them() -> None:
    network = feedforward([[[1.0], [1.0], [1.0]], [[1.0, 1.0, 1.0]]], [[0.0, -0.5, 3.0], [0.0]])
    box, name = Box(np.array([-1.0]), np.array([1.0])), network.activations[0].name
    never = GradientBox(output=np.ones(1), lower=np.array([100.0]), upper=np.array([100.0]))
    steep = Query(network=network, box=box, disjuncts=(Conjunction(bound=np.zeros(0)),), gradient=never)
    absent = Region(steep, {name: np.array([0, 1, 1])}).solve()
    assert (absent.point, absent.empty, absent.core) == (None, True, {(name, 0), (name, 1)})
    flat = Region(steep, {name: np.array([1, 1, 1])}).solve()
    assert (flat.point, flat.empty, flat.core) == (None, True, None)
    high = Query(network=network, box=box, disjuncts=(Conjunction(y_rows=-np.ones((1, 1)), bound=np.array([-5.0])),))
    witness = Region(high, {name: np.array([1, 1, 1])}).solve()
    assert witness.point is not None
    assert network.forward(witness.point)[0] >= 5.0


def test_a_region_finds_the_only_point_on_a_boundary() -> None:
    network = feedforward([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])
    box = Box(np.zeros(2), np.ones(2))
    at_corner = Query(
        network=network, box=box, disjuncts=(Conjunction(y_rows=-np.ones((1, 1)), bound=np.array([-2.0])),)
    )
    answer = Region(at_corner, {network.activations[0].name: np.ones(2, dtype=np.int64)}).solve()
    assert answer.point is not None
    assert answer.point.tolist() == [1.0, 1.0]
