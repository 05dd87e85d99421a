"""Exact answers at many inputs, most of them without rational arithmetic: extended precision with an error bound first.

Each value is computed in numpy's ``longdouble`` (80 bits on x86-64; where it is no wider than float64 more is left to
rationals), beside a bound on its error: a sum of k products is wrong by at most ``γ_k`` times its terms' sizes
(`verifier.rounding`), and what the inputs were wrong by, times the weights' sizes. Where an error bound leaves a question
open, that input is computed again in rationals. So the answers are those of exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.bounds.interval import magnitude
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear, PiecewiseOperator
from verifier.network.rationals import Rationals, dyadic
from verifier.repair.effort import Effort, multiplications
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.specification import OutputPolytope
from verifier.rounding import TINY

Patterns = dict[str, npt.NDArray[np.int16]]

UNIT = float(np.finfo(np.longdouble).eps)
"""Twice the unit roundoff of ``longdouble``: room for the errors of the bounds themselves."""

CHUNK = 2048
"""Inputs that are evaluated at once."""

EXTENDED = 20
"""Multiplications in extended precision that cost as much as one of long integers."""

EXACTLY = 64
"""Inputs that are evaluated at once in rationals."""


@dataclass(frozen=True, eq=False)
class _Run:
    """A network's outputs ``(batch, *shape)``, bounds on their errors, the pattern, and for which inputs it is sure."""

    outputs: npt.NDArray[np.longdouble]
    errors: Array
    pattern: Patterns
    sure: npt.NDArray[np.bool_]


def _run(network: Network, x: Array, pattern: Mapping[str, npt.NDArray[np.int16]] | None) -> _Run:
    batch = network.batch(x)[0].astype(np.longdouble)
    values, errors = {network.input: batch}, {network.input: np.zeros(batch.shape)}
    found: Patterns = {}
    sure = np.ones(len(batch), dtype=bool)
    for node in network.nodes[1:]:
        inputs, wrong = [values[i] for i in node.inputs], [errors[i] for i in node.inputs]
        operator = node.operator
        if isinstance(operator, AffineOperator):
            constant = operator.constant()
            size, count = magnitude(operator), operator.terms(False, *(v.shape[1:] for v in inputs))
            value = operator.linear(*inputs)
            spread = size.linear(*(np.abs(v).astype(np.float64) * (1 + 1e-15) + e for v, e in zip(inputs, wrong)))
            if constant is not None:
                value = value + constant
                spread = spread + np.abs(constant)
            values[node.name] = value
            errors[node.name] = (size.linear(*wrong) + (count + 8) * UNIT * spread) * (1 + 1e-9) + TINY
            continue
        assert isinstance(operator, PiecewiseOperator)
        (z,), (e,) = inputs, wrong
        if pattern is None:
            pieces, doubtful = _decided(operator, z, e)
            sure &= ~doubtful.reshape(len(batch), -1).any(axis=1)
        else:
            pieces = np.broadcast_to(pattern[node.name], (len(batch), *node.shape))
        found[node.name] = pieces
        values[node.name] = operator.on_piece(z, pieces)
        errors[node.name] = _carried(operator, z, e, pieces)
    return _Run(values[network.output], errors[network.output], found, sure)


def _decided(
    operator: PiecewiseOperator, z: Array, error: Array
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """The piece of each value, and where the error bound leaves it open."""
    if isinstance(operator, PiecewiseLinear):
        near = [np.abs(z - b) <= error + UNIT * abs(b) for b in operator.breaks]
        return operator.pattern(z), np.asarray(np.logical_or.reduce(near))
    assert isinstance(operator, MaxPool)
    pieces = operator.pattern(z)
    windows = operator.windows(z.shape[1:])
    flat, wrong = z.reshape(len(z), -1), error.reshape(len(z), -1)
    inside = windows >= 0
    low = np.where(inside, flat[:, windows] - wrong[:, windows], -np.inf)
    high = np.where(inside, flat[:, windows] + wrong[:, windows], -np.inf)
    winner = pieces.reshape(len(z), -1, 1).astype(np.int64)
    best = np.take_along_axis(low, winner, axis=2)
    np.put_along_axis(high, winner, -np.inf, axis=2)
    return pieces, np.asarray((high >= best).any(axis=2))


def _carried(operator: PiecewiseOperator, z: Array, error: Array, pieces: npt.NDArray[np.int16]) -> Array:
    if not isinstance(operator, PiecewiseLinear):
        return operator.on_piece(error, pieces)
    slope, intercept = np.abs(operator.slopes)[pieces], np.abs(operator.intercepts)[pieces]
    rounded = 0.0 if operator.is_relu else 4 * UNIT * (slope * (np.abs(z).astype(np.float64) + error) + intercept)
    return np.asarray(slope * error * (1 + 1e-9) + rounded)


def exact_patterns(network: Network, points: Array, effort: Effort | None = None) -> Patterns:
    """The activation pattern at float64 inputs ``(batch, n)``, exactly: ``{node name: (batch, *shape)}``.

    Raises:
        TimeLimitError: the effort is not enough.

    Source:
        floating-point filters: Fortune, Van Wyk, SCG 1993.
    """
    effort = Effort() if effort is None else effort
    parts, exact, cost = [], ExactNetwork(network), multiplications(network)
    for start in range(0, len(points), CHUNK):
        x = points[start : start + CHUNK]
        effort.spend(len(x) * cost / EXTENDED)
        run = _run(network, x, None)
        open_ones = np.flatnonzero(~run.sure)
        for k in range(0, len(open_ones), EXACTLY):
            chosen = open_ones[k : k + EXACTLY]
            effort.spend(len(chosen) * cost)
            true = pattern_at(exact, dyadic(x[chosen]))
            for name, own in true.items():
                run.pattern[name][chosen] = own
        parts.append(run.pattern)
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def pattern_at(exact: ExactNetwork, points: Rationals) -> Patterns:
    """The activation pattern at inputs ``(batch, n)``, in rationals."""
    values = exact.values(points)
    found: Patterns = {}
    for node in exact.network.activations:
        z, operator = values[node.inputs[0]], node.operator
        if isinstance(operator, MaxPool):
            found[node.name] = operator.pattern(z.numerators)
            continue
        assert isinstance(operator, PiecewiseLinear)
        piece = np.zeros(z.numerators.shape, dtype=np.int16)
        for b in operator.breaks:
            threshold = Fraction(b)
            piece += z.numerators * threshold.denominator > threshold.numerator * z.denominator
        found[node.name] = piece
    return found


@dataclass(frozen=True, eq=False)
class Slacks:
    """Which demands are met.

    Attributes:
        met: ``(batch,)``.
        worst: the smallest slack of all, in float64.
    """

    met: npt.NDArray[np.bool_]
    worst: float


def exact_slacks(
    frozen: FrozenNetwork, points: Array, pattern: Patterns, polytope: OutputPolytope, effort: Effort | None = None
) -> Slacks:
    """Whether a frozen network's outputs at float64 inputs ``(batch, n)``, on given patterns, lie in a polytope, exactly.

    Raises:
        TimeLimitError: the effort is not enough.

    Source:
        floating-point filters: Fortune, Van Wyk, SCG 1993.
    """
    effort = Effort() if effort is None else effort
    network = frozen.value_network
    exact, cost = ExactNetwork(network), multiplications(network)
    rows, bound = polytope.rows.astype(np.longdouble), polytope.bound.astype(np.longdouble)
    met = np.zeros(len(points), dtype=bool)
    worst = np.inf
    for start in range(0, len(points), CHUNK):
        part = slice(start, min(start + CHUNK, len(points)))
        own = {name: p[part] for name, p in pattern.items()}
        effort.spend(len(points[part]) * cost / EXTENDED)
        run = _run(network, points[part], own)
        y, wrong = run.outputs.reshape(len(run.outputs), -1), run.errors.reshape(len(run.outputs), -1)
        slack = bound - y @ rows.T
        size = (np.abs(y).astype(np.float64) + wrong) @ np.abs(polytope.rows).T + np.abs(polytope.bound)
        error = (wrong @ np.abs(polytope.rows).T + (rows.shape[1] + 8) * UNIT * size) * (1 + 1e-9) + TINY
        met[part] = (slack >= error).all(axis=1)
        unclear = np.flatnonzero(((slack < error) & (slack > -error)).any(axis=1) & ~(slack <= -error).any(axis=1))
        worst = min(worst, float(slack.min(initial=np.inf)))
        for k in range(0, len(unclear), EXACTLY):
            chosen = unclear[k : k + EXACTLY]
            effort.spend(len(chosen) * cost)
            values = exact.values(dyadic(points[part][chosen]), {n: p[chosen] for n, p in own.items()})
            met[start + chosen] = (slack_of(polytope, values[network.output]).numerators >= 0).all(axis=1)
    return Slacks(met, worst)


def slack_of(polytope: OutputPolytope, outputs: Rationals) -> Rationals:
    """``bound - rows @ y`` exactly, for outputs ``(batch, …)``: ``(batch, rows)``."""
    rows, bound = dyadic(polytope.rows), dyadic(polytope.bound)
    y = outputs.numerators.reshape(len(outputs.numerators), -1)
    used = Rationals(-(y @ rows.numerators.T), outputs.denominator * rows.denominator)
    return used + Rationals(np.broadcast_to(bound.numerators, used.numerators.shape), bound.denominator)
