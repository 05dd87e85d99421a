"""Exact systems of rows against Z3, and what their certificates and points say."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import z3

from verifier.errors import TimeLimitError
from verifier.limits import Deadline
from verifier.lp.exact import ExactSystem, Row, refutes_exactly

Ends = list[Fraction]


def random_system(seed: int) -> tuple[Ends, Ends, list[Row]]:
    rng = random.Random(seed)
    n = rng.randint(1, 5)
    low = [Fraction(rng.randint(-4, 0)) for _ in range(n)]
    high = [v + rng.randint(0, 4) for v in low]
    rows = [
        Row(
            tuple(Fraction(rng.randint(-3, 3), rng.choice([1, 1, 3])) for _ in range(n)),
            Fraction(rng.randint(-3, 6), rng.choice([1, 2])),
            rng.random() < 0.5,
        )
        for _ in range(rng.randint(1, 14))
    ]
    return low, high, rows


def solvable(low: Ends, high: Ends, rows: list[Row]) -> bool:
    solver = z3.Solver()
    x = [z3.Real(f"x{k}") for k in range(len(low))]
    for v, a, b in zip(x, low, high, strict=True):
        solver.add(v >= z3.Q(a.numerator, a.denominator), v <= z3.Q(b.numerator, b.denominator))
    for row in rows:
        terms = [z3.Q(a.numerator, a.denominator) * v for a, v in zip(row.coefficients, x, strict=True)]
        left, right = z3.Sum(terms), z3.Q(row.bound.numerator, row.bound.denominator)
        solver.add(left < right if row.strict else left <= right)
    return str(solver.check()) == "sat"


def test_random_systems_are_decided_with_points_and_certificates() -> None:
    answers, rounded = [], []
    for seed in range(300):
        low, high, rows = random_system(seed)
        system = ExactSystem(low, high)
        for row in rows:
            system.add(row)
            if seed % 3 == 0:
                system.solve()
        if seed % 2:
            system = system.copy()
        multipliers = system.solve()
        answers.append(multipliers is None)
        assert solvable(low, high, rows) == (multipliers is None)
        if multipliers is not None:
            assert refutes_exactly(rows, multipliers, low, high)
            continue
        for point in (system.point(), system.inner_point()):
            assert point is not None
            assert all(row.met(point) for row in rows)
            assert all(a <= v <= b for a, v, b in zip(low, point, high, strict=True))
        found = system.float_point()
        rounded.append(found is not None)
        if found is not None:
            assert all(row.met([Fraction(v) for v in found.tolist()]) for row in rows)
    assert sum(rounded) > 0.9 * len(rounded)
    assert 50 < sum(answers) < 250


def test_a_tie_is_refuted_by_strictness_alone() -> None:
    one, zero = Fraction(1), Fraction(0)
    for strict in (False, True):
        system = ExactSystem([zero], [one])
        system.add(Row((-one,), -one, strict))
        assert (system.solve() is None) != strict
        assert refutes_exactly(system.rows, {0: one}, [zero], [one]) == strict


def test_a_point_that_is_no_float_is_not_rounded() -> None:
    system = ExactSystem([Fraction(0)], [Fraction(1)])
    for sign in (1, -1):
        system.add(Row((Fraction(3 * sign),), Fraction(sign)))
    assert system.solve() is None
    assert system.point() == [Fraction(1, 3)]
    assert system.float_point() is None


def test_a_row_without_variables_and_an_empty_box() -> None:
    zero = Fraction(0)
    system = ExactSystem([zero], [zero])
    system.add(Row((zero,), zero))
    assert system.solve() is None
    system.add(Row((zero,), zero, strict=True))
    assert system.solve() == {1: 1}
    narrow = ExactSystem([zero], [Fraction(1)])
    narrow.narrow(0, Fraction(2), Fraction(3))
    assert narrow.solve() == {}


def test_a_deadline_that_has_passed_stops_it() -> None:
    system = ExactSystem([Fraction(0)], [Fraction(1)], Deadline.after(0.0))
    system.add(Row((Fraction(-1),), Fraction(-1, 2)))
    with pytest.raises(TimeLimitError):
        system.solve()
