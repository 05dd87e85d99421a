"""Bounds on single inputs that follow from linear rows alone, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

MOST_PROGRAMS = 64
"""Ends that are looked for by linear programming, at most."""


@dataclass(frozen=True)
class Row:
    """``Σ coefficients[k] · x[k] <= bound``."""

    coefficients: Mapping[int, Fraction]
    bound: Fraction


Bounds = dict[int, Fraction]


def implied_bounds(
    rows: Iterable[Row], lower: Bounds, upper: Bounds, inputs: Iterable[int]
) -> tuple[Bounds, Bounds] | None:
    """The bounds that rows give to inputs that have none of their own.

    Args:
        rows: hold together; strict ones may be given as if they were not.
        lower, upper: the inputs' own bounds.
        inputs: those that must be bounded.

    Returns:
        lower and upper bounds, the given ones and those found, by propagation first and then by linear programs, which
        z3 solves in rationals; None where no point meets the rows.

    Source:
        bounds propagated through rows: Davis, Artificial Intelligence 1987; linear programs certified by weak
        duality.
    """
    lower, upper, rows = dict(lower), dict(upper), list(rows)
    wanted = list(inputs)
    _propagate(rows, lower, upper)
    missing = [(k, 1) for k in wanted if k not in upper] + [(k, -1) for k in wanted if k not in lower]
    used = {k for row in rows for k in row.coefficients}
    if any(k not in used for k, _ in missing) or len(missing) > MOST_PROGRAMS:
        return lower, upper
    for k, sign in missing:
        found = _greatest(rows, lower, upper, k, sign)
        if found is None:
            return None
        if isinstance(found, Fraction):
            (upper if sign > 0 else lower)[k] = sign * found
    return lower, upper


def _propagate(rows: list[Row], lower: Bounds, upper: Bounds) -> None:
    """Give an input the bound that a row leaves it, while there is a row that bounds one more."""
    waiting = rows
    while waiting:
        left = [row for row in waiting if not _bounded_by(row, lower, upper)]
        if len(left) == len(waiting):
            return
        waiting = left


def _bounded_by(row: Row, lower: Bounds, upper: Bounds) -> bool:
    """Whether a row bounded the one input whose own end it lacks; True too where it lacks none."""
    open_ends = [k for k, a in row.coefficients.items() if k not in (lower if a > 0 else upper)]
    if len(open_ends) > 1:
        return False
    # a x <= bound - Σ of the others at their least; with no open end every input gets what the row leaves it
    for k in open_ends or row.coefficients:
        a = row.coefficients[k]
        rest = sum((c * (lower if c > 0 else upper)[j] for j, c in row.coefficients.items() if j != k), Fraction(0))
        ends = upper if a > 0 else lower
        if k not in ends:
            ends[k] = (row.bound - rest) / a
    return not open_ends or all(k in (upper if row.coefficients[k] > 0 else lower) for k in open_ends)


def _greatest(rows: list[Row], lower: Bounds, upper: Bounds, k: int, sign: int) -> Fraction | float | None:
    """The greatest value of ``sign · x[k]`` under rows and bounds: infinity where there is none, None: no point."""
    import z3

    solver = z3.Optimize()
    x = {j: z3.Real(f"x{j}") for row in rows for j in row.coefficients}

    def number(value: Fraction) -> z3.RatNumRef:
        return z3.Q(value.numerator, value.denominator)

    for row in rows:
        solver.add(z3.Sum([number(a) * x[j] for j, a in row.coefficients.items()]) <= number(row.bound))
    for j, variable in x.items():
        if j in lower:
            solver.add(variable >= number(lower[j]))
        if j in upper:
            solver.add(variable <= number(upper[j]))
    goal = solver.maximize(sign * x[k])
    if solver.check() != z3.sat:
        return None
    found = solver.upper(goal)
    if z3.is_int_value(found):
        return Fraction(found.as_long())
    return Fraction(found.as_fraction()) if z3.is_rational_value(found) else float("inf")
