"""Functions of one variable that are affine between breakpoints, jumps allowed, in exact arithmetic.

Models spell activations out: a leaky ReLU as ``where(x > 0, x, 0.1 x)``, a soft threshold with signs and masks. The
parts (comparisons, signs) jump, the whole does not. While a model is read, each tensor that is the same such function
of every entry of another one is known as a `Curve`; what comes out continuous becomes one operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from verifier.network.piecewise import PiecewiseLinear

Line = tuple[Fraction, Fraction]
"""Slope and intercept."""

MOST_BREAKS = 64
"""Curves with more breakpoints are not followed further."""


@dataclass(frozen=True)
class Curve:
    """A function of one variable.

    Attributes:
        breaks: increasing.
        lines: the affine function before, between and after the breakpoints, one more than these.
        at: the affine function that is taken at each breakpoint.
        logical: whether it is a truth value, 0 or 1.
    """

    breaks: tuple[Fraction, ...]
    lines: tuple[Line, ...]
    at: tuple[Line, ...]
    logical: bool = False

    def __call__(self, z: Fraction) -> Fraction:
        """The value at a point."""
        slope, intercept = self.line_at(z)
        return slope * z + intercept

    def line_at(self, z: Fraction) -> Line:
        """The affine function that is taken at a point."""
        for b, before, here in zip(self.breaks, self.lines, self.at, strict=False):
            if z < b:
                return before
            if z == b:
                return here
        return self.lines[-1]

    def line_after(self, z: Fraction) -> Line:
        """The affine function just above a point."""
        return self.lines[sum(b <= z for b in self.breaks)]

    @property
    def continuous(self) -> bool:
        """Whether the function has no jump."""
        for k, b in enumerate(self.breaks):
            values = {s * b + i for s, i in (self.lines[k], self.at[k], self.lines[k + 1])}
            if len(values) > 1:
                return False
        return True

    def on(self, breaks: tuple[Fraction, ...]) -> Curve:
        """The same function with these breakpoints, which contain its own."""
        lines = [self.lines[0], *(self.line_after(b) for b in breaks)]
        return Curve(breaks, tuple(lines), tuple(self.line_at(b) for b in breaks), self.logical)

    def after(self, inner: Curve) -> Curve:
        """This function of another one's value."""
        breaks = set(inner.breaks)
        ends = (None, *inner.breaks, None)
        for k, (slope, intercept) in enumerate(inner.lines):
            low, high = ends[k], ends[k + 1]
            for b in self.breaks if slope else ():
                z = (b - intercept) / slope
                if (low is None or z > low) and (high is None or z < high):
                    breaks.add(z)
        split = inner.on(tuple(sorted(breaks)))
        points = split.breaks
        between: list[Fraction] = []  # a point inside each piece
        for k in range(len(points) + 1):
            left, right = points[k - 1] if k else None, points[k] if k < len(points) else None
            if left is not None and right is not None:
                between.append((left + right) / 2)
            else:
                between.append(right - 1 if right is not None else left + 1 if left is not None else Fraction(0))

        def through(line: Line, z: Fraction) -> Line:
            outer = self.line_at(line[0] * z + line[1])
            return outer[0] * line[0], outer[0] * line[1] + outer[1]

        lines = tuple(through(line, z) for line, z in zip(split.lines, between, strict=True))
        at = tuple(through(line, z) for line, z in zip(split.at, points, strict=True))
        return Curve(points, lines, at, self.logical).simple()

    def shifted(self, by: Fraction) -> Curve:
        """The function plus a number."""
        lines, at = (tuple((slope, intercept + by) for slope, intercept in part) for part in (self.lines, self.at))
        return Curve(self.breaks, lines, at, self.logical)

    def simple(self) -> Curve:
        """The same function without breakpoints that are none."""
        keep = [k for k in range(len(self.breaks)) if not self.lines[k] == self.at[k] == self.lines[k + 1]]
        return Curve(
            tuple(self.breaks[k] for k in keep),
            (*(self.lines[k] for k in keep), self.lines[-1]),
            tuple(self.at[k] for k in keep),
            self.logical,
        )

    def operator(self) -> PiecewiseLinear | None:
        """The function as an operator; None where it jumps, is affine, too long, or has numbers that are no floats."""
        numbers = [*self.breaks, *(v for line in self.lines for v in line), *(slope for slope, _ in self.at)]
        exact = all(Fraction(float(v)) == v for v in numbers)
        if not self.breaks or len(self.breaks) > MOST_BREAKS or not self.continuous or not exact:
            return None
        floats = [[float(v) for v in part] for part in zip(*self.lines, strict=True)]
        at = tuple(float(slope) for slope, _ in self.at)
        made = PiecewiseLinear(tuple(map(float, self.breaks)), tuple(floats[0]), tuple(floats[1]), at)
        return replace(made, label=_label(made))


def _label(p: PiecewiseLinear) -> str:
    """The usual name of an operator, where it has one."""
    zero = p.breaks == (0.0,) and p.intercepts == (0.0, 0.0)
    if zero and p.slopes == (0.0, 1.0) and p.at_breaks == (0.0,):
        return "Relu"
    if zero and p.slopes == (-1.0, 1.0) and p.at_breaks == (0.0,):
        return "Abs"
    if zero and p.slopes[1] == 1.0 and p.at_breaks == (p.slopes[0],):
        return "LeakyRelu"
    if not any(p.at_breaks) and (p.slopes, p.intercepts) in (
        ((0.0, 1.0, 0.0), (p.breaks[0], 0.0, p.breaks[-1])),
        ((1.0, 0.0), (0.0, p.breaks[0])),
        ((0.0, 1.0), (p.breaks[0], 0.0)),
    ):
        return "Clip"
    return "PiecewiseLinear"


def affine(slope: Fraction, intercept: Fraction) -> Curve:
    """A straight line."""
    return Curve((), ((slope, intercept),), ())


IDENTITY = affine(Fraction(1), Fraction(0))


def _step(below: int, here: int, above: int, *, logical: bool) -> Curve:
    zero = Fraction(0)
    lines = ((zero, Fraction(below)), (zero, Fraction(above)))
    return Curve((zero,), lines, ((zero, Fraction(here)),), logical)


SIGN = _step(-1, 0, 1, logical=False)
COMPARISONS = {
    "Greater": _step(0, 0, 1, logical=True),
    "GreaterOrEqual": _step(0, 1, 1, logical=True),
    "Less": _step(1, 0, 0, logical=True),
    "LessOrEqual": _step(1, 1, 0, logical=True),
    "Equal": _step(0, 1, 0, logical=True),
}
"""Truth of a comparison of z with 0."""


def of_operator(p: PiecewiseLinear) -> Curve:
    """An operator as a curve; at a breakpoint it takes a line through the value with the slope that its gradient has."""
    breaks = tuple(map(Fraction, p.breaks))
    lines = tuple((Fraction(s), Fraction(i)) for s, i in zip(p.slopes, p.intercepts, strict=True))
    at = []
    for k, slope in enumerate(map(Fraction, p.at_breaks)):
        value = lines[k][0] * breaks[k] + lines[k][1]
        at.append((slope, value - slope * breaks[k]))
    return Curve(breaks, lines, tuple(at))


def combined(function: Callable[..., Line | None], *curves: Curve) -> Curve | None:
    """A function of the affine pieces of several curves, piece by piece; None where it is None on one."""
    breaks = tuple(sorted({b for c in curves for b in c.breaks}))
    split = [c.on(breaks) for c in curves]
    lines = [function(*parts) for parts in zip(*(c.lines for c in split), strict=True)]
    at = [function(*parts) for parts in zip(*(c.at for c in split), strict=True)]
    if any(line is None for line in (*lines, *at)):
        return None
    return Curve(breaks, tuple(lines), tuple(at)).simple()  # type: ignore[arg-type]


def plus(first: Line, second: Line) -> Line:
    """The sum of two lines."""
    return first[0] + second[0], first[1] + second[1]


def minus(first: Line, second: Line) -> Line:
    """The difference of two lines."""
    return first[0] - second[0], first[1] - second[1]


def times(first: Line, second: Line) -> Line | None:
    """The product of two lines, if it is one."""
    if first[0] and second[0]:
        return None
    return first[0] * second[1] + first[1] * second[0], first[1] * second[1]


def chosen(condition: Line, first: Line, second: Line) -> Line | None:
    """The first line where the condition is 1, the second where it is 0."""
    if condition[0] or condition[1] not in (0, 1):
        return None
    return first if condition[1] else second
