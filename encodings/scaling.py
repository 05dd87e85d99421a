"""Rescaling of narrow variables, for solvers that work with absolute tolerances.

A variable that can move by less than `NARROW` is written ``v = offset + scale · v'`` with v' in [-1, 1], and
every row and atom is divided by its largest coefficient; constants move to the right-hand side. Marabou 2.0.0
collapses any variable narrower than 1e-5 to its lower end (a false "unsat"), and a feasibility tolerance of
1e-7 swallows boxes of width 1e-6. A variable that moves by no more than rounding errors becomes a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from verifier.encodings.model import Atom, Disjunction, Model
from verifier.network.operators import Array

NARROW = 1e-4
"""Variables narrower than this are rescaled."""

ROUNDING = 1e-13
"""Variables narrower than this, relative to max(1, |v|), are constants but for rounding, and become constants."""


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A model in rescaled variables; ``v = offset + scale * v'`` leads back.

    Attributes:
        model: same variables and same disjunctions, in the same order.
        offset, scale: one entry per variable; 0 and 1 where nothing was changed, the value and 0 for a constant
            (v' is then 0 and in no row).
    """

    model: Model
    offset: Array
    scale: Array

    def original(self, solution: Array) -> Array:
        """A solution in the variables of the model that was rescaled (surplus entries are dropped).

        Shapes: solution ``(variables of the scaled model,)``.
        """
        return self.offset + self.scale * solution[: len(self.offset)]


def rescaled(model: Model, narrow: float = NARROW) -> Rescaled:
    """The model with its narrow variables stretched to [-1, 1].

    Source:
        scaling of columns, as in any presolve: Tomlin, 1975.
    """
    lower, upper = model.lower, model.upper
    width = upper - lower
    constant = width <= ROUNDING * np.maximum(1.0, np.maximum(np.abs(lower), np.abs(upper)))
    lower = np.where(constant, lower + width / 2, lower)
    upper = np.where(constant, lower, upper)
    change = ~constant & (width < narrow) & ~model.binary
    offset = np.where(change, lower + width / 2, np.where(constant, lower, 0.0))
    scale = np.where(change, width / 2, np.where(constant, 0.0, 1.0))
    result = Model(contradiction=model.contradiction)
    for low, high, binary, moved, fixed in zip(lower, upper, model.binary, change, constant, strict=True):
        ends = (0.0, 0.0) if fixed else (-1.0, 1.0) if moved else (low, high)
        result.add_variables(np.array([ends[0]]), np.array([ends[1]]), binary=bool(binary) and not fixed)
    matrix, row_lower, row_upper, strict = model.system()
    shift = matrix @ offset
    scaled = sp.csr_array(matrix @ sp.diags_array(scale))
    scaled.eliminate_zeros()
    size = np.ones(matrix.shape[0])
    if change.any() and scaled.nnz:
        largest = abs(scaled).max(axis=1).toarray().reshape(-1)
        touched = (sp.csr_array(matrix != 0) @ change.astype(float) > 0) & (largest > 0)
        size = np.where(touched, largest, 1.0)
    result.add_rows(
        sp.csr_array(sp.diags_array(1 / size) @ scaled), (row_lower - shift) / size, (row_upper - shift) / size, strict
    )
    for disjunction in model.disjunctions:
        disjuncts = [
            [b for a in disjunct if (b := _atom(a, change | constant, offset, scale)) is not None]
            for disjunct in disjunction.disjuncts
        ]
        result.disjunctions.append(Disjunction(disjuncts, disjunction.label))
    return Rescaled(result, offset, scale)


def _atom(atom: Atom, change: Array, offset: Array, scale: Array) -> Atom | None:
    """The atom in rescaled variables; None if it speaks of constants only and holds, but for rounding."""
    columns = list(atom.columns)
    if not change[columns].any():
        return atom
    shift = float(np.dot(atom.coefficients, offset[columns]))
    kept = [(c, a * float(scale[c])) for c, a in zip(columns, atom.coefficients, strict=True) if scale[c] != 0.0]
    lower, upper = atom.lower - shift, atom.upper - shift
    if not kept:
        tolerance = ROUNDING * max(1.0, abs(shift))
        return None if lower <= tolerance and upper >= -tolerance else Atom((), (), lower, upper, atom.strict)
    size = max(abs(a) for _, a in kept)
    names, weights = tuple(c for c, _ in kept), tuple(a / size for _, a in kept)
    return Atom(names, weights, lower / size, upper / size, atom.strict)
