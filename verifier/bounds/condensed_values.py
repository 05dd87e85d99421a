"""The linear parts of `verifier.bounds.condensed`: matrices between blocks of ReLUs, and values affine in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bounds.condensed_kernels import add_product
from verifier.network.operators import Array

Sparse = Any
"""A ``scipy.sparse.csr_array``."""
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


@dataclass(frozen=True, eq=False)
class Affine:
    """Values that are affine in the blocks before: ``constant + Σ terms[s] v_s``.

    Attributes:
        terms, absolute: by block ``(size, live neurons of the block)``; ``absolute`` bounds sums of absolute products.
        constant, weight: ``(size,)``, and the sum of the absolute values in it.
        length: how many terms the sums had, one after the other, that ``terms`` were computed by.
    """

    terms: dict[int, Sparse]
    absolute: dict[int, Sparse]
    constant: Array
    weight: Array
    length: int = 0

    @staticmethod
    def variables(size: int, block: int) -> Affine:
        """The values of a block themselves."""
        eye = sp.csr_array(sp.eye_array(size))
        return Affine({block: eye}, {block: eye}, np.zeros(size), np.zeros(size))

    def __len__(self) -> int:
        return len(self.constant)

    def take(self, which: Any) -> Affine:
        """Some of the values."""
        return Affine(
            {s: m[which] for s, m in self.terms.items()},
            {s: m[which] for s, m in self.absolute.items()},
            self.constant[which],
            self.weight[which],
            self.length,
        )

    def mapped(self, matrix: Sparse, constant: Array | None = None) -> Affine:
        """``matrix @ self + constant``."""
        size = abs(matrix)
        shift = np.zeros(matrix.shape[0]) if constant is None else constant
        return Affine(
            {s: sp.csr_array(matrix @ m) for s, m in self.terms.items()},
            {s: sp.csr_array(size @ m) for s, m in self.absolute.items()},
            matrix @ self.constant + shift,
            size @ self.weight + np.abs(shift),
            self.length + longest_row(matrix) + 1,
        )

    def plus(self, other: Affine, sign: float = 1.0) -> Affine:
        """``self + sign * other``."""
        terms, absolute = dict(self.terms), dict(self.absolute)
        for s, m in other.terms.items():
            terms[s] = sp.csr_array(terms[s] + sign * m) if s in terms else sp.csr_array(sign * m)
            a = abs(sign) * other.absolute[s]
            absolute[s] = sp.csr_array(absolute[s] + a) if s in absolute else sp.csr_array(a)
        constant, weight = self.constant + sign * other.constant, self.weight + abs(sign) * other.weight
        return Affine(terms, absolute, constant, weight, max(self.length, other.length) + 2)

    def shifted(self, constant: Array) -> Affine:
        """``self + constant``."""
        weight = self.weight + np.abs(constant)
        return Affine(self.terms, self.absolute, self.constant + constant, weight, self.length + 1)

    def stacked(self, other: Affine) -> Affine:
        """The values of both, one after the other."""
        return Affine(
            _join(self.terms, other.terms, len(self), len(other)),
            _join(self.absolute, other.absolute, len(self), len(other)),
            np.concatenate([self.constant, other.constant]),
            np.concatenate([self.weight, other.weight]),
            max(self.length, other.length),
        )


def _join(x: dict[int, Sparse], y: dict[int, Sparse], rows_x: int, rows_y: int) -> dict[int, Sparse]:
    """Matrices one below the other, by block; zeros where one has none."""
    result = {}
    for s in {*x, *y}:
        width = (x[s] if s in x else y[s]).shape[1]
        parts = [m.get(s, sp.csr_array((rows, width))) for m, rows in ((x, rows_x), (y, rows_y))]
        result[s] = sp.csr_array(sp.vstack(parts))
    return result


def longest_row(matrix: Sparse) -> int:
    """The most entries of a row."""
    return int(np.diff(matrix.indptr).max(initial=0))
