"""CROWN bounds on values and gradients: against samples, exact enumeration and a second implementation."""

from __future__ import annotations

import itertools
import types
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from verifier import Options, robustness, saliency_robustness
from verifier.bounds import bounds, gradient_bounds, lirpa_compat
from verifier.bounds.crown import Crown
from verifier.bounds.forward import Forward
from verifier.bounds.interval import interval_values
from verifier.bounds.jacobian import jacobian
from verifier.bounds.phases import phases
from verifier.bounds.relaxation import Slopes
from verifier.engines.base import Answer, EngineResult
from verifier.engines.encoded import decide
from verifier.errors import EngineError, InputError
from verifier.limits import NEVER
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.pipeline import RefuteByBounds
from verifier.properties.sets import Box

lirpa_installed = pytest.mark.skipif(not lirpa_compat.available()[0], reason="auto_LiRPA is not installed")


def dense(rng: np.random.Generator, sizes: tuple[int, ...] = (4, 6, 5, 6, 3)) -> Network:
    pairs = list(itertools.pairwise(sizes))
    return feedforward([rng.normal(size=(b, a)) for a, b in pairs], [rng.normal(size=b) for _, b in pairs])


def mixed(rng: np.random.Generator) -> Network:
    """Residual sums, concatenation, selection with repeats, and four kinds of activation."""
    b = NetworkBuilder((4,))
    first = b.add(Dense(rng.normal(size=(4, 4)), rng.normal(size=4)))
    a = b.add(leaky_relu(0.1), first)
    c = b.add(clip(-1.0, 0.7), b.add(Dense(rng.normal(size=(4, 4)), rng.normal(size=4)), a))
    d = b.add(Sum((1, -1)), a, c)
    e = b.add(Concat(0), d, b.add(absolute(), d))
    b.add(Select(np.array([3, 1, -1, 1, 7, 0]), fill=0.3), e)
    b.add(relu(), b.add(Scale(rng.normal(size=6), rng.normal(size=6))))
    b.add(relu(), b.add(Dense(rng.normal(size=(5, 6)), rng.normal(size=5))))
    b.add(Dense(rng.normal(size=(3, 5)), rng.normal(size=3)))
    return b.build()


def convolutional(rng: np.random.Generator, pool: bool = True) -> Network:
    b = NetworkBuilder((2, 5, 5))
    b.add(Conv(rng.normal(size=(4, 1, 3, 3)), rng.normal(size=4), padding=(1, 1, 1, 1), groups=2))
    skip = b.add(Scale(rng.normal(size=(4, 5, 5)), rng.normal(size=(4, 5, 5))))
    main = b.add(Conv(rng.normal(size=(4, 4, 3, 3)) / 3, rng.normal(size=4), padding=(1, 1, 1, 1)), b.add(relu()))
    last = b.add(Sum((1, 1)), main, skip)
    if pool:
        last = b.add(MaxPool((3, 3), (2, 2), (0, 0, 1, 1)), last)
    last = b.add(Conv(rng.normal(size=(2, 4, 2, 2)), rng.normal(size=2), (2, 2), (0, 0, 1, 1)), b.add(relu(), last))
    b.add(relu(), b.add(Reshape((int(np.prod(b.shape(last))),)), last))
    b.add(Dense(rng.normal(size=(3, int(np.prod(b.shape(last))))), rng.normal(size=3)))
    return b.build()


def plain_convolutional(rng: np.random.Generator) -> Network:
    return convolutional(rng, pool=False)


NETWORKS = [dense, mixed, convolutional]


@pytest.mark.parametrize("make", NETWORKS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.0, 1e-9, 0.01, 0.1, 0.5, 2.0]))
def test_samples_stay_inside_and_intervals_are_never_tighter(make, seed, epsilon):
    rng = np.random.default_rng(seed)
    network = make(rng)
    box = Box.around(rng.random(network.input_size), epsilon, domain=None)
    x = np.concatenate([box.sample(40, rng), [box.lower, box.upper, box.center]])
    weights = rng.normal(size=network.output_size)
    wide_values, wide = bounds(network, box, "interval"), gradient_bounds(network, box, weights, method="interval")
    values, gradients = bounds(network, box), gradient_bounds(network, box, weights)
    assert set(values) == set(gradients) == {node.name for node in network}
    for sampled, tight, loose in (
        (network.values(x), values, wide_values),
        (network.gradients(x, weights), gradients, wide),
    ):
        for name, points in sampled.items():
            rounding = 1e-11 * (1 + np.abs(points).max())
            assert tight[name].contains(points, rounding).all(), name
            assert (tight[name].lower >= loose[name].lower - rounding).all(), name
            assert (tight[name].upper <= loose[name].upper + rounding).all(), name


@pytest.mark.parametrize("make", NETWORKS)
def test_the_exact_gradient_at_a_point_lies_inside_without_tolerance(make):
    rng = np.random.default_rng(11)
    for _ in range(3):
        network = make(rng)
        x = rng.normal(size=network.input_size)
        bound = gradient_bounds(network, Box(x, x), 1)[network.input]
        exact = ExactNetwork(network).gradient(x, 1)
        for low, g, high in zip(bound.lower.reshape(-1), exact, bound.upper.reshape(-1), strict=True):
            assert Fraction(low) <= g <= Fraction(high)
            assert high - low < 1e-9


def regions(network: Network, box: Box):
    """Every activation pattern of a small ReLU network that some point of the box has (closed), with its rows.

    Yields the output's affine map on the pattern and a function that minimises a row over the region.
    """
    dense_nodes = [n.operator for n in network if isinstance(n.operator, Dense)]
    hidden = [op.weight.shape[0] for op in dense_nodes[:-1]]
    limits = list(zip(box.lower, box.upper, strict=True))
    for pattern in itertools.product((0, 1), repeat=sum(hidden)):
        a, b = np.eye(box.size), np.zeros(box.size)
        rows, bounds_, start = [], [], 0
        gates = []
        for op, count in zip(dense_nodes[:-1], hidden, strict=True):
            active = np.array(pattern[start : start + count])
            start += count
            a, b = op.weight @ a, op.weight @ b + op.bias
            sign = np.where(active == 1, -1.0, 1.0)
            rows.append(sign[:, None] * a)
            bounds_.append(-sign * b)
            a, b = active[:, None] * a, active * b
            gates.append(active)
        last = dense_nodes[-1]
        a, b = last.weight @ a, last.weight @ b + last.bias
        constraints = (np.concatenate(rows), np.concatenate(bounds_))
        found = linprog(a[0], *constraints, bounds=limits)
        if found.status == 0:
            highest = -linprog(-a[0], *constraints, bounds=limits).fun + b[0]
            yield a, found.fun + b[0], highest


@pytest.mark.parametrize("seed", range(6))
def test_bounds_contain_the_exact_optima_of_tiny_networks(seed):
    rng = np.random.default_rng(seed)
    network = dense(rng, (2, 4, 3, 2))
    box = Box.around(rng.normal(size=2), float(rng.choice([0.1, 0.5, 1.0])), domain=None)
    exact = list(regions(network, box))
    assert exact
    lowest, highest = min(low for _, low, _ in exact), max(high for _, _, high in exact)
    jacobians = np.stack([a[0] for a, _, _ in exact])
    widths = []
    for method in ("interval", "crown"):
        value = bounds(network, box, method)[network.output]
        gradient = gradient_bounds(network, box, 0, method=method)[network.input]
        assert value.lower[0] <= lowest + 1e-7
        assert value.upper[0] >= highest - 1e-7
        assert (gradient.lower <= jacobians.min(axis=0) + 1e-9).all()
        assert (gradient.upper >= jacobians.max(axis=0) - 1e-9).all()
        widths.append(value.width[0])
    if len(exact) == 1:
        assert widths[1] == pytest.approx(highest - lowest, abs=1e-7)


def test_gradients_are_exact_where_phases_are_independent():
    rng = np.random.default_rng(2)
    network = feedforward([np.eye(3), rng.normal(size=(2, 3))], [np.zeros(3), np.zeros(2)])
    box = Box(np.array([-1.0, 0.5, -2.0]), np.array([1.0, 1.0, -1.0]))
    weight = network[network.output].operator.weight[0]
    bound = gradient_bounds(network, box, 0)[network.input]
    np.testing.assert_allclose(bound.lower, [min(weight[0], 0.0), weight[1], 0.0], atol=1e-12)
    np.testing.assert_allclose(bound.upper, [max(weight[0], 0.0), weight[1], 0.0], atol=1e-12)


@pytest.mark.parametrize("make", NETWORKS)
def test_a_batch_gives_what_single_boxes_give_and_fewer_units_lose_nothing(make):
    rng = np.random.default_rng(5)
    network = make(rng)
    boxes = [Box.around(rng.random(network.input_size), e, domain=None) for e in (0.01, 0.1, 0.5)]
    values = interval_values(network, np.stack([b.lower for b in boxes]), np.stack([b.upper for b in boxes]))
    possible = phases(network, values)
    weights = network.output_weights(0)[None]
    everything = jacobian(network, weights, possible)
    some = jacobian(network, weights, possible, everything=False)
    for end in (0, 1):
        np.testing.assert_allclose(some[network.input][end], everything[network.input][end], rtol=1e-9, atol=1e-9)
    for k, box in enumerate(boxes):
        single = gradient_bounds(network, box, 0, values=bounds(network, box, "interval"))
        for name, (low, high) in everything.items():
            np.testing.assert_allclose(low[k], single[name].lower, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(high[k], single[name].upper, rtol=1e-8, atol=1e-8)


def test_fixing_phases_narrows_and_keeps_the_gradients_of_that_pattern():
    rng = np.random.default_rng(9)
    network = dense(rng)
    box = Box.around(rng.random(4), 0.5, domain=None)
    values = interval_values(network, box.lower[None], box.upper[None])
    possible = phases(network, values)
    weights = network.output_weights(0)[None]
    before = jacobian(network, weights, possible)[network.input]
    first = network.activations[0].name
    loose = int(np.flatnonzero(~possible[first].fixed[0])[0])
    x = box.sample(300, rng)
    active = network.preactivations(x)[first][:, loose] > 0
    gradients = network.gradient(x, 0)
    for phase in (0.0, 1.0):
        smallest, largest = possible[first].smallest.copy(), possible[first].largest.copy()
        smallest[0, loose] = largest[0, loose] = phase
        low, high = jacobian(network, weights, {**possible, first: Slopes(smallest, largest)})[network.input]
        chosen = gradients[active == bool(phase)]
        assert (chosen >= low - 1e-9).all()
        assert (chosen <= high + 1e-9).all()
        assert (high - low).sum() < (before[1] - before[0]).sum()


@pytest.mark.parametrize("make", NETWORKS)
def test_leaving_out_what_is_decided_keeps_the_bounds_of_output_and_input_gradient(make):
    rng = np.random.default_rng(12)
    network = make(rng)
    box = Box.around(rng.random(network.input_size), 0.1, domain=None)
    full, quick = bounds(network, box), bounds(network, box, everything=False)
    full_gradient = gradient_bounds(network, box, 0, values=full)[network.input]
    quick_gradient = gradient_bounds(network, box, 0, everything=False)[network.input]
    np.testing.assert_allclose(quick[network.output].lower, full[network.output].lower, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(quick_gradient.lower, full_gradient.lower, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(quick_gradient.upper, full_gradient.upper, rtol=1e-9, atol=1e-9)
    for name, points in network.values(box.sample(50, rng)).items():
        assert quick[name].contains(points, 1e-11 * (1 + np.abs(points).max())).all()


@lirpa_installed
@pytest.mark.parametrize("make", [dense, mixed, plain_convolutional])
def test_auto_lirpa_and_our_kernels_agree_on_gradients(make):
    rng = np.random.default_rng(4)
    network = make(rng)
    for epsilon in (0.02, 0.2):
        box = Box.around(rng.random(network.input_size), epsilon, domain=None)
        values, weights = bounds(network, box), rng.normal(size=network.output_size)
        own = gradient_bounds(network, box, weights, values=values)
        other = gradient_bounds(network, box, weights, values=values, backend="lirpa")
        for name in own:
            for a, b in ((own[name].lower, other[name].lower), (own[name].upper, other[name].upper)):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * (1 + np.abs(a).max()), err_msg=name)


@lirpa_installed
def test_auto_lirpa_agrees_on_values_of_a_relu_network_and_optimised_slopes_are_never_wider():
    rng = np.random.default_rng(6)
    network = dense(rng)
    box = Box.around(rng.random(4), 0.3, domain=None)
    own, other = bounds(network, box), bounds(network, box, backend="lirpa")
    for name in own:
        np.testing.assert_allclose(own[name].lower, other[name].lower, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(own[name].upper, other[name].upper, rtol=1e-9, atol=1e-9)
    optimised = bounds(network, box, "alpha-crown", steps=8)
    x = box.sample(300, rng)
    for name, points in network.values(x).items():
        assert optimised[name].contains(points, 1e-9).all()
        assert (optimised[name].lower >= own[name].lower).all()
        assert (optimised[name].upper <= own[name].upper).all()
    assert optimised[network.output].width.sum() < own[network.output].width.sum()


@lirpa_installed
def test_the_steps_of_the_optimisation_can_be_set_and_more_of_them_are_tighter():
    network = dense(np.random.default_rng(6))
    box = Box.around(np.full(4, 0.5), 0.3, domain=None)
    widths = [bounds(network, box, "alpha-crown", steps=steps)[network.output].width.sum() for steps in (1, 60)]
    assert widths[1] < 0.999 * widths[0]
    with pytest.raises(InputError, match="steps"):
        bounds(network, box, "alpha-crown", steps=0)


@lirpa_installed
def test_the_steps_of_the_options_reach_the_optimisation(monkeypatch):
    """In the bounds before the engines and in an engine's encoding, with and without a condition on the map."""
    from verifier.bounds import lirpa

    seen = []

    def spy(*args, steps=None, **kwargs):
        seen.append(steps)
        return lirpa_bounds(*args, steps=steps, **kwargs)

    lirpa_bounds = lirpa.lirpa_bounds
    monkeypatch.setattr(lirpa, "lirpa_bounds", spy)
    network, x = dense(np.random.default_rng(6)), np.full(4, 0.5)
    options = Options(bounds="alpha-crown", bound_steps=3)
    for query in (robustness(network, x, 0.3), saliency_robustness(network, x, epsilon=0.3, delta=0.01)):
        decide(query, options, NEVER, lambda encoding, deadline: EngineResult(answer=Answer.UNKNOWN), exact=False)
    assert seen == [3, 3]
    question = mock.MagicMock(query=robustness(network, x, 0.3), options=options, deadline=NEVER)
    for on_subproblems in (False, True):
        seen.clear()
        RefuteByBounds(on_subproblems).run(question)
        assert seen
        assert set(seen) == {3}


@lirpa_installed
@pytest.mark.parametrize("make", [mixed, convolutional])
def test_auto_lirpa_bounds_contain_samples(make):
    rng = np.random.default_rng(8)
    network = make(rng)
    box = Box.around(rng.random(network.input_size), 0.1, domain=None)
    x, wide = box.sample(200, rng), bounds(network, box, "interval")
    values = bounds(network, box, backend="lirpa")
    gradients = gradient_bounds(network, box, 1, values=values, backend="lirpa")
    for name, points in network.values(x).items():
        assert values[name].contains(points, 1e-9).all()
        assert (values[name].width <= wide[name].width).all()
    for name, points in network.gradients(x, 1).items():
        assert gradients[name].contains(points, 1e-9).all()


def test_compatibility_leaves_newer_versions_alone(monkeypatch):
    class Newer:
        def _named_members(self, get_members_fn, prefix="", recurse=True, remove_duplicate=True):
            return iter(())

    before = Newer._named_members
    lirpa_compat._accept_remove_duplicate(Newer)
    assert Newer._named_members is before
    monkeypatch.setitem(__import__("sys").modules, "numpy.lib.arraysetops", types.ModuleType("present"))
    lirpa_compat._restore_numpy()
    assert not hasattr(__import__("sys").modules["numpy.lib.arraysetops"], "isin")


def test_a_missing_auto_lirpa_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(lirpa_compat, "available", lambda: (False, lirpa_compat.INSTALL))
    network = dense(np.random.default_rng(0))
    box = Box(np.zeros(4), np.ones(4))
    with pytest.raises(EngineError, match=r"not installed.*lirpa_install"):
        bounds(network, box, backend="lirpa")
    with pytest.raises(InputError, match="unknown backend"):
        bounds(network, box, backend="other")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", NETWORKS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.0, 1e-9, 0.01, 0.5]), scale=st.sampled_from([1.0, 1e8]))
def test_forward_functions_hold_in_exact_arithmetic(make, seed, epsilon, scale):
    rng = np.random.default_rng(seed)
    network = make(rng)
    n = network.input_size
    free = np.sort(rng.choice(n, size=3, replace=False))
    center, radius = scale * rng.random(n), np.zeros(n)
    radius[free] = epsilon
    low, high = (np.stack([center + s * radius, center - 2 + s * radius]) for s in (-1, 1))
    symbolic, _ = Forward(network, free).bounds(low, high)
    exact = ExactNetwork(network)
    for box in range(2):
        for x in (low[box], high[box], np.where(rng.random(n) < 0.5, low[box], high[box])):
            for k, y in enumerate(exact.output(x)):
                for form, sign in ((symbolic.lower, 1), (symbolic.upper, -1)):
                    *slopes, constant = (Fraction(float(v)) for v in form[k, box])
                    value = sum((s * Fraction(float(x[j])) for s, j in zip(slopes, free, strict=True)), constant)
                    assert sign * value <= sign * y


def test_forward_functions_are_exact_where_nothing_is_open_and_refuse_overflow():
    rng = np.random.default_rng(3)
    network = dense(rng)
    x = rng.random((1, 4))
    symbolic, boxes = Forward(network, np.arange(4)).bounds(x - 1e-12, x + 1e-12)
    gradients = np.stack([network.gradient(x[0], k) for k in range(3)])
    np.testing.assert_allclose(symbolic.lower[:, 0, :-1], gradients, rtol=1e-9)
    none = np.zeros(symbolic.size.shape)
    np.testing.assert_allclose(boxes.least(symbolic.lower, none)[:, 0], network(x[0]), rtol=1e-9)
    huge = feedforward([np.full((2, 2), 1e100)] * 4, [np.zeros(2)] * 4)
    with pytest.raises(InputError, match="too large"):
        Forward(huge, np.arange(2)).bounds(np.zeros((1, 2)), np.ones((1, 2)))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_running_errors_hold_in_exact_arithmetic_and_are_the_smaller_ones(make, scale):
    rng = np.random.default_rng(5)
    network = make(rng)
    n, m = network.input_size, network.output_size
    low = scale * rng.random(n)
    high = low + 0.3 * rng.random(n)
    crown = Crown(network, Box(low, high))
    relaxed = crown.relax(low[None], high[None])
    y_rows, x_rows = rng.normal(size=(3, m)), rng.normal(size=(3, n))
    asked = network.output, y_rows, np.zeros(3, dtype=np.intp), relaxed.relaxations, low[None], high[None]
    found = crown.lower(*asked, multipliers={network.input: x_rows}, running=True)
    once = crown.lower(*asked, multipliers={network.input: x_rows})
    assert (found.slack <= once.slack).all()
    assert (found.lower >= once.lower).all()
    exact = ExactNetwork(network)
    for x in (low, high, *rng.uniform(low, high, (4, n))):
        xs, y = [Fraction(float(v)) for v in x], exact.output(x)
        for k in range(3):
            row = sum(Fraction(float(a)) * b for a, b in zip((*y_rows[k], *x_rows[k]), (*y, *xs), strict=True))
            line = sum(Fraction(float(a)) * b for a, b in zip(found.slopes[k], xs, strict=True))
            assert line + Fraction(float(found.constants[k])) - Fraction(float(found.slack[k])) <= row
            assert Fraction(float(found.lower[k])) <= row
