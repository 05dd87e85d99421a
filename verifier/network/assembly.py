"""What all readers share: a graph of framework tensors is rewritten into the small operator set.

Framework tensors carry a batch axis that a `Network` does not have. Readers therefore fix the batch to 1 and
follow each tensor's *full* shape, while the network's node keeps a shape of its own with the same number of
entries in the same row-major order. A reshape of any kind then only changes the full shape; a `Reshape` node
appears where an operator needs another arrangement. Every other movement of data (transpose, slice, gather,
split, expand ...) is found by letting the framework's own operator move an array of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.lazy import sp
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import (
    Array,
    Concat,
    Conv,
    Dense,
    Operator,
    Reshape,
    Scale,
    Select,
    Shape,
    Sum,
    window_output_size,
)
from verifier.network.piecewise import MaxPool, clip, leaky_relu, relu

Padding = tuple[int, int, int, int]
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


def without_batch(shape: Shape) -> Shape:
    """A full shape without its leading batch axis of 1, if it has one."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def sparse_if_large(weight: Array) -> Weight:
    """A large, nearly empty matrix as float64 CSR, anything else as a float64 array."""
    limit = Dense.SPARSE_BELOW * weight.size
    if weight.ndim == 2 and weight.size > 1_000_000 and np.count_nonzero(weight) < limit:
        step = max(1, 4_000_000 // weight.shape[1])
        rows = [sp.csr_array(weight[k : k + step]) for k in range(0, len(weight), step)]
        return sp.csr_array(sp.vstack(rows, format="csr").astype(np.float64))
    return np.asarray(weight, dtype=np.float64)


class Assembler:
    """Builds a network from framework tensors; the methods name what a framework's operators do.

    Args:
        shape: full shape of the input, batch axis included.
        source: the file or module, for messages.
    """

    def __init__(self, shape: Shape, *, input_name: str, source: str) -> None:
        self.builder = NetworkBuilder(without_batch(shape), input_name=input_name, source=source)
        self.input = Value(input_name, shape)
        self._views: dict[tuple[str, Shape], str] = {}
        self._names = {input_name}

    def finish(self, value: Value, name: str) -> Network:
        """The network whose output is this value, without its batch axis."""
        return self.builder.build(self.view(value, without_batch(value.shape), name))

    # -- the plain parts ---------------------------------------------------------------------------------
    def add(self, operator: Operator, *inputs: str, name: str) -> str:
        """Append an operator under this name, or the next free one like it; the node's name."""
        free, k = name, 1
        while free in self._names:
            free, k = f"{name}/{k}", k + 1
        self._names.add(free)
        return self.builder.add(operator, *inputs, name=free)

    def view(self, value: Value, shape: Shape, name: str) -> str:
        """A node with the value's entries in this shape."""
        held = self.builder.shape(value.name)
        if held == shape:
            return value.name
        key = (value.name, shape)
        if key not in self._views:
            self._views[key] = self.add(Reshape(shape), value.name, name=f"{name}/view")
        return self._views[key]

    def move(self, value: Value, movement: Callable[[npt.NDArray[np.int64]], Any], name: str) -> Value:
        """What ``movement`` makes of the value: it is given the flat positions of the entries in full shape.

        A position of -1 in what it returns is a zero.
        """
        index = np.asarray(movement(np.arange(value.size, dtype=np.int64).reshape(value.shape)), dtype=np.int64)
        return self.select(value, index, name)

    def select(self, value: Value, index: npt.NDArray[np.int64], name: str, fill: float = 0.0) -> Value:
        """The entries at these flat positions, in the index's shape; ``fill`` where it is -1."""
        if index.size == value.size and np.array_equal(index.reshape(-1), np.arange(value.size)):
            return Value(value.name, index.shape)
        operator = Select(np.ascontiguousarray(index.reshape(without_batch(index.shape))), fill)
        return Value(self.add(operator, value.name, name=name), index.shape)

    def rearrange(self, parts: Sequence[Value | Array], index: npt.NDArray[np.int64], name: str) -> Value:
        """Entries of several tensors, values and constants, in a new order.

        Args:
            parts: at least one is a value.
            index: of the result's shape: flat positions, counted through all parts in turn; -1 is a zero.
        """
        starts = np.cumsum([0, *(p.size for p in parts)])
        part_of = np.searchsorted(starts, index, side="right") - 1  # -1 where the index is
        used = [k for k in range(len(parts)) if (part_of == k).any()]
        values = [k for k in used if isinstance(parts[k], Value)] or [
            next(k for k, p in enumerate(parts) if isinstance(p, Value))
        ]
        moved, shift, start = np.full(index.shape, -1, dtype=np.int64), np.zeros(index.shape), 0
        for k in used:
            part, here = parts[k], part_of == k
            if isinstance(part, Value):
                moved[here] = index[here] - starts[k] + start
                start += part.size
            else:
                shift[here] = part.reshape(-1)[index[here] - starts[k]]
        held = [parts[k] for k in values]
        joined = held[0]
        assert isinstance(joined, Value)
        if len(held) > 1:
            flat = [self.view(v, (v.size,), name) for v in held if isinstance(v, Value)]
            joined = Value(self.add(Concat(0), *flat, name=f"{name}/joined"), (start,))
        return self.affine(self.select(joined, moved, name), 1.0, shift, name)

    def broadcast(self, value: Value, shape: Shape, name: str) -> Value:
        """The value spread over a larger shape, as numpy does."""
        return self.move(value, lambda index: np.broadcast_to(index, shape), name)

    # -- elementwise -------------------------------------------------------------------------------------
    def apply(self, operator: Operator, value: Value, name: str) -> Value:
        """An elementwise operator."""
        return Value(self.add(operator, value.name, name=name), value.shape)

    def affine(self, value: Value, scale: Array | float, shift: Array | float, name: str) -> Value:
        """``scale * value + shift``, with the broadcasting of numpy."""
        scale, shift = np.asarray(scale, dtype=np.float64), np.asarray(shift, dtype=np.float64)
        full = np.broadcast_shapes(value.shape, scale.shape, shift.shape)
        value = self.broadcast(value, full, name)
        if (scale == 1.0).all() and (shift == 0.0).all():
            return value
        held = self.builder.shape(value.name)
        spread = [np.ascontiguousarray(np.broadcast_to(a, full)).reshape(held) for a in (scale, shift)]
        return self.apply(Scale(spread[0], spread[1]), value, name)

    def add_values(self, values: Sequence[Value], signs: Sequence[int], name: str) -> Value:
        """The sum (or difference) of several values, with the broadcasting of numpy."""
        full = np.broadcast_shapes(*(v.shape for v in values))
        spread = [self.broadcast(v, full, name) for v in values]
        shape = without_batch(full)
        nodes = [self.view(v, shape, name) for v in spread]
        return Value(self.add(Sum(tuple(signs)), *nodes, name=name), full)

    def leaky(self, value: Value, slope: Array, name: str) -> Value:
        """z where z > 0, else slope * z, one slope for all or one for each entry (PRelu)."""
        slope = np.asarray(slope, dtype=np.float64)
        if slope.size and (slope == slope.flat[0]).all():
            s = float(slope.flat[0])
            if s == 1.0:
                return value
            return self.apply(relu() if s == 0.0 else leaky_relu(s), value, name)
        # slope * z + (1 - slope) * relu(z): at z = 0 its gradient is the slope, as the convention wants
        active = self.affine(self.apply(relu(), value, f"{name}/relu"), 1.0 - slope, 0.0, f"{name}/active")
        return self.add_values([self.affine(value, slope, 0.0, f"{name}/all"), active], (1, 1), name)

    def clip(self, value: Value, low: float, high: float, name: str) -> Value:
        """min(max(value, low), high)."""
        if low == -np.inf and high == np.inf:
            return value
        if low == 0.0 and high == np.inf:
            return self.apply(relu(), value, name)
        return self.apply(clip(low, high), value, name)

    def larger(self, first: Value, second: Value, name: str, sign: int = 1) -> Value:
        """max(first, second), or min for ``sign = -1``: first ± relu(±(second - first))."""
        difference = self.add_values([second, first], (sign, -sign), f"{name}/difference")
        excess = self.apply(relu(), difference, f"{name}/excess")
        return self.add_values([first, excess], (1, sign), name)

    def clip_by(self, value: Value, bound: Array, name: str, sign: int) -> Value:
        """max(value, bound) for ``sign = 1``, min for ``sign = -1``, with one bound for each entry."""
        bound = np.asarray(bound, dtype=np.float64)
        if bound.size and (bound == bound.flat[0]).all():
            b = float(bound.flat[0])
            full = np.broadcast_shapes(value.shape, bound.shape)
            ends = (b, np.inf) if sign > 0 else (-np.inf, b)
            return self.clip(self.broadcast(value, full, name), *ends, name=name)
        above = self.affine(value, sign, -sign * bound, f"{name}/difference")
        return self.affine(self.apply(relu(), above, f"{name}/excess"), sign, bound, name)

    # -- matrices ----------------------------------------------------------------------------------------
    def times_matrix(self, value: Value, matrix: Weight, bias: Array | None, name: str) -> Value:
        """``value @ matrix.T + bias`` over the last axis; ``matrix`` is ``(outputs, inputs)``."""
        outputs, inputs = matrix.shape
        if value.shape[-1] != inputs:
            raise NetworkError(f"a tensor of shape {value.shape} cannot meet a weight of {inputs} inputs")
        node = self.view(value, without_batch(value.shape), name)
        constant = np.zeros(outputs) if bias is None else np.asarray(bias, dtype=np.float64)
        # contiguous, whatever transposition it came from: products with it are then fast
        weight: Any = matrix if sp.issparse(matrix) else np.ascontiguousarray(matrix)
        return Value(self.add(Dense(weight, constant), node, name=name), (*value.shape[:-1], outputs))

    def matrix_times(self, matrix: Weight, value: Value, name: str) -> Value:
        """``matrix @ value`` over the last two axes (the last one, if there is only one)."""
        if len(value.shape) == 1:
            return self.times_matrix(value, matrix, None, name)
        turned = self.move(value, lambda i: i.swapaxes(-1, -2), f"{name}/turned")
        product = self.times_matrix(turned, matrix, None, f"{name}/product")
        return self.move(product, lambda i: i.swapaxes(-1, -2), name)

    # -- windows -----------------------------------------------------------------------------------------
    def image(self, value: Value, name: str, what: str) -> tuple[str, Shape, bool]:
        """A node of shape (channels, H, W), that shape, and whether the value was one-dimensional (C, L)."""
        if len(value.shape) not in (3, 4) or value.shape[0] != 1:
            raise NetworkError(
                f"{what} over a tensor of shape {value.shape}", fix="expected (1, channels, [height,] width)"
            )
        line = len(value.shape) == 3
        shape = (value.shape[1], 1, value.shape[2]) if line else value.shape[1:]
        return self.view(value, shape, name), shape, line

    def windowed(self, operator: Conv | MaxPool, node: str, line: bool, name: str) -> Value:
        """Append a convolution or pooling to an image node."""
        made = self.add(operator, node, name=name)
        channels, height, width = self.builder.shape(made)
        return Value(made, (1, channels, width) if line else (1, channels, height, width))

    def average_pool(
        self,
        value: Value,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
        extra: tuple[int, int],
        count_padding: bool,
        name: str,
        dilation: tuple[int, int] = (1, 1),
        divisor: int | None = None,
    ) -> Value:
        """Average pooling, as a grouped convolution (and a scaling where windows differ in size).

        Args:
            extra: rows below and columns to the right that rounding the output size up adds; never counted.
            count_padding: whether padded zeros count in the average.
            divisor: a fixed divisor in place of the count.
        """
        node, shape, line = self.image(value, name, "average pooling")
        channels = shape[0]
        padding = with_extra(padding, extra)
        counted = np.ones((1, 1, *shape[1:]))
        if count_padding:
            top, left, bottom, right = padding[0], padding[1], padding[2] - extra[0], padding[3] - extra[1]
            counted = np.ones((1, 1, shape[1] + top + bottom, shape[2] + left + right))
            counted = np.pad(counted, ((0, 0), (0, 0), (0, extra[0]), (0, extra[1])))
        else:
            counted = np.pad(counted, ((0, 0), (0, 0), padding[::2], padding[1::2]))
        window = Conv(np.ones((1, 1, *kernel)), np.zeros(1), stride, (0, 0, 0, 0), dilation)
        counts = window.forward(counted)[0]
        if divisor is not None:
            counts = np.full_like(counts, divisor)
        zeros = np.zeros(channels)
        if (counts == counts.flat[0]).all():
            weight = np.full((channels, 1, *kernel), 1.0 / counts.flat[0])
            return self.windowed(Conv(weight, zeros, stride, padding, dilation, channels), node, line, name)
        sums = Conv(np.ones((channels, 1, *kernel)), zeros, stride, padding, dilation, channels)
        total = self.windowed(sums, node, line, f"{name}/sum")
        shares = 1.0 / np.maximum(counts, 1.0)
        return self.affine(total, shares[:, 0, :] if line else shares, 0.0, name)


def with_extra(padding: Padding, extra: tuple[int, int]) -> Padding:
    """Padding with more rows below and columns to the right."""
    return padding[0], padding[1], padding[2] + extra[0], padding[3] + extra[1]


def extra_for_ceiling(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Rows and columns to add so that the output size is rounded up (``ceil_mode``).

    A last window that would start in the padding beyond the image is left out, as torch and onnxruntime do.
    """
    floor = window_output_size(size, kernel, stride, padding, dilation)
    result = []
    for axis in (0, 1):
        span = size[axis] + padding[axis] + padding[axis + 2] - dilation[axis] * (kernel[axis] - 1) - 1
        outputs = -(-span // stride[axis]) + 1
        if (outputs - 1) * stride[axis] >= size[axis] + padding[axis]:
            outputs -= 1
        missing = (outputs - 1) * stride[axis] - span
        result.append(max(0, missing) if outputs > floor[axis] else 0)
    return result[0], result[1]
