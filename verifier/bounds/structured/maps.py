"""The affine operators of a network as torch maps: products with W, Wᵀ and |W| on batches, in any float type, on any device.

No convolution is ever written out as a matrix. An operator without a map of its own is applied through its own numpy
code, in float64. torch is imported here and nowhere above.

**What is assumed of the arithmetic.** Every entry of a product is a sum of correctly rounded products in some order,
so it is off by at most γ_k times the sum of the absolute values of its k terms. oneDNN's direct and matrix-product
convolutions, BLAS and torch's own kernels keep to that; fast convolutions (Winograd, Fourier) and reduced float types
(TF32, bfloat16) do not, so `exact_products` switches them off and `check_arithmetic` looks whether that worked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from verifier.bounds.interval import magnitude
from verifier.errors import EngineError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Concat, Dense, Reshape, Scale, Select, Shape, Sum

Tensor = torch.Tensor


@dataclass(frozen=True)
class Backend:
    """Where and in what float type products are made.

    Attributes:
        dtype: torch.float32 or torch.float64.
        device: where tensors are, by torch's name. Only "cpu" was ever run; on any other `check_arithmetic` looks first
            whether products are what the analysis of rounding assumes.
    """

    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    @property
    def unit(self) -> float:
        """The unit roundoff."""
        return float(torch.finfo(self.dtype).eps) / 2

    def tensor(self, array: Any) -> Tensor:
        """An array in this float type, rounded to nearest."""
        return torch.tensor(np.asarray(array), dtype=self.dtype, device=self.device)


@contextmanager
def exact_products(threads: int) -> Iterator[None]:
    """No gradients, so many threads, and none of the products that `maps` does not model."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with (
            torch.no_grad(),
            torch.backends.nnpack.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_num_threads(before)


def check_arithmetic(backend: Backend) -> None:
    """Whether a convolution and a matrix product keep every bit of their factors, as assumed.

    Raises:
        EngineError: they do not: an environment variable or a setting asks for a reduced float type.
    """
    bit = torch.finfo(backend.dtype).eps
    x = torch.full((20, 32, 8, 8), 1 + bit, dtype=backend.dtype, device=backend.device)
    weight = torch.zeros((32, 32, 3, 3), dtype=backend.dtype, device=backend.device)
    weight[torch.arange(32), torch.arange(32), 1, 1] = 1 + bit
    expected = float(x[0, 0, 0, 0] * weight[0, 0, 1, 1])
    flat = x[:, :, 0, 0]
    found = [
        functional.conv2d(x, weight, padding=1),
        functional.conv_transpose2d(x, weight, padding=1),
        flat @ weight[:, :, 1, 1],
    ]
    if any(bool((y != expected).any()) for y in found):
        raise EngineError(
            f"products on {backend.device} are not made in full {backend.dtype}",
            fix="unset ONEDNN_DEFAULT_FPMATH_MODE and torch's settings for reduced precision",
        )


class Map:
    """The linear part of one affine node: ``Σ_k W_k x_k``.

    Attributes:
        node: the node.
        shapes: of its inputs, without the batch.
        constant: flat and in float64, or None where it is zero.
    """

    def __init__(self, network: Network, node: Node, backend: Backend) -> None:
        operator = node.operator
        assert isinstance(operator, AffineOperator)
        self.node, self.operator, self.backend = node, operator, backend
        self.shapes: tuple[Shape, ...] = tuple(network[i].shape for i in node.inputs)
        constant = operator.constant()
        self.constant: Array | None = None
        if constant is not None and np.any(constant):
            self.constant = np.ascontiguousarray(np.broadcast_to(constant, node.shape)).reshape(-1)
        self._weights: dict[bool, Tensor] = {}
        self._index: Tensor | None = None

    def terms(self, transposed: bool) -> int:
        """The most products in one sum of W x (or Wᵀ a), and one more for the rounding of the weights themselves."""
        return self.operator.terms(transposed, *self.shapes) + 1

    # -- products ----------------------------------------------------------------------------------------
    def forward(self, *inputs: Tensor, absolute: bool = False) -> Tensor:
        """``Σ_k W_k x_k`` (or with |W_k|) for ``x_k (B, *shape)``."""
        operator = self.operator
        if isinstance(operator, Conv):
            return self._convolved(inputs[0], absolute)
        if isinstance(operator, Dense) and operator.sparse_weight is None:
            return functional.linear(inputs[0], self._weight(absolute))
        if isinstance(operator, Scale):
            return inputs[0] * self._weight(absolute)
        if isinstance(operator, Sum):
            total = inputs[0] if operator.signs[0] > 0 or absolute else -inputs[0]
            for sign, x in zip(operator.signs[1:], inputs[1:], strict=True):
                total = total + x if sign > 0 or absolute else total - x
            return total
        if isinstance(operator, Concat):
            return torch.cat(inputs, dim=operator.axis + 1)
        if isinstance(operator, Reshape):
            return inputs[0].reshape(len(inputs[0]), *self.node.shape)
        if isinstance(operator, Select):
            return self._selected(inputs[0])
        used = magnitude(operator) if absolute else operator
        made = used.linear(*(x.to("cpu", torch.float64).numpy() for x in inputs))
        return self.backend.tensor(made)

    def adjoint(self, a: Tensor, absolute: bool = False) -> tuple[Tensor, ...]:
        """``W_kᵀ a`` (or with |W_k|) for each input k, ``a (B, *node shape)``."""
        operator, rows = self.operator, len(a)
        if isinstance(operator, Conv):
            return (self._transposed(a, absolute),)
        if isinstance(operator, Dense) and operator.sparse_weight is None:
            return (a @ self._weight(absolute),)
        if isinstance(operator, Scale):
            return (a * self._weight(absolute),)
        if isinstance(operator, Sum):
            return tuple(a if sign > 0 or absolute else -a for sign in operator.signs)
        if isinstance(operator, Concat):
            return torch.split(a, [s[operator.axis] for s in self.shapes], dim=operator.axis + 1)
        if isinstance(operator, Reshape):
            return (a.reshape(rows, *self.shapes[0]),)
        if isinstance(operator, Select):
            index = self._flat_index()
            total = torch.zeros((rows, int(np.prod(self.shapes[0])) + 1), dtype=a.dtype, device=a.device)
            total.index_add_(1, index, a.reshape(rows, -1))  # the last place collects what padding drops
            return (total[:, :-1].reshape(rows, *self.shapes[0]),)
        used = magnitude(operator) if absolute else operator
        made = used.transpose(a.to("cpu", torch.float64).numpy(), *self.shapes)
        return tuple(self.backend.tensor(part) for part in made)

    # -- pieces ------------------------------------------------------------------------------------------
    def _weight(self, absolute: bool) -> Tensor:
        if absolute not in self._weights:
            operator = self.operator
            assert operator.coefficients is not None
            values = getattr(operator, operator.coefficients)
            # the rounding to float32 of a magnitude is covered by the one unit more in `terms`
            self._weights[absolute] = self.backend.tensor(np.abs(values) if absolute else values)
        return self._weights[absolute]

    def _convolved(self, x: Tensor, absolute: bool) -> Tensor:
        operator = self.operator
        assert isinstance(operator, Conv)
        top, left, bottom, right = operator.padding
        padding = (top, left)
        if (top, left) != (bottom, right):
            x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
        weight = self._weight(absolute)
        return functional.conv2d(x, weight, None, operator.stride, padding, operator.dilation, operator.groups)

    def unpadded(self, a: Tensor, absolute: bool = False) -> Tensor:
        """For a convolution: Wᵀ a for a rectangle of outputs, on all that it reaches, the padding included."""
        operator = self.operator
        assert isinstance(operator, Conv)
        return functional.conv_transpose2d(
            a, self._weight(absolute), None, operator.stride, 0, 0, operator.groups, operator.dilation
        )

    def adjoint_part(self, a: Tensor, top: int, left: int) -> tuple[Tensor, ...]:
        """For elementwise operators: Wᵀ a for a rectangle of outputs whose corner is at ``(top, left)``."""
        if isinstance(self.operator, Scale):
            return (a * self._weight(False)[:, top : top + a.shape[2], left : left + a.shape[3]],)
        return self.adjoint(a)

    def _transposed(self, a: Tensor, absolute: bool) -> Tensor:
        operator = self.operator
        assert isinstance(operator, Conv)
        _, height, width = self.shapes[0]
        top, left, _, _ = operator.padding
        made = self.unpadded(a, absolute)
        # entries beyond the last window have no coefficient; entries in the padding multiply zeros
        missing = (top + height - made.shape[2], left + width - made.shape[3])
        if max(missing) > 0:
            made = functional.pad(made, (0, max(missing[1], 0), 0, max(missing[0], 0)))
        return made[:, :, top : top + height, left : left + width].contiguous()

    def _selected(self, x: Tensor) -> Tensor:
        flat = functional.pad(x.reshape(len(x), -1), (0, 1))  # the last place is the padding's zero
        return flat[:, self._flat_index()].reshape(len(x), *self.node.shape)

    def _flat_index(self) -> Tensor:
        if self._index is None:
            assert isinstance(self.operator, Select)
            index = self.operator.index.reshape(-1)
            last = int(np.prod(self.shapes[0]))
            self._index = torch.as_tensor(np.where(index < 0, last, index), device=self.backend.device)
        return self._index


def maps_of(network: Network, backend: Backend) -> dict[str, Map]:
    """The map of every affine node, by name."""
    return {n.name: Map(network, n, backend) for n in network.nodes if isinstance(n.operator, AffineOperator)}
