"""Formulas of property files: linear atoms under *and* and *or*; what query they mean is `verifier.properties.meaning`.

Numbers in a file are decimals, hence exact rationals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product

from verifier.errors import PropertyError, TailError
from verifier.network.tails import Tail
from verifier.rounding import Number

MAX_DISJUNCTS = 65_536
"""More disjuncts than this in the disjunctive normal form are an error rather than a memory problem."""


@dataclass(frozen=True, slots=True)
class Atom:
    """``Σ x[i]·X_i + Σ y[j]·Y_j <= bound``, or ``<`` if strict. Coefficients are non-zero.

    Attributes:
        inner: as in `ExactRow`.
    """

    x: Mapping[int, Number]
    y: Mapping[int, Number]
    bound: Number
    strict: bool = False
    inner: Fraction | None = None


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


def negation(formula: Formula) -> Formula:
    """The formula that holds where this one does not."""
    if isinstance(formula, Atom):
        x, y = ({k: -a for k, a in part.items()} for part in (formula.x, formula.y))
        return Atom(x, y, -formula.bound, not formula.strict)
    parts = [negation(part) for part in formula.parts]
    return Or(parts) if isinstance(formula, And) else And(parts)


def before_tail(formula: Formula, tail: Tail, place: str, outputs: int) -> Formula:
    """The formula about the scores before an increasing function that means the same as one about its values.

    A bound on one of two shares of a Softmax is one on the difference of the scores: ``softmax(z)_i = sigmoid(z_i - z_j)``.

    Args:
        outputs: how many outputs there are.

    Raises:
        TailError: an atom that is neither a comparison of two outputs nor a bound on one that carries over.
    """
    if not isinstance(formula, Atom):
        parts = [before_tail(part, tail, place, outputs) for part in formula.parts]
        return And(parts) if isinstance(formula, And) else Or(parts)
    if not formula.y:
        return formula
    coefficients = list(formula.y.values())
    if len(coefficients) == 2 and not formula.x and not formula.bound and not sum(Fraction(a) for a in coefficients):
        return formula
    two = tail.kind == "Softmax" and outputs == 2
    if len(coefficients) != 1 or formula.x or (tail.joint and not two):
        raise TailError(
            f"the model ends in {tail.kind}, and the condition on outputs {sorted(formula.y)} "
            + ("is no comparison of two of them" if tail.joint else "neither compares two of them nor bounds one"),
            place=place,
            fix="state it about the scores before the function",
        )
    ((j, a),) = formula.y.items()
    a = Fraction(a)
    where = (Tail("Sigmoid") if two else tail).threshold(Fraction(formula.bound) / a)
    if isinstance(where, bool):
        return And(()) if where == (a > 0) else Or(())
    below, above = where
    sign = Fraction(1 if a > 0 else -1)
    scores = {j: sign, 1 - j: -sign} if two else {j: sign}
    ends = (above, below) if a > 0 else (-below, -above)
    return Atom({}, scores, ends[0], formula.strict, None if below == above else ends[1])


def normal_form(formula: Formula) -> list[list[Atom]]:
    """The disjunctive normal form: a list of conjunctions of atoms.

    Raises:
        PropertyError: more than `MAX_DISJUNCTS` conjunctions.

    Source:
        distribution of "and" over "or"; clauses beyond a limit stay clauses, see `to_query`.
    """
    if isinstance(formula, Atom):
        return [[formula]]
    parts = [normal_form(part) for part in formula.parts]
    if isinstance(formula, Or):
        return [disjunct for part in parts for disjunct in part]
    count = math.prod(len(part) for part in parts)
    if count > MAX_DISJUNCTS:
        raise PropertyError(
            f"the condition has {count} disjuncts in disjunctive normal form, more than {MAX_DISJUNCTS}",
            fix="write disjunctions in assertions of their own: these are not multiplied out",
        )
    return [[atom for part in choice for atom in part] for choice in product(*parts)]
