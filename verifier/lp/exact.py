"""Systems of linear inequalities, closed and strict, decided in rational arithmetic.

The general simplex of Dutertre and de Moura ("A fast linear-arithmetic solver for DPLL(T)", CAV 2006, section 3): every
row is a variable of its own with an upper bound, the tableau writes the basic variables in the others, and pivots move
values until all bounds hold or one row shows that they cannot. A strict bound ``< b`` is ``<= b - ε`` for a positive
infinitesimal ε, so values and bounds are pairs. Tableau rows are integers over one denominator each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

import numpy as np

from verifier.errors import TimeLimitError
from verifier.limits import NEVER, Deadline
from verifier.network.operators import Array

Pair = tuple[Fraction, Fraction]
"""``value + coefficient · ε``, compared lexicographically."""
ZERO, ONE = Fraction(0), Fraction(1)
EAGER = 2
"""After so many pivots per variable the rule that cannot cycle (Bland's) takes over from the one that is quick."""
GRIDS = (4, 8, 12, 20, 30, 40)
"""Numbers with so few bits are tried, the coarsest first, where a point's coordinate is no float64."""


@dataclass(frozen=True)
class Row:
    """``coefficients · x <= bound``, or ``<`` if strict; rationals."""

    coefficients: tuple[Fraction, ...]
    bound: Fraction
    strict: bool = False

    @property
    def constant(self) -> bool:
        """Whether no variable occurs in it."""
        return not any(self.coefficients)

    @property
    def holds(self) -> bool:
        """Whether a row without variables is true."""
        return self.bound > 0 or (self.bound == 0 and not self.strict)

    def met(self, x: Sequence[Fraction]) -> bool:
        """Whether a point meets it."""
        slack = self.bound - sum((a * v for a, v in zip(self.coefficients, x, strict=True) if a), ZERO)
        return slack > 0 or (slack == 0 and not self.strict)


class ExactSystem:
    """Rows over box-bounded variables; rows are added one by one, and a copy costs little.

    Args:
        lower, upper: the box, closed, finite, ``lower <= upper``.
        deadline: when it has passed, `solve` raises.

    Attributes:
        rows: the rows so far.
        work: entries of the tableau that pivots have gone through, its predecessors' included.

    Source:
        Dutertre, de Moura, CAV 2006: general simplex, strict bounds by an infinitesimal;
        Bland's rule: Bland, 1977.
    """

    def __init__(self, lower: Sequence[Fraction], upper: Sequence[Fraction], deadline: Deadline = NEVER) -> None:
        n = len(lower)
        self.size, self.deadline = n, deadline
        self.rows: list[Row] = []
        self.work = 0
        self._box = [(low, high) for low, high in zip(lower, upper, strict=True)]
        self._lower: list[Pair | None] = [(v, ZERO) for v in lower]
        self._upper: list[Pair | None] = [(v, ZERO) for v in upper]
        self._value: list[Pair] = [(v, ZERO) for v in lower]
        self._free = list(range(n))
        """The variable of every column."""
        self._basic: list[int] = []
        """The variable of every tableau row: ``denominator · variable = numerators @ column variables``."""
        self._numerators: Array = np.zeros((0, n), dtype=object)
        self._denominators: list[int] = []
        self._false = False

    def copy(self) -> ExactSystem:
        """An independent copy, with the same basis."""
        new = object.__new__(ExactSystem)
        new.__dict__.update(self.__dict__)
        for name in ("rows", "_box", "_lower", "_upper", "_value", "_free", "_basic", "_denominators"):
            setattr(new, name, list(getattr(self, name)))
        new._numerators = self._numerators.copy()
        return new

    def add(self, row: Row) -> None:
        """One more row."""
        number = self.size + len(self.rows)
        self.rows.append(row)
        self._lower.append(None)
        self._upper.append((row.bound, -ONE if row.strict else ZERO))
        entries = [(j, a) for j, a in enumerate(row.coefficients) if a]
        self._value.append(
            (
                sum((a * self._value[j][0] for j, a in entries), ZERO),
                sum((a * self._value[j][1] for j, a in entries), ZERO),
            )
        )
        column = {v: k for k, v in enumerate(self._free)}
        place = {v: k for k, v in enumerate(self._basic)}
        scale = lcm(*(a.denominator * (self._denominators[place[j]] if j in place else 1) for j, a in entries), 1)
        line = np.zeros(self.size, dtype=object)
        for j, a in entries:
            if j in column:
                line[column[j]] += int(a * scale)
            else:
                line += int(a * scale / self._denominators[place[j]]) * self._numerators[place[j]]
        self._numerators = np.concatenate([self._numerators, line[None]])
        self._denominators.append(scale)
        self._basic.append(number)
        self._reduce(len(self._basic) - 1)

    def narrow(self, variable: int, lower: Fraction, upper: Fraction) -> None:
        """Tighten the box in one variable."""
        before = self._box[variable]
        self._box[variable] = (max(before[0], lower), min(before[1], upper))
        low, high = (self._box[variable][0], ZERO), (self._box[variable][1], ZERO)
        self._lower[variable], self._upper[variable] = low, high
        if low > high:
            self._false = True
        elif variable in self._free:
            value = min(max(self._value[variable], low), high)
            if value != self._value[variable]:
                self._move(self._free.index(variable), _minus(value, self._value[variable]))

    # -- solving -----------------------------------------------------------------------------------------
    def solve(self) -> Mapping[int, Fraction] | None:
        """None if there is a solution (`point`), else a certificate (Farkas) that there is none.

        Returns:
            non-negative multipliers by row number: over the box, the combination of these rows' left sides is nowhere
            below that of their bounds, or only on it while one of them is strict (`refutes_exactly`).

        Raises:
            TimeLimitError: the deadline has passed.
        """
        if self._false:
            return {}
        pivots = 0
        while True:
            broken = self._broken(bland=pivots > EAGER * (self.size + len(self.rows)))
            if broken < 0:
                return None
            if self.deadline.passed:
                raise TimeLimitError("the time was over in an exact linear program")
            variable = self._basic[broken]
            high = self._upper[variable]
            sinks = high is not None and self._value[variable] > high
            target = high if sinks else self._lower[variable]
            assert target is not None
            column = self._entering(broken, sinks)
            if column < 0:
                return self._certificate(broken)
            share = Fraction(self._denominators[broken], int(self._numerators[broken, column]))
            step = _minus(target, self._value[variable])
            self._move(column, (step[0] * share, step[1] * share))
            self._pivot(broken, column)
            pivots += 1

    def _broken(self, bland: bool) -> int:
        """A tableau row whose variable is out of its bounds: that of the least variable, or the farthest; -1: none."""
        best, worst = -1, (ZERO, ZERO)
        for k, variable in enumerate(self._basic):
            value, low, high = self._value[variable], self._lower[variable], self._upper[variable]
            gap = (ZERO, ZERO)
            if high is not None and value > high:
                gap = _minus(value, high)
            elif low is not None and value < low:
                gap = _minus(low, value)
            else:
                continue
            if best < 0 or (variable < self._basic[best] if bland else gap > worst):
                best, worst = k, gap
        return best

    def _entering(self, row: int, sinks: bool) -> int:
        """The column of the least variable that can move a row's variable to its bound; -1: none."""
        best = -1
        for column in np.flatnonzero(self._numerators[row]):
            variable = self._free[column]
            down = (self._numerators[row, column] > 0) == sinks
            end = self._lower[variable] if down else self._upper[variable]
            value = self._value[variable]
            if (end is None or (value > end if down else value < end)) and (best < 0 or variable < self._free[best]):
                best = int(column)
        return best

    def _move(self, column: int, step: Pair) -> None:
        """Change a column's variable, and the basic variables with it."""
        variable = self._free[column]
        self._value[variable] = _plus(self._value[variable], step)
        for k in np.flatnonzero(self._numerators[:, column]):
            share = Fraction(int(self._numerators[k, column]), self._denominators[k])
            basic = self._basic[k]
            self._value[basic] = _plus(self._value[basic], (step[0] * share, step[1] * share))

    def _pivot(self, row: int, column: int) -> None:
        """Exchange a row's variable with a column's."""
        pivot, line = int(self._numerators[row, column]), self._numerators[row].copy()
        sign = 1 if pivot > 0 else -1
        # pivot · entering = denominator · leaving - the other entries
        line *= -sign
        line[column] = sign * self._denominators[row]
        self._numerators[row], self._denominators[row] = line, abs(pivot)
        self._reduce(row)
        self.work += self.size
        divisor = self._denominators[row]
        for k in np.flatnonzero(self._numerators[:, column]):
            if k == row:
                continue
            factor = int(self._numerators[k, column])
            self._numerators[k, column] = 0
            self._numerators[k] = self._numerators[k] * divisor + factor * self._numerators[row]
            self._denominators[k] *= divisor
            self._reduce(int(k))
            self.work += self.size
        self._basic[row], self._free[column] = self._free[column], self._basic[row]

    def _reduce(self, row: int) -> None:
        common = gcd(self._denominators[row], *self._numerators[row])
        if common > 1:
            self._numerators[row] //= common
            self._denominators[row] //= common

    def _certificate(self, row: int) -> dict[int, Fraction]:
        """The multipliers that a row shows whose variable no column can bring into its bounds."""
        found = {}
        if self._basic[row] >= self.size:
            found[self._basic[row] - self.size] = ONE
        for column in np.flatnonzero(self._numerators[row]):
            if self._free[column] >= self.size:
                share = Fraction(int(self._numerators[row, column]), self._denominators[row])
                found[self._free[column] - self.size] = abs(share)
        return found

    # -- solutions ---------------------------------------------------------------------------------------
    def point(self) -> list[Fraction]:
        """The solution that `solve` found, with a positive number in place of ε."""
        epsilon = ONE
        for variable, (value, tiny) in enumerate(self._value):
            for end, sign in ((self._upper[variable], 1), (self._lower[variable], -1)):
                if end is not None:
                    room, growth = sign * (end[0] - value), sign * (tiny - end[1])
                    if growth > 0:  # room >= 0, and room > 0 where growth > 0: the bound holds with ε
                        epsilon = min(epsilon, room / growth)
        return [value + epsilon * tiny for value, tiny in self._value[: self.size]]

    def inner_point(self) -> list[Fraction] | None:
        """A solution with room in all rows, if there is one: not the most, but a share of it; else any solution.

        None if there is no solution at all.
        """
        if self.solve() is not None:
            return None
        widths = [high - low for low, high in self._box]
        for share in (Fraction(1, 4), Fraction(1, 32), Fraction(1, 1024), Fraction(1, 1 << 20)):
            inside = self.copy()
            for row in self.rows:
                reach = sum((abs(a) * w for a, w in zip(row.coefficients, widths, strict=True) if a), ZERO)
                if reach:
                    inside.add(Row(row.coefficients, row.bound - share * reach / 2))
            if inside.solve() is None:
                return inside.point()
        return self.point()

    def float_point(self) -> Array | None:
        """A solution whose coordinates are float64 numbers; None if there is none, or none was found."""
        point = self.inner_point()
        system = self
        found = np.zeros(self.size)
        for variable in range(self.size):
            if point is None:
                return None
            for value in _floats_near(point[variable]):
                fixed = system.copy()
                fixed.narrow(variable, Fraction(value), Fraction(value))
                if fixed.solve() is None:
                    system, found[variable], point = fixed, value, fixed.point()
                    break
            else:
                return None
        return found


def refutes_exactly(
    rows: Sequence[Row], multipliers: Mapping[int, Fraction], lower: Sequence[Fraction], upper: Sequence[Fraction]
) -> bool:
    """Whether a certificate of `ExactSystem.solve` proves that no point of a box meets all rows (exactly checked).

    Source:
        Farkas, 1902, with strict rows as in Motzkin's transposition theorem, 1936.
    """
    if any(v < 0 for v in multipliers.values()):
        return False
    total, bound, strict = [ZERO] * len(lower), ZERO, False
    for k, factor in multipliers.items():
        total = [t + factor * a for t, a in zip(total, rows[k].coefficients, strict=True)]
        bound += factor * rows[k].bound
        strict = strict or (rows[k].strict and factor > 0)
    least = sum((t * (low if t > 0 else high) for t, low, high in zip(total, lower, upper, strict=True)), ZERO)
    return least > bound or (least == bound and strict)


def _plus(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def _minus(a: Pair, b: Pair) -> Pair:
    return a[0] - b[0], a[1] - b[1]


def _floats_near(value: Fraction) -> list[float]:
    """The float64 numbers at a rational, and rounder ones near it."""
    nearest = float(value)
    if Fraction(nearest) == value:
        return [nearest]
    near = [nearest, float(np.nextafter(nearest, np.inf)), float(np.nextafter(nearest, -np.inf))]
    coarse = [float(Fraction(round(value * (1 << bits)), 1 << bits)) for bits in GRIDS]
    return list(dict.fromkeys([*near, *coarse[::-1]]))
