"""The operators of a network: a small set in which every piecewise-linear network can be written.

Arrays carry the batch as their first axis: an operator whose output has shape ``s`` returns arrays of
shape ``(batch, *s)``. All arithmetic is float64; the same code also runs on object arrays of Python
integers, which is how `verifier.network.exact` evaluates a network without rounding.

An operator is either *affine* (`AffineOperator`: Dense, Conv, Scale, Sum, Concat, Reshape, Select) or
*piecewise linear* (`PiecewiseOperator`, in `verifier.network.piecewise`: PiecewiseLinear, MaxPool).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from verifier.errors import NetworkError
from verifier.lazy import sp

Array = npt.NDArray[Any]
"""A numeric array: float64, or object (exact integers) inside `verifier.network.exact`."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """One step of a network. Stateless, immutable, picklable."""

    @property
    def kind(self) -> str:
        """What an engine must declare to take it: "affine", "relu", "piecewise-linear", "maxpool"; else its own name."""
        return type(self).__name__.lower()

    @abstractmethod
    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the output (without batch) for inputs of these shapes; NetworkError if they do not fit."""

    @abstractmethod
    def forward(self, *inputs: Array) -> Array:
        """The operator's value, batch first."""


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """The network's input; the only operator without inputs of its own."""

    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def forward(self, *inputs: Array) -> Array:
        raise NetworkError("the input node has no value of its own")


@dataclass(frozen=True, eq=False)
class AffineOperator(Operator):
    """An operator that is affine in all its inputs together: linear part plus a constant."""

    coefficients: ClassVar[str | None] = None
    """Name of the field that holds the linear part's numbers; None when they are all 0 or ±1."""

    @property
    def kind(self) -> str:
        return "affine"

    @abstractmethod
    def linear(self, *inputs: Array) -> Array:
        """The linear part (no constant) applied to inputs, batch first."""

    @abstractmethod
    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        """The transposed linear part: the gradient with respect to each input.

        Args:
            grad: ``(batch, *output_shape)``.
            shapes: the inputs' shapes (without batch).
        """

    def constant(self) -> Array | None:
        """The constant part, broadcastable to the output's shape; None when there is none."""
        return None

    def forward(self, *inputs: Array) -> Array:
        value, constant = self.linear(*inputs), self.constant()
        return value if constant is None else value + constant

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        """The linear part as one sparse matrix ``(flat output, flat input)`` for each input."""
        sizes = [prod(s) for s in shapes]
        result = []
        for k, size in enumerate(sizes):
            blocks = []
            for start in range(0, size, 256):
                units = np.zeros((min(256, size - start), size))
                units[np.arange(len(units)), start + np.arange(len(units))] = 1.0
                inputs = [units.reshape(-1, *s) if i == k else np.zeros((len(units), *s)) for i, s in enumerate(shapes)]
                blocks.append(sp.csr_array(self.linear(*inputs).reshape(len(units), -1)))
            result.append(sp.csr_array(sp.vstack(blocks).T))
        return tuple(result)


@dataclass(frozen=True, eq=False)
class Dense(AffineOperator):
    """``x -> weight @ x + bias`` along the last axis.

    Attributes:
        weight: ``(outputs, inputs)``. May be given as a sparse matrix: it is then kept in that form alone
            (`sparse_weight`), and the dense array is made anew each time ``weight`` is asked for.
        bias: ``(outputs,)``.
    """

    weight: Array
    bias: Array
    coefficients: ClassVar[str | None] = "weight"

    SPARSE_BELOW: ClassVar[float] = 0.05
    """Weights with a smaller share of non-zeros, and more than a million entries, are applied sparsely."""

    def __post_init__(self) -> None:
        if sp.issparse(self.weight):
            self.__dict__["_sparse"] = sp.csr_array(self.__dict__.pop("weight"))

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and self.__dict__.get("_sparse") is not None:
            return self.__dict__["_sparse"].toarray()
        raise AttributeError(name)

    @property
    def weight_shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``, without making a sparse weight dense."""
        held = self.__dict__["weight"] if "weight" in self.__dict__ else self.__dict__["_sparse"]
        return int(held.shape[0]), int(held.shape[1])

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if not shape or shape[-1] != self.weight_shape[1]:
            raise NetworkError(f"a dense layer with weight {self.weight_shape} cannot take an input of shape {shape}")
        return (*shape[:-1], self.weight_shape[0])

    @property
    def sparse_weight(self) -> sp.csr_array | None:
        """The weight in sparse form if it is large and nearly empty, else None (cached)."""
        if "_sparse" not in self.__dict__:
            w = self.weight
            sparse = w.size > 1_000_000 and w.dtype != object and np.count_nonzero(w) < self.SPARSE_BELOW * w.size
            self.__dict__["_sparse"] = sp.csr_array(w) if sparse else None
        result: sp.csr_array | None = self.__dict__["_sparse"]
        return result

    def linear(self, *inputs: Array) -> Array:
        (x,) = inputs
        sparse = self.sparse_weight
        if sparse is not None:
            rows = x.reshape(-1, x.shape[-1])
            return np.ascontiguousarray((sparse @ rows.T).T).reshape(*x.shape[:-1], -1)
        result: Array = x @ self.weight.T
        return result

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        sparse = self.sparse_weight
        if sparse is not None:
            rows = grad.reshape(-1, grad.shape[-1])
            return (np.ascontiguousarray((sparse.T @ rows.T).T).reshape(*grad.shape[:-1], -1),)
        return (grad @ self.weight,)

    def constant(self) -> Array | None:
        return self.bias

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        weight = self.sparse_weight
        if weight is None:
            weight = sp.csr_array(self.weight)
        repeat = prod(shapes[0][:-1])
        return (weight,) if repeat == 1 else (sp.csr_array(sp.kron(sp.eye_array(repeat), weight)),)


@dataclass(frozen=True, eq=False)
class Conv(AffineOperator):
    """Two-dimensional convolution (cross-correlation, as in ONNX and torch) over ``(channels, H, W)``.

    Attributes:
        weight: ``(out channels, in channels / groups, kernel H, kernel W)``.
        bias: ``(out channels,)``.
        stride, dilation: per axis (H, W).
        padding: (top, left, bottom, right), zeros.
        groups: number of channel groups.
    """

    weight: Array
    bias: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    coefficients: ClassVar[str | None] = "weight"
    BLOCK: ClassVar[int] = 1 << 17
    """Entries of windows that are multiplied at once."""
    SMALL_MAP: ClassVar[int] = 100
    """Up to so many positions several images are multiplied together."""

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        channels = self.weight.shape[1] * self.groups
        if len(shape) != 3 or shape[0] != channels:
            raise NetworkError(f"a convolution over {channels} channels cannot take an input of shape {shape}")
        size = window_output_size((shape[1], shape[2]), self.weight.shape[2:], self.stride, self.padding, self.dilation)
        return (self.weight.shape[0], *size)

    def linear(self, *inputs: Array) -> Array:
        (x,) = inputs
        (channels, height, width), batch = self.output_shape(x.shape[1:]), len(x)
        kernel = self.weight.reshape(self.groups, channels // self.groups, -1)
        positions, window = height * width, self.groups * kernel.shape[2]
        result = np.empty((batch, self.groups, kernel.shape[1], positions), np.result_type(x, kernel))
        if positions > self.SMALL_MAP:
            # the positions last, so that rows of the image are copied, not single entries; blocks that fit the cache
            step = max(1, self.BLOCK // (window * positions))
            for i in range(0, batch, step):
                windows = self._windows(x[i : i + step]).transpose(0, 1, 4, 5, 2, 3)
                result[i : i + step] = np.matmul(kernel, windows.reshape(len(windows), self.groups, -1, positions))
        else:
            # one product over the positions of many images: over one image's it would be too narrow to be fast
            step = max(1, 16 * self.BLOCK // (window * positions))
            for i in range(0, batch, step):
                windows = self._windows(x[i : i + step]).transpose(1, 4, 5, 0, 2, 3)
                product = np.matmul(kernel, windows.reshape(self.groups, kernel.shape[2], -1))
                result[i : i + step] = product.reshape(*kernel.shape[:2], -1, positions).transpose(2, 0, 1, 3)
        return result.reshape(batch, channels, height, width)

    def _windows(self, x: Array) -> Array:
        return sliding_windows(x, self.weight.shape[2:], self.stride, self.padding, self.dilation, 0)

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        ((channels, height, width),) = shapes
        top, left, bottom, right = self.padding
        batch, out_channels, out_h, out_w = grad.shape
        kernel_h, kernel_w = self.weight.shape[2:]
        padded = np.zeros((batch, channels, height + top + bottom, width + left + right), dtype=grad.dtype)
        kernel = self.weight.reshape(self.groups, out_channels // self.groups, -1).transpose(0, 2, 1)
        step = max(1, self.BLOCK // (channels * kernel_h * kernel_w * out_h * out_w))
        for b in range(0, batch, step):
            upstream = grad[b : b + step].reshape(-1, self.groups, kernel.shape[2], out_h * out_w)
            if out_h * out_w == 1:  # one position: the batch takes its place
                columns = np.matmul(kernel, upstream[..., 0].transpose(1, 2, 0)).transpose(2, 0, 1)
            else:
                columns = np.matmul(kernel, upstream)
            columns = columns.reshape(-1, channels, kernel_h, kernel_w, out_h, out_w)
            for i in range(kernel_h):
                rows = slice(i * self.dilation[0], i * self.dilation[0] + out_h * self.stride[0], self.stride[0])
                for j in range(kernel_w):
                    x = j * self.dilation[1]
                    padded[b : b + step, :, rows, x : x + out_w * self.stride[1] : self.stride[1]] += columns[
                        :, :, i, j
                    ]
        return (np.ascontiguousarray(padded[:, :, top : top + height, left : left + width]),)

    def constant(self) -> Array | None:
        result: Array = self.bias[:, None, None]
        return result

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        (shape,) = shapes
        index = np.arange(prod(shape), dtype=np.int64).reshape(1, *shape)
        windows = sliding_windows(index, self.weight.shape[2:], self.stride, self.padding, self.dilation, -1)[0]
        height, width = windows.shape[1:3]
        out_channels, per_group = self.weight.shape[:2]
        rows, cols, data = [], [], []
        positions = np.arange(height * width).reshape(height, width)
        for c in range(out_channels):
            first = c // (out_channels // self.groups) * per_group
            sources = windows[first : first + per_group].transpose(1, 2, 0, 3, 4).reshape(height * width, -1)
            values = np.broadcast_to(self.weight[c].reshape(-1), sources.shape)
            keep = (sources >= 0) & (values != 0)
            rows.append(np.broadcast_to((c * height * width + positions).reshape(-1, 1), sources.shape)[keep])
            cols.append(sources[keep])
            data.append(values[keep])
        size = (out_channels * height * width, prod(shape))
        triple = (np.concatenate(data), (np.concatenate(rows), np.concatenate(cols)))
        return (sp.csr_array(sp.coo_array(triple, shape=size)),)


@dataclass(frozen=True, eq=False)
class Scale(AffineOperator):
    """Elementwise ``x -> scale * x + shift``: BatchNormalization, Add/Sub/Mul/Div with constants.

    Attributes:
        scale, shift: arrays of the input's shape (without batch).
    """

    scale: Array
    shift: Array
    coefficients: ClassVar[str | None] = "scale"

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if self.scale.shape != shape or self.shift.shape != shape:
            raise NetworkError(f"scale {self.scale.shape} and shift {self.shift.shape} do not fit input {shape}")
        return shape

    def linear(self, *inputs: Array) -> Array:
        result: Array = inputs[0] * self.scale
        return result

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (grad * self.scale,)

    def constant(self) -> Array | None:
        return self.shift

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        return (sp.csr_array(sp.diags_array(self.scale.reshape(-1))),)


@dataclass(frozen=True, eq=False)
class Sum(AffineOperator):
    """Sum or difference of nodes of one shape (a residual connection): ``Σ signs[k] · input[k]``."""

    signs: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != len(self.signs) or any(s != shapes[0] for s in shapes):
            raise NetworkError(f"cannot add nodes of shapes {', '.join(map(str, shapes))}")
        return shapes[0]

    def linear(self, *inputs: Array) -> Array:
        total = inputs[0] if self.signs[0] > 0 else -inputs[0]
        for sign, x in zip(self.signs[1:], inputs[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return tuple(grad if sign > 0 else -grad for sign in self.signs)

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        return tuple(sp.csr_array(sign * sp.eye_array(prod(shapes[0]))) for sign in self.signs)


@dataclass(frozen=True, eq=False)
class Concat(AffineOperator):
    """Concatenation along an axis (counted without the batch)."""

    axis: int

    def output_shape(self, *shapes: Shape) -> Shape:
        others = {s[: self.axis] + s[self.axis + 1 :] for s in shapes}
        if len(others) != 1 or any(len(s) <= self.axis for s in shapes):
            raise NetworkError(f"cannot concatenate shapes {', '.join(map(str, shapes))} along axis {self.axis}")
        total = sum(s[self.axis] for s in shapes)
        return (*shapes[0][: self.axis], total, *shapes[0][self.axis + 1 :])

    def linear(self, *inputs: Array) -> Array:
        return np.concatenate(inputs, axis=self.axis + 1)

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        ends = np.cumsum([s[self.axis] for s in shapes])[:-1]
        return tuple(np.split(grad, ends, axis=self.axis + 1))


@dataclass(frozen=True, eq=False)
class Reshape(AffineOperator):
    """Another shape for the same values in row-major order: Flatten, Reshape, Squeeze, Unsqueeze."""

    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        if prod(shapes[0]) != prod(self.shape):
            raise NetworkError(f"cannot reshape {shapes[0]} to {self.shape}")
        return self.shape

    def linear(self, *inputs: Array) -> Array:
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (grad.reshape(len(grad), *shapes[0]),)

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        return (sp.csr_array(sp.eye_array(prod(self.shape))),)


@dataclass(frozen=True, eq=False)
class Select(AffineOperator):
    """Picks entries by flat index: Transpose, Slice, Gather, Pad.

    Attributes:
        index: integer array of the output's shape; ``output[i] = flat input[index[i]]``, and
            ``fill`` where the index is -1 (padding).
        fill: the padding's value.
    """

    index: npt.NDArray[np.int64]
    fill: float = 0.0

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.index.size and (self.index.max() >= prod(shapes[0]) or self.index.min() < -1):
            raise NetworkError(f"index {int(self.index.max())} is outside an input of shape {shapes[0]}")
        return self.index.shape

    def linear(self, *inputs: Array) -> Array:
        flat = inputs[0].reshape(len(inputs[0]), -1)
        picked: Array = flat[:, self.index]
        padding = self.index < 0
        if padding.any():
            picked = np.where(padding, np.zeros((), dtype=picked.dtype), picked)
        return picked

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        total = np.zeros((prod(shapes[0]), len(grad)), dtype=grad.dtype)
        keep = self.index.reshape(-1) >= 0
        np.add.at(total, self.index.reshape(-1)[keep], grad.reshape(len(grad), -1)[:, keep].T)
        return (np.ascontiguousarray(total.T).reshape(len(grad), *shapes[0]),)

    def constant(self) -> Array | None:
        if self.fill == 0.0:
            return None
        return np.where(self.index < 0, self.fill, 0.0)

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        flat = self.index.reshape(-1)
        rows = np.flatnonzero(flat >= 0)
        triple = (np.ones(len(rows)), (rows, flat[rows]))
        return (sp.csr_array(sp.coo_array(triple, shape=(flat.size, prod(shapes[0])))),)


def window_output_size(
    size: tuple[int, int],
    kernel: tuple[int, int] | Shape,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Height and width of what a sliding window makes of an image of height and width ``size``."""
    height = (size[0] + padding[0] + padding[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (size[1] + padding[1] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    if height < 1 or width < 1:
        raise NetworkError(f"a window of {tuple(kernel)} does not fit an image of {tuple(size)}")
    return height, width


def sliding_windows(
    x: Array,
    kernel: tuple[int, int] | Shape,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    fill: float,
) -> Array:
    """All windows of ``x (batch, channels, H, W)``: ``(batch, channels, out H, out W, kernel H, kernel W)``."""
    top, left, bottom, right = padding
    if any(padding):
        height, width = x.shape[2:]
        padded = np.full((*x.shape[:2], height + top + bottom, width + left + right), fill, dtype=x.dtype)
        padded[:, :, top : top + height, left : left + width] = x
        x = padded
    extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    windows = sliding_window_view(x, extent, axis=(2, 3))
    return windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
