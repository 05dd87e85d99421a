"""Optimised relaxations: projected gradient ascent on CROWN's lower slopes α and split multipliers β.

No automatic differentiation is needed. A CROWN bound is the least value of a linear function on a box, and by the
envelope theorem its derivative with respect to a slope is the derivative at the minimiser: walk forward from the
minimiser x* through the chosen lines, and where the coefficient a of a unit is positive (so that the lower line
``α z`` is used), ``∂bound/∂α = a z``; for a multiplier β of ``z >= 0`` it is ``-z``, of ``z <= 0`` it is ``z``. Any α in
[0, 1] and any β >= 0 are sound, so the ascent needs no care for rounding: each bound comes from `Crown.lower`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown import AllLines, Crown, Index, Rows, Units
from verifier.bounds.crown_lines import Lines
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear


@dataclass(frozen=True, eq=False)
class Ascent:
    """The best that an ascent found for R rows.

    Attributes:
        lower: ``(R,)`` proved bounds.
        slopes: by ReLU node ``(R, size)``, the α of the best bound.
        multipliers: by preactivation node ``(R, size)``, the β >= 0 of the best bound.
        minimiser: ``(R, n)``, of the last step.
        scores: by ReLU node ``(R, size)``, of the last step: by how much the relaxation of each unit lowers the
            bound at the minimiser.
    """

    lower: Array
    slopes: dict[str, Array]
    multipliers: dict[str, Array]
    minimiser: Array
    scores: dict[str, Array]


def ascend(
    crown: Crown,
    start: str,
    rows: Array | Units,
    box_of: Index,
    lines: AllLines,
    low: Array,
    high: Array,
    *,
    steps: int,
    slopes: Mapping[str, Array] | None = None,
    phases: Mapping[str, npt.NDArray[np.int8]] | None = None,
    multipliers: Mapping[str, Array] | None = None,
    target: float = np.inf,
    rate: float = 0.25,
) -> Ascent:
    """Raise the lower bounds of rows over a node's value.

    Args:
        steps: bounds that are computed (at least 1: no ascent, just the bound and the scores).
        slopes, multipliers: where to start; CROWN's slopes and zero by default.
        phases: by preactivation node ``(R, size)`` 1 for ``z >= 0``, -1 for ``z <= 0``: which multipliers exist.
        target: stop when all bounds are above.
        rate: first step length of Adam (Kingma, Ba, ICLR 2015); falls by 2 % a step.
    """
    network = crown.network
    relus = [
        n
        for n in network.activations
        if n.name in lines and isinstance(n.operator, PiecewiseLinear) and n.operator.is_relu
    ]
    alpha: dict[str, Array] = {}
    for node in relus:
        line = lines[node.name]
        assert isinstance(line, Lines)
        given = None if slopes is None else slopes.get(node.name)
        alpha[node.name] = line.lower_slope[box_of] if given is None else given.astype(np.float64)
    signs = {k: -v.astype(np.float64) for k, v in (phases or {}).items() if v.any()}
    beta = {
        k: np.zeros(s.shape) if multipliers is None or k not in multipliers else multipliers[k].astype(np.float64)
        for k, s in signs.items()
    }
    best = np.full(len(rows), -np.inf)
    best_alpha = {k: v.copy() for k, v in alpha.items()}
    best_beta = {k: v.copy() for k, v in beta.items()}
    moments: dict[str, tuple[Array, Array]] = {}
    scores: dict[str, Array] = {}
    minimiser = np.zeros((len(rows), network.input_size))
    for step in range(steps):
        found = crown.lower(
            start,
            rows,
            box_of,
            lines,
            low,
            high,
            slopes=alpha,
            multipliers={k: signs[k] * b for k, b in beta.items()} or None,
            keep=True,
        )
        better = found.lower > best
        best = np.where(better, found.lower, best)
        for kept, now in ((best_alpha, alpha), (best_beta, beta)):
            for k, value in now.items():
                kept[k][better] = value[better]
        minimiser = np.where(found.slopes > 0, low[box_of], high[box_of])
        last = step == steps - 1 or bool((best > target).all())
        values, scores = _walk(crown, start, found, lines, alpha, minimiser, box_of, last)
        if last:
            break
        pace = rate * 0.98**step
        for node in relus:
            name = node.name
            if name in found.coefficients:
                line = lines[name]
                assert isinstance(line, Lines)
                slope = np.maximum(found.coefficients[name], 0.0) * values[node.inputs[0]] * line.unstable[box_of]
                alpha[name] = np.clip(alpha[name] + _adam(moments, name, slope, step, pace), 0.0, 1.0)
        for name, sign in signs.items():
            if name in values:
                move = _adam(moments, "β " + name, sign * values[name], step, pace * 0.4)
                beta[name] = np.maximum(beta[name] + move * (sign != 0), 0.0)
    return Ascent(best, best_alpha, best_beta, minimiser, scores)


def _adam(moments: dict[str, tuple[Array, Array]], name: str, slope: Array, step: int, rate: float) -> Array:
    """Adam's step, upwards."""
    first, second = moments.get(name, (np.zeros_like(slope), np.zeros_like(slope)))
    first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope * slope
    moments[name] = (first, second)
    scale: Array = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-12
    return rate * (first / (1 - 0.9 ** (step + 1))) / scale


def _walk(
    crown: Crown,
    start: str,
    found: Rows,
    lines: AllLines,
    alpha: Mapping[str, Array],
    x: Array,
    box_of: Index,
    score: bool,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values of the relaxed network at each row's minimiser, and the units' scores."""
    network = crown.network
    values: dict[str, Array] = {network.input: x}
    scores: dict[str, Array] = {}
    for node in network.nodes[1:]:
        name = node.name
        if any(i not in values for i in node.inputs):
            continue
        z = values[node.inputs[0]]
        if isinstance(node.operator, AffineOperator):
            inputs = [values[i].reshape(len(x), *network[i].shape) for i in node.inputs]
            values[name] = node.operator.forward(*inputs).reshape(len(x), -1)
        elif name in found.coefficients:
            a, line = found.coefficients[name], lines[name]
            if isinstance(line, Lines):
                below = alpha[name] if name in alpha else line.lower_slope[box_of]
                unstable = line.unstable[box_of]
                slope = np.where(a < 0, line.upper_slope[box_of], np.where(unstable, below, line.lower_slope[box_of]))
                value = slope * z + np.where(a < 0, line.upper_intercept[box_of], 0.0)
                if line.lower_intercept is not None:
                    value += np.where(a < 0, 0.0, line.lower_intercept[box_of])
                if score:
                    exact = node.operator.forward(z)
                    chord = -np.minimum(a, 0.0) * line.upper_intercept[box_of]
                    scores[name] = np.where(unstable, np.abs(a * (value - exact)) + 0.1 * chord, 0.0)
                values[name] = value
            else:
                picked = np.take_along_axis(z, line.chosen[box_of], 1)
                values[name] = np.where((a > 0) | line.decided[box_of], picked, line.upper[box_of])
        else:
            values[name] = node.operator.forward(z.reshape(len(x), *network[node.inputs[0]].shape)).reshape(len(x), -1)
        if name == start:
            break
    return values, scores


def tighten(
    crown: Crown,
    low: Array,
    high: Array,
    intervals: dict[str, tuple[Array, Array]],
    steps: int,
    deadline: float,
) -> dict[str, tuple[Array, Array]]:
    """Bounds of the preactivations of one box, with slopes optimised for every open unit, layer by layer.

    Args:
        intervals: bounds known so far, one box.
        deadline: `time.monotonic` moment after which layers are left as they are.
    """
    import time

    result = dict(intervals)
    for node in crown.network.activations:
        if not (isinstance(node.operator, PiecewiseLinear) and node.operator.is_relu) or time.monotonic() > deadline:
            continue
        name = node.inputs[0]
        a, b = result[name]
        (units,) = np.nonzero((a[0] < 0) & (b[0] > 0))
        earlier = any(n.inputs[0] in result and n.name != node.name for n in crown.network.activations)
        if not len(units) or not earlier:
            continue
        lines = crown.lines(result)
        a, b = a.copy(), b.copy()
        chunk = max(16, (1 << 20) // max(n.size for n in crown.network.nodes))
        for sign in (1.0, -1.0):
            for first in range(0, len(units), chunk):
                if time.monotonic() > deadline:
                    break
                some = units[first : first + chunk]
                rows = Units(some, np.full(len(some), sign))
                found = ascend(
                    crown, name, rows, np.zeros(len(some), dtype=np.intp), lines, low, high, steps=steps
                ).lower
                if sign > 0:
                    a[0, some] = np.maximum(a[0, some], found)
                else:
                    b[0, some] = np.minimum(b[0, some], -found)
        result[name] = (np.minimum(a, b), b)
    return result
