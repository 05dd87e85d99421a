"""The competition's own check of a counterexample: the model in onnxruntime, inputs in its float type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.falsify.replay import holds_in_runtime
from verifier.network.operators import Array
from verifier.network.runtime import RuntimeModel, rounded
from verifier.properties.query import Query

OUTSIDE = 1e-4
"""Inputs that leave the box by at most this much are credited (rules of 2025 and 2026)."""


@dataclass(frozen=True)
class Check:
    """What the competition's check says of a point.

    Attributes:
        outside: by how much the point, in the model's float type, leaves the box; 0 inside.
        condition: whether the condition holds, with no tolerance, for onnxruntime's output.
    """

    outside: float
    condition: bool

    @property
    def valid(self) -> bool:
        """Whether the point counts."""
        return self.condition and self.outside <= OUTSIDE


def check(query: Query, model: RuntimeModel, x: Array) -> Check:
    """Replay a point as the competition does.

    Args:
        x: ``(n,)``; rounded to the model's type first.
    """
    point = rounded(x, model.dtype).astype(np.float64)
    outside = float(np.maximum(query.box.lower - point, point - query.box.upper).max(initial=0.0))
    return Check(max(0.0, outside), holds_in_runtime(query, x, model))
