"""Queries: *find x in X with condition(x, N(x), ∇N(x))*. A "yes" refutes the property; a "no" proves it.

The condition is ``common and (case_1 or case_2 or ...)``: every part a conjunction of closed or strict
linear inequalities over the flattened input x, the flattened output y, and the gradient g of one
linear combination of outputs with respect to the flattened input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.lazy import sp
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.numbers import ExactRow, Numbers, dot
from verifier.properties.sets import Box
from verifier.rounding import float_above

if TYPE_CHECKING:
    from verifier.properties.similarity import MapCondition

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
NOISE = 1e-11
"""Share of a gradient's largest entry by which float64 may miss it: a first test lets such points pass to the replay."""


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

    def holds_exactly(self, x: Sequence[Fraction], y: Sequence[Fraction], g: Sequence[Fraction] | None) -> bool:
        """Whether all rows hold at one point, in rational arithmetic."""
        for k in range(len(self)):
            row = self.exact_row(k)
            total = dot(row.x, x) + dot(row.y, y) - (row.bound if row.inner is None else row.inner)
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


class _Choice:
    """A disjunction with the rows of all its conjunctions in one matrix."""

    def __init__(self, cases: Sequence[Conjunction]) -> None:
        self._true = any(not len(case) for case in cases)
        self._starts = np.cumsum([0, *(len(case) for case in cases)])[:-1]
        self._rows = cases[0] if len(cases) == 1 else stacked(cases)

    def margins(self, x: Array, y: Array, g: Array | None) -> Array:
        """The largest over the conjunctions of the smallest slack over their rows, ``(batch,)``."""
        if self._true:
            return np.full(len(x), np.inf)
        slack = self._rows.slack(x, y, g)
        return np.asarray(np.minimum.reduceat(slack, self._starts, axis=1).max(axis=1))

    def holds(self, x: Array, y: Array, g: Array | None) -> npt.NDArray[np.bool_]:
        """Whether one of them holds, in float64."""
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


@dataclass(frozen=True, eq=False, kw_only=True)
class GradientBox:
    """``lower <= g <= upper`` where ``g = ∂(output · y)/∂x``, flattened; ends included.

    Attributes:
        output: ``(m,)`` coefficients of the output combination (a unit vector for one output).
        lower, upper: ``(n,)``; infinite where a component is free. Rounded outwards where the exact ends are no float64.
        exact_lower, exact_upper: the ends as they were given; None: the float64 numbers.
    """

    output: Array
    lower: Array
    upper: Array
    exact_lower: Numbers | None = None
    exact_upper: Numbers | None = None

    def __post_init__(self) -> None:
        for name in ("output", "lower", "upper"):
            value = np.array(getattr(self, name), dtype=np.float64).reshape(-1)
            if np.isnan(value).any():
                raise PropertyError(f"{name} of the gradient box contains NaN")
            object.__setattr__(self, name, value)
        if self.lower.shape != self.upper.shape or (self.lower > self.upper).any():
            raise PropertyError("the gradient box is empty or its ends differ in length")

    @staticmethod
    def exactly(output: Array, lower: Numbers, upper: Numbers) -> GradientBox:
        """The box between exact ends."""
        return GradientBox(output=output, lower=lower.below, upper=upper.above, exact_lower=lower, exact_upper=upper)

    @cached_property
    def ends(self) -> tuple[Numbers, Numbers]:
        """The lower and the upper ends as they were given."""
        return (
            Numbers.of(self.lower) if self.exact_lower is None else self.exact_lower,
            Numbers.of(self.upper) if self.exact_upper is None else self.exact_upper,
        )

    def only(self, kept: npt.NDArray[np.bool_]) -> GradientBox:
        """The same box, free in all components but those that are ``kept (n,)``."""
        lower, upper = self.ends
        return GradientBox.exactly(self.output, lower.where(kept, -np.inf), upper.where(kept, np.inf))

    def room(self, g: Array) -> Array:
        """How deep inside each float64 gradient of a batch ``(batch, n)`` is, ``(batch,)``; negative outside.

        What may be no more than the rounding errors of the gradient counts as 0: the exact replay decides there.
        """
        found = np.minimum(g - self.lower, self.upper - g).min(axis=-1)
        error = NOISE * np.abs(g).max(axis=-1, initial=0.0)
        return np.where((found < 0) & (found >= -error), 0.0, found)

    def contains(self, g: Array) -> npt.NDArray[np.bool_]:
        """Whether each gradient of a batch ``(batch, n)`` is inside, up to its rounding errors."""
        return np.asarray(self.room(g) >= 0)

    def contains_exactly(self, g: Sequence[Fraction]) -> bool:
        """Whether a gradient is inside, in rational arithmetic."""
        lower, upper = self.ends
        return all(
            (lower.below[k] == -np.inf or v >= lower[k]) and (upper.above[k] == np.inf or v <= upper[k])
            for k, v in enumerate(g)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Query:
    """Find x in ``box`` with ``common``, the gradient box, the map condition, and at least one of ``cases``.

    A condition with several disjunctions keeps some of them in ``clauses`` instead of multiplying them out: engines do
    not see these (`verifier.engines.disjunctions` branches on them), and what is proved without them holds with them.

    Attributes:
        network: the network.
        box: bounds of every input.
        cases: the disjunction; at least one. An empty conjunction is "true".
        common: rows that hold in every case (a polytope over x, say); None for none.
        gradient: what g is and its box; None when no row speaks of g.
        condition: similarity of a saliency map, where a gradient box cannot say it all; every x that meets it
            has its gradient in the gradient box. None for none.
        anchor: a point of special interest in the box (x̂), where searches start; None: the box's center.
        clauses: further disjunctions: at least one conjunction of each has to hold, too.
        vacuous: why no input at all can meet the condition, where that is plain as it stands; "" if it is not.
        description: the property in words, for reports.
    """

    network: Network
    box: Box
    cases: tuple[Conjunction, ...]
    common: Conjunction | None = None
    clauses: tuple[tuple[Conjunction, ...], ...] = ()
    vacuous: str = ""
    gradient: GradientBox | None = None
    condition: MapCondition | None = None
    anchor: Array | None = None
    description: str = ""

    def __repr__(self) -> str:
        words = [f"{self.box.varying} of {self.box.size} inputs vary", f"{len(self.cases)} cases"]
        words += ["gradient"] * (self.gradient is not None) + ["saliency map"] * (self.condition is not None)
        what = f"{self.description!r}, " if self.description else ""
        return f"<Query {what}{', '.join(words)}, of {self.network!r}>"

    def __post_init__(self) -> None:
        n, m = self.network.input_size, self.network.output_size
        if self.box.size != n:
            raise PropertyError(
                f"the property has {self.box.size} inputs and the network {n}",
                place=self.network.source,
                fix="is the property meant for another network?",
            )
        if self.network.integer_inputs:
            whole = self.box.integers()
            if whole is not None:
                object.__setattr__(self, "box", whole)
            elif not self.vacuous:
                object.__setattr__(
                    self, "vacuous", "the network takes integers, and an input's bounds have none between"
                )
        if not self.cases:
            raise PropertyError("a query needs at least one case", fix="an empty Conjunction means 'true'")
        for part in self.parts:
            for name, size in (("x_rows", n), ("y_rows", m), ("g_rows", n)):
                rows = getattr(part, name)
                if rows is not None and rows.shape[1] != size:
                    raise PropertyError(
                        f"{name} speaks of {rows.shape[1]} variables and the network has {size}",
                        place=self.network.source,
                        fix="is the property meant for another network?",
                    )
            if part.g_rows is not None and self.gradient is None:
                raise PropertyError("a row speaks of the gradient, but the query does not say of which output")
        if self.gradient is not None and (self.gradient.output.shape != (m,) or self.gradient.lower.shape != (n,)):
            raise PropertyError("the gradient box does not fit the network's inputs and outputs")
        if self.anchor is not None:
            anchor = np.array(self.anchor, dtype=np.float64).reshape(-1)
            if anchor.shape != (n,):
                raise PropertyError(f"an anchor of {anchor.size} entries for {n} inputs")
            object.__setattr__(self, "anchor", anchor)

    @property
    def features(self) -> frozenset[str]:
        """What the condition uses beyond linear rows over inputs and outputs: engines declare which they can take.

        "gradient"; "a saliency map"; and for a condition on one that is more than a gradient box "map NAME" and
        "similarity NAME".
        """
        found = set[str]()
        if self.gradient is not None:
            found.add("gradient")
        if self.condition is not None:
            found.add("a saliency map")
            if not self.condition.is_box:
                found |= {f"map {self.condition.map.name}", f"similarity {self.condition.similarity}"}
        return frozenset(found)

    @property
    def parts(self) -> tuple[Conjunction, ...]:
        """The common conjunction, if any, the cases, and those of the clauses."""
        common = () if self.common is None else (self.common,)
        return common + self.cases + tuple(part for clause in self.clauses for part in clause)

    @property
    def start(self) -> Array:
        """Where a search starts: the anchor, or the box's center."""
        return self.box.center if self.anchor is None else self.anchor

    def split(self) -> list[Query]:
        """One query per case: this query has a witness if and only if one of them has (the same witness)."""
        return [self] if len(self.cases) == 1 else [replace(self, cases=(case,)) for case in self.cases]

    def margins(self, x: Array) -> Array:
        """How far each point is from meeting the condition, in float64; >= 0 means met (strict rows aside).

        For each point of ``(batch, n)``: the largest over the cases of the smallest slack over all rows
        (box excepted), ``(batch,)``.
        """
        y, g = self._evaluate(x)
        worst = np.full(len(x), np.inf)
        if self.gradient is not None and g is not None:
            worst = np.minimum(worst, self.gradient.room(g))
        if self.common is not None and len(self.common):
            worst = np.minimum(worst, self.common.slack(x, y, g).min(axis=1))
        if self.condition is not None:
            worst = np.minimum(worst, self.condition.margin(x))
        for choice in self._choices:
            worst = np.minimum(worst, choice.margins(x, y, g))
        return worst

    def holds(self, x: Array) -> npt.NDArray[np.bool_]:
        """Whether each point of ``(batch, n)`` is a witness, in float64: a first test, not the replay."""
        y, g = self._evaluate(x)
        result = self.box.contains(x)
        if self.gradient is not None and g is not None:
            result &= self.gradient.contains(g)
        result &= self.met(x, y, g)
        if self.condition is not None and result.any():
            result[result] = self.condition.margin(x[result]) >= 0
        return np.asarray(result)

    def met(self, x: Array, y: Array, g: Array | None) -> npt.NDArray[np.bool_]:
        """Whether common rows, a case and one of each clause hold for a batch of inputs, outputs and gradients."""
        result = np.ones(len(x), dtype=bool) if self.common is None else self.common.holds(x, y, g)
        for choice in self._choices:
            result &= choice.holds(x, y, g)
        return result

    def met_exactly(self, x: Sequence[Fraction], y: Sequence[Fraction], g: Sequence[Fraction] | None) -> bool:
        """The same for one point, in rational arithmetic."""
        return (self.common is None or self.common.holds_exactly(x, y, g)) and all(
            any(case.holds_exactly(x, y, g) for case in choice) for choice in (self.cases, *self.clauses)
        )

    @cached_property
    def _choices(self) -> tuple[_Choice, ...]:
        return tuple(_Choice(cases) for cases in (self.cases, *self.clauses))

    def _evaluate(self, x: Array) -> tuple[Array, Array | None]:
        y = self.network.forward(x).reshape(len(x), -1)
        g = None
        if self.gradient is not None:
            g = self.network.gradient(x, self.gradient.output).reshape(len(x), -1)
        return y, g


def larger_output_cases(outputs: int, label: int, *, width: int | None = None) -> tuple[Conjunction, ...]:
    """One case per other label j: ``y_label - y_j <= 0`` (a tie counts as a change of label).

    Args:
        width: number of columns of the rows, where further outputs follow the labels'.
    """
    if not 0 <= label < outputs:
        raise PropertyError(f"label {label} does not exist", fix=f"labels are 0 to {outputs - 1}")
    if outputs < 2:
        raise PropertyError("a network with one output has no labels to compare")
    cases = []
    for j in range(outputs):
        if j != label:
            row = np.zeros((1, outputs if width is None else width))
            row[0, label], row[0, j] = 1.0, -1.0
            cases.append(Conjunction(y_rows=row, bound=np.zeros(1)))
    return tuple(cases)
