"""Queries that bounds alone refute: no x of the box can meet any disjunct."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from verifier.bounds.settings import SplitBoxSettings
from verifier.lazy import sp
from verifier.network.operators import Array
from verifier.options import BOUND_STEPS
from verifier.properties.conjunction import Conjunction, Matrix
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Certainty

SLACK = 1e-6
"""A row must miss its bound by this much, relative to the size of its terms, to count as impossible: far more
than the rounding of the sums below."""

RIGOROUS = frozenset({"interval", "crown"})
"""Bound methods with a proved bound on their rounding errors."""


@dataclass(frozen=True)
class Refutation:
    """Bounds that show that a query has no solution: their method, and how strong the proof is."""

    method: str
    certainty: Certainty


def refuted_by_bounds(query: Query, method: str = "crown", *, steps: int = BOUND_STEPS) -> Refutation | None:
    """Whether bounds on outputs and gradient show that the query has no solution; None if they do not.

    A row ``x_rows @ x + y_rows @ y + g_rows @ g <= bound`` is impossible if its smallest value over the box and
    the bounds on y and g is above its bound, by more than `SLACK`.

    Args:
        method, steps: see `verifier.bounds.bounds`.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; the gradient: `verifier.bounds.jacobian`.
    """
    from verifier.bounds import Method, bounds, gradient_bounds

    network, chosen = query.network, cast(Method, method)
    values = bounds(network, query.box, method=chosen, steps=steps, everything=False)
    output = values[network.output]
    y = (output.lower.reshape(-1), output.upper.reshape(-1))
    x = (query.box.lower, query.box.upper)
    g: tuple[Array, Array] | None = None
    if _all_impossible(query, x, y, None):
        return _refutation(values.method)
    if query.gradient is not None:
        gradients = gradient_bounds(
            network, query.box, query.gradient.output, values=values, method=chosen, everything=False
        )
        bound = gradients[network.input]
        g = (bound.lower.reshape(-1), bound.upper.reshape(-1))
        scale = SLACK * (1.0 + np.maximum(np.abs(g[0]), np.abs(g[1])))
        apart = (g[0] - scale > query.gradient.upper) | (g[1] + scale < query.gradient.lower)
        if apart.any() or _all_impossible(query, x, y, g):
            return _refutation(values.method, gradients.method)
    return None


def refuted_on_subproblems(
    query: Query,
    method: str = "crown",
    boxes: int | None = None,
    *,
    steps: int = BOUND_STEPS,
    settings: SplitBoxSettings = SplitBoxSettings(),
) -> Refutation | None:
    """As `refuted_by_bounds`, with the box halved a few times; None if these boxes do not suffice.

    For networks with few inputs, before compiled code is loaded, which takes longer than a dozen bounds.

    Args:
        boxes: how many are bounded at most; None: as many as take some tenths of a second, by the network's size.
        settings: how many that is.
        method, steps: see `verifier.bounds.bounds`.

    Source:
        halving the input: ReluVal, Wang et al., USENIX Security 2018.
    """
    if boxes is None:
        most = settings.neurons // (settings.slower if method == "alpha-crown" else 1)
        boxes = min(settings.boxes, max(1, most // max(1, query.network.neurons)))
    open_boxes, found = [query.box], []
    for _ in range(boxes):
        box = open_boxes.pop()
        refutation = refuted_by_bounds(replace(query, box=box), method, steps=steps)
        if refutation is None:
            if not box.width.any():
                return None
            open_boxes.extend(_halves(query, box))
        else:
            found.append(refutation)
        if not open_boxes:
            numerical = [r for r in found if r.certainty is Certainty.NUMERICAL]
            return (numerical or found)[0]
    return None


def _halves(query: Query, box: Box) -> tuple[Box, Box]:
    """The two halves of a box along the input that moves the outputs most between its two ends."""
    center, radius = box.center, np.diag(box.width / 2)
    ends = query.network.forward(np.concatenate([center - radius, center + radius])).reshape(2 * box.size, -1)
    moved = np.abs(ends[box.size :] - ends[: box.size]).max(axis=1)
    axis = int(np.where(box.width > 0, moved, -1.0).argmax())
    lower, upper = box.lower.copy(), box.upper.copy()
    lower[axis] = upper[axis] = center[axis]
    return Box(lower=box.lower, upper=upper), Box(lower=lower, upper=box.upper)


def _refutation(*methods: str) -> Refutation:
    parts = {part for method in methods for part in method.split("+")}
    certainty = Certainty.RIGOROUS if parts <= RIGOROUS else Certainty.NUMERICAL
    return Refutation(methods[-1], certainty)


Ends = tuple[Array, Array]


def _all_impossible(query: Query, x: Ends, y: Ends, g: Ends | None) -> bool:
    if query.common is not None and _impossible(query.common, x, y, g):
        return True
    return all(_impossible(disjunct, x, y, g) for disjunct in query.disjuncts)


def _impossible(part: Conjunction, x: Ends, y: Ends, g: Ends | None) -> bool:
    """Whether some row cannot hold; rows over a gradient without bounds may always hold."""
    smallest, size = np.zeros(len(part)), np.abs(part.bound)
    for rows, ends in ((part.x_rows, x), (part.y_rows, y), (part.g_rows, g)):
        if rows is None:
            continue
        if ends is None:
            smallest[_counts(rows) > 0] = -np.inf
            continue
        positive, negative = _clip(rows, 1.0), _clip(rows, -1.0)
        smallest += positive @ ends[0] - negative @ ends[1]
        size += (positive + negative) @ np.maximum(np.abs(ends[0]), np.abs(ends[1]))
    return bool((smallest > part.bound + SLACK * (1.0 + size)).any())


def _clip(rows: Matrix, sign: float) -> Matrix:
    """The positive (or, for sign -1, the negated negative) part of a matrix."""
    if isinstance(rows, np.ndarray):
        return np.maximum(sign * rows, 0.0)
    return sp.csr_array((rows * sign).maximum(0.0))


def _counts(rows: Matrix) -> Array:
    return np.asarray(np.abs(rows).sum(axis=1)).reshape(-1)
