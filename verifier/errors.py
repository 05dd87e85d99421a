"""Errors that say the place, the problem and the fix.

All errors that a user can cause derive from `VerifierError` and are raised before any solving starts.
"""

from __future__ import annotations


class VerifierError(ValueError):
    """An error with its place, its problem and how to fix it.

    Args:
        problem: what is wrong, in one sentence.
        place: where it was found (a file and line, a node, an argument); "" if there is none.
        fix: what the user can do about it; "" if nothing useful can be said.
    """

    def __init__(self, problem: str, *, place: str = "", fix: str = "") -> None:
        self.problem, self.place, self.fix = problem, place, fix
        super().__init__("".join([f"{place}: " if place else "", problem, f" ({fix})" if fix else ""]))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.place, self.fix)


def _rebuild(kind: type[VerifierError], problem: str, place: str, fix: str) -> VerifierError:
    return kind(problem, place=place, fix=fix)


class NetworkError(VerifierError):
    """A network file or graph that cannot be used: truncated, NaN weights, shapes that do not fit."""


class UnsupportedOperatorError(NetworkError):
    """An operator outside the piecewise-linear set that this framework represents."""


class PropertyError(VerifierError):
    """A property that cannot be used: syntax, wrong sizes, an empty or inverted box."""


class TailError(PropertyError):
    """A property that does not carry over to the scores before a last function that was left out: it speaks of the whole model."""


class InputError(VerifierError):
    """A wrong argument: shape mismatch, NaN, a negative radius, an unknown name."""


class OutputError(VerifierError):
    """A file, a folder or standard output that cannot be written: a full disk, a closed pipe, no permission."""


class EngineError(VerifierError):
    """An engine that is unknown, not installed, or not able to take a query."""


class LimitError(VerifierError):
    """A limit that the caller set stopped the work before its end; nothing was decided."""


class MemoryLimitError(LimitError):
    """The work needs more memory than its limit."""


class TimeLimitError(LimitError):
    """The time was over before the work was done."""
