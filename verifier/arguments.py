"""Arguments of public functions: a wrong Python type is named at the door, not found deep inside.

>>> @checked(x=NUMBERS, epsilon=NUMBER)
... def ball(x, epsilon): ...
>>> ball([1.0], "wide")
Traceback (most recent call last):
TypeError: ball: epsilon must be a number (int or float), not str
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

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


def instance(kind: type | tuple[type, ...], words: str) -> Kind:
    """Objects of a class."""
    return Kind(words, lambda value: isinstance(value, kind))


def sequence_of(kind: type, words: str) -> Kind:
    """Sequences of objects of a class."""
    return Kind(words, lambda value: isinstance(value, Sequence) and all(isinstance(entry, kind) for entry in value))


def optional(kind: Kind) -> Kind:
    """The kind, or None."""
    return Kind(kind.words, kind.fits, True)


def checked(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The function, with the types of the named arguments checked before it begins.

    Raises:
        TypeError: by the function, naming the argument.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        code: Any = function.__code__  # type: ignore[attr-defined]
        names = code.co_varnames[: code.co_argcount]
        unknown = kinds.keys() - set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        assert not unknown, unknown
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: P.args, **keywords: P.kwargs) -> R:
            for argument, value in (*zip(names, args, strict=False), *keywords.items()):
                if argument in kinds:
                    kinds[argument].check(f"{name}: {argument}", value)
            return function(*args, **keywords)

        return call

    return wrap


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
RADIUS = Kind(
    'a number, or text such as "2/255"', lambda value: isinstance(value, (str, Fraction)) or _is_number(value)
)
TEXT = instance(str, "a string")
PATH = instance((str, os.PathLike), "a path")
FUNCTION = Kind("a function", callable)
