"""Counterexamples that stand the competition's own check: the model in onnxruntime, inputs in its float type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.network.operators import Array
from verifier.network.runtime import RuntimeModel
from verifier.properties.query import Conjunction, Query

OUTSIDE = 1e-4
"""Inputs that leave the box by at most this much are credited (rules of 2025 and 2026)."""


@dataclass(frozen=True)
class Check:
    """What the competition's check says of a point.

    Attributes:
        outside: by how much the point, in the model's float type, leaves the box; 0 inside.
        condition: whether the condition holds, with no tolerance, for onnxruntime's output.
        output: that output, flattened.
    """

    outside: float
    condition: bool
    output: Array

    @property
    def valid(self) -> bool:
        """Whether the point counts."""
        return self.condition and self.outside <= OUTSIDE


def check(query: Query, model: RuntimeModel, x: Array) -> Check:
    """Replay a point as the competition does.

    Args:
        query: without a condition on the gradient.
        x: ``(n,)``; rounded to the model's type first.
    """
    point = x.astype(model.dtype).astype(np.float64)
    y = np.asarray(model.run(point)).reshape(1, -1)
    outside = float(np.maximum(query.box.lower - point, point - query.box.upper).max(initial=0.0))

    def holds(part: Conjunction) -> bool:
        return bool(part.holds(point[None], y)[0])

    condition = (query.common is None or holds(query.common)) and any(holds(case) for case in query.cases)
    return Check(max(0.0, outside), condition, y[0])


def inward(query: Query, x: Array, dtype: np.dtype[Any]) -> Array:
    """The nearest number of a float type inside the box, per entry (the nearest of all where none is inside)."""
    nearest = x.astype(dtype)
    infinity = np.array(np.inf, dtype=dtype)
    up, down = np.nextafter(nearest, infinity), np.nextafter(nearest, -infinity)
    low, high = query.box.lower, query.box.upper

    def inside(value: Array) -> Any:
        wide = value.astype(np.float64)
        return (wide >= low) & (wide <= high)

    result = np.where(inside(nearest), nearest, np.where(inside(up), up, np.where(inside(down), down, nearest)))
    return result.astype(np.float64)


def harden(query: Query, model: RuntimeModel, x: Array, seed: int = 0) -> tuple[Array, Check] | None:
    """A point near ``x`` that stands the competition's check, and the check; None if none is found.

    First x itself in the model's float type; then points reached by small steps that raise the smallest slack of
    the case that is nearest to holding.
    """
    rng = np.random.default_rng(seed)
    for start in (x, *(query.box.clip(x + rng.normal(size=x.size) * 1e-6 * query.box.width) for _ in range(3))):
        point = start
        step = 1e-6
        for _ in range(25):
            rounded = inward(query, point, model.dtype)
            found = check(query, model, rounded)
            if found.valid:
                return rounded, found
            point = query.box.clip(point + step * query.box.width * _ascent(query, point))
            step = min(2 * step, 1e-2)
    return None


def _ascent(query: Query, x: Array) -> Array:
    """The sign of the gradient of the smallest slack, over all rows of the case nearest to holding, at x."""
    y = query.network.forward(x[None]).reshape(1, -1)
    common = () if query.common is None else (query.common,)
    parts = [(p, p.slack(x[None], y)[0]) for p in (*common, *query.cases) if len(p)]
    if not parts:
        return np.zeros_like(x)
    fixed = [entry for entry in parts if entry[0] in common]
    free = [entry for entry in parts if entry[0] not in common]
    chosen = fixed + ([max(free, key=lambda entry: entry[1].min())] if free else [])
    part, slack = min(chosen, key=lambda entry: entry[1].min())
    k = int(np.argmin(slack))
    direction = np.zeros_like(x)
    if part.y_rows is not None:
        row = part.y_rows[[k]]
        weights = np.asarray(row if isinstance(row, np.ndarray) else row.toarray()).reshape(-1)
        direction -= query.network.gradient(x, weights).reshape(-1)
    if part.x_rows is not None:
        row = part.x_rows[[k]]
        direction -= np.asarray(row if isinstance(row, np.ndarray) else row.toarray()).reshape(-1)
    return np.sign(direction)
