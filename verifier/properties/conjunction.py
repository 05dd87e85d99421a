"""Conjunctions of linear inequalities over inputs, outputs and a gradient: the parts of a query's condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.lazy import sp
from verifier.network.operators import Array
from verifier.properties.numbers import ExactRow, dot
from verifier.rounding import float_above

if TYPE_CHECKING:
    pass

SMALL = 10_000
"""Matrices with at most so many entries are kept dense."""
UNDERFLOW = 1e-150
"""Rows of smaller coefficients are scaled: products of them and small values would underflow."""
LARGE = 1e300
"""A row whose bound is above this says nothing of float64 numbers."""

Matrix: TypeAlias = Any
"""A matrix of rows: a dense float64 array or a scipy CSR array."""
LARGEST_DENSE = 2_000_000
"""The rows of many conjunctions together are kept dense up to so many entries."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Conjunction:
    """``k`` linear inequalities ``x_rows @ x + y_rows @ y + g_rows @ g <= bound`` that hold together.

    Attributes:
        x_rows, y_rows, g_rows: ``(k, n)``, ``(k, m)``, ``(k, n)``; dense or CSR; None when all zero.
        bound: ``(k,)``.
        strict: ``(k,)`` booleans; True for ``<``. Proofs of "no such x" may treat strict rows as closed
            (a superset); a witness must meet them strictly.
        exact: the rows that the float64 ones stand for, by index, where these are rounded: every point of the query's
            box that meets an exact row meets the float64 row too.

    Raises:
        PropertyError: rows and bounds do not fit together, or a number is not finite.
    """

    bound: Array
    x_rows: Matrix | None = None
    y_rows: Matrix | None = None
    g_rows: Matrix | None = None
    strict: npt.NDArray[np.bool_] | Any = None
    exact: Mapping[int, ExactRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bound = np.asarray(self.bound, dtype=np.float64).reshape(-1)
        strict = np.zeros(len(bound), dtype=bool) if self.strict is None else np.asarray(self.strict, dtype=bool)
        for name in ("x_rows", "y_rows", "g_rows"):
            rows: Any = getattr(self, name)
            if rows is None:
                continue
            rows = sp.csr_array(rows) if sp.issparse(rows) else np.atleast_2d(np.asarray(rows, dtype=np.float64))
            if rows.shape[0] != len(bound):
                raise PropertyError(f"{name} has {rows.shape[0]} rows for {len(bound)} bounds")
            data = rows.data if sp.issparse(rows) else rows
            if not np.isfinite(np.asarray(data)).all():
                raise PropertyError(f"{name} contains NaN or infinity")
            object.__setattr__(self, name, rows)
        if not np.isfinite(bound).all() or strict.shape != bound.shape:
            raise PropertyError("bounds must be finite, with one strict flag each")
        object.__setattr__(self, "bound", bound)
        object.__setattr__(self, "strict", strict)
        self._raise_tiny()

    def _raise_tiny(self) -> None:
        """Rows of tiny coefficients are multiplied by a power of two, lest products underflow; the same rows exactly."""
        matrices = {name: getattr(self, name) for name in ("x_rows", "y_rows", "g_rows")}
        largest = np.zeros(len(self))
        for rows in matrices.values():
            if rows is not None and len(self):
                found = abs(rows).max(axis=1)
                largest = np.maximum(largest, found.toarray().reshape(-1) if sp.issparse(rows) else found)
        tiny = np.flatnonzero((largest > 0) & (largest < UNDERFLOW))
        if not len(tiny):
            return
        power = np.zeros(len(self), dtype=np.int64)
        power[tiny] = -np.frexp(largest[tiny])[1]
        with np.errstate(over="ignore"):
            bound = np.ldexp(self.bound, power)
        beyond = np.flatnonzero(np.isinf(bound))
        exact = {int(k): self.exact_row(int(k)) for k in beyond}
        silent = bound == np.inf  # no float64 value is above it: the row says nothing
        bound = np.where(silent, 0.0, np.maximum(bound, -np.finfo(np.float64).max))
        for name, rows in matrices.items():
            if sp.issparse(rows):
                per_entry = np.diff(rows.indptr)
                data = np.where(np.repeat(silent, per_entry), 0.0, np.ldexp(rows.data, np.repeat(power, per_entry)))
                object.__setattr__(self, name, sp.csr_array((data, rows.indices, rows.indptr), shape=rows.shape))
            elif rows is not None:
                object.__setattr__(self, name, np.where(silent[:, None], 0.0, np.ldexp(rows, power[:, None])))
        object.__setattr__(self, "bound", bound)
        object.__setattr__(self, "exact", {**self.exact, **exact})

    def __len__(self) -> int:
        return len(self.bound)

    def slack(self, x: Array, y: Array, g: Array | None = None) -> Array:
        """``bound - rows @ (x, y, g)`` for batches ``(batch, n)``: ``(batch, k)``; >= 0 where a row holds."""
        total = np.broadcast_to(self.bound, (len(x), len(self.bound))).copy()
        for rows, value in ((self.x_rows, x), (self.y_rows, y), (self.g_rows, g)):
            if rows is not None:
                if value is None:
                    raise PropertyError("this condition speaks of the gradient, and none was given")
                total -= (rows @ value.T).T
        return total

    def holds(self, x: Array, y: Array, g: Array | None = None) -> npt.NDArray[np.bool_]:
        """Whether all rows hold for each point of a batch, in float64: ``(batch,)``."""
        slack = self.slack(x, y, g)
        return np.asarray(np.where(self.strict, slack > 0, slack >= 0).all(axis=1))

    def exact_row(self, k: int) -> ExactRow:
        """Row k without rounding."""
        row = self.exact.get(k)
        if row is not None:
            return row
        parts = ([] if rows is None else _row(rows, k) for rows in (self.x_rows, self.y_rows, self.g_rows))
        x, y, g = ({j: Fraction(a) for j, a in part} for part in parts)
        return ExactRow(x, y, g, Fraction(float(self.bound[k])))

    def holds_exactly(
        self,
        x: Sequence[Fraction],
        y: Sequence[Fraction],
        g: Sequence[Fraction] | None,
        y_above: Sequence[Fraction] | None = None,
    ) -> bool:
        """Whether all rows hold at one point, in rational arithmetic.

        Args:
            y_above: where outputs are only known to lie in intervals, their upper ends; ``y`` has the lower ones.
        """
        for k in range(len(self)):
            row = self.exact_row(k)
            total = dot(row.x, x) - (row.bound if row.inner is None else row.inner)
            if y_above is None:
                total += dot(row.y, y)
            else:
                total += sum((a * (y_above if a > 0 else y)[j] for j, a in row.y.items()), Fraction(0))
            if row.g:
                assert g is not None
                total += dot(row.g, g)
            if total > 0 or (total == 0 and self.strict[k]):
                return False
        return True


def _row(rows: Matrix, k: int) -> list[tuple[int, float]]:
    """Non-zero entries of row k."""
    if isinstance(rows, np.ndarray):
        return [(int(j), float(rows[k, j])) for j in np.flatnonzero(rows[k])]
    start, end = rows.indptr[k], rows.indptr[k + 1]
    return [(int(j), float(a)) for j, a in zip(rows.indices[start:end], rows.data[start:end], strict=True) if a]


def enclosed(
    rows: Sequence[ExactRow],
    strict: Sequence[bool],
    sizes: tuple[int, int],
    reach: Callable[[str], Array],
) -> Conjunction:
    """The conjunction of exact rows over x and y, with float64 rows that enclose them.

    A row is scaled so that its coefficients are float64 numbers, if that is possible. Else they are rounded and the
    bound is raised by what that can change over the box.

    Args:
        sizes: number of inputs and outputs.
        reach: for "x" and "y" the largest absolute value of every entry over the box; asked only where it is needed.
    """
    kept = [row.floats() for row in rows]
    bound, exact = np.zeros(len(rows)), {}
    entries: dict[str, list[tuple[int, int, float]]] = {"x": [], "y": []}
    for k, row in enumerate(kept):
        end, own = row.bound, list[tuple[str, int, float]]()
        for letter, coefficients in (("x", row.x), ("y", row.y)):
            for j, a in coefficients.items():
                nearest = float(a)
                own.append((letter, j, nearest))
                if Fraction(nearest) != a:
                    most = float(reach(letter)[j])
                    end = end + abs(a - Fraction(nearest)) * Fraction(most) if np.isfinite(most) else Fraction(LARGE)
        bound[k] = float_above(end)
        if not bound[k] < LARGE:  # says nothing that float64 numbers could
            bound[k], own = 0.0, []
        for letter, j, nearest in own:
            entries[letter].append((k, j, nearest))
        if Fraction(bound[k]) != row.bound or not own or row.inner is not None:
            exact[k] = row
    x_rows, y_rows = (_matrix(entries[letter], (len(rows), size)) for letter, size in zip("xy", sizes, strict=True))
    return Conjunction(x_rows=x_rows, y_rows=y_rows, bound=bound, strict=strict, exact=exact)


def _matrix(entries: Sequence[tuple[int, int, float]], shape: tuple[int, int]) -> Matrix | None:
    """A matrix from (row, column, value): dense if it is small."""
    if not entries:
        return None
    rows, columns, values = zip(*entries, strict=True)
    if shape[0] * shape[1] <= SMALL:
        dense = np.zeros(shape)
        np.add.at(dense, (list(rows), list(columns)), values)
        return dense
    indices: tuple[npt.ArrayLike, npt.ArrayLike] = (rows, columns)
    return sp.csr_array(sp.coo_array((np.array(values), indices), shape=shape))


class Choice:
    """A disjunction with the rows of all its conjunctions in one matrix."""

    def __init__(self, disjuncts: Sequence[Conjunction]) -> None:
        self._true = any(not len(disjunct) for disjunct in disjuncts)
        self._starts = np.cumsum([0, *(len(disjunct) for disjunct in disjuncts)])[:-1]
        self._rows = disjuncts[0] if len(disjuncts) == 1 else stacked(disjuncts)

    def margins(self, x: Array, y: Array, g: Array | None) -> Array:
        """The largest over the conjunctions of the smallest slack over their rows, ``(batch,)``."""
        if self._true:
            return np.full(len(x), np.inf)
        slack = self._rows.slack(x, y, g)
        return np.asarray(np.minimum.reduceat(slack, self._starts, axis=1).max(axis=1))

    def holds(self, x: Array, y: Array, g: Array | None) -> npt.NDArray[np.bool_]:
        """Whether one of them holds, in float64.

        Shapes: x ``(batch, n)``; y ``(batch, outputs)``; g ``(batch, n)``.
        """
        if self._true:
            return np.ones(len(x), dtype=bool)
        slack = self._rows.slack(x, y, g)
        rows = np.where(self._rows.strict, slack > 0, slack >= 0)
        return np.asarray(np.logical_and.reduceat(rows, self._starts, axis=1).any(axis=1))


def stacked(parts: Sequence[Conjunction]) -> Conjunction:
    """All of some conjunctions' rows, as one conjunction."""
    rows: dict[str, Matrix | None] = {}
    for name in ("x_rows", "y_rows", "g_rows"):
        given = [getattr(part, name) for part in parts]
        width = next((m.shape[1] for m in given if m is not None), None)
        if width is None:
            rows[name] = None
        elif width * sum(map(len, parts)) > LARGEST_DENSE or any(m is not None and sp.issparse(m) for m in given):
            blocks = [
                sp.csr_array((len(p), width)) if m is None else sp.csr_array(m)
                for p, m in zip(parts, given, strict=True)
            ]
            rows[name] = sp.csr_array(sp.vstack(blocks))
        else:
            rows[name] = np.concatenate(
                [np.zeros((len(p), width)) if m is None else m for p, m in zip(parts, given, strict=True)]
            )
    starts = np.cumsum([0, *(len(part) for part in parts)])
    exact = {int(start) + k: row for start, part in zip(starts, parts, strict=False) for k, row in part.exact.items()}
    return Conjunction(
        bound=np.concatenate([part.bound for part in parts]),
        strict=np.concatenate([part.strict for part in parts]),
        exact=exact,
        **rows,
    )
