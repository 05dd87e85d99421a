"""The search for a threshold: up to where something is proved, and from where on a witness refutes it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite


@dataclass
class Bracket:
    """A threshold between what is proved and what is refuted, and the value to be asked about next.

    It doubles the value while everything is proved, for proofs become harder with it, and bisects from the first answer on
    that is no proof.

    Attributes:
        value: the next one to ask about.
        most: no larger value is asked.
        lower: proved up to here.
        upper: refuted from here on; infinite without a witness.
        ceiling: nothing from here on is asked: it is refuted, or stayed open.
    """

    value: float
    most: float = inf
    lower: float = 0.0
    upper: float = inf
    ceiling: float = inf

    @property
    def width(self) -> float:
        """Of what may still be asked."""
        return min(self.ceiling, self.most) - self.lower

    def proved(self) -> None:
        """The statement holds at the value."""
        self.lower = self.value
        self._next()

    def refuted(self, distance: float) -> None:
        """A witness refutes every value from its own distance on, which may be below the value."""
        self.upper = min(self.upper, distance)
        self.ceiling = min(self.ceiling, self.upper)
        self._next()

    def open(self) -> None:
        """Nobody knows; larger values are harder."""
        self.ceiling = min(self.ceiling, self.value)
        self._next()

    def _next(self) -> None:
        doubled = min(2 * self.value, self.most)
        self.value = self.lower + (self.ceiling - self.lower) / 2 if isfinite(self.ceiling) else doubled
