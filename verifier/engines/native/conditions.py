"""The condition of a query as flat rows: what branch and bound has to refute, case by case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array
from verifier.properties.query import Conjunction, Query


@dataclass(frozen=True, eq=False)
class Conditions:
    """Every case's rows (the common ones included) as ``y_rows y + x_rows x - bound <= 0``.

    A case is refuted on a region where one of its rows, or a convex combination of them, is above zero.

    Attributes:
        y_rows, x_rows: ``(S, m)``, ``(S, n)``.
        bound: ``(S,)``.
        case_of: ``(S,)`` the case each row belongs to, not decreasing.
        cases: how many cases there are.
    """

    y_rows: Array
    x_rows: Array
    bound: Array
    case_of: npt.NDArray[np.intp]
    cases: int

    @staticmethod
    def of(query: Query) -> Conditions:
        """The rows of a query without conditions on the gradient."""
        n, m = query.network.input_size, query.network.output_size
        y_rows, x_rows, bounds, owners = [], [], [], []
        common = () if query.common is None else (query.common,)
        for k, case in enumerate(query.cases):
            for part in (case, *common):
                y_rows.append(_dense(part, part.y_rows, m))
                x_rows.append(_dense(part, part.x_rows, n))
                bounds.append(part.bound)
                owners.append(np.full(len(part), k, dtype=np.intp))
        return Conditions(
            np.concatenate(y_rows),
            np.concatenate(x_rows),
            np.concatenate(bounds),
            np.concatenate(owners),
            len(query.cases),
        )

    def __len__(self) -> int:
        return len(self.bound)

    def members(self, case: int) -> npt.NDArray[np.intp]:
        """The rows of one case."""
        return np.flatnonzero(self.case_of == case)


def _dense(part: Conjunction, rows: object, size: int) -> Array:
    if rows is None:
        return np.zeros((len(part), size))
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float64)
