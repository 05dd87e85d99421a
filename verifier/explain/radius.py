"""The largest radius at which something that a map does is still impossible: a bracket between a proof and a witness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verifier.bracket import Bracket
from verifier.errors import InputError
from verifier.explain.extremes import Extreme
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.shown import Shown


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Radius(Shown):
    """Where a statement stops to hold.

    Attributes:
        lower: proved up to here (0 if nothing was proved).
        upper: refuted from here on by ``witness``; infinite if there is none.
        witness: ``(n,)`` the nearest input at which it fails; None if none was found.
        map: the map there, ``(n,)``.
        undecided: questions that stayed open; if not 0, the bracket may be wide for that reason.
        questions: that were asked.
    """

    lower: float
    upper: float
    witness: Array | None = None
    map: Array | None = None
    undecided: int = 0
    questions: int = 0

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"proved up to": f"{self.lower:.6g}", "refuted from": f"{self.upper:.6g}"}
        if self.undecided:
            facts["undecided"] = f"{self.undecided} of {self.questions} questions"
        return "Radius", facts


def largest_radius(
    ask: Callable[[float, Deadline], Extreme], x: Array, most: float, tolerance: float, deadline: Deadline
) -> Radius:
    """Bisect between what is proved and what a witness refutes.

    Args:
        ask: how far above 0 the bad thing comes on the box of a radius (``target=0``).
        x: ``(n,)`` the center: a witness refutes every radius from its own distance on.
        most: no larger radius is asked.
        tolerance: width of the bracket at which the search ends.

    Raises:
        InputError: ``most`` or ``tolerance`` not positive.
    """
    if not most > 0 or not tolerance > 0:
        raise InputError(f"the largest radius and the tolerance must be positive, got {most} and {tolerance}")
    bracket = Bracket(min(most, max(most / 64, 2 * tolerance)), most)
    witness = at = None
    undecided = questions = 0
    while bracket.width > tolerance and not deadline.passed:
        found = ask(bracket.value, deadline)
        questions += 1
        if found.lower > 0 and found.input is not None:
            witness, at = found.input, found.map
            bracket.refuted(float(np.abs(found.input - x).max()))
        elif found.upper <= 0:
            bracket.proved()
        else:
            undecided += 1
            bracket.open()
    lower, upper = bracket.lower, bracket.upper
    return Radius(lower=lower, upper=upper, witness=witness, map=at, undecided=undecided, questions=questions)
