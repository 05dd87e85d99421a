"""The phases of an elementwise piecewise-linear neuron, with the gradient convention made explicit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from verifier.network.piecewise import PiecewiseLinear


@dataclass(frozen=True)
class Phase:
    """On ``lower <= z <= upper`` the neuron is ``slope * z + intercept`` and its derivative is ``derivative``.

    Attributes:
        lower_open, upper_open: whether the end belongs to another phase by the gradient convention.
            Proofs close the ends (either neighbour at a kink), witnesses respect them.
        index: the piece of the operator, or ``number of pieces + k`` for a phase that is breakpoint k alone.
    """

    index: int
    lower: float
    upper: float
    lower_open: bool
    upper_open: bool
    slope: float
    intercept: float
    derivative: float

    def contains(self, z: Fraction) -> bool:
        """Whether a preactivation is on this phase, open ends respected."""
        above = z > self.lower if self.lower_open else z >= self.lower
        below = z < self.upper if self.upper_open else z <= self.upper
        return above and below


def phases(operator: PiecewiseLinear, *, gradient: bool) -> tuple[Phase, ...]:
    """All phases of an operator; every preactivation is on exactly one of them (open ends respected).

    A breakpoint belongs to the piece whose slope the convention gives it (ReLU: the inactive one). Where
    it gives neither neighbour's slope (|z| at 0 has derivative 0), the breakpoint is a phase of its own.

    Args:
        gradient: whether derivatives matter; if not, a breakpoint belongs to the piece on its left.
    """
    breaks, slopes, intercepts = operator.breaks, operator.slopes, operator.intercepts
    owner = [_owner(operator, k) if gradient else "left" for k in range(len(breaks))]
    ends = (-float("inf"), *breaks, float("inf"))
    found = [
        Phase(
            index=k,
            lower=ends[k],
            upper=ends[k + 1],
            lower_open=k > 0 and owner[k - 1] != "right",
            upper_open=k < len(breaks) and owner[k] != "left",
            slope=slopes[k],
            intercept=intercepts[k],
            derivative=slopes[k],
        )
        for k in range(len(slopes))
    ]
    found += [
        Phase(len(slopes) + k, b, b, False, False, slopes[k], intercepts[k], operator.at_breaks[k])
        for k, b in enumerate(breaks)
        if owner[k] == "own"
    ]
    return tuple(found)


def _owner(operator: PiecewiseLinear, k: int) -> str:
    """Which phase breakpoint k belongs to: that of its "left" or "right" piece, or its "own"."""
    at, b = operator.at_breaks[k], Fraction(operator.breaks[k])
    if at == operator.slopes[k]:
        return "left"
    values = [Fraction(operator.slopes[i]) * b + Fraction(operator.intercepts[i]) for i in (k, k + 1)]
    return "right" if at == operator.slopes[k + 1] and values[0] == values[1] else "own"


def possible_phases(
    operator: PiecewiseLinear, lower: float, upper: float, *, gradient: bool, negligible: float = 0.0
) -> tuple[Phase, ...]:
    """The phases that a preactivation in ``[lower, upper]`` can be on, their ends closed where derivatives matter.

    A phase that is touched at one end only is kept when derivatives matter (at a kink either neighbour may
    be meant) and dropped otherwise (the value is the same). A preactivation known to be one number is on
    the one phase that the convention gives it.

    Args:
        negligible: where derivatives do not matter, a phase that is entered by no more than this, relative to
            max(1, |z|), counts as touched only: 0 for exact proofs, rounding size for solvers with tolerances.
    """
    everything = phases(operator, gradient=gradient)
    if lower == upper:
        return tuple(p for p in everything if p.contains(Fraction(lower)))
    if gradient:
        return tuple(p for p in everything if p.lower <= upper and p.upper >= lower)
    margin = negligible * max(1.0, abs(lower), abs(upper))
    entered = tuple(p for p in everything if upper - p.lower > margin and p.upper - lower > margin)
    return entered or tuple(p for p in everything if p.contains(Fraction(lower)))
