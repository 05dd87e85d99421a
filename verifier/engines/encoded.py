"""What the engines that solve an encoding share: bounds, packages, and turning a solution into a witness."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from fractions import Fraction

import numpy as np

from verifier.bounds import bounds, gradient_bounds
from verifier.encodings.phases import phases
from verifier.encodings.query import Encoding, Pattern, encode
from verifier.encodings.region import Region, RegionAnswer
from verifier.engines.base import Answer, Availability, Deadline, EngineResult
from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.options import Options
from verifier.properties.query import Query
from verifier.search.replay import replay
from verifier.verdict import Certainty

RIGOROUS = ("interval", "crown")
"""Bound methods with a proved bound on rounding: the only ones that an exact proof may rest on."""


def bounded_encoding(query: Query, options: Options, *, exact: bool, relax: float = 0.0) -> Encoding:
    """The query's encoding with bounds by the method of the options.

    Args:
        exact: whether the proof is to be exact; then a method without a proved rounding error is replaced
            by CROWN.
    """
    method = options.bounds if not exact or options.bounds in RIGOROUS else "crown"
    values = bounds(query.network, query.box, method)  # type: ignore[arg-type]
    gradients = None
    if query.gradient is not None:
        gradients = gradient_bounds(query.network, query.box, query.gradient.output, values, method)  # type: ignore[arg-type]
    return encode(query, values, gradients, relax=relax)


def package(name: str, module: str, install: str) -> Availability:
    """Whether a package is installed, without importing it."""
    if importlib.util.find_spec(module) is None:
        return Availability(False, install)
    try:
        return Availability(True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Availability(True, "unknown version")


def contradiction(encoding: Encoding, certainty: Certainty) -> EngineResult | None:
    """UNSAT if the bounds alone leave no solution."""
    if not encoding.model.contradiction:
        return None
    return EngineResult(answer=Answer.UNSAT, certainty=certainty, statistics={"decided by": "bounds"})


class Checker:
    """Turns what a solver proposes into a confirmed witness, or finds out that a linear region has none."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.exact = ExactNetwork(query.network)

    def confirmed(self, x: Array) -> bool:
        """Whether the exact replay confirms a point."""
        return replay(self.query, x, self.exact).exact

    def region(self, pattern: Pattern, deadline: Deadline) -> RegionAnswer:
        """Solve one linear region exactly."""
        return Region(self.query, pattern, self.exact).solve(deadline.left)

    def pattern_at(self, x: list[Fraction]) -> Pattern:
        """The activation pattern at a rational point, by the gradient convention."""
        values = self.exact.values(x)
        result: Pattern = {}
        for node in self.query.network.activations:
            z = values[node.inputs[0]]
            if isinstance(node.operator, MaxPool):
                result[node.name] = node.operator.pattern(z.numerators).reshape(-1).astype(np.int64)
                continue
            assert isinstance(node.operator, PiecewiseLinear)
            options = phases(node.operator, gradient=self.query.gradient is not None)
            chosen = [next(p.index for p in options if p.contains(v)) for v in z.fractions()]
            result[node.name] = np.array(chosen, dtype=np.int64)
        return result
