"""Exact truth for conditions on saliency maps: all activation patterns of the network and of its copies.

On each pattern the gradient of F is a constant vector and the map is affine in x, so every similarity but the L2
norm is linear in x; the L2 norm is decided for maps that do not depend on x beyond the gradient.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import z3
from corpus_oracle import Values, _number, _Oracle

from verifier.properties.query import Query
from verifier.properties.similarity import TopK


class _MapsOracle(_Oracle):
    def leaf(self, values: Values) -> bool:
        condition, gradient = self.query.condition, self.query.gradient
        if condition is None:
            return super().leaf(values)
        assert gradient is not None
        weights = [Fraction(w) for w in gradient.output.tolist()]
        outputs = values[self.network.output]
        g = [
            sum((w * o.derivative[j] for w, o in zip(weights, outputs, strict=True)), Fraction(0))
            for j in range(self.n)
        ]
        self.solver.push()
        if condition.map.baseline is None:
            found = condition.admits([abs(v) for v in g] if condition.map.absolute else g)
        else:
            start = [Fraction(b) for b in condition.map.baseline.tolist()]
            m = [(x - _number(b)) * _number(a) for x, b, a in zip(self.x, start, g, strict=True)]
            self.solver.add(self.similar(m))
            found = True
        found = found and super().leaf(values)
        self.solver.pop()
        return found

    def similar(self, m: list[Any]) -> list[Any]:
        """The condition on map entries that are terms in x."""
        condition = self.query.condition
        assert condition is not None
        if isinstance(condition.similarity, TopK):
            top = condition.similarity.top
            delta = _number(Fraction(condition.delta))
            inside = [v for v, s in zip(m, top, strict=True) if s]
            outside = [v for v, s in zip(m, top, strict=True) if not s]
            return [b <= a + delta for a in inside for b in outside]
        if condition.similarity.is_box:
            delta = Fraction(condition.delta)
            ends = zip(m, condition.exact_reference.fractions(), strict=True)
            return [c for v, r in ends for c in (v >= _number(r - delta), v <= _number(r + delta))]
        assert condition.similarity.name == "l1"
        differences = [v - _number(r) for v, r in zip(m, condition.exact_reference.fractions(), strict=True)]
        total = z3.Sum([z3.If(d >= 0, d, -d) for d in differences])
        return [total <= _number(Fraction(condition.delta))]


def decide(query: Query, *, closed: bool = False) -> bool:
    """As `corpus_oracle.decide`, with the query's condition on its map (not for integrals over a path)."""
    return _MapsOracle(query, closed).decide()
