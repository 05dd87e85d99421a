"""Formulas of property files: linear atoms under *and* and *or*, and the query that they mean.

Numbers in a file are decimals, hence exact rationals, and the query keeps them (`verifier.properties.numbers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import product

import numpy as np

from verifier.errors import PropertyError
from verifier.network.graph import Network
from verifier.network.magnitude import largest_values
from verifier.network.operators import Array
from verifier.properties.numbers import ExactRow, Numbers
from verifier.properties.query import Conjunction, Query, enclosed
from verifier.properties.sets import Box
from verifier.rounding import Number

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
    lower, upper = sides[0].lower, sides[0].upper
    for side in sides[1:]:  # most share their ends
        lower = lower if side.lower is lower else lower.at_most(side.lower)
        upper = upper if side.upper is upper else upper.at_least(side.upper)
    try:
        box = Box.exactly(lower, upper)
    except PropertyError as error:
        raise PropertyError(error.problem, place=place, fix=error.fix) from None

    reach = _Reach(network, box)
    if len(sides) == 1:
        cases = (sides[0].conjunction(sides[0].rows, (lower, upper), reach),)
        return Query(network=network, box=box, cases=cases, description=description or place)
    inner = lower.at_least(shared.lower), upper.at_most(shared.upper)
    return Query(
        network=network,
        box=box,
        cases=tuple(side.conjunction(side.own_rows, inner, reach) for side in sides),
        common=shared.conjunction(shared.rows, None, reach) if shared.rows else None,
        description=description or place,
    )


class _Reach:
    """The largest absolute value of every input and output over a box; those of outputs are computed when asked for."""

    def __init__(self, network: Network, box: Box) -> None:
        self.network = network
        self._found: dict[str, Array] = {"x": np.maximum(np.abs(box.lower), np.abs(box.upper))}

    def __call__(self, letter: str) -> Array:
        if letter not in self._found:
            self._found["y"] = largest_values(self.network, self._found["x"])
        return self._found[letter]


class _Side:
    """A conjunction of atoms taken apart: bounds on single inputs, and all other rows."""

    def __init__(self, network: Network, atoms: Iterable[Atom]) -> None:
        self.network = network
        self.rows: list[Atom] = []
        self.own_rows = self.rows
        self.is_false = False
        lower, upper = dict[int, Number](), dict[int, Number]()
        for atom in atoms:
            if len(atom.x) == 1 and not atom.y:
                ((k, a),) = atom.x.items()
                end = _quotient(atom.bound, a)
                if a > 0 and (k not in upper or end < upper[k]):
                    upper[k] = end
                elif a < 0 and (k not in lower or end > lower[k]):
                    lower[k] = end
                if atom.strict:
                    self.rows.append(atom)
            elif atom.x or atom.y:
                self.rows.append(atom)
            else:
                self.is_false |= atom.bound < 0 or (atom.bound == 0 and atom.strict)
        self.lower = Numbers.sparse(lower, network.input_size, -np.inf)
        self.upper = Numbers.sparse(upper, network.input_size, np.inf)

    @property
    def is_empty(self) -> bool:
        return self.is_false or bool(self.upper.less(self.lower).any())

    def and_also(self, other: _Side) -> _Side:
        """Both; ``own_rows`` are the other's only."""
        both = _Side(self.network, ())
        both.lower, both.upper = self.lower.at_least(other.lower), self.upper.at_most(other.upper)
        both.rows, both.own_rows = self.rows + other.rows, other.rows
        both.is_false = self.is_false or other.is_false
        return both

    def conjunction(self, atoms: Sequence[Atom], ends: tuple[Numbers, Numbers] | None, reach: _Reach) -> Conjunction:
        """The atoms, and the bounds on single inputs that are tighter than the ends."""
        rows = [ExactRow(_fractions(a.x), _fractions(a.y), {}, Fraction(a.bound)) for a in atoms]
        strict = [atom.strict for atom in atoms]
        if ends is not None:
            above, below = self.upper.less(ends[1]), ends[0].less(self.lower)
            rows += [ExactRow({k: Fraction(1)}, {}, {}, self.upper[k]) for k in np.flatnonzero(above).tolist()]
            rows += [ExactRow({k: Fraction(-1)}, {}, {}, -self.lower[k]) for k in np.flatnonzero(below).tolist()]
        strict += [False] * (len(rows) - len(strict))
        return enclosed(rows, strict, (self.network.input_size, self.network.output_size), reach)


def _fractions(numbers: Mapping[int, Number]) -> dict[int, Fraction]:
    return {k: Fraction(a) for k, a in numbers.items()}


def _quotient(bound: Number, a: Number) -> Number:
    """``bound / a``, exactly."""
    if a == 1:
        return bound
    if a == -1:
        return bound.copy_negate() if isinstance(bound, Decimal) else -bound
    return Fraction(bound) / Fraction(a)
