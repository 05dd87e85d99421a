"""The condition of a query as flat rows: what branch and bound has to refute, case by case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box


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

    def margins(self, x: Array, y: Array) -> Array:
        """At points ``(P, n)`` with outputs ``(P, m)``: the greatest row of the case whose greatest row is least."""
        values = y @ self.y_rows.T + x @ self.x_rows.T - self.bound
        cases, starts = np.unique(self.case_of, return_index=True)
        if len(cases) < self.cases:  # a case without rows is met everywhere
            return np.full(len(x), -np.inf)
        return np.asarray(np.maximum.reduceat(values, starts, axis=1).min(axis=1))

    def boxed(self, box: Box) -> tuple[Conditions, Array, Array]:
        """Rows that bound one input alone turned into a box of their case: the other rows, ``low, high (cases, n)``.

        The boxes are rounded outwards; a case whose box is empty has ``low > high`` somewhere.
        """
        low, high = np.tile(box.lower, (self.cases, 1)), np.tile(box.upper, (self.cases, 1))
        alone = ~self.y_rows.any(axis=1) & (np.count_nonzero(self.x_rows, axis=1) == 1)
        for row in np.flatnonzero(alone):
            (j,) = np.flatnonzero(self.x_rows[row])
            factor, case = self.x_rows[row, j], self.case_of[row]
            end = self.bound[row] / factor
            if factor > 0:
                high[case, j] = min(high[case, j], end if factor == 1 else np.nextafter(end, np.inf))
            else:
                low[case, j] = max(low[case, j], end if factor == -1 else np.nextafter(end, -np.inf))
        rest = Conditions(
            self.y_rows[~alone], self.x_rows[~alone], self.bound[~alone], self.case_of[~alone], self.cases
        )
        return rest, low, high

    def members(self, case: int) -> npt.NDArray[np.intp]:
        """The rows of one case."""
        return np.flatnonzero(self.case_of == case)


def _dense(part: Conjunction, rows: object, size: int) -> Array:
    if rows is None:
        return np.zeros((len(part), size))
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float64)
