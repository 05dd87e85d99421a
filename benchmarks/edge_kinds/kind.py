"""A kind of edge case: random questions whose truth is known exactly, put to everything that may answer them.

Each module of this folder makes some kinds and lists them in ``KINDS``; `edges.py` runs many cases of all of them and
``tests/edges`` some. The truth is computed in rational arithmetic and shares no rounding with what it tests.
"""

from __future__ import annotations

import enum
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


class Outcome(enum.Enum):
    """What one answer is worth."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDED = "undecided"


def worth(
    holds: bool, x: Sequence[Fraction] | None, truth: bool, is_witness: Callable[[Sequence[Fraction]], bool]
) -> Outcome:
    """What an answer is worth.

    Args:
        holds: it says that there is no witness.
        x: the witness that it names, exactly; None for none.
        truth: whether there is one.
        is_witness: whether a point is one.
    """
    if holds:
        return Outcome.WRONG if truth else Outcome.RIGHT
    if x is None:
        return Outcome.UNDECIDED
    return Outcome.RIGHT if truth and is_witness(x) else Outcome.WRONG


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One answer to one case.

    Attributes:
        engine: who answered ("native", "z3", "exact line", "repair lp" …).
        outcome: what the answer is worth.
        seconds: wall-clock time of the answer.
        detail: for a wrong or missing answer, enough to run it again.
    """

    engine: str
    outcome: Outcome
    seconds: float
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of case.

    Attributes:
        name: short, for the table ("saliency at δ = 0").
        what: one sentence: what is asked and how the truth is known.
        run: from a seed to the answers to that seed's case; deterministic in the seed.
        cost: about how many CPU seconds a case takes, all engines together; CI runs fewer cases of a dear kind.
    """

    name: str
    what: str
    run: Callable[[int], Iterable[Trial]]
    cost: float = 0.04


def all_kinds() -> list[Kind]:
    """The kinds of all modules of this folder, by module and order there."""
    kinds: list[Kind] = []
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        kinds += getattr(importlib.import_module(f"edge_kinds.{module}"), "KINDS", [])
    return kinds
