"""What walks along lines decide by numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    """How far a walk along lines goes.

    Attributes:
        exact_work: multiplications of integers that the exact looks of one walk may take in all: 2^24 are a few seconds.
        uninterrupted: multiplications that the compiled walk, which cannot be stopped, may take under a deadline: 1e9 are about
            half a second.
        shortest: where memory does not suffice, a segment shorter than this in t is not halved again.
    """

    exact_work: int = 1 << 24
    uninterrupted: float = 1e9
    shortest: float = 2.0**-30
