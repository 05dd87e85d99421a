"""Arguments of public functions: a wrong Python type is named at the door, not found deep inside.

What a type is follows from its annotation, so that no argument is left out: `KINDS` and `_kind_of`.

>>> @checked
... def ball(x: npt.ArrayLike, epsilon: float) -> None: ...
>>> ball([1.0], "wide")
Traceback (most recent call last):
TypeError: ball: epsilon must be a number (int or float), not str
"""

from __future__ import annotations

import ast
import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_origin

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Kind:
    """What an argument has to be.

    Attributes:
        words: for the message: "must be …".
        fits: whether a value is of the kind.
        optional: whether None is one too.
    """

    words: str
    fits: Callable[[Any], bool]
    optional: bool = False

    def check(self, place: str, value: object) -> None:
        """Raise TypeError, naming the place, if a value is of another kind."""
        if not (value is None and self.optional) and not self.fits(value):
            raise TypeError(f"{place} must be {self.words}{' or None' * self.optional}, not {type(value).__name__}")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with the types of its arguments checked by their annotations before it begins.

    Raises:
        TypeError: by the function, naming the argument.
    """
    code: Any = function.__code__  # type: ignore[attr-defined]
    names = code.co_varnames[: code.co_argcount]
    name = function.__qualname__.removesuffix(".__init__")
    kinds = {
        argument: _kind_of(str(annotation), function.__globals__)  # type: ignore[attr-defined]
        for argument, annotation in function.__annotations__.items()
        if argument in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    }

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        for argument, value in (*zip(names, args, strict=False), *keywords.items()):
            if argument in kinds:
                kinds[argument].check(f"{name}: {argument}", value)
        return function(*args, **keywords)

    return call


def check_fields(of: DataclassInstance) -> None:
    """The same for the fields of a dataclass, for its ``__post_init__``.

    Raises:
        TypeError: naming the field.
    """
    name = type(of).__name__
    for field, kind in _kinds_of(type(of)).items():
        kind.check(f"{name}: {field}", getattr(of, field))


@functools.cache
def _kinds_of(made: type[DataclassInstance]) -> dict[str, Kind]:
    """The kinds of a dataclass's fields."""
    names = {name: value for base in made.__mro__ for name, value in vars(sys.modules[base.__module__]).items()}
    return {field.name: _kind_of(str(field.type), names) for field in fields(made)}


def _kind_of(annotation: str, names: Mapping[str, Any]) -> Kind:
    """The kind that an annotation says, in a module with these names."""
    return _kind(ast.parse(annotation, mode="eval").body, names)


def _kind(node: ast.expr, names: Mapping[str, Any]) -> Kind:
    text = ast.unparse(node)
    if text in KINDS:
        return KINDS[text]
    if isinstance(node, ast.BinOp):  # a union
        left, right = _kind(node.left, names), _kind(node.right, names)
        if "None" in (ast.unparse(node.left), ast.unparse(node.right)):
            return replace(left if ast.unparse(node.right) == "None" else right, optional=True)
        words = " or ".join(dict.fromkeys((left.words, right.words)))
        return Kind(words, lambda value: left.fits(value) or right.fits(value), left.optional or right.optional)
    if isinstance(node, ast.Subscript):
        holder, entry = ast.unparse(node.value), node.slice
        if holder == "Sequence":
            one = _kind(entry, names)
            several = one.words.removeprefix("a ").removeprefix("an ")
            return Kind(
                f"a sequence, each {one.words}" if " " in several else f"a sequence of {several}s", _several(one)
            )
        return KINDS[holder]
    name = text.rpartition(".")[2]
    found = names.get(name)
    if get_origin(found) is Literal:
        return TEXT
    if not (found is None or isinstance(found, type)):
        raise KeyError(f"the alias {name} is not in KINDS")
    article = "an" if name[0] in "AEIOU" else "a"
    # by name, since many classes are imported for type checkers alone
    return Kind(f"{article} {name}", lambda value: any(c.__name__ == name for c in type(value).__mro__))


def _several(one: Kind) -> Callable[[Any], bool]:
    """Whether a value is a sequence, or an array, whose entries are of a kind."""

    def fits(value: Any) -> bool:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
            return False
        return not isinstance(value, Mapping) and all(one.fits(entry) for entry in value)

    return fits


def _is_number(value: Any) -> bool:
    if isinstance(value, (Real, Decimal)):
        return not isinstance(value, (bool, Fraction, Decimal))
    return getattr(value, "shape", None) == () and _are_numbers(value)  # of numpy or torch


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    """An array, or nested sequences, of numbers; rationals and decimals too."""
    import numpy as np

    if value is None or isinstance(value, (str, bytes, dict, set)):
        return False
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # ragged, or a tensor that cannot leave its device
        return False
    if array.dtype.kind == "O":
        return all(isinstance(entry, (Real, Decimal)) for entry in array.reshape(-1).tolist())
    return array.dtype.kind in "biuf"


NUMBER = Kind("a number (int or float)", _is_number)
WHOLE = Kind("a whole number", _is_whole)
NUMBERS = Kind("numbers (an array, a tensor or nested sequences)", _are_numbers)
FLAG = Kind("True or False", lambda value: type(value).__name__ in ("bool", "bool_"))
RADIUS = Kind(
    'a number, or text such as "2/255"', lambda value: isinstance(value, (str, Fraction)) or _is_number(value)
)
TEXT = Kind("a string", lambda value: isinstance(value, str))
PATH = Kind("a path", lambda value: isinstance(value, (str, os.PathLike)))
FUNCTION = Kind("a function", callable)
ANYTHING = Kind("anything", lambda value: True)

KINDS = {
    "float": NUMBER,
    "int": WHOLE,
    "bool": FLAG,
    "str": TEXT,
    "Radius": RADIUS,
    **dict.fromkeys(("Path", "PathLike"), PATH),
    **dict.fromkeys(("npt.ArrayLike", "Array", "Point", "tuple", "Sequence[float]", "Sequence[int]"), NUMBERS),
    "Shape": replace(NUMBERS, words="a shape (a sequence of whole numbers)", fits=_several(WHOLE)),
    "Ends": NUMBERS,
    "Domain": Kind(
        '"network", None or a pair (lower, upper)',
        lambda value: isinstance(value, str) or (isinstance(value, (tuple, list)) and all(map(_are_numbers, value))),
        True,
    ),
    "Rule": Kind("a rule (points and weights)", lambda value: isinstance(value, tuple) and len(value) == 2),
    **dict.fromkeys(("Callable", "Listener"), FUNCTION),
    "Mapping": Kind("a mapping", lambda value: isinstance(value, Mapping)),
    **dict.fromkeys(("Any", "Target"), ANYTHING),
    "None": Kind("None", lambda value: value is None, True),
    "Network": Kind(
        "a Network (`verifier.load` reads one)",
        lambda value: any(c.__name__ == "Network" for c in type(value).__mro__),
    ),
}
"""The kinds that annotations name, whole or without what stands in brackets; other names are those of classes."""
