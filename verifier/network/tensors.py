"""Framework tensors while a network is read: values, functions with jumps, masked values; and weights.

A framework's tensor has a full shape, batch axis of 1 included; the network's node that holds its entries has a shape of
its own, with the same number of entries in the same row-major order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.lazy import sp
from verifier.network.curves import Curve
from verifier.network.operators import Array, Dense, Shape

Weight: TypeAlias = Any
"""A float64 matrix: an array, or CSR where it is large and nearly empty."""


@dataclass(frozen=True)
class Value:
    """A framework tensor that depends on the network's input.

    Attributes:
        name: the node of the network that holds its entries, in row-major order.
        shape: its full shape in the framework, batch axis included.
    """

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)


@dataclass(frozen=True)
class Jump:
    """A framework tensor that is one function, with jumps, of every entry of a node: a comparison, a sign.

    It has no node of its own. What is computed from it may be continuous again, and then becomes a `Value`.

    Attributes:
        root: the node of whose entries it is a function.
        shape: its full shape in the framework.
        curve: the function.
    """

    root: str
    shape: Shape
    curve: Curve


@dataclass(frozen=True, eq=False)
class Masked:
    """A framework tensor with entries of minus infinity, which only a Softmax takes: attention to a part of its tokens.

    Attributes:
        value: the tensor with 0 in their places.
        kept: of its full shape, True where it has other entries.
    """

    value: Value
    kept: npt.NDArray[np.bool_]


def without_batch(shape: Shape) -> Shape:
    """A full shape without its leading batch axis of 1, if it has one."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def sparse_if_large(weight: Array) -> Weight:
    """A large, nearly empty matrix as float64 CSR, anything else as a float64 array.

    Shapes: weight ``(outputs, inputs)``.
    """
    limit = Dense.SPARSE_BELOW * weight.size
    if weight.ndim == 2 and weight.size > 1_000_000 and np.count_nonzero(weight) < limit:
        step = max(1, 4_000_000 // weight.shape[1])
        rows = [sp.csr_array(weight[k : k + step]) for k in range(0, len(weight), step)]
        return sp.csr_array(sp.vstack(rows, format="csr").astype(np.float64))
    return np.asarray(weight, dtype=np.float64)
