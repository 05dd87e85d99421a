"""How a repair is sought: what the caller asks for, and what the search decides by numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.errors import InputError
from verifier.limits import Deadline
from verifier.repair.effort import Effort
from verifier.repair.program import NORMS


@dataclass(frozen=True, kw_only=True)
class ProgramSettings:
    """How the linear program of a layer is solved.

    Attributes:
        batch: rows taken in per round.
        glimpse: seconds after which a running program is asked what its multipliers prove so far.
        beyond: how far beyond the reach a program goes on, as a factor.
    """

    batch: int = 400
    glimpse: float = 4.0
    beyond: float = 1.001


@dataclass(frozen=True, kw_only=True)
class TurnSettings:
    """How several layers take turns.

    Attributes:
        cycles: how often every layer has its turn, in each of the two phases.
        price: what a unit of violation costs in the first phase, unless the caller says so.
        gain: share by which the violations, or the sum of norms, must fall for another cycle.
    """

    cycles: int = 20
    price: float = 1e4
    gain: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What the search for a repair decides by numbers.

    Attributes:
        effort: multiplications of integers that the exact checks of one program may take unless more is asked for: 1e8 are
            some 20 s.
        negligible: changes smaller than this share of the largest are left out: they are the solver's rounding errors.
        rounds: how often demands may join the rows, or leave them.
        vertex: rows with which a vertex of the program may be solved in rationals.
        short: the grid, relative to the largest change, to which the program's change is also rounded: where a repair holds by
            ties, it often has short numbers, and the solver's last bits are in the way.
        near: how far, as a share of the largest change, that vertex may lie from the program's own.
        active: share of a row's scale within which it counts as held with equality.
        margins: that are tried, in units of what rounding and the solver's tolerance may take.
        program, turns: how its parts work.
    """

    effort: float = 1e8
    negligible: float = 1e-9
    rounds: int = 60
    vertex: int = 60
    short: float = 2.0**-24
    near: float = 1e-6
    active: float = 1e-7
    margins: tuple[float, ...] = (1.0, 2.0**10, 2.0**20)
    program: ProgramSettings = ProgramSettings()
    turns: TurnSettings = TurnSettings()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a repair is sought; more on each is said at `verifier.repair.repair`.

    Attributes:
        norm: that is made small: "l1", "linf" or "mixed".
        steps: for the greedy method, the most weights that may change.
        soft: the price of one unit of violation, or None: rows are hard.
        reach: the largest norm of a layer's change, or None: that of its own parameters.
        exact: whether the exact check may take as long as it needs.
        search: what the search decides by numbers.

    Raises:
        InputError: a value outside its range.
    """

    norm: str = "l1"
    steps: int = 5
    soft: float | None = None
    reach: float | None = None
    exact: bool = False
    search: SearchSettings = SearchSettings()

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"norm {self.norm!r} is not known", fix=f"norms: {', '.join(NORMS)}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps must be a whole number from 1 on, got {self.steps!r}")
        for name in ("soft", "reach"):
            positive_or_none(getattr(self, name), name)

    def effort(self, deadline: Deadline) -> Effort:
        """What an exact check may do."""
        return Effort(float("inf") if self.exact else self.search.effort, deadline)


def positive_or_none(value: object, name: str) -> None:
    """Check an optional positive, finite number.

    Raises:
        InputError: naming the argument.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise InputError(f"{name} must be a number or None, got {value!r}")
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name} must be positive and finite, got {value!r}")
