"""A model rendered as a Marabou input query (`maraboupy.MarabouCore` only), validated before it is handed over.

Marabou 2.0.0 answers wrongly, crashes or stays silent on malformed queries (an empty disjunction, NaN, crossed
bounds, an index out of range), so `check` raises first. Fixed variables become constants, and a neuron whose
disjuncts are exactly those of a ReLU is also named as one, for Marabou's own bound tightening.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np

from verifier.encodings.model import Atom, Disjunction, Model
from verifier.errors import EngineError


@dataclass(frozen=True)
class Equation:
    """``Σ weight · v[column]  (=, <=, >=)  scalar``."""

    kind: str
    columns: tuple[int, ...]
    weights: tuple[float, ...]
    scalar: float


@dataclass(frozen=True, eq=False)
class MarabouQuery:
    """What Marabou is given.

    Attributes:
        lower, upper: one pair per variable.
        equations: linear rows.
        relus: (z, h) pairs with h = max(z, 0).
        disjunctions: each a list of disjuncts, each disjunct a list of equations.
    """

    lower: list[float]
    upper: list[float]
    equations: list[Equation]
    relus: list[tuple[int, int]]
    disjunctions: list[list[list[Equation]]]
    contradiction: str = ""

    def check(self) -> None:
        """Raise if anything would make Marabou answer wrongly or crash.

        Raises:
            EngineError: an unbounded variable, crossed bounds, a coefficient that is no number, an index out of
                range, an empty disjunction or equation, relu(v, v).
        """
        size = len(self.lower)
        for k, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            if not (isfinite(low) and isfinite(high)):
                raise EngineError(f"Marabou needs bounds on every variable: variable {k} lies in [{low}, {high}]")
            if low > high:
                raise EngineError(f"variable {k} has crossed bounds [{low}, {high}]")
        everything = self.equations + [e for d in self.disjunctions for disjunct in d for e in disjunct]
        for e in everything:
            if not e.columns or len(e.columns) != len(e.weights):
                raise EngineError("an equation without variables")
            if not all(0 <= c < size for c in e.columns):
                raise EngineError(f"an equation names variable {max(e.columns)} of {size}")
            if not all(map(isfinite, (*e.weights, e.scalar))):
                raise EngineError("an equation contains NaN or infinity")
        for z, h in self.relus:
            if z == h or not (0 <= z < size and 0 <= h < size):
                raise EngineError(f"relu({z}, {h}) among {size} variables")
        if any(not d or any(not disjunct for disjunct in d) for d in self.disjunctions):
            raise EngineError("a disjunction with no disjunct, or a disjunct with no condition")

    def build(self) -> Any:
        """The `MarabouCore.InputQuery`, after `check`."""
        from maraboupy import MarabouCore

        self.check()
        query = MarabouCore.InputQuery()
        query.setNumberOfVariables(len(self.lower))
        for k, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            query.setLowerBound(k, low)
            query.setUpperBound(k, high)
        # inputs are not marked as such: with marks Marabou builds its own network view, which was seen to crash
        # ("map::at") and to answer a false "unsat" on rows that speak of inputs directly

        def core(e: Equation) -> Any:
            kinds = MarabouCore.Equation
            made = MarabouCore.Equation({"=": kinds.EQ, "<=": kinds.LE, ">=": kinds.GE}[e.kind])
            for c, w in zip(e.columns, e.weights, strict=True):
                made.addAddend(w, c)
            made.setScalar(e.scalar)
            return made

        for e in self.equations:
            query.addEquation(core(e))
        for z, h in self.relus:
            MarabouCore.addReluConstraint(query, z, h)
        for d in self.disjunctions:
            MarabouCore.addDisjunctionConstraint(query, [[core(e) for e in disjunct] for disjunct in d])
        return query


def marabou_query(model: Model) -> MarabouQuery:
    """Render a model; its variables keep their indices."""
    matrix, row_lower, row_upper, _ = model.system()
    lower, upper = model.lower, model.upper
    result = MarabouQuery(lower.tolist(), upper.tolist(), [], [], [])
    writer = _Writer(lower, upper)
    for k in range(matrix.shape[0]):
        start, end = matrix.indptr[k], matrix.indptr[k + 1]
        columns, data = tuple(matrix.indices[start:end].tolist()), tuple(matrix.data[start:end].tolist())
        written = writer.equations(Atom(columns, data, float(row_lower[k]), float(row_upper[k])))
        if written is None:
            return _false(result, f"row {k} cannot hold")
        result.equations.extend(written)
    for disjunction in model.disjunctions:
        _add_disjunction(result, writer, disjunction)
        if result.disjunctions[-1:] == [[]]:
            return _false(result, f"no disjunct of {disjunction.label or 'a disjunction'} can hold")
    return result


def _false(query: MarabouQuery, why: str) -> MarabouQuery:
    return MarabouQuery(query.lower, query.upper, [], [], [], contradiction=why)


def _add_disjunction(result: MarabouQuery, writer: _Writer, disjunction: Disjunction) -> None:
    """Append a disjunction (an empty list if no disjunct can hold); a ReLU's own disjuncts become a ReLU."""
    pair = relu_of(disjunction)
    if pair is not None and not writer.fixed[list(pair)].any():
        result.relus.append(pair)
        if all(len(disjunct) == 2 for disjunct in disjunction.disjuncts):
            return
    disjuncts = []
    for disjunct in disjunction.disjuncts:
        written = [writer.equations(atom) for atom in disjunct]
        if any(w is None for w in written):
            continue
        found = [e for w in written if w is not None for e in w]
        if not found:
            return
        disjuncts.append(found)
    result.disjunctions.append(disjuncts)


def relu_of(disjunction: Disjunction) -> tuple[int, int] | None:
    """(z, h) if the disjuncts begin with those of ``h = max(z, 0)``, see `encodings.network`."""
    if len(disjunction.disjuncts) != 2 or any(len(disjunct) < 2 for disjunct in disjunction.disjuncts):
        return None
    (below, zero, *_), (above, same, *_) = disjunction.disjuncts
    if not below.columns or not zero.columns:
        return None
    z, h = below.columns[0], zero.columns[0]
    fits = (
        (below.columns, below.coefficients, below.lower, below.upper) == ((z,), (1.0,), -inf, 0.0)
        and (zero.columns, zero.coefficients, zero.lower, zero.upper) == ((h,), (1.0,), 0.0, 0.0)
        and (above.columns, above.coefficients, above.lower, above.upper) == ((z,), (1.0,), 0.0, inf)
        and (same.columns, same.coefficients, same.lower, same.upper) == ((h, z), (1.0, -1.0), 0.0, 0.0)
    )
    return (z, h) if fits else None


class _Writer:
    """Writes atoms as equations, with fixed variables as constants."""

    def __init__(self, lower: np.ndarray[Any, Any], upper: np.ndarray[Any, Any]) -> None:
        self.fixed = lower == upper
        self.value = lower

    def equations(self, atom: Atom) -> list[Equation] | None:
        """The atom's equations; none if it always holds, None if it cannot hold."""
        kept = [(c, a) for c, a in zip(atom.columns, atom.coefficients, strict=True) if not self.fixed[c] and a != 0.0]
        shift = sum(
            a * float(self.value[c]) for c, a in zip(atom.columns, atom.coefficients, strict=True) if self.fixed[c]
        )
        low, high = atom.lower - shift, atom.upper - shift
        if not kept:
            tolerance = 1e-9 * max(1.0, abs(shift))
            return [] if low <= tolerance and high >= -tolerance else None
        columns, weights = tuple(c for c, _ in kept), tuple(a for _, a in kept)
        if atom.lower == atom.upper:
            return [Equation("=", columns, weights, low)]
        found = []
        if high < inf:
            found.append(Equation("<=", columns, weights, high))
        if low > -inf:
            found.append(Equation(">=", columns, weights, low))
        return found
