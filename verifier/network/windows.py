"""Operators that slide a window over one, two or three axes, written with the two-dimensional ones of a `Network`.

Values have the full shape ``(batch, channels, *sizes)``. A batch of several is taken into the channels (groups of
their own), one axis is an image of height 1, and three axes become a stack of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.network.assembly import Assembler
from verifier.network.convolution import Conv
from verifier.network.operators import Array, Shape
from verifier.network.piecewise import MaxPool
from verifier.network.tensors import Value


@dataclass(frozen=True)
class Window:
    """A window and how it slides; each attribute has one entry for each axis.

    Attributes:
        kernel, stride, dilation: as usual.
        begin, end: entries of padding before and after.
        extra: entries after the padding that rounding the output size up adds; averages never count them.
    """

    kernel: Shape
    stride: Shape
    dilation: Shape
    begin: Shape
    end: Shape
    extra: Shape = ()

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.kernel)

    @property
    def extent(self) -> Shape:
        """Entries from the window's first to its last, both included."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))

    @property
    def after(self) -> Shape:
        """All entries of padding after."""
        return tuple(e + x for e, x in zip(self.end, self.extra or (0,) * self.rank, strict=True))

    def positions(self, sizes: Sequence[int]) -> Shape:
        """How many positions the window has along each axis; NetworkError if there is none."""
        found = tuple(
            (n + b + a - e) // s + 1
            for n, b, a, e, s in zip(sizes, self.begin, self.after, self.extent, self.stride, strict=True)
        )
        if min(found) < 1:
            raise NetworkError(f"a window of {self.kernel} does not fit a tensor of {tuple(sizes)}")
        return found

    def rounded_up(self, sizes: Sequence[int]) -> Window:
        """The same window with as many positions as ``ceil_mode`` gives.

        A last window that would start in the padding beyond the tensor is left out, as torch and onnxruntime do.
        """
        extra = []
        for k in range(self.rank):
            span = sizes[k] + self.begin[k] + self.end[k] - self.extent[k]
            steps = -(-span // self.stride[k])
            if steps * self.stride[k] >= sizes[k] + self.begin[k]:
                steps -= 1
            extra.append(max(0, steps * self.stride[k] - span))
        return Window(self.kernel, self.stride, self.dilation, self.begin, self.end, tuple(extra))

    def only(self, axes: slice) -> Window:
        """The window along some of the axes."""
        parts = (self.kernel, self.stride, self.dilation, self.begin, self.end, self.extra or (0,) * self.rank)
        return Window(*(p[axes] for p in parts))

    def flat(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
        """Kernel, stride, padding and dilation over (H, W), for a window of one or two axes."""
        one = (1,) * (2 - self.rank)
        kernel, stride, dilation = ((*one, *p) for p in (self.kernel, self.stride, self.dilation))
        begin, after = ((*(0,) * len(one), *p) for p in (self.begin, self.after))
        return kernel, stride, (*begin, *after), dilation  # type: ignore[return-value]


def window(
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    begin: Sequence[int] | None = None,
    end: Sequence[int] | None = None,
) -> Window:
    """A window with the usual defaults: stride and dilation 1, no padding.

    Raises:
        NetworkError: numbers of axes that do not fit, negative padding, a stride or dilation below 1.
    """
    rank = len(kernel)
    ones, zeros = (1,) * rank, (0,) * rank
    parts = [tuple(int(v) for v in p) for p in (kernel, stride or ones, dilation or ones, begin or zeros, end or zeros)]
    if any(len(p) != rank for p in parts) or rank not in (1, 2, 3):
        raise NetworkError(f"a window {tuple(kernel)} with parts {parts[1:]}", fix="one to three axes are supported")
    if min(min(p) for p in parts[:3]) < 1 or min(min(p) for p in parts[3:]) < 0:
        raise NetworkError("a kernel, stride or dilation is below 1, or a padding negative")
    return Window(*parts)


def conv(b: Assembler, value: Value, weight: Array, bias: Array, w: Window, groups: int, name: str) -> Value:
    """Convolution with ``weight (outputs, channels / groups, *kernel)`` and ``bias (outputs,)``.

    Raises:
        NetworkError: a weight that does not fit channels and groups.
    """
    batch, channels, *sizes = _image(value, w, "a convolution")
    if channels != weight.shape[1] * groups or len(weight) % groups:
        raise NetworkError(f"a convolution of weight {weight.shape} in {groups} groups over {channels} channels")
    if w.rank == 3:
        return _conv_of_stack(b, value, weight, bias, w, groups, name)
    outputs = w.positions(sizes)
    kernel, stride, padding, dilation = w.flat()
    flat = weight.reshape(*weight.shape[:2], *kernel)
    if batch > 1:
        flat, bias = np.tile(flat, (batch, 1, 1, 1)), np.tile(bias, batch)
    operator = Conv(flat, bias, stride, padding, dilation, groups * batch)
    node = b.view(value, (batch * channels, *(1,) * (2 - w.rank), *sizes), name)
    return Value(b.add(operator, node, name=name), (batch, len(weight), *outputs))


def _conv_of_stack(b: Assembler, value: Value, weight: Array, bias: Array, w: Window, groups: int, name: str) -> Value:
    """A convolution over three axes: depth is taken into channels (kernel) and a stack of images (positions)."""
    batch, channels, depth, height, width = value.shape
    deep, plane = w.only(slice(0, 1)), w.only(slice(1, 3))
    (layers,), (rows, columns) = deep.positions((depth,)), plane.positions((height, width))
    # images of a height that strides fit, one below the other; windows across two of them are left out in the end
    step = plane.stride[0]
    tall = -(-max(height + plane.begin[0] + plane.after[0], rows * step) // step) * step
    source = np.arange(layers)[None, :] * deep.stride[0] + np.arange(deep.kernel[0])[:, None] * deep.dilation[0]
    source = source - deep.begin[0]

    def stacked(index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        picked = np.where(
            ((source >= 0) & (source < depth))[..., None, None], index[:, :, np.clip(source, 0, depth - 1)], -1
        )
        ends = (plane.begin[0], tall - height - plane.begin[0])
        padded = np.pad(picked, ((0, 0),) * 4 + (ends, (0, 0)), constant_values=-1)
        return padded.reshape(batch, channels * deep.kernel[0], layers * tall, width)

    image = b.move(value, stacked, f"{name}/stack")
    flat = weight.reshape(len(weight), -1, *weight.shape[3:])
    sliding = window(plane.kernel, plane.stride, plane.dilation, (0, plane.begin[1]), (0, plane.after[1]))
    made = conv(b, image, flat, bias, sliding, groups, f"{name}/images")
    keep = (np.arange(layers)[:, None] * (tall // step) + np.arange(rows)).reshape(-1)
    inner = made.shape[2]
    # the last image may end before its last full window would: no row of it is missing, since tall holds them all
    assert keep.max() < inner
    picked = b.move(made, lambda index: index[:, :, keep], name)
    return Value(picked.name, (batch, len(weight), layers, rows, columns))


def max_pool(b: Assembler, value: Value, w: Window, name: str) -> Value:
    """The greatest entry of each window; padding never wins."""
    batch, channels, *sizes = _image(value, w, "max pooling")
    outputs = w.positions(sizes)
    if w.rank == 3:  # in each plane, then through the planes: at a tie the first entry of the window wins still
        plane, deep = w.only(slice(1, 3)), w.only(slice(0, 1))
        planes = Value(value.name, (batch, channels * sizes[0], *sizes[1:]))
        found = max_pool(b, planes, plane, f"{name}/planes")
        columns = Value(found.name, (batch, channels, sizes[0], outputs[1] * outputs[2]))
        upright = Window(*(p + q for p, q in zip(_parts(deep), ((1,), (1,), (1,), (0,), (0,), (0,)), strict=True)))
        return Value(max_pool(b, columns, upright, name).name, (batch, channels, *outputs))
    node = b.view(value, (batch * channels, *(1,) * (2 - w.rank), *sizes), name)
    return Value(b.add(MaxPool(*w.flat()), node, name=name), (batch, channels, *outputs))


def _parts(w: Window) -> tuple[Shape, ...]:
    return w.kernel, w.stride, w.dilation, w.begin, w.end, w.extra or (0,) * w.rank


def average_pool(
    b: Assembler, value: Value, w: Window, name: str, *, count_padding: bool, divisor: int | None = None
) -> Value:
    """The mean of each window, as a convolution of each channel (and a scaling where windows differ in size).

    Args:
        count_padding: whether padded zeros count in the mean.
        divisor: a fixed divisor in place of the count; 1 for the sum.
    """
    _, channels, *sizes = _image(value, w, "average pooling")
    counts = np.ones(())
    for k, n in enumerate(sizes):
        inside = np.pad(np.ones(n), (w.begin[k], w.after[k]), constant_values=0.0)
        if count_padding:
            inside[: w.begin[k] + n + w.end[k]] = 1.0
        starts = np.arange(w.positions(sizes)[k])[:, None] * w.stride[k]
        along = inside[starts + np.arange(w.kernel[k]) * w.dilation[k]].sum(axis=1)
        counts = counts[..., None] * along
    if divisor is not None:
        counts = np.full_like(counts, divisor)
    same = bool((counts == counts.flat[0]).all())
    weight = np.full((channels, 1, *w.kernel), 1.0 / counts.flat[0] if same else 1.0)
    total = conv(b, value, weight, np.zeros(channels), w, channels, name if same else f"{name}/sum")
    return total if same else b.affine(total, 1.0 / np.maximum(counts, 1.0), 0.0, name)


def conv_transpose(
    b: Assembler, value: Value, weight: Array, bias: Array, w: Window, output_padding: Shape, groups: int, name: str
) -> Value:
    """Transposed convolution with ``weight (channels, outputs / groups, *kernel)``, exactly, without inserted zeros.

    With stride s, output ``q s + r`` meets the kernel's entries ``r, r + s, …`` alone: each phase r is an ordinary
    convolution, and their outputs take turns (Shi et al., CVPR 2016, "sub-pixel convolution").

    Raises:
        NetworkError: a weight that does not fit the channels, or sizes below 1.
    """
    batch, channels, *sizes = _image(value, w, "a transposed convolution")
    if len(weight) != channels or channels % groups:
        raise NetworkError(f"a transposed convolution of weight {weight.shape} over {channels} channels")
    each, rank = weight.shape[1], w.rank
    taps = tuple(-(-e // s) for e, s in zip(w.extent, w.stride, strict=True))
    spread = np.zeros((channels, each, *(t * s for t, s in zip(taps, w.stride, strict=True))))
    places: Any = (..., *(slice(0, e, d) for e, d in zip(w.extent, w.dilation, strict=True)))
    spread[places] = weight
    # (group, channel, output, tap 1, phase 1, tap 2, phase 2 …), taps in reverse, to (group, output, phases, channel, taps)
    split = spread.reshape(
        groups, channels // groups, each, *(v for pair in zip(taps, w.stride, strict=True) for v in pair)
    )
    split = np.flip(split, axis=tuple(range(3, 3 + 2 * rank, 2)))
    order = (0, 2, *range(4, 4 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2))
    phases = prod(w.stride)
    kernel = split.transpose(order).reshape(groups * each * phases, channels // groups, *taps)
    lengths = tuple(
        s * (n - 1) + e + o - p - q
        for s, n, e, o, p, q in zip(w.stride, sizes, w.extent, output_padding, w.begin, w.end, strict=True)
    )
    if min(lengths) < 1:
        raise NetworkError(f"a transposed convolution of {sizes} would have the sizes {lengths}")
    last = [max(0, -(-(p + n) // s) - m) for p, n, s, m in zip(w.begin, lengths, w.stride, sizes, strict=True)]
    sliding = window(taps, begin=tuple(t - 1 for t in taps), end=last)
    made = conv(b, value, np.ascontiguousarray(kernel), np.repeat(bias, phases), sliding, groups, f"{name}/phases")

    def in_turn(index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        places = index.shape[2:]
        index = index.reshape(batch, groups * each, *w.stride, *places)
        index = index.transpose(0, 1, *(2 + a for k in range(rank) for a in (rank + k, k)))
        index = index.reshape(batch, groups * each, *(n * s for n, s in zip(places, w.stride, strict=True)))
        kept: Any = (..., *(slice(p, p + n) for p, n in zip(w.begin, lengths, strict=True)))
        return index[kept]

    return b.move(made, in_turn, name)


def along_axes(b: Assembler, value: Value, matrices: dict[int, Array], name: str) -> Value:
    """A matrix ``(outputs, inputs)`` along each of some axes: interpolation, cumulative sums.

    One that only repeats or leaves out entries moves them, and multiplies nothing.
    """
    for axis, matrix in matrices.items():
        if ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(axis=1) == 1).all():
            chosen = matrix.argmax(axis=1)
            value = b.move(value, lambda index: index.take(chosen, axis=axis), f"{name}/axis{axis}")  # noqa: B023
            continue
        turned = b.move(value, lambda index: np.moveaxis(index, axis, -1), f"{name}/turned{axis}")  # noqa: B023
        product = b.times_matrix(turned, matrix, None, f"{name}/axis{axis}")
        value = b.move(product, lambda index: np.moveaxis(index, -1, axis), f"{name}/back{axis}")  # noqa: B023
    return value


def _image(value: Value, w: Window, what: str) -> Shape:
    if len(value.shape) != w.rank + 2:
        raise NetworkError(f"{what} with a window {w.kernel} over a tensor of shape {value.shape}")
    return value.shape
