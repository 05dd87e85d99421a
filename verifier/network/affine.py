"""Values that are affine in sources (a network's input, layers of ReLUs), composed with an account of the rounding.

The one composition of affine operators: the ReLU form (`verifier.network.relu_form`) and the network on a box
(`verifier.bounds.restriction`) are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.lazy import sp
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array

Matrix: TypeAlias = Any
"""A float64 ``scipy.sparse.csr_array``; or an array, after `Affine.tidy`."""
DENSE_ABOVE = 0.25
"""Matrices with a larger share of non-zeros are multiplied densely, and are dense after `Affine.tidy`."""


@dataclass(frozen=True, eq=False)
class Affine:
    """``Σ_s matrices[s] @ source_s + constant``.

    **Rounding.** Composed coefficients are sums of products of weights, made in float64: each entry of ``matrices`` and
    of ``constant`` is wrong by at most ``gamma(roundings)`` times the same entry of ``sizes`` and ``constant_size``.

    Attributes:
        matrices: ``{source: (size, source size)}``; sources that are absent have no influence.
        constant: ``(size,)``.
        roundings: number of roundings behind each coefficient (0: the coefficients are exact).
        absolute, weight: bounds on the sums of the absolute values of the terms that ``matrices`` and ``constant`` were
            added up from (these may have cancelled); None where they are the absolute values themselves.
    """

    matrices: dict[int, Matrix]
    constant: Array
    roundings: int = 0
    absolute: dict[int, Matrix] | None = None
    weight: Array | None = None

    @staticmethod
    def of_source(source: int, size: int) -> Affine:
        """A source's own values."""
        return Affine({source: sp.csr_array(sp.eye_array(size))}, np.zeros(size))

    @staticmethod
    def placed(source: int, places: npt.NDArray[np.intp], size: int) -> Affine:
        """The values of a source at some places of ``(size,)``, zero at the others."""
        shape, count = (size, len(places)), np.arange(len(places))
        return Affine({source: sp.csr_array((np.ones(len(places)), (places, count)), shape=shape)}, np.zeros(size))

    def __len__(self) -> int:
        return len(self.constant)

    @cached_property
    def sizes(self) -> dict[int, Matrix]:
        """`absolute`, or the absolute values of the matrices."""
        return {s: abs(m) for s, m in self.matrices.items()} if self.absolute is None else self.absolute

    @cached_property
    def constant_size(self) -> Array:
        """`weight`, or the absolute values of the constant."""
        return np.abs(self.constant) if self.weight is None else self.weight

    def mapped(self, matrix: Matrix, constant: Array | None = None) -> Affine:
        """``matrix @ self + constant``."""
        return combined([(matrix, self)], np.zeros(matrix.shape[0]) if constant is None else constant)

    def plus(self, other: Affine, sign: int = 1) -> Affine:
        """``self + sign * other``."""
        one = sp.csr_array(sp.eye_array(len(self)))
        return combined([(one, self), (one * float(sign), other)], np.zeros(len(self)))

    def take(self, which: Any) -> Affine:
        """Some of the values."""
        weight = None if self.weight is None else self.weight[which]
        return self._changed(lambda m: m[which], self.constant[which], weight)

    def within(self, columns: Mapping[int, Any]) -> Affine:
        """The same over some entries of the sources; the others are zero."""

        def cut(matrices: dict[int, Matrix]) -> dict[int, Matrix]:
            return {s: m[:, columns[s]] for s, m in matrices.items()}

        absolute = None if self.absolute is None else cut(self.absolute)
        return Affine(cut(self.matrices), self.constant, self.roundings, absolute, self.weight)

    def stacked(self, other: Affine) -> Affine:
        """The values of both, one after the other."""
        return Affine(
            _joined(self.matrices, other.matrices, len(self), len(other)),
            np.concatenate([self.constant, other.constant]),
            max(self.roundings, other.roundings),
            _joined(self.sizes, other.sizes, len(self), len(other)),
            np.concatenate([self.constant_size, other.constant_size]),
        )

    def off_by(self, error: Array | float, unit: float) -> Affine:
        """The same where the values are off by as much: it counts as a rounding, of relative size ``unit``."""
        weight = self.constant_size + error / unit
        return Affine(self.matrices, self.constant, max(self.roundings, 1), self.sizes, weight)

    def tidy(self) -> Affine:
        """The same with each matrix dense or sparse, whichever suits its share of non-zeros."""
        return self._changed(lambda m: dense(m) if is_dense(m) else m, self.constant, self.weight)

    def _changed(self, change: Callable[[Matrix], Matrix], constant: Array, weight: Array | None) -> Affine:
        absolute = None if self.absolute is None else {s: change(m) for s, m in self.absolute.items()}
        matrices = {s: change(m) for s, m in self.matrices.items()}
        return Affine(matrices, constant, self.roundings, absolute, weight)


def combined(parts: Sequence[tuple[Matrix, Affine]], constant: Array) -> Affine:
    """``Σ matrix @ affine + constant``, all matrices sparse.

    Shapes: constant ``(rows,)``.
    """
    total: dict[int, Matrix] = {}
    absolute: dict[int, Matrix] = {}
    roundings, additions = 0, 0
    weight = np.abs(constant)
    for matrix, inner in parts:
        shifts = inner.weight is not None or bool(inner.constant.any())
        plain = inner.absolute is None and all(permutes(m) for m in inner.matrices.values())
        exactly = selects(matrix) or (plain and not shifts and len(inner.matrices) == 1)
        roundings = max(roundings, inner.roundings + (0 if exactly else longest_row(matrix) + 1))
        size = abs(matrix)
        if shifts:
            shift = matrix @ inner.constant
            additions += not adds_exactly(constant, shift)
            constant, weight = constant + shift, weight + size @ inner.constant_size
        for s, m in inner.matrices.items():
            product = _product(matrix, m)
            extent = abs(product) if plain else _product(size, inner.sizes[s])
            if s in total:
                before, behind = total[s], product
                product, extent = sp.csr_array(before + behind), sp.csr_array(absolute[s] + extent)
                additions += bool(roundings + additions) or not _is_exact_sum(before, behind, product)
            total[s], absolute[s] = product, extent
    roundings += additions
    if not roundings:
        return Affine(total, constant)
    return Affine(total, constant, roundings, absolute, weight)


def applied(network: Network, node: Node, inputs: Sequence[Affine]) -> Affine:
    """An affine node's value from those of its inputs."""
    operator = node.operator
    assert isinstance(operator, AffineOperator)
    matrices = operator.matrices(*(network[name].shape for name in node.inputs))
    constant, flat = operator.constant(), np.zeros(node.size)
    if constant is not None:
        flat = np.array(np.broadcast_to(constant, node.shape), dtype=np.float64).reshape(-1)
    return combined([(sp.csr_array(m), value) for m, value in zip(matrices, inputs, strict=True)], flat)


def selects(matrix: Matrix) -> bool:
    """Whether each row has at most one entry, ±1: a product with it from the left rounds nothing."""
    return bool((np.diff(matrix.indptr) <= 1).all() and (np.abs(matrix.data) == 1.0).all())


def permutes(matrix: Matrix) -> bool:
    """Whether each row and each column has at most one entry, ±1: a product with it from the right rounds nothing.

    Where an entry is taken twice, its coefficients are added up.
    """
    return selects(matrix) and bool((np.bincount(matrix.indices, minlength=1) <= 1).all())


def adds_exactly(a: Array, b: Array) -> bool:
    """Whether ``a + b`` in float64 is the real sum, in every entry (Dekker, 1971: the larger term gives the error).

    Shapes: a, b ``(…)``, the same shape.
    """
    total = a + b
    return bool(((total - a == b) & (total - b == a)).all())


def longest_row(matrix: Matrix) -> int:
    """The most entries of a row of a sparse matrix."""
    return int(np.diff(matrix.indptr).max(initial=0))


def is_dense(matrix: Matrix) -> bool:
    """Whether the share of non-zeros is large."""
    return isinstance(matrix, np.ndarray) or bool(matrix.nnz > DENSE_ABOVE * prod(matrix.shape))


def dense(matrix: Matrix) -> Array:
    """The matrix as a dense array."""
    return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix.todense())


def _is_exact_sum(a: Matrix, b: Matrix, total: Matrix) -> bool:
    """`adds_exactly` of sparse matrices; where no entry is in both, nothing is added."""
    return total.nnz == a.nnz + b.nnz or not ((total - a - b).nnz or (total - b - a).nnz)


def _product(matrix: Matrix, inner: Matrix) -> Matrix:
    """``matrix @ inner``; without a product where one is the identity, by BLAS where both are dense."""
    if _is_identity(inner):
        return matrix
    if _is_identity(matrix):
        return inner
    if is_dense(matrix) and is_dense(inner):
        return sp.csr_array(dense(matrix) @ dense(inner))
    return sp.csr_array(matrix @ inner)


def _is_identity(matrix: Matrix) -> bool:
    size = matrix.shape[0]
    if not (matrix.shape[1] == size == matrix.nnz and (matrix.data == 1.0).all()):
        return False
    order = np.arange(size + 1)
    return bool((matrix.indptr == order).all() and (matrix.indices == order[:-1]).all())


def _joined(x: dict[int, Matrix], y: dict[int, Matrix], rows_x: int, rows_y: int) -> dict[int, Matrix]:
    """Matrices one below the other, by source; zeros where one has none."""
    result = {}
    for s in {*x, *y}:
        width = (x[s] if s in x else y[s]).shape[1]
        parts = [m.get(s, sp.csr_array((rows, width))) for m, rows in ((x, rows_x), (y, rows_y))]
        result[s] = sp.csr_array(sp.vstack(parts))
    return result
