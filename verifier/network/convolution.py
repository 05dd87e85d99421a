"""Convolution over images, and the sliding windows that it shares with pooling."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from verifier.errors import NetworkError
from verifier.lazy import sp
from verifier.network.operators import AffineOperator, Array, Shape


@dataclass(frozen=True, eq=False)
class Conv(AffineOperator):
    """Two-dimensional convolution (cross-correlation, as in ONNX and torch) over ``(channels, H, W)``.

    Attributes:
        weight: ``(out channels, in channels / groups, kernel H, kernel W)``.
        bias: ``(out channels,)``.
        stride, dilation: per axis (H, W).
        padding: (top, left, bottom, right), zeros.
        groups: number of channel groups.

    Raises:
        NetworkError: a weight, bias or padding that does not fit the others.
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
        result = np.empty((len(x), *self.output_shape(x.shape[1:])), np.result_type(x, self.weight))
        self._multiply(x, result, None)
        return result

    def write(self, out: Array, *inputs: Array) -> None:
        self._multiply(inputs[0], out, self.bias)

    def _multiply(self, x: Array, out: Array, bias: Array | None) -> None:
        """Write the product, and the bias added to it, into ``(batch, channels, H, W)``."""
        batch, channels, height, width = out.shape
        kernel = self.weight.reshape(self.groups, channels // self.groups, -1)
        positions, window = height * width, self.groups * kernel.shape[2]
        result = out.view()
        result.shape = (batch, self.groups, kernel.shape[1], positions)  # never a copy
        shift = None if bias is None else bias.reshape(self.groups, -1, 1)
        if positions > self.SMALL_MAP:
            # the positions last, so that rows of the image are copied, not single entries; blocks that fit the cache
            step = max(1, self.BLOCK // (window * positions))
            for i in range(0, batch, step):
                windows = self._windows(x[i : i + step]).transpose(0, 1, 4, 5, 2, 3)
                product = np.matmul(kernel, windows.reshape(len(windows), self.groups, -1, positions))
                _put(result[i : i + step], product, shift)
        else:
            # one product over the positions of many images: over one image's it would be too narrow to be fast
            step = max(1, 16 * self.BLOCK // (window * positions))
            for i in range(0, batch, step):
                windows = self._windows(x[i : i + step]).transpose(1, 4, 5, 0, 2, 3)
                product = np.matmul(kernel, windows.reshape(self.groups, kernel.shape[2], -1))
                _put(
                    result[i : i + step], product.reshape(*kernel.shape[:2], -1, positions).transpose(2, 0, 1, 3), shift
                )

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

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        out, per_group, height, width = self.weight.shape
        return int((out // self.groups if transposed else per_group) * height * width)

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


def _put(out: Array, product: Array, shift: Array | None) -> None:
    if shift is None:
        out[...] = product
    else:
        np.add(product, shift, out=out)


def window_output_size(
    size: tuple[int, int],
    kernel: tuple[int, int] | Shape,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Height and width of what a sliding window makes of an image of height and width ``size``.

    Raises:
        NetworkError: a window that does not fit the image.
    """
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
