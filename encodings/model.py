"""A constraint model that knows no solver: bounded variables, linear rows, disjunctions of conjunctions.

Every coefficient is a float64 and is meant exactly: the encodings never fold two weights into one number,
so an exact solver that reads each float as a rational sees the network itself. Variable bounds are part of
the model and must be true of every solution (rounded outwards, see `encodings.padding`). Where the question has
a number that is no float64, an atom encloses it and carries the exact one, which exact solvers read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.network.operators import Array
from verifier.properties.numbers import Numbers

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExactAtom:
    """As `Atom`, with numbers that need not be float64 numbers."""

    columns: tuple[int, ...]
    coefficients: tuple[Fraction, ...]
    lower: Fraction | float
    upper: Fraction | float
    strict: bool = False


@dataclass(frozen=True)
class Atom:
    """``lower <= Σ coefficients[k] · v[columns[k]] <= upper``; an equality where both ends agree.

    Attributes:
        strict: True for ``<`` in the query's own reading. Proofs may close it (a superset of solutions).
        exact: the atom that this one encloses; None: this one is exact.
    """

    columns: tuple[int, ...]
    coefficients: tuple[float, ...]
    lower: float
    upper: float
    strict: bool = False
    exact: ExactAtom | None = None


@dataclass(eq=False)
class Disjunction:
    """At least one of the disjuncts holds; each disjunct is a conjunction of atoms.

    Attributes:
        disjuncts: lists of atoms, still growing while a model is being built.
        label: what it stands for, for messages and comments in query files.
    """

    disjuncts: list[list[Atom]]
    label: str = ""


@dataclass(frozen=True, eq=False)
class Expressions:
    """A vector of affine expressions ``matrix @ v + constant`` over a model's variables.

    Attributes:
        matrix: ``(k, c)``, c at most the number of variables of the model (columns to come are zero).
        constant: ``(k,)``.
    """

    matrix: sp.csr_array
    constant: Array

    @staticmethod
    def of_variables(columns: Sequence[int] | Indices) -> Expressions:
        """One expression per variable; a column of -1 stands for the constant 0."""
        index = np.asarray(columns, dtype=np.int64)
        rows = np.flatnonzero(index >= 0)
        size = int(index.max(initial=-1)) + 1
        matrix = sp.csr_array((np.ones(len(rows)), (rows, index[rows])), shape=(len(index), size))
        return Expressions(matrix, np.zeros(len(index)))

    @staticmethod
    def of_constants(values: Array) -> Expressions:
        """Expressions without variables."""
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
        return Expressions(sp.csr_array((len(flat), 0)), flat)

    def __len__(self) -> int:
        return len(self.constant)

    def terms(self, row: int) -> tuple[tuple[int, ...], tuple[float, ...], float]:
        """Columns, coefficients and constant of one expression."""
        start, end = self.matrix.indptr[row], self.matrix.indptr[row + 1]
        columns = tuple(int(c) for c in self.matrix.indices[start:end])
        return columns, tuple(float(a) for a in self.matrix.data[start:end]), float(self.constant[row])

    def variable(self, row: int) -> int:
        """The variable that an expression is, or -1 if it is none."""
        start, end = self.matrix.indptr[row], self.matrix.indptr[row + 1]
        plain = end - start == 1 and self.matrix.data[start] == 1.0 and self.constant[row] == 0.0
        return int(self.matrix.indices[start]) if plain else -1

    def variables(self) -> Indices:
        """`variable` of every expression, ``(n,)``."""
        return np.array([self.variable(k) for k in range(len(self))], dtype=np.int64)

    def widened(self, size: int) -> sp.csr_array:
        """The matrix with this many columns."""
        m = self.matrix
        return sp.csr_array((m.data, m.indices, m.indptr), shape=(m.shape[0], size))


@dataclass(eq=False)
class Model:
    """Variables, rows and disjunctions; built step by step, then read by a renderer.

    Attributes:
        disjunctions: those added so far.
        definitions: variables that a row defines, ``{variable: row}``.
        contradiction: why there can be no solution, if that is already plain; else "".
        exact: the exact atoms that rows enclose, ``{row: atom}``.
        exact_ends: exact bounds of single variables, which their float64 bounds enclose.
    """

    disjunctions: list[Disjunction] = field(default_factory=list)
    definitions: dict[int, int] = field(default_factory=dict)
    contradiction: str = ""
    exact: dict[int, ExactAtom] = field(default_factory=dict)
    exact_ends: list[ExactAtom] = field(default_factory=list)
    _lower: list[float] = field(default_factory=list)
    _upper: list[float] = field(default_factory=list)
    _binary: list[bool] = field(default_factory=list)
    _blocks: list[tuple[sp.csr_array, Array, Array, npt.NDArray[np.bool_]]] = field(default_factory=list)
    _row_count: int = 0

    @property
    def size(self) -> int:
        """Number of variables."""
        return len(self._lower)

    @property
    def row_count(self) -> int:
        """Number of linear rows (disjunctions not counted)."""
        return self._row_count

    @property
    def lower(self) -> Array:
        """Lower bounds of all variables."""
        return np.array(self._lower, dtype=np.float64)

    @property
    def upper(self) -> Array:
        """Upper bounds of all variables."""
        return np.array(self._upper, dtype=np.float64)

    @property
    def binary(self) -> npt.NDArray[np.bool_]:
        """Which variables take only the values 0 and 1."""
        return np.array(self._binary, dtype=bool)

    def add_variables(self, lower: Array, upper: Array, *, binary: bool = False) -> Indices:
        """New variables with these bounds; their indices. Crossed bounds make the model contradictory.

        Shapes: lower, upper ``(k,)``.
        """
        low, high = np.asarray(lower, dtype=np.float64).reshape(-1), np.asarray(upper, dtype=np.float64).reshape(-1)
        first = self.size
        if (low > high).any():
            k = int(np.flatnonzero(low > high)[0])
            self.contradiction = self.contradiction or f"variable {first + k} would lie in [{low[k]}, {high[k]}]"
        self._lower += low.tolist()
        self._upper += high.tolist()
        self._binary += [binary] * len(low)
        return np.arange(first, self.size)

    def tighten(self, columns: Indices, lower: Array, upper: Array) -> None:
        """Further bounds on variables that exist.

        Shapes: columns, lower, upper ``(k,)``.
        """
        for c, low, high in zip(columns.tolist(), lower.tolist(), upper.tolist(), strict=True):
            self._lower[c], self._upper[c] = max(self._lower[c], low), min(self._upper[c], high)
            if self._lower[c] > self._upper[c]:
                self.contradiction = (
                    self.contradiction or f"variable {c} would lie in [{self._lower[c]}, {self._upper[c]}]"
                )

    def confine(self, columns: Indices, lower: Numbers, upper: Numbers, margin: Array | float = 0.0) -> None:
        """Bounds on variables that exist, held exactly; the float64 ones moved outwards by a margin.

        Shapes: columns, lower, upper ``(k,)``.
        """
        self.tighten(columns, lower.below - margin, upper.above + margin)
        for ends, sign in ((lower, -1), (upper, 1)):
            for k in ends.rounded.tolist():
                low, high = (ends[k], inf) if sign < 0 else (-inf, ends[k])
                self.exact_ends.append(ExactAtom((int(columns[k]),), (Fraction(1),), low, high))

    def add_rows(
        self, matrix: sp.csr_array, lower: Array, upper: Array, strict: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Rows ``lower <= matrix @ v <= upper``, infinite ends allowed.

        Shapes: matrix ``(m, variables)``; lower, upper, strict ``(m,)``.
        """
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        flags = np.zeros(len(low), dtype=bool) if strict is None else np.asarray(strict, dtype=bool)
        self._blocks.append((sp.csr_array(matrix), low, high, flags))
        self._row_count += len(low)

    def add_atoms(self, atoms: Iterable[Atom]) -> None:
        """The atoms as rows: a conjunction that holds always."""
        kept = list(atoms)
        if not kept:
            return
        indptr = np.cumsum([0] + [len(a.columns) for a in kept])
        indices = np.array([c for a in kept for c in a.columns], dtype=np.int64)
        data = np.array([v for a in kept for v in a.coefficients], dtype=np.float64)
        matrix = sp.csr_array((data, indices, indptr), shape=(len(kept), self.size))
        self.exact |= {self._row_count + k: a.exact for k, a in enumerate(kept) if a.exact is not None}
        self.add_rows(
            matrix,
            np.array([a.lower for a in kept]),
            np.array([a.upper for a in kept]),
            np.array([a.strict for a in kept]),
        )

    def define(self, expressions: Expressions, lower: Array, upper: Array) -> Indices:
        """New variables equal to the expressions, with valid bounds; constants become fixed variables.

        Shapes: lower, upper ``(k,)``, one for each expression.
        """
        constant = np.diff(expressions.matrix.indptr) == 0
        low = np.where(constant, expressions.constant, np.asarray(lower, dtype=np.float64).reshape(-1))
        high = np.where(constant, expressions.constant, np.asarray(upper, dtype=np.float64).reshape(-1))
        columns = self.add_variables(low, high)
        rows = np.flatnonzero(~constant)
        if len(rows):
            own = Expressions.of_variables(columns[rows])
            matrix = own.widened(self.size) - Expressions(expressions.matrix[rows], own.constant).widened(self.size)
            for k, c in enumerate(columns[rows].tolist()):
                self.definitions[c] = self._row_count + k
            self.add_rows(sp.csr_array(matrix), expressions.constant[rows], expressions.constant[rows])
        return columns

    def system(self) -> tuple[sp.csr_array, Array, Array, npt.NDArray[np.bool_]]:
        """All rows as ``(matrix, lower, upper, strict)`` over all variables."""
        if not self._blocks:
            empty = np.zeros(0)
            return sp.csr_array((0, self.size)), empty, empty, np.zeros(0, dtype=bool)
        wide = [Expressions(m, low).widened(self.size) for m, low, _, _ in self._blocks]
        return (
            sp.csr_array(sp.vstack(wide, format="csr")),
            np.concatenate([b[1] for b in self._blocks]),
            np.concatenate([b[2] for b in self._blocks]),
            np.concatenate([b[3] for b in self._blocks]),
        )
