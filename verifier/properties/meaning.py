"""The query that formulas of a property file mean: a box, what holds in common, disjuncts and further clauses.

Numbers in a file are exact rationals, and the query keeps them (`verifier.properties.numbers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import product

import numpy as np

from verifier.errors import PropertyError
from verifier.limits import poll
from verifier.network.graph import Network
from verifier.network.magnitude import largest_values
from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction, enclosed
from verifier.properties.formula import And, Atom, Formula, before_tail, normal_form
from verifier.properties.implied import Row, implied_bounds
from verifier.properties.numbers import ExactRow, Numbers
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.rounding import Number

MULTIPLIED = 64
"""Disjunctions are multiplied out up to so many disjuncts."""
NO_POINT = "the rows on inputs exclude each other"


class _Nothing(Exception):
    """No input can meet the condition: why."""


def _sorted(assertions: Iterable[Formula]) -> tuple[list[Atom], list[list[list[Atom]]]]:
    """The atoms that hold in common, and the disjunctions, each in disjunctive normal form."""
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
    return common, disjunctions


def _alive(
    network: Network, common: list[Atom], disjunctions: list[list[list[Atom]]]
) -> tuple[_Side, list[list[_Side]]]:
    """What holds in common, and the disjunctions without what contradicts it, the small ones multiplied out.

    Raises:
        _Nothing: nothing is left.
    """
    shared = _Side(network, common, common=True)
    if shared.contradiction:
        raise _Nothing(shared.contradiction)
    groups = []
    for disjuncts in disjunctions:
        sides = [shared.and_also(_Side(network, disjunct)) for disjunct in disjuncts]
        left = [side for side in sides if not side.contradiction]
        if not left:
            why = sides[0].contradiction if sides else "a disjunction without parts is false"
            raise _Nothing(f"{why}, and so on in every disjunct" if len(sides) > 1 else why)
        groups.append(left)
    groups.sort(key=len)
    while len(groups) > 1 and len(groups[0]) * len(groups[1]) <= MULTIPLIED:
        pairs = [one.and_also(other) for one, other in product(*groups[:2])]
        both = [side for side in pairs if not side.contradiction]
        if not both:
            raise _Nothing(f"{pairs[0].contradiction}, and so on in every disjunct")
        groups = sorted([both, *groups[2:]], key=len)
    shared = shared.bounded()
    groups = [[side.bounded() for side in sides] for sides in groups]
    groups = [[side for side in sides if not side.contradiction] for sides in groups]
    if shared.contradiction or not all(groups):
        raise _Nothing(shared.contradiction or NO_POINT)
    return shared, groups


def _hull(shared: _Side, groups: list[list[_Side]]) -> tuple[Numbers, Numbers]:
    """The ends of the box: what is common, cut to the hull of each disjunction's boxes.

    Raises:
        _Nothing: they cross.
    """
    lower, upper = shared.lower, shared.upper
    for sides in groups:
        least, most = sides[0].lower, sides[0].upper
        for side in sides[1:]:  # most share their ends
            least = least if side.lower is least else least.at_most(side.lower)
            most = most if side.upper is most else most.at_least(side.upper)
        lower, upper = lower.at_least(least), upper.at_most(most)
    if bool(upper.less(lower).any()):
        raise _Nothing("the disjuncts' bounds on an input exclude each other")
    return lower, upper


def to_query(network: Network, assertions: Iterable[Formula], *, place: str = "", description: str = "") -> Query:
    """The query that a conjunction of formulas means: its box, what holds in common, its disjuncts and further clauses.

    The box is the intersection of the bounds on single inputs that hold in every disjunct; where inputs are bounded
    only inside the disjuncts of a disjunction, it is the hull of the disjuncts' boxes, and each disjunct keeps its own box as
    rows over x. Cases whose box is empty are left out. Several disjunctions are multiplied out while that makes no more
    than `MULTIPLIED` disjuncts; the others become the query's clauses. Where no input can meet the condition as it stands,
    the query says so (`Query.vacuous`).

    Raises:
        PropertyError: an input without finite bounds, too many disjuncts within one disjunction.

    Source:
        VNN-LIB: Demarchi et al., 2023, for what a file means; branching on clauses:
        `verifier.engines.disjunctions`.
    """
    if network.tail is not None:
        assertions = [before_tail(formula, network.tail, place, network.output_size) for formula in assertions]
    common, disjunctions = _sorted(assertions)
    try:
        shared, groups = _alive(network, common, disjunctions)
        lower, upper = _hull(shared, groups)
    except _Nothing as why:
        return _vacuous(network, str(why), description or place)
    lower, upper, said = _within_domain(network, lower, upper)
    description = (description or place) + said
    try:
        box = Box.exactly(lower, upper)
    except PropertyError as error:
        raise PropertyError(error.problem, place=place, fix=error.fix) from None

    reach = _Reach(network, box)
    choices = [tuple(side.conjunction(side.own_rows, (lower, upper), reach) for side in sides) for sides in groups]
    rest = shared.conjunction(shared.rows, (lower, upper), reach)
    if not choices or len(choices[0]) == len(choices) == 1:
        sides = groups[0] if groups else [shared]
        return Query(
            network=network,
            box=box,
            disjuncts=(sides[0].conjunction(sides[0].rows, (lower, upper), reach),),
            description=description,
        )
    return Query(
        network=network,
        box=box,
        disjuncts=choices[0],
        clauses=tuple(choices[1:]),
        common=rest if shared.rows else None,
        description=description,
    )


def _within_domain(network: Network, lower: Numbers, upper: Numbers) -> tuple[Numbers, Numbers, str]:
    """The ends with the network's own where an input has none, and what there is to say of that."""
    lacking = ~np.isfinite(lower.below) | ~np.isfinite(upper.above)
    if network.domain is None or not lacking.any():
        return lower, upper, ""
    low, high = (np.where(lacking, end, sign * np.inf) for end, sign in zip(network.domain, (-1, 1), strict=True))
    names = ", ".join(f"X_{k}" for k in np.flatnonzero(lacking).tolist())
    return (
        lower.at_least(Numbers.of(low)),
        upper.at_most(Numbers.of(high)),
        f"; {names}: within the network's own input ranges, since the file does not bound them",
    )


def _vacuous(network: Network, why: str, description: str) -> Query:
    """A query that nothing meets: its only disjunct is a false row, over a box of one point."""
    nowhere = Conjunction(bound=np.array([-1.0]))
    point = np.zeros(network.input_size)
    return Query(network=network, box=Box(point, point), disjuncts=(nowhere,), vacuous=why, description=description)


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
    """A conjunction of atoms taken apart: bounds on single inputs, and all other rows.

    Args:
        common: whether the atoms hold in every disjunct: then they are no side's ``own_rows``.
    """

    def __init__(self, network: Network, atoms: Iterable[Atom], common: bool = False) -> None:
        self.network = network
        self.rows: list[Atom] = []
        self.own_rows: list[Atom] = [] if common else self.rows
        self._false = ""
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
            elif atom.bound < 0 or (atom.bound == 0 and atom.strict):
                self._false = f"0 {'<' if atom.strict else '<='} {atom.bound} is false"
        self._bounded = bool(lower or upper)
        self.lower = Numbers.sparse(lower, network.input_size, -np.inf)
        self.upper = Numbers.sparse(upper, network.input_size, np.inf)

    @cached_property
    def contradiction(self) -> str:
        """Why no input meets it, as far as that is plain; "" if it is not."""
        if self._false or not self._bounded:
            return self._false
        empty = np.flatnonzero(self.upper.less(self.lower))
        if not empty.size:
            return ""
        k = int(empty[0])
        return f"X_{k} would be at least {float(self.lower.number(k)):g} and at most {float(self.upper.number(k)):g}"

    def and_also(self, other: _Side) -> _Side:
        """Both, where this one is no contradiction."""
        both = object.__new__(_Side)
        both.network, both._false, both._bounded = self.network, self._false or other._false, other._bounded
        both.lower, both.upper = self.lower, self.upper
        if other._bounded:
            both.lower, both.upper = self.lower.at_least(other.lower), self.upper.at_most(other.upper)
        both.rows, both.own_rows = self.rows + other.own_rows, self.own_rows + other.own_rows
        return both

    def bounded(self) -> _Side:
        """The same with the bounds that only its rows give to inputs."""
        open_ends = np.flatnonzero(~np.isfinite(self.lower.below) | ~np.isfinite(self.upper.above)).tolist()
        rows = [Row(_fractions(a.x), Fraction(a.bound)) for a in self.rows if a.x and not a.y] if open_ends else []
        if not rows:
            return self
        held = [
            {k: ends[k] for k in np.flatnonzero(np.isfinite(floats)).tolist()}
            for ends, floats in ((self.lower, self.lower.below), (self.upper, self.upper.above))
        ]
        found = implied_bounds(rows, held[0], held[1], open_ends)
        both = object.__new__(_Side)
        both.network, both._false, both._bounded = self.network, "" if found else NO_POINT, True
        both.rows, both.own_rows = self.rows, self.own_rows
        lower, upper = found or held
        both.lower = Numbers.sparse(lower, self.network.input_size, -np.inf)
        both.upper = Numbers.sparse(upper, self.network.input_size, np.inf)
        return both

    def conjunction(self, atoms: Sequence[Atom], ends: tuple[Numbers, Numbers], reach: _Reach) -> Conjunction:
        """The atoms, and the bounds on single inputs that are tighter than the ends."""
        poll("while the property's disjuncts were made rows")
        rows = [ExactRow(_fractions(a.x), _fractions(a.y), {}, Fraction(a.bound), a.inner) for a in atoms]
        strict = [atom.strict for atom in atoms]
        if self.upper is not ends[1]:
            above = np.flatnonzero(self.upper.less(ends[1])).tolist()
            rows += [ExactRow({k: Fraction(1)}, {}, {}, self.upper[k]) for k in above]
        if self.lower is not ends[0]:
            below = np.flatnonzero(ends[0].less(self.lower)).tolist()
            rows += [ExactRow({k: Fraction(-1)}, {}, {}, -self.lower[k]) for k in below]
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
