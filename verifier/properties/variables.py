"""Properties written down in Python: ``x["image"][0, 3] <= 0.5``, ``y["scores"][1] >= y["scores"][0] + 0.1``.

`variables` gives the inputs and outputs of a network as arrays of linear terms, by the names of their tensors; comparisons
of them are formulas, joined by ``&`` and ``|``; `query` makes the question of them. Numbers count as they are, floats as
the rationals that they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.graph import Network
from verifier.network.ports import Port
from verifier.properties.formula import And, Formula, Or, Term, less, negation
from verifier.properties.meaning import to_query
from verifier.properties.query import Query


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition on inputs and outputs; `&`, `|` and `~` join and negate conditions."""

    formula: Formula

    def __and__(self, other: Condition) -> Condition:
        return Condition(And((self.formula, _condition(other).formula)))

    def __or__(self, other: Condition) -> Condition:
        return Condition(Or((self.formula, _condition(other).formula)))

    def __invert__(self) -> Condition:
        return Condition(negation(self.formula))

    def __bool__(self) -> bool:
        raise PropertyError(
            "a condition has no truth value of its own",
            fix="join conditions by & and |, and write 0 <= x <= 1 as (0 <= x) & (x <= 1)",
        )


class Terms:
    """An array of linear terms over a network's inputs and outputs.

    Attributes:
        entries: the terms, an object array.
    """

    __array_ufunc__ = None  # numpy leaves arithmetic with arrays to these methods
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, entries: Any) -> None:
        self.entries: npt.NDArray[Any] = np.asarray(entries, dtype=object)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.entries.shape

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Terms:
        try:
            found = self.entries[index]
        except IndexError as error:
            raise PropertyError(f"no entry {index!r} in a tensor of shape {self.shape}: {error}") from None
        held = np.empty((), dtype=object)
        held[()] = found
        return Terms(found if isinstance(found, np.ndarray) else held)

    def sum(self) -> Terms:
        """The sum of all entries."""
        total = Term()
        for term in self.entries.reshape(-1):
            total = total.plus(term)
        held = np.empty((), dtype=object)
        held[()] = total
        return Terms(held)

    def __neg__(self) -> Terms:
        return self * -1

    def __add__(self, other: Any) -> Terms:
        return _each(lambda a, b: a.plus(b), self, other)

    def __sub__(self, other: Any) -> Terms:
        return _each(lambda a, b: a.plus(b, Fraction(-1)), self, other)

    def __rsub__(self, other: Any) -> Terms:
        return _each(lambda a, b: b.plus(a, Fraction(-1)), self, other)

    def __mul__(self, other: Any) -> Terms:
        return _each(_times, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, number: Any) -> Terms:
        return self * (1 / _exact(number))

    def __le__(self, other: Any) -> Condition:
        return _all(lambda a, b: less(a, b), self, other)

    def __lt__(self, other: Any) -> Condition:
        return _all(lambda a, b: less(a, b, True), self, other)

    def __ge__(self, other: Any) -> Condition:
        return _all(lambda a, b: less(b, a), self, other)

    def __gt__(self, other: Any) -> Condition:
        return _all(lambda a, b: less(b, a, True), self, other)

    def __eq__(self, other: Any) -> Condition:  # type: ignore[override]
        return (self <= other) & (self >= other)

    def __ne__(self, other: Any) -> Condition:  # type: ignore[override]
        return ~(self == other)


class Named:
    """The tensors of a network's input or output: by name, or, where there is one, by the indices of its entries."""

    def __init__(self, ports: Sequence[Port], letter: str) -> None:
        self._tensors = {port.name: Terms(_variables(port, letter)) for port in ports}

    def __getitem__(self, key: Any) -> Terms:
        if isinstance(key, str):
            if key not in self._tensors:
                raise PropertyError(f"there is no tensor {key!r}", fix=f"there are {', '.join(self._tensors)}")
            return self._tensors[key]
        return self.only[key]

    @property
    def only(self) -> Terms:
        """The one tensor that there is.

        Raises:
            PropertyError: there are several.
        """
        if len(self._tensors) > 1:
            raise PropertyError("there are several tensors", fix=f"name one of {', '.join(self._tensors)}")
        return next(iter(self._tensors.values()))


def variables(network: Network) -> tuple[Named, Named]:
    """The inputs and the outputs of a network, for conditions.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.properties.variables import query, variables
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> x, y = variables(network)
        >>> query(network, x[:] >= [0.8, 0.0], x[:] <= [1.0, 0.2], y[1] >= y[0])
        <Query '3 conditions', inputs 2 of 2 vary, disjuncts 1, about outputs, of <Network built in Python, shape 2 → 2, nodes 4, neurons 2>>
    """
    return Named(network.input_ports, "x"), Named(network.output_ports, "y")


def query(network: Network, *conditions: Condition, description: str = "") -> Query:
    """The question whether some input meets all conditions; every input needs a lower and an upper bound among them.

    Raises:
        PropertyError: an input without finite bounds, something that is no condition.
    """
    formulas = [_condition(c).formula for c in conditions]
    text = description or f"{len(conditions)} condition{'s' * (len(conditions) != 1)}"
    return to_query(network, formulas, description=text)


def _variables(port: Port, letter: str) -> npt.NDArray[Any]:
    made = np.empty(port.shape, dtype=object)
    for index in np.ndindex(*port.shape):
        one = {int(port.places[index]): Fraction(1)}
        made[index] = Term(x=one) if letter == "x" else Term(y=one)
    return made


def _exact(number: Any) -> Fraction:
    try:
        return Fraction(number.item() if isinstance(number, np.generic) else number)
    except (TypeError, ValueError, OverflowError):
        raise PropertyError(f"{number!r} is no finite number") from None


def _terms(other: Any) -> npt.NDArray[Any]:
    if isinstance(other, Terms):
        return other.entries
    if isinstance(other, Named):
        return other.only.entries
    numbers = np.asarray(other)
    made = np.empty(numbers.shape, dtype=object)
    for index in np.ndindex(*numbers.shape):
        made[index] = Term(constant=_exact(numbers[index]))
    return made


def _pairs(first: Terms, other: Any) -> np.broadcast:
    try:
        return np.broadcast(first.entries, _terms(other))
    except ValueError:
        shapes = first.shape, _terms(other).shape
        raise PropertyError(f"tensors of shapes {shapes[0]} and {shapes[1]} do not meet") from None


def _each(function: Any, first: Terms, other: Any) -> Terms:
    pairs = _pairs(first, other)
    made = np.empty(pairs.shape, dtype=object)
    for index, (a, b) in zip(np.ndindex(*pairs.shape), pairs, strict=True):
        made[index] = function(a, b)
    return Terms(made)


def _all(function: Any, first: Terms, other: Any) -> Condition:
    return Condition(And([function(a, b) for a, b in _pairs(first, other)]))


def _times(a: Term, b: Term) -> Term:
    if a.is_constant:
        return b.times(a.constant)
    if b.is_constant:
        return a.times(b.constant)
    raise PropertyError(
        "a product of two variables is not linear", fix="write the property in VNN-LIB, which has products"
    )


def _condition(found: Any) -> Condition:
    if not isinstance(found, Condition):
        raise PropertyError(f"{found!r} is no condition", fix="compare terms of `variables(network)`")
    return found
