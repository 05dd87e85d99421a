"""What is claimed: that no input meets any disjunct of a condition. Numbers are rationals."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

Numbers = list[Fraction]


@dataclass
class Row:
    """``Σ coefficients · values <= bound`` (``<`` if strict); coefficients by the value's name (x, y, g) and index."""

    coefficients: dict[str, dict[int, Fraction]]
    bound: Fraction
    strict: bool = False


@dataclass
class Disjunct:
    """All rows hold and the input is between ``low`` and ``high`` (ends included)."""

    low: Numbers
    high: Numbers
    rows: list[Row] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether the box has no point."""
        return any(a > b for a, b in zip(self.low, self.high, strict=True))


@dataclass
class Claim:
    """No input of any disjunct exists; ``words`` says so for people."""

    disjuncts: list[Disjunct]
    words: str = ""
