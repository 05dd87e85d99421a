"""Converters of operations of torch that slide windows or interpolate."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from verifier.errors import UnsupportedOperatorError
from verifier.network import windows
from verifier.network.assembly import Assembler
from verifier.network.operators import Array
from verifier.network.tensors import Value, sparse_if_large
from verifier.network.torch_elementwise import Converter, as_array
from verifier.network.windows import window


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """One number for each of ``rank`` axes, of a number for all or a list of them."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (numbers * rank if len(numbers) == 1 else numbers))


def _conv(
    b: Assembler,
    name: str,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    kernel = as_array(weight)
    rank = kernel.ndim - 2
    steps, spread = _each(stride, rank), _each(dilation, rank)
    if padding == "same":
        total = [spread[k] * (kernel.shape[2 + k] - 1) for k in range(rank)]
        begin, end = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    else:
        begin = end = _each(0 if padding == "valid" else padding, rank)
    constant = np.zeros(len(kernel)) if bias is None else as_array(bias)
    w = window(kernel.shape[2:], steps, spread, begin, end)
    return windows.conv(b, x, kernel, constant, w, groups, name)


def _conv_transpose(
    b: Assembler,
    name: str,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    kernel = as_array(weight)
    rank = kernel.ndim - 2
    pad, more = _each(padding, rank), _each(output_padding, rank)
    constant = np.zeros(kernel.shape[1] * groups) if bias is None else as_array(bias)
    w = window(kernel.shape[2:], _each(stride, rank), _each(dilation, rank), pad, pad)
    return windows.conv_transpose(b, x, kernel, constant, w, more, groups, name)


def _convolution(
    b: Assembler,
    name: str,
    x: Value,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    if transposed:
        return _conv_transpose(b, name, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(b, name, x, weight, bias, stride, padding, dilation, groups)


def _batched(x: Value, rank: int) -> Value:
    """The value with a batch axis of 1, if it has none."""
    return x if len(x.shape) == rank + 2 else Value(x.name, (1, *x.shape))


def _max_pool(rank: int, *, indices: bool = False) -> Converter:
    def convert(
        b: Assembler,
        name: str,
        x: Value,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:
        kernel, pad = _each(kernel_size, rank), _each(padding, rank)
        w = window(kernel, _each(stride or kernel, rank), _each(dilation, rank), pad, pad)
        image = _batched(x, rank)
        made = windows.max_pool(b, image, w.rounded_up(image.shape[2:]) if ceil_mode else w, name)
        found = Value(made.name, made.shape[1:] if image is not x else made.shape)
        return (found, None) if indices else found

    return convert


def _average_pool(rank: int) -> Converter:
    def convert(
        b: Assembler,
        name: str,
        x: Value,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        kernel, pad = _each(kernel_size, rank), _each(padding, rank)
        w = window(kernel, _each(stride or kernel, rank), None, pad, pad)
        image = _batched(x, rank)
        w = w.rounded_up(image.shape[2:]) if ceil_mode else w
        made = windows.average_pool(b, image, w, name, count_padding=count_include_pad, divisor=divisor_override)
        return Value(made.name, made.shape[1:] if image is not x else made.shape)

    return convert


def _adaptive(rank: int, kind: str) -> Converter:
    """Adaptive pooling: window k of n over an axis of m entries holds those from ⌊k m / n⌋ to ⌈(k + 1) m / n⌉."""

    def convert(b: Assembler, name: str, x: Value, output_size: Any) -> Any:
        sizes = x.shape[-rank:]
        wanted = output_size if isinstance(output_size, (tuple, list)) else [output_size] * rank
        counts = [sizes[k] if wanted[k] is None else int(wanted[k]) for k in range(rank)]
        spans = [[(k * m // n, -(-(k + 1) * m // n)) for k in range(n)] for m, n in zip(sizes, counts, strict=True)]
        if kind == "mean":
            first = len(x.shape) - rank
            matrices = {first + a: _shares(spans[a], sizes[a]) for a in range(rank)}
            return windows.along_axes(b, x, matrices, name)
        if any(m % n for m, n in zip(sizes, counts, strict=True)):
            raise UnsupportedOperatorError(f"adaptive max pooling of {sizes} to {counts} (windows of unequal size)")
        kernel = tuple(m // n for m, n in zip(sizes, counts, strict=True))
        return _max_pool(rank, indices=True)(b, name, x, kernel)

    return convert


def _shares(spans: list[tuple[int, int]], size: int) -> Array:
    matrix = np.zeros((len(spans), size))
    for k, (start, end) in enumerate(spans):
        matrix[k, start:end] = 1.0 / (end - start)
    return matrix


def _channelwise(target: Any) -> Converter:
    """A linear operation on each channel by itself: its matrix is what torch makes of the unit images."""

    def convert(b: Assembler, name: str, x: Value, *args: Any, **options: Any) -> Value:
        sizes = x.shape[2:]
        count = prod(sizes)
        units = torch.eye(count, dtype=torch.float64).reshape(count, 1, *sizes)
        made = target(units, *args, **options)
        matrix = made.reshape(count, -1).numpy().T
        flat = Value(x.name, (*x.shape[:2], count))
        product = b.times_matrix(flat, sparse_if_large(matrix), None, name)
        return Value(product.name, (*x.shape[:2], *made.shape[2:]))

    return convert


WINDOWS: dict[str, Converter] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "convolution": _convolution,
    **{f"max_pool{r}d": _max_pool(r) for r in (1, 2, 3)},
    **{f"max_pool{r}d_with_indices": _max_pool(r, indices=True) for r in (1, 2, 3)},
    **{f"avg_pool{r}d": _average_pool(r) for r in (1, 2, 3)},
    **{f"adaptive_avg_pool{r}d": _adaptive(r, "mean") for r in (1, 2, 3)},
    **{f"_adaptive_avg_pool{r}d": _adaptive(r, "mean") for r in (2, 3)},
    **{f"adaptive_max_pool{r}d": _adaptive(r, "max") for r in (1, 2, 3)},
    **{
        f"upsample_{kind}": _channelwise(getattr(torch.ops.aten, f"upsample_{kind}"))
        for kind in ("nearest1d", "nearest2d", "linear1d", "bilinear2d", "bicubic2d")
    },
}
"""How each operation of this kind is rewritten, by its name without the overload."""
