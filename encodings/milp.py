"""Disjunctions as binary variables with big-M rows: a model becomes a mixed-integer linear program.

For an atom ``a · v <= b`` of disjunct c the row is ``a · v <= b + Σ_{c' ≠ c} M_{c'} s_{c'}``, where ``s_{c'}`` is 1 if
disjunct c' is chosen and ``M_{c'}`` the largest ``a · v - b`` over the variables' bounds as disjunct c' narrows them.
For a ReLU and the product of its phase with a bounded gradient these are the exact (tightest) big-M rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import numpy as np

from verifier.encodings.model import Atom, Disjunction, Indices, Model
from verifier.errors import EngineError
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False)
class MixedInteger:
    """A model without disjunctions, and how to read from a solution which disjunct each one chose.

    Attributes:
        model: the same variables first, then the binaries.
        indicators: for each disjunction (by identity) one variable per disjunct; a disjunction of two disjuncts has
            a single variable, which is 1 for its second case.
    """

    model: Model
    indicators: dict[int, Indices]

    def chosen(self, disjunction: Disjunction, solution: Array) -> int:
        """The disjunct that a solution chooses.

        Shapes: solution ``(variables,)``.
        """
        columns = self.indicators[id(disjunction)]
        if len(columns) == 1:
            return 1 if solution[columns[0]] > 0.5 and len(disjunction.disjuncts) == 2 else 0
        return int(np.argmax(solution[columns]))

    def exclude(self, solution: Array, disjunctions: Iterable[Disjunction]) -> Atom:
        """A row that forbids the combination of disjuncts of these disjunctions that a solution chose (a no-good).

        Shapes: solution ``(variables,)``.
        """
        columns = [int(c) for d in disjunctions for c in self.indicators[id(d)]]
        on = [solution[c] > 0.5 for c in columns]
        return Atom(tuple(columns), tuple(-1.0 if o else 1.0 for o in on), 1.0 - sum(on), inf)


def mixed_integer(model: Model) -> MixedInteger:
    """Replace every disjunction by binaries and rows.

    Raises:
        EngineError: a variable without finite bounds, for which there is no big-M.

    Source:
        big-M form of disjunctions: Balas, 1979; for networks: Tjeng, Xiao, Tedrake, ICLR 2019.
    """
    lower, upper = model.lower, model.upper
    unbounded = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))
    if unbounded.size:
        raise EngineError(f"variable {unbounded[0]} of the encoding is not bounded", fix="use tighter bounds")
    result = Model(contradiction=model.contradiction)
    result.add_variables(lower, upper)
    matrix, row_lower, row_upper, strict = model.system()
    result.add_rows(matrix, row_lower, row_upper, strict)
    indicators: dict[int, Indices] = {}
    for disjunction in model.disjunctions:
        indicators[id(disjunction)] = _choose(result, disjunction, lower, upper)
    return MixedInteger(result, indicators)


def _choose(model: Model, disjunction: Disjunction, lower: Array, upper: Array) -> Indices:
    disjuncts = disjunction.disjuncts
    boxes = [_disjunct_box(disjunct, lower, upper) for disjunct in disjuncts]
    count = len(disjuncts)
    columns = model.add_variables(
        np.zeros(1 if count == 2 else count), np.ones(1 if count == 2 else count), binary=True
    )
    if count != 2:
        model.add_atoms([Atom(tuple(columns.tolist()), (1.0,) * count, 1.0, 1.0)])
    rows = []
    for c, disjunct in enumerate(disjuncts):
        for atom in disjunct:
            for sign, end in ((1.0, atom.upper), (-1.0, -atom.lower)):
                if end < inf:
                    row = _big_m(atom, sign, end, c, boxes, columns, lower, upper)
                    if row is not None:
                        rows.append(row)
    model.add_atoms(rows)
    return columns


Narrowed = dict[int, tuple[float, float]]


def _disjunct_box(disjunct: list[Atom], lower: Array, upper: Array) -> Narrowed:
    """The bounds of variables that a disjunct's atoms in one variable narrow."""
    box: Narrowed = {}
    for atom in disjunct:
        if len(atom.columns) == 1 and atom.coefficients[0] == 1.0:
            c = atom.columns[0]
            low, high = box.get(c, (float(lower[c]), float(upper[c])))
            low, high = max(low, atom.lower), min(high, atom.upper)
            box[c] = (min(low, high), max(low, high))
    return box


def _big_m(
    atom: Atom,
    sign: float,
    end: float,
    disjunct: int,
    boxes: list[Narrowed],
    columns: Indices,
    lower: Array,
    upper: Array,
) -> Atom | None:
    """``sign * a · v <= end`` if the disjunct is chosen; None if it holds in any case."""
    excess = []
    for c, box in enumerate(boxes):
        if c == disjunct:
            excess.append(0.0)
            continue
        highest = 0.0
        for column, weight in zip(atom.columns, atom.coefficients, strict=True):
            low, high = box.get(column, (float(lower[column]), float(upper[column])))
            highest += max(sign * weight * low, sign * weight * high)
        excess.append(max(0.0, highest - end))
    own = sum(
        max(sign * w * float(lower[c]), sign * w * float(upper[c]))
        for c, w in zip(atom.columns, atom.coefficients, strict=True)
    )
    if own <= end:
        return None
    names, weights = list(atom.columns), [sign * w for w in atom.coefficients]
    if len(boxes) == 2:
        other = excess[1 - disjunct]
        # indicator of the other disjunct: p if it is the second, 1 - p if it is the first
        if disjunct == 0:
            names.append(int(columns[0]))
            weights.append(-other)
        else:
            names.append(int(columns[0]))
            weights.append(other)
            end += other
    else:
        names += columns.tolist()
        weights += [-m for m in excess]
    kept = [(n, w) for n, w in zip(names, weights, strict=True) if w != 0.0]
    return Atom(tuple(n for n, _ in kept), tuple(w for _, w in kept), -inf, end, atom.strict)
