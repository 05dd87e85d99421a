"""The condition of a query as flat rows: what branch and bound has to refute, disjunct by disjunct."""

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
    """Every disjunct's rows (the common ones included) as ``y_rows y + x_rows x - bound <= 0``.

    A disjunct is refuted on a region where one of its rows, or a convex combination of them, is above zero.

    Attributes:
        y_rows, x_rows: ``(S, m)``, ``(S, n)``.
        bound: ``(S,)``.
        disjunct_of: ``(S,)`` the disjunct each row belongs to, not decreasing.
        disjuncts: how many disjuncts there are.

    Source:
        one row for each inequality of the disjunctive normal form, as α,β-CROWN takes VNN-LIB: Wang et al.,
        NeurIPS 2021.
    """

    y_rows: Array
    x_rows: Array
    bound: Array
    disjunct_of: npt.NDArray[np.intp]
    disjuncts: int

    @staticmethod
    def of(query: Query) -> Conditions:
        """The rows of a query without conditions on the gradient."""
        n, m = query.network.input_size, query.network.output_size
        y_rows, x_rows, bounds, owners = [], [], [], []
        common = () if query.common is None else (query.common,)
        for k, disjunct in enumerate(query.disjuncts):
            for part in (disjunct, *common):
                y_rows.append(_dense(part, part.y_rows, m))
                x_rows.append(_dense(part, part.x_rows, n))
                bounds.append(part.bound)
                owners.append(np.full(len(part), k, dtype=np.intp))
        return Conditions(
            np.concatenate(y_rows),
            np.concatenate(x_rows),
            np.concatenate(bounds),
            np.concatenate(owners),
            len(query.disjuncts),
        )

    def __len__(self) -> int:
        return len(self.bound)

    def margins(self, x: Array, y: Array) -> Array:
        """At points ``(P, n)`` with outputs ``(P, m)``: the greatest row of the disjunct whose greatest row is least."""
        values = y @ self.y_rows.T + x @ self.x_rows.T - self.bound
        disjuncts, starts = np.unique(self.disjunct_of, return_index=True)
        if len(disjuncts) < self.disjuncts:  # a disjunct without rows is met everywhere
            return np.full(len(x), -np.inf)
        return np.asarray(np.maximum.reduceat(values, starts, axis=1).min(axis=1))

    def boxed(self, box: Box) -> tuple[Conditions, Array, Array]:
        """Rows that bound one input alone turned into a box of their disjunct: the other rows, ``low, high (disjuncts, n)``.

        The boxes are rounded outwards; a disjunct whose box is empty has ``low > high`` somewhere.
        """
        low, high = np.tile(box.lower, (self.disjuncts, 1)), np.tile(box.upper, (self.disjuncts, 1))
        alone = self.alone
        for row in np.flatnonzero(alone):
            (j,) = np.flatnonzero(self.x_rows[row])
            factor, disjunct = self.x_rows[row, j], self.disjunct_of[row]
            end = self.bound[row] / factor
            if factor > 0:
                high[disjunct, j] = min(high[disjunct, j], end if factor == 1 else np.nextafter(end, np.inf))
            else:
                low[disjunct, j] = max(low[disjunct, j], end if factor == -1 else np.nextafter(end, -np.inf))
        rest = Conditions(
            self.y_rows[~alone], self.x_rows[~alone], self.bound[~alone], self.disjunct_of[~alone], self.disjuncts
        )
        return rest, low, high

    @property
    def alone(self) -> npt.NDArray[np.bool_]:
        """Which rows bound one input alone, ``(S,)``."""
        return np.asarray(~self.y_rows.any(axis=1) & (np.count_nonzero(self.x_rows, axis=1) == 1))

    def members(self, disjunct: int) -> npt.NDArray[np.intp]:
        """The rows of one disjunct."""
        return np.flatnonzero(self.disjunct_of == disjunct)


def varying(box: Box, low: Array, high: Array) -> npt.NDArray[np.intp]:
    """The inputs that vary in some of the boxes ``(B, n)``, ascending; where each is a point, those that vary in all of ``box``."""
    some = (low <= high).all(axis=1)
    found = np.flatnonzero((high > low)[some].any(axis=0))
    return found if len(found) else np.flatnonzero(box.width > 0)


def _dense(part: Conjunction, rows: object, size: int) -> Array:
    if rows is None:
        return np.zeros((len(part), size))
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float64)
