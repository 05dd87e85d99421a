"""Rows of a sparse matrix, collected block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from verifier.network.operators import Array


class RowBuilder:
    """Collects rows of a sparse matrix as blocks."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.columns: list[Array] = []
        self.data: list[Array] = []
        self.lower: list[Array] = []
        self.upper: list[Array] = []
        self.keys: list[Array] = []
        self.count = 0

    def add(self, count: int, lower: Any, upper: Any, keys: Any = -1) -> Array:
        """Reserve ``count`` rows with these bounds and return their indices.

        Args:
            keys: what the rows are, the same in related LPs; -1 for nothing in particular.
        """
        self.keys.append(np.broadcast_to(np.asarray(keys, dtype=np.int64), count))
        self.lower.append(np.broadcast_to(np.asarray(lower, dtype=np.float64), count))
        self.upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), count))
        self.count += count
        return np.arange(self.count - count, self.count)

    def entries(self, rows: Array, columns: Array, data: Any) -> None:
        """One entry per row.

        Shapes: rows, columns ``(k,)``; data ``(k,)`` or one number.
        """
        self.rows.append(rows)
        self.columns.append(columns)
        self.data.append(np.broadcast_to(np.asarray(data, dtype=np.float64), len(rows)))

    def block(self, rows: Array, columns: Array, matrix: Any) -> None:
        """A matrix ``(len(rows), len(columns))``, dense or sparse."""
        if not len(rows) or not len(columns):
            return
        if isinstance(matrix, np.ndarray):
            i, j = np.nonzero(matrix)
            data = matrix[i, j]
        else:
            coo = sp.coo_array(matrix)
            i, j, data = coo.row, coo.col, coo.data
        self.rows.append(rows[i])
        self.columns.append(columns[j])
        self.data.append(data)

    def matrix(self, columns: int) -> sp.csr_array:
        """The matrix of all rows."""
        if not self.rows:
            return sp.csr_array((self.count, columns))
        triple = (np.concatenate(self.data), (np.concatenate(self.rows), np.concatenate(self.columns)))
        return sp.csr_array(sp.coo_array(triple, shape=(self.count, columns)))

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of all rows."""
        if not self.lower:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(self.lower), np.concatenate(self.upper)


def concatenate(parts: Sequence[Array]) -> Array:
    """One array of all parts (empty if there are none).

    Shapes: parts ``(k,)`` each.
    """
    return np.concatenate(list(parts)) if parts else np.zeros(0)
