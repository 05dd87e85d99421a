"""MAX-SMT over a few weights of one layer, exactly (the patching paper's Appendix B); for small problems."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import EngineError
from verifier.network.operators import Array
from verifier.repair.rows import LayerRows


def solve_max_smt(
    rows: LayerRows, row_start: npt.NDArray[np.int64], parameters: npt.NDArray[np.int64], timeout: float | None = None
) -> tuple[Array, int]:
    """The change of a few parameters that meets the most key points, exactly, by Z3's MAX-SMT (Appendix B).

    For small problems only: one soft constraint for each key point, over rationals.

    Args:
        row_start: ``(K + 1,)`` the rows of each key point.
        parameters: indices of the parameters that may change.

    Returns:
        changes ``(size,)`` rounded to float64, and the number of key points met before that rounding.

    Raises:
        EngineError: if Z3 does not finish.
    """
    import z3

    optimizer = z3.Optimize()
    if timeout is not None:
        optimizer.set("timeout", int(1000 * timeout))
    unknowns = [z3.Real(f"delta_{p}") for p in parameters]
    columns = rows.columns(np.asarray(parameters, dtype=np.int64))

    def exact(value: float) -> Any:
        return z3.RealVal(Fraction(float(value)))

    def row(r: int) -> Any:
        terms = [exact(c) * x for c, x in zip(columns[:, r], unknowns, strict=True) if c != 0.0]
        return z3.Sum(terms) <= exact(rows.slack[r]) if terms else z3.BoolVal(bool(rows.slack[r] >= 0))

    points = len(row_start) - 1
    demands = [z3.And([row(r) for r in range(row_start[k], row_start[k + 1])]) for k in range(points)]
    for demand in demands:
        optimizer.add_soft(demand, 1)
    if optimizer.check() != z3.sat:
        raise EngineError(f"Z3 did not finish the MAX-SMT problem: {optimizer.reason_unknown()}")
    model = optimizer.model()
    delta = np.zeros(rows.size)
    for p, unknown in zip(parameters, unknowns, strict=True):
        delta[p] = float(model.eval(unknown, model_completion=True).as_fraction())
    met = sum(z3.is_true(model.eval(d, model_completion=True)) for d in demands)
    return delta, met
