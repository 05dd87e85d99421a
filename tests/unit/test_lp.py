"""The linear program, and what its multipliers prove."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from verifier.limits import Deadline
from verifier.lp.certificate import dual_bound, ray_refutes
from verifier.lp.program import STATUSES, LinearProgram, LpStatus
from verifier.lp.rows import RowBuilder


def _random(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 6), rng.integers(1, 5)
    matrix = rng.integers(-8, 9, (rows, columns)) / 4
    lower = rng.integers(-8, 1, columns) / 4
    upper = lower + rng.integers(0, 12, columns) / 4
    low = rng.integers(-12, 4, rows) / 4
    return matrix, low, low + rng.integers(0, 16, rows) / 4, lower, upper, rng.integers(-8, 9, columns) / 4


def _exact_bound(*args: np.ndarray) -> Fraction:
    """Weak duality in rational arithmetic."""
    matrix, row_lower, row_upper, lower, upper, cost, y = args
    total = Fraction(0)
    for k, m in enumerate(y):
        total += Fraction(float(m)) * Fraction(float(row_lower[k] if m > 0 else row_upper[k]))
    for j in range(matrix.shape[1]):
        reduced = Fraction(float(cost[j])) - sum(
            Fraction(float(y[k])) * Fraction(float(matrix[k, j])) for k in range(len(y))
        )
        total += min(reduced * Fraction(float(lower[j])), reduced * Fraction(float(upper[j])))
    return total


@pytest.mark.parametrize("seed", range(200))
def test_a_bound_is_below_the_exact_one_and_the_optimum_above(seed: int) -> None:
    matrix, low, high, lower, upper, cost = _random(seed)
    program = LinearProgram(matrix, low, high, lower.copy(), upper.copy(), cost)
    answer = program.solve()
    multipliers = np.random.default_rng(seed).normal(size=len(low))
    for m in (multipliers, multipliers * 1e9, np.zeros(len(low))):
        bound = dual_bound(matrix, low, high, lower, upper, cost, m)
        assert Fraction(bound) <= _exact_bound(matrix, low, high, lower, upper, cost, m)
        assert bound == pytest.approx(float(_exact_bound(matrix, low, high, lower, upper, cost, m)), rel=1e-9, abs=1e-9)
    assert answer.status is not LpStatus.STOPPED
    if answer.status is LpStatus.OPTIMAL:
        assert answer.point is not None
        assert program.proved_bound(program.duals()) == pytest.approx(answer.objective, abs=1e-9)
        assert (matrix @ answer.point <= high + 1e-7).all()
        assert (matrix @ answer.point >= low - 1e-7).all()
    else:  # these small programs are refuted, not doubtful
        assert answer.status is LpStatus.INFEASIBLE


def test_infinite_ends_prove_only_where_they_do_not_matter() -> None:
    matrix, low, high = np.array([[1.0, 0.0]]), np.array([2.0]), np.array([np.inf])
    lower, upper = np.array([0.0, -np.inf]), np.array([1.0, np.inf])
    assert ray_refutes(matrix, low, high, lower, upper, np.array([-3.0]))
    cost = np.array([0.0, 1.0])
    assert dual_bound(matrix, low, high, lower, upper, cost, np.array([1.0])) == -np.inf
    assert not ray_refutes(matrix, low, high, np.array([0.0, 0.0]), np.array([np.inf, 1.0]), np.array([1.0]))


def test_rows_columns_and_costs_change_and_the_program_follows() -> None:
    builder = RowBuilder()
    rows = builder.add(1, -np.inf, 1.0)
    builder.block(rows, np.arange(2), np.ones((1, 2)))
    program = LinearProgram(builder.matrix(2), *builder.bounds(), np.zeros(2), np.ones(2), np.array([-1.0, -2.0]))
    assert program.solve().objective == pytest.approx(-2.0)
    program.add_rows(sp.csr_array(np.array([[0.0, 1.0]])), np.array([-np.inf]), np.array([0.25]))
    assert program.solve().objective == pytest.approx(-1.25)
    program.bound_columns(np.array([0]), np.array([0.0]), np.array([0.5]))
    assert program.solve().objective == pytest.approx(-1.0)
    program.set_cost(np.array([1.0, 0.0]))
    assert program.solve().objective == pytest.approx(0.0)
    program.bound_rows(np.array([0]), np.array([3.0]), np.array([4.0]))
    assert program.solve().status is LpStatus.INFEASIBLE
    assert program.solve(Deadline.after(0.0)).status is LpStatus.STOPPED


def test_the_table_lists_every_status_of_the_solver() -> None:
    import highspy

    assert set(highspy.HighsModelStatus.__members__) <= set(STATUSES) | {"kMin", "kMax"}
