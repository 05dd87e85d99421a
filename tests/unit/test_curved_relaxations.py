"""Relaxations of curved functions, products and jumps against rigorous values inside of random intervals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx

import verifier
from verifier.bounds.crown import crown_bounds
from verifier.bounds.curved_relaxations import ProductOfHalves
from verifier.bounds.forward import Forward
from verifier.bounds.interval import interval_bounds
from verifier.bounds.relaxations import elementwise, relaxation
from verifier.engines.native import curved_search
from verifier.errors import InputError
from verifier.network.curved import FUNCTIONS, Product, Smooth
from verifier.network.enclosure import EnclosedNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Concat, Dense, Reshape
from verifier.network.steps import Jumping, sign
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Status

PARAMETERS = {
    "Power": [(2.0,), (3.0,), (4.0,), (-2.0,), (0.5,), (1.5,)],
    "Elu": [(1.0,), (0.5,), (1.5, 2.0)],
    "Silu": [(), (1.5,), (-1.0,)],
    "Gelu": [(), (0.7,)],
}
CASES = [(name, p) for name in FUNCTIONS for p in PARAMETERS.get(name, [()])]


def intervals(function, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of all widths inside of a function's domain, near 0 and further out."""
    low, high = max(function.domain[0], -30.0), min(function.domain[1], 30.0)
    centre = np.where(rng.random(count) < 0.5, rng.normal(size=count), rng.uniform(low, high, count))
    width = 10.0 ** rng.uniform(-7, 1.2, count)
    a, b = np.clip(centre - width * rng.random(count), low + 1e-3, high), np.clip(centre + width, low + 2e-3, high)
    if function.pole is not None:
        a, b = np.abs(a) + 0.1, np.abs(a) + 0.1 + (b - a)
        side = np.where(rng.random(count) < 0.5, 1.0, -1.0)
        a, b = np.minimum(side * a, side * b), np.maximum(side * a, side * b)
    return a[None], b[None]


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_a_curved_function_lies_between_its_lines(name: str, parameters: tuple[float, ...]) -> None:
    operator, rng = Smooth(name, parameters), np.random.default_rng(0)
    low, high = intervals(operator.function, 60, rng)
    table = elementwise(operator)
    lines = table.linear(operator, (60,), low, high)
    least, most = table.range(operator, (60,), low, high)
    steepest, offset = table.limits_between(operator, low[0], high[0])
    assert (np.abs(lines.lower_slope[0]) <= steepest).all()
    assert (np.abs(lines.upper_intercept[0]) <= offset).all()
    precision, ctx.prec = ctx.prec, 200
    try:
        for k in range(60):
            for share in (0.0, 1.0, *rng.random(5)):
                z = float(np.clip(low[0, k] + share * (high[0, k] - low[0, k]), low[0, k], high[0, k]))
                value = operator.function.ball(arb(z))
                for slope, intercept, above in (
                    (lines.lower_slope, lines.lower_intercept, False),
                    (lines.upper_slope, lines.upper_intercept, True),
                ):
                    line = arb(float(slope[0, k])) * arb(z) + arb(float(intercept[0, k]))
                    assert (line >= value) if above else (line <= value), (name, k, z)
                assert arb(float(least[0, k])) <= value <= arb(float(most[0, k]))
    finally:
        ctx.prec = precision


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_lines_are_tight_on_short_intervals(name: str, parameters: tuple[float, ...]) -> None:
    operator = Smooth(name, parameters)
    low, high = np.array([[0.5]]), np.array([[0.51]])
    lines = elementwise(operator).linear(operator, (1,), low, high)
    gap = (lines.upper_slope - lines.lower_slope) * 0.505 + lines.upper_intercept - lines.lower_intercept
    assert 0 <= gap[0, 0] < 2e-3


@pytest.mark.parametrize(("name", "low"), [("Log", -0.1), ("Sqrt", -0.1), ("Reciprocal", -0.1), ("Exp", 400.0)])
def test_a_domain_that_is_left_is_said(name: str, low: float) -> None:
    operator = Smooth(name)
    with pytest.raises(InputError, match=f"argument of {name} may"):
        relaxation(operator).linear(operator, (1,), np.array([[low]]), np.array([[low + 1.0]]))


def test_products_lie_between_their_planes() -> None:
    rng, k = np.random.default_rng(0), 50
    ends = np.sort(rng.normal(size=(2, 2 * k)) * 10.0 ** rng.integers(-3, 3, 2 * k), axis=0)
    low, high = ends[:1], ends[1:]
    plane = ProductOfHalves().linear(Product(), (2, k), low, high)
    least, most = ProductOfHalves().range(Product(), (2, k), low, high)
    for share in rng.random((20, 2 * k)).round():
        z = low + share * (high - low)
        x, y = z[:, :k], z[:, k:]
        middle = plane.x_slope * x + plane.y_slope * y + plane.intercept
        assert (np.abs(x * y - middle) <= plane.error * (1 + 1e-12)).all()
        assert ((least <= x * y) & (x * y <= most)).all()


STEPS = [
    sign(),
    Jumping((0.0,), (0.0, 0.0), (0.0, 1.0), (1.0,), "GreaterOrEqual"),
    Jumping((-0.5, 0.5), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0), "HardShrink"),
    Jumping((-1.0, 0.25), (0.5, -2.0, 0.0), (3.0, 1.0, -1.0), (7.0, -4.0)),
]


@pytest.mark.parametrize("operator", STEPS)
def test_a_function_with_jumps_lies_between_its_lines(operator: Jumping) -> None:
    rng = np.random.default_rng(0)
    low = rng.choice([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5], 200) - rng.choice([0.0, 1e-9, 0.3], 200)
    high = np.maximum(low, rng.choice([-1.0, -0.5, 0.0, 0.25, 0.5, 2.0], 200) + rng.choice([0.0, 1e-9, 0.3], 200))
    table = elementwise(operator)
    lines = table.linear(operator, (200,), low[None], high[None])
    least, most = table.range(operator, (200,), low[None], high[None])
    inside = [low + s * (high - low) for s in rng.random(8)] + [
        np.clip(np.full(200, b), low, high) for b in operator.breaks
    ]
    inside += [np.clip(np.nextafter(b, s), low, high) for b in operator.breaks for s in (-9.0, 9.0)]
    for z in (low, high, *inside):
        value = operator.forward(z)
        assert (lines.lower_slope[0] * z + lines.lower_intercept[0] <= value + 1e-14).all()
        assert (lines.upper_slope[0] * z + lines.upper_intercept[0] >= value - 1e-14).all()
        assert ((least[0] <= value) & (value <= most[0])).all()


def test_bounds_of_a_network_with_all_of_them(tmp_path) -> None:
    import sys
    from pathlib import Path

    import verifier

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from onnx_graphs import GRAPHS

    rng = np.random.default_rng(0)
    names = [n for n in GRAPHS if n.startswith(("curved", "jumps"))]
    assert len(names) > 50
    for name in names:
        network = verifier.load(GRAPHS[name].model(20 if GRAPHS[name].first > 18 else 18, "float64"))
        box = Box.around(rng.normal(size=network.input_size), 0.3, None)
        values = network.forward(box.sample(200, rng)).reshape(200, -1)
        for found in (interval_bounds(network, box), crown_bounds(network, box, [network.output])):
            bound = found[network.output]
            assert (bound.lower.reshape(-1) <= values + 1e-12).all(), name
            assert (bound.upper.reshape(-1) >= values - 1e-12).all(), name


def product_network(rng: np.random.Generator) -> Network:
    """tanh of products of two layers, beside a sigmoid of one of them and its sign."""
    builder = NetworkBuilder((3,))
    first = builder.add(Dense(rng.normal(size=(8, 3)), rng.normal(size=8)))
    product = builder.add(Product(), builder.add(Reshape((2, 4)), first))
    parts = [builder.add(Smooth("Tanh"), product), builder.add(Smooth("Sigmoid"), first), builder.add(sign(), first)]
    builder.add(Concat(0), *parts)
    builder.add(Dense(rng.normal(size=(3, 20)), rng.normal(size=3)))
    return builder.build()


def test_rounding_of_products_is_that_of_their_factors() -> None:
    """Shares of a sum: numbers of 1e8 times a reciprocal of 1e-8. The factors' sizes together would bound them by 1e16."""
    rng, width = np.random.default_rng(8), 1e-6
    builder = NetworkBuilder((3,))
    large = builder.add(Dense(rng.normal(size=(4, 3)) * 1e8, rng.uniform(5e8, 9e8, size=4)))
    over = builder.add(Smooth("Reciprocal"), builder.add(Dense(np.ones((1, 4)), np.zeros(1)), large))
    spread = builder.add(Dense(np.ones((4, 1)), np.zeros(4)), over)
    builder.add(Product(), builder.add(Reshape((2, 4)), builder.add(Concat(0), large, spread)))
    builder.add(Dense(rng.normal(size=(2, 4)), rng.normal(size=2)))
    network, low = builder.build(), rng.uniform(0, 1, size=3)
    box = Box(low, low + width)
    bound, enclosed = crown_bounds(network, box, [network.output])[network.output], EnclosedNetwork(network)
    for x in (low, box.upper, *box.sample(10, rng)):
        below, above = enclosed.output(x.tolist())
        for k in range(2):
            assert Fraction(float(bound.lower[k])) <= above[k]
            assert Fraction(float(bound.upper[k])) >= below[k]
    assert (bound.upper - bound.lower).max() < 20 * width


@pytest.mark.parametrize("width", [0.0, 1e-9, 0.01, 0.5])
def test_functions_carried_forward_hold_for_curved_networks(width: float) -> None:
    rng = np.random.default_rng(3)
    network, free = product_network(rng), np.array([0, 2])
    enclosed, gaps = EnclosedNetwork(network), []
    for _ in range(6):
        low = rng.normal(size=3)
        high = low + width * np.isin(np.arange(3), free)
        symbolic, boxes = Forward(network, free).bounds(low[None], high[None])
        least, most = Forward(network, free).ranges(symbolic, boxes)
        gaps.append(float((most - least).max()))
        for x in (low, high, *rng.uniform(low, high, (4, 3))):
            below, above = enclosed.output(x.tolist())
            for k in range(3):
                for form, end, side in ((symbolic.lower, above, 1), (symbolic.upper, below, -1)):
                    *slopes, constant = (Fraction(float(v)) for v in form[k, 0])
                    value = sum((s * Fraction(float(x[j])) for s, j in zip(slopes, free, strict=True)), constant)
                    assert side * value <= side * end[k]
                    assert side * Fraction(float((least if side > 0 else most)[0, k])) <= side * end[k]
    assert width > 0.1 or min(gaps) < 20 * width + 1e-6  # where no sign is open they are tight


def test_a_large_curved_network_of_few_inputs_is_bounded_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back from each of its neurons would take too long for larger ones still."""
    monkeypatch.delattr(curved_search, "GraphBounds")
    rng = np.random.default_rng(0)
    builder = NetworkBuilder((2,))
    for m, n in ((3000, 2), (3000, 3000)):
        builder.add(Dense(rng.normal(size=(m, n)) / n**0.5, rng.normal(size=m)))
        builder.add(Smooth("Tanh"))
    builder.add(Dense(rng.normal(size=(1, 3000)) / 3000, np.zeros(1)))
    network, box = builder.build(), Box(np.zeros(2), np.full(2, 0.01))
    most = float(network.forward(box.sample(200, rng)).max())
    row = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-most - 1e-3]))
    verdict = verifier.verify(Query(network=network, box=box, disjuncts=(row,)), timeout=60)
    assert (verdict.status, verdict.engine) == (Status.HOLDS, "native")
