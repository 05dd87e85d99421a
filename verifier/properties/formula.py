"""Formulas of property files: linear atoms under *and* and *or*, and the query that they mean.

Numbers in a file are decimals, hence exact rationals. Where a limit of an inequality has no float64 it is
rounded *outward* (by less than one unit in the last place), so that the set of inputs and the condition only
grow: HOLDS for the query implies HOLDS for the file. Coefficients are read as the nearest float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import product

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.lazy import sp
from verifier.network.graph import Network
from verifier.properties.query import Conjunction, Matrix, Query
from verifier.properties.sets import Box

Number = Decimal | Fraction
SMALL = 10_000
"""Matrices with at most so many entries are kept dense."""
MAX_CASES = 65_536
"""More cases than this in the disjunctive normal form are an error rather than a memory problem."""


@dataclass(frozen=True, slots=True)
class Atom:
    """``Σ x[i]·X_i + Σ y[j]·Y_j <= bound``, or ``<`` if strict. Coefficients are non-zero."""

    x: Mapping[int, Number]
    y: Mapping[int, Number]
    bound: Number
    strict: bool = False


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold; an empty one is "true"."""

    parts: Sequence[Formula]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part holds; an empty one is "false"."""

    parts: Sequence[Formula]


Formula = Atom | And | Or


@dataclass(frozen=True)
class Term:
    """A linear term ``Σ x[i]·X_i + Σ y[j]·Y_j + constant`` in exact rationals."""

    x: Mapping[int, Fraction] = field(default_factory=dict)
    y: Mapping[int, Fraction] = field(default_factory=dict)
    constant: Fraction = Fraction(0)

    @property
    def is_constant(self) -> bool:
        """Whether no variable occurs."""
        return not self.x and not self.y

    def plus(self, other: Term, factor: Fraction = Fraction(1)) -> Term:
        """``self + factor · other``."""
        return Term(
            _add(self.x, other.x, factor), _add(self.y, other.y, factor), self.constant + factor * other.constant
        )

    def times(self, factor: Fraction) -> Term:
        """``factor · self``."""
        return Term().plus(self, factor)


def _add(a: Mapping[int, Fraction], b: Mapping[int, Fraction], factor: Fraction) -> dict[int, Fraction]:
    total = dict(a)
    for k, v in b.items():
        total[k] = total.get(k, Fraction(0)) + factor * v
    return {k: v for k, v in total.items() if v != 0}


def less(left: Term, right: Term, strict: bool = False) -> Atom:
    """The atom ``left <= right`` (or ``<``)."""
    difference = left.plus(right, Fraction(-1))
    return Atom(difference.x, difference.y, -difference.constant, strict)


def round_up(value: Number) -> float:
    """The smallest float64 that is >= value."""
    nearest = float(value)
    return nearest if _exact(nearest, value) >= value else math.nextafter(nearest, math.inf)


def round_down(value: Number) -> float:
    """The largest float64 that is <= value."""
    nearest = float(value)
    return nearest if _exact(nearest, value) <= value else math.nextafter(nearest, -math.inf)


def _exact(nearest: float, like: Number) -> Number:
    return Decimal(nearest) if isinstance(like, Decimal) else Fraction(nearest)


def normal_form(formula: Formula) -> list[list[Atom]]:
    """The disjunctive normal form: a list of conjunctions of atoms.

    Raises:
        PropertyError: more than `MAX_CASES` conjunctions.
    """
    if isinstance(formula, Atom):
        return [[formula]]
    parts = [normal_form(part) for part in formula.parts]
    if isinstance(formula, Or):
        return [case for part in parts for case in part]
    return _all_of(parts)


def _all_of(parts: Sequence[list[list[Atom]]]) -> list[list[Atom]]:
    count = math.prod(len(part) for part in parts)
    if count > MAX_CASES:
        raise PropertyError(
            f"the condition has {count} cases in disjunctive normal form, more than {MAX_CASES}",
            fix="split the property into several files",
        )
    return [[atom for part in choice for atom in part] for choice in product(*parts)]


def to_query(network: Network, assertions: Iterable[Formula], *, place: str = "", description: str = "") -> Query:
    """The query that a conjunction of formulas means: its box, what holds in common, and its cases.

    The box is the intersection of the bounds on single inputs that hold in every case; where inputs are bounded
    only inside the cases of a disjunction, it is the hull of the cases' boxes, and each case keeps its own box as
    rows over x. Cases whose box is empty are left out.

    Raises:
        PropertyError: an input without finite bounds, an empty input set, too many cases.
    """
    common: list[Atom] = []
    disjunctions: list[list[list[Atom]]] = []
    stack = list(reversed(list(assertions)))
    while stack:
        formula = stack.pop()
        if isinstance(formula, Atom):
            common.append(formula)
        elif isinstance(formula, And):
            stack.extend(reversed(formula.parts))
        else:
            disjunctions.append(normal_form(formula))

    shared = _Side(network, common)
    sides = [shared.and_also(_Side(network, case)) for case in _all_of(disjunctions)]
    sides = [side for side in sides if not side.is_empty]
    if not sides:
        raise PropertyError("no input satisfies the property's own bounds: it holds trivially", place=place)
    lower = np.min([side.lower for side in sides], axis=0)
    upper = np.max([side.upper for side in sides], axis=0)
    try:
        box = Box(lower, upper)
    except PropertyError as error:
        raise PropertyError(error.problem, place=place, fix=error.fix) from None

    if len(sides) == 1:
        return Query(network=network, box=box, cases=(sides[0].conjunction(box),), description=description or place)
    inner = Box(np.maximum(lower, shared.lower), np.minimum(upper, shared.upper))
    return Query(
        network=network,
        box=box,
        cases=tuple(side.conjunction(inner, own=True) for side in sides),
        common=shared.conjunction(None) if shared.rows else None,
        description=description or place,
    )


class _Side:
    """A conjunction of atoms taken apart: bounds on single inputs, and all other rows."""

    def __init__(self, network: Network, atoms: Iterable[Atom]) -> None:
        self.network = network
        self.lower = np.full(network.input_size, -np.inf)
        self.upper = np.full(network.input_size, np.inf)
        self.rows: list[Atom] = []
        self.own_rows = self.rows
        self.is_false = False
        for atom in atoms:
            if len(atom.x) == 1 and not atom.y:
                self._bound(atom)
                if atom.strict:
                    self.rows.append(atom)
            elif atom.x or atom.y:
                self.rows.append(atom)
            else:
                self.is_false |= atom.bound < 0 or (atom.bound == 0 and atom.strict)

    def _bound(self, atom: Atom) -> None:
        ((k, a),) = atom.x.items()
        if a == 1:
            self.upper[k] = min(self.upper[k], round_up(atom.bound))
        elif a == -1:
            value = atom.bound.copy_negate() if isinstance(atom.bound, Decimal) else -atom.bound
            self.lower[k] = max(self.lower[k], round_down(value))
        else:
            quotient = Fraction(atom.bound) / Fraction(a)
            if a > 0:
                self.upper[k] = min(self.upper[k], round_up(quotient))
            else:
                self.lower[k] = max(self.lower[k], round_down(quotient))

    @property
    def is_empty(self) -> bool:
        return self.is_false or bool((self.lower > self.upper).any())

    def and_also(self, other: _Side) -> _Side:
        """Both; ``own_rows`` are the other's only."""
        both = _Side(self.network, ())
        both.lower, both.upper = np.maximum(self.lower, other.lower), np.minimum(self.upper, other.upper)
        both.rows, both.own_rows = self.rows + other.rows, other.rows
        both.is_false = self.is_false or other.is_false
        return both

    def conjunction(self, box: Box | None, own: bool = False) -> Conjunction:
        """The rows, and the bounds on single inputs that are tighter than ``box``."""
        atoms = list(self.own_rows if own else self.rows)
        ends: list[tuple[int, float, float]] = []
        if box is not None:
            ends += [(int(k), 1.0, self.upper[k]) for k in np.flatnonzero(self.upper < box.upper)]
            ends += [(int(k), -1.0, -self.lower[k]) for k in np.flatnonzero(self.lower > box.lower)]
        count = len(atoms) + len(ends)
        y_rows = np.zeros((count, self.network.output_size))
        bound, strict = np.zeros(count), np.zeros(count, dtype=bool)
        entries: list[tuple[int, int, float]] = []
        for row, atom in enumerate(atoms):
            entries += [(row, k, float(a)) for k, a in atom.x.items()]
            for k, a in atom.y.items():
                y_rows[row, k] = float(a)
            bound[row], strict[row] = round_up(atom.bound), atom.strict
        for row, (k, sign, end) in enumerate(ends, start=len(atoms)):
            entries.append((row, k, sign))
            bound[row] = end
        return Conjunction(
            x_rows=_matrix(entries, (count, self.network.input_size)) if entries else None,
            y_rows=y_rows if y_rows.any() else None,
            bound=bound,
            strict=strict,
        )


def _matrix(entries: Sequence[tuple[int, int, float]], shape: tuple[int, int]) -> Matrix:
    """A matrix from (row, column, value): dense if it is small."""
    rows, columns, values = zip(*entries, strict=True)
    if shape[0] * shape[1] <= SMALL:
        dense = np.zeros(shape)
        np.add.at(dense, (list(rows), list(columns)), values)
        return dense
    indices: tuple[npt.ArrayLike, npt.ArrayLike] = (rows, columns)
    return sp.csr_array(sp.coo_array((np.array(values), indices), shape=shape))
