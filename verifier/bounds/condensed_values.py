"""The matrices between blocks of ReLUs of `verifier.bounds.condensed`, in the shapes in which they are applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bounds.condensed_kernels import add_product
from verifier.network.operators import Array

DENSE_FROM = 0.2
"""Matrices with at least this share of non-zeros are applied by BLAS."""


def _rows(matrix: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """A sparse matrix's rows as the kernels take them: scipy's indices are of one type or another."""
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data


class Matrix:
    """One M_ks in the shapes in which it is applied, for each float type.

    Args:
        matrix: float64, sparse or dense; it is kept in the shape that is faster.
    """

    def __init__(self, matrix: Any) -> None:
        self.shape: tuple[int, int] = matrix.shape
        filled = matrix.nnz if sp.issparse(matrix) else np.count_nonzero(matrix)
        self.dense = filled >= DENSE_FROM * matrix.shape[0] * matrix.shape[1]
        if self.dense != (not sp.issparse(matrix)):
            matrix = sp.csr_array(matrix).toarray() if self.dense else sp.csr_array(matrix)
        self.matrix: Any = matrix
        self.entries: int = matrix.size if self.dense else matrix.nnz
        self._forms: dict[Any, Any] = {}
        self.longest_column = self.shape[0] if self.dense else int(np.bincount(matrix.indices).max(initial=0))

    def _form(self, dtype: Any) -> Any:
        if dtype not in self._forms:
            m = self.matrix.astype(dtype)
            self._forms[dtype] = m if self.dense else (_rows(m), _rows(sp.csr_array(m.T)))
        return self._forms[dtype]

    def forward(self, x: Array, out: Array) -> None:
        """``out += M x``, columns."""
        held = self._form(x.dtype)
        if self.dense:
            out += held @ x
        else:
            add_product(*held[0], np.ascontiguousarray(x), out)

    def backward(self, a: Array, out: Array) -> None:
        """``out += Mᵀ a``, columns."""
        held = self._form(a.dtype)
        if self.dense:
            out += held.T @ a
        else:
            add_product(*held[1], np.ascontiguousarray(a), out)

    def rows(self, which: Any) -> Array:
        """Some rows, dense."""
        some: Any = self.matrix[which]
        result: Array = some if self.dense else some.toarray()
        return result

    def restricted(self, rows: Any, columns: Any) -> Matrix:
        """Some rows and columns."""
        return Matrix(self.matrix[rows][:, columns])
