"""MAX-SMT over the weights of one layer, by Z3 (the patching paper's Appendix B, its second case); for small problems."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import EngineError, InputError
from verifier.limits import NEVER, Deadline
from verifier.network.operators import Array
from verifier.repair.rows import LayerRows

PARAMETERS = 200
"""Weights above which a layer is refused: Z3 takes minutes and more long before."""


def solve_max_smt(
    rows: LayerRows,
    row_start: npt.NDArray[np.int64],
    parameters: npt.NDArray[np.int64] | None = None,
    *,
    weight: npt.NDArray[np.int64] | None = None,
    deadline: Deadline = NEVER,
) -> tuple[Array, int]:
    """The change of some parameters that meets the most key points; among those, one of least L1 norm.

    One soft constraint for each key point, over rationals: optimal for the float64 rows as they are.

    Args:
        row_start: ``(K + 1,)`` the rows of each key point.
        parameters: indices of the parameters that may change; all that some row depends on, by default.
        weight: ``(K,)`` how many key points each stands for; one by default.

    Returns:
        changes ``(size,)`` rounded to float64, and the number of key points met before that rounding.

    Raises:
        InputError: more than `PARAMETERS` parameters.
        EngineError: if Z3 does not finish in time.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Appendix B; νZ: Bjørner, Phan, Fleckenstein, TACAS 2015.
    """
    import z3

    parameters = rows.used() if parameters is None else parameters
    if len(parameters) > PARAMETERS:
        raise InputError(
            f"{len(parameters)} weights are too many for MAX-SMT by Z3 (at most {PARAMETERS})",
            fix="use method lp or greedy, or a smaller layer",
        )
    points = len(row_start) - 1
    weight = np.ones(points, dtype=np.int64) if weight is None else weight
    optimizer = z3.Optimize()
    if deadline.at is not None:
        optimizer.set("timeout", max(1, int(1000 * deadline.left)))
    unknowns = [z3.Real(f"delta_{p}") for p in parameters]
    columns = rows.columns(np.asarray(parameters, dtype=np.int64))

    def exact(value: float) -> Any:
        return z3.RealVal(Fraction(float(value)))

    def row(r: int) -> Any:
        terms = [exact(c) * x for c, x in zip(columns[:, r], unknowns, strict=True) if c != 0.0]
        return z3.Sum(terms) <= exact(rows.slack[r]) if terms else z3.BoolVal(bool(rows.slack[r] >= 0))

    demands = [z3.And([row(r) for r in range(row_start[k], row_start[k + 1])]) for k in range(points)]
    for demand, count in zip(demands, weight.tolist(), strict=True):
        optimizer.add_soft(demand, count)
    sizes = [z3.Real(f"size_{p}") for p in parameters]
    optimizer.add([z3.And(s >= x, s >= -x) for s, x in zip(sizes, unknowns, strict=True)])
    optimizer.minimize(z3.Sum(sizes))
    if optimizer.check() != z3.sat:
        raise EngineError(f"Z3 did not finish the MAX-SMT problem: {optimizer.reason_unknown()}")
    model = optimizer.model()
    delta = np.zeros(rows.size)
    for p, unknown in zip(parameters, unknowns, strict=True):
        delta[p] = float(model.eval(unknown, model_completion=True).as_fraction())
    met = [z3.is_true(model.eval(d, model_completion=True)) for d in demands]
    return delta, int(weight[np.array(met, dtype=bool)].sum())
