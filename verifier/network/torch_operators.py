"""How torch modules and functions are rewritten: one converter for each, in two tables."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from verifier.errors import UnsupportedOperatorError
from verifier.network.assembly import Assembler, Value, extra_for_ceiling, sparse_if_large, with_extra
from verifier.network.operators import Array, Concat, Conv
from verifier.network.piecewise import MaxPool, absolute, relu


def _numpy(tensor: Any) -> Array:
    return np.array(tensor.detach().double().numpy() if isinstance(tensor, torch.Tensor) else tensor, dtype=np.float64)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[1])) if len(value) == 2 else (1, int(value[0]))
    return int(value), int(value)


def _window(value: Any, line: bool, default: int = 1) -> tuple[int, int]:
    """A window's size per axis; along the last axis only for one-dimensional operators."""
    if not line:
        return _pair(value)
    return default, int(value[0]) if isinstance(value, (tuple, list)) else int(value)


# -- parts -----------------------------------------------------------------------------------------------
def _linear(b: Assembler, name: str, x: Value, weight: Any, bias: Any = None) -> Value:
    return b.times_matrix(x, sparse_if_large(_numpy(weight)), None if bias is None else _numpy(bias), name)


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
    node, _, line = b.image(x, name, "a convolution")
    kernel = _numpy(weight)
    kernel = kernel[:, :, None, :] if line else kernel
    steps, spread = _window(stride, line), _window(dilation, line)
    if padding == "same":
        total = [spread[k] * (kernel.shape[2 + k] - 1) for k in (0, 1)]
        pads = total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    else:
        pad = _window(0 if padding == "valid" else padding, line, 0)
        pads = pad[0], pad[1], pad[0], pad[1]
    constant = np.zeros(len(kernel)) if bias is None else _numpy(bias)
    return b.windowed(Conv(kernel, constant, steps, pads, spread, groups), node, line, name)


def _max_pool(
    b: Assembler,
    name: str,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    node, shape, line = b.image(x, name, "max pooling")
    kernel, spread, pad = _window(kernel_size, line), _window(dilation, line), _window(padding, line, 0)
    steps = _window(kernel_size if stride is None else stride, line)
    pads = pad[0], pad[1], pad[0], pad[1]
    if return_indices:
        raise UnsupportedOperatorError("return_indices is not supported")
    if ceil_mode:
        pads = with_extra(pads, extra_for_ceiling((shape[1], shape[2]), kernel, steps, pads, spread))
    return b.windowed(MaxPool(kernel, steps, pads, spread), node, line, name)


def _average_pool(
    b: Assembler,
    name: str,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    _, shape, line = b.image(x, name, "average pooling")
    kernel, pad = _window(kernel_size, line), _window(padding, line, 0)
    steps = _window(kernel_size if stride is None else stride, line)
    pads = pad[0], pad[1], pad[0], pad[1]
    extra = extra_for_ceiling((shape[1], shape[2]), kernel, steps, pads) if ceil_mode else (0, 0)
    return b.average_pool(x, kernel, steps, pads, extra, count_include_pad, name, divisor=divisor_override)


def _adaptive_average(b: Assembler, name: str, x: Value, output_size: Any) -> Value:
    _, shape, line = b.image(x, name, "average pooling")
    wanted = (1, output_size) if line else output_size
    if isinstance(output_size, int) and not line:
        wanted = (output_size, output_size)
    sizes = [shape[k + 1] if wanted[k] is None else int(np.ravel(wanted[k])[0]) for k in (0, 1)]
    if shape[1] % sizes[0] or shape[2] % sizes[1]:
        raise UnsupportedOperatorError(f"adaptive pooling of {shape[1:]} to {tuple(sizes)} (windows of unequal size)")
    kernel = shape[1] // sizes[0], shape[2] // sizes[1]
    return b.average_pool(x, kernel, kernel, (0, 0, 0, 0), (0, 0), True, name)


def _batch_norm(
    b: Assembler,
    name: str,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    momentum: float,
    eps: float,
    training: bool = False,
) -> Value:
    if training or mean is None:
        raise UnsupportedOperatorError("batch normalisation by the batch's own statistics is not supported")
    factor = 1.0 / np.sqrt(_numpy(variance) + eps)
    shift = -_numpy(mean) * factor
    if weight is not None:
        factor, shift = factor * _numpy(weight), shift * _numpy(weight)
    if bias is not None:
        shift = shift + _numpy(bias)
    shape = (-1, *([1] * (len(x.shape) - 2)))
    return b.affine(x, factor.reshape(shape), shift.reshape(shape), name)


def _prelu(b: Assembler, name: str, x: Value, weight: Any) -> Value:
    slope = _numpy(weight).reshape(-1)
    return b.leaky(x, slope if slope.size == 1 else slope.reshape(-1, *([1] * (len(x.shape) - 2))), name)


def _clamp(b: Assembler, name: str, x: Value, min: Any = None, max: Any = None) -> Value:
    return b.clip(x, -inf if min is None else float(min), inf if max is None else float(max), name)


def _hardtanh(
    b: Assembler, name: str, x: Value, min_val: float = -1, max_val: float = 1, inplace: bool = False
) -> Value:
    return b.clip(x, float(min_val), float(max_val), name)


def _leaky(b: Assembler, name: str, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return b.leaky(x, np.asarray(negative_slope), name)


def _plus(sign: int) -> Callable[..., Value]:
    def convert(b: Assembler, name: str, x: Any, y: Any, alpha: float = 1) -> Value:
        if isinstance(x, Value) and isinstance(y, Value):
            return b.add_values([x, y if alpha == 1 else b.affine(y, alpha, 0.0, f"{name}/alpha")], (1, sign), name)
        if isinstance(x, Value):
            return b.affine(x, 1.0, sign * alpha * _numpy(y), name)
        return b.affine(y, sign * alpha, _numpy(x), name)

    return convert


def _times(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        raise UnsupportedOperatorError("a product of two computed tensors is not piecewise linear")
    return b.affine(x, _numpy(y), 0.0, name) if isinstance(x, Value) else b.affine(y, _numpy(x), 0.0, name)


def _divided(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(y, Value):
        raise UnsupportedOperatorError("division by a computed tensor is not piecewise linear")
    return b.affine(x, 1.0 / _numpy(y), 0.0, name)


def _addmm(b: Assembler, name: str, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Value:
    if isinstance(bias, Value) or isinstance(y, Value) or beta != 1 or alpha != 1:
        raise UnsupportedOperatorError("addmm needs a constant bias and matrix, and no factors")
    product = b.times_matrix(x, sparse_if_large(_numpy(y)).T, None, f"{name}/product")
    return b.affine(product, 1.0, _numpy(bias), name)


def _matmul(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, torch.Tensor) and y.ndim == 2:
        return b.times_matrix(x, sparse_if_large(_numpy(y)).T, None, name)
    if isinstance(y, Value) and isinstance(x, torch.Tensor) and x.ndim == 2:
        return b.matrix_times(sparse_if_large(_numpy(x)), y, name)
    raise UnsupportedOperatorError("matmul needs one constant matrix of two axes")


def _extreme(sign: int) -> Callable[..., Value]:
    def convert(b: Assembler, name: str, x: Any, y: Any = None) -> Value:
        if isinstance(x, Value) and isinstance(y, Value):
            return b.larger(x, y, name, sign)
        value, bound = (x, y) if isinstance(x, Value) else (y, x)
        if not isinstance(bound, torch.Tensor):
            raise UnsupportedOperatorError("max and min need two tensors")
        return b.clip_by(value, _numpy(bound), name, sign)

    return convert


def _cat(b: Assembler, name: str, tensors: Any, dim: int = 0) -> Value:
    if not all(isinstance(t, Value) for t in tensors):
        raise UnsupportedOperatorError("concatenation with constant tensors is not supported")
    axis = dim % len(tensors[0].shape)
    trimmed = axis > 0 and all(t.shape[0] == 1 for t in tensors)
    nodes = [b.view(t, t.shape[1:] if trimmed else t.shape, name) for t in tensors]
    total = (*tensors[0].shape[:axis], sum(t.shape[axis] for t in tensors), *tensors[0].shape[axis + 1 :])
    return Value(b.add(Concat(axis - 1 if trimmed else axis), *nodes, name=name), total)


def _pad(b: Assembler, name: str, x: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    positions = torch.arange(x.size).reshape(x.shape)
    if mode == "constant":
        return b.select(x, F.pad(positions, list(pad), value=-1).numpy(), name, float(value or 0.0))
    return b.select(x, F.pad(positions.double(), list(pad), mode=mode).long().numpy(), name)


def _mean(b: Assembler, name: str, x: Value, dim: Any = None, keepdim: bool = False, share: bool = True) -> Value:
    rank = len(x.shape)
    axes = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    over = sorted({a % rank for a in axes})
    kept = [a for a in range(rank) if a not in over]
    count = prod(x.shape[a] for a in over)
    turned = b.move(x, lambda i: i.transpose(kept + over), f"{name}/turned")
    rows = Value(turned.name, (prod(x.shape[a] for a in kept), count))
    total = b.times_matrix(rows, np.full((1, count), 1.0 / count if share else 1.0), None, name)
    full = tuple(1 if a in over else d for a, d in enumerate(x.shape)) if keepdim else tuple(x.shape[a] for a in kept)
    return Value(total.name, full)


def _same(b: Assembler, name: str, x: Value, *args: Any, **options: Any) -> Value:
    return x


def _dropout(b: Assembler, name: str, x: Value, p: float, train: bool) -> Value:
    if train and p > 0:
        raise UnsupportedOperatorError("dropout in training mode is random; pass training=self.training to it")
    return x


def _relu(b: Assembler, name: str, x: Value, inplace: bool = False) -> Value:
    return b.apply(relu(), x, name)


def _absolute(b: Assembler, name: str, x: Value) -> Value:
    return b.apply(absolute(), x, name)


def _converted(b: Assembler, name: str, x: Value, *args: Any, dtype: Any = None, **options: Any) -> Value:
    dtype = next((a for a in args if isinstance(a, torch.dtype)), dtype)
    if dtype not in (None, torch.float32, torch.float64):
        raise UnsupportedOperatorError(f"a conversion to {dtype} rounds, which is not supported")
    return x


Converter = Callable[..., Any]
CONVERTERS: dict[str, Converter] = {
    "relu": _relu,
    **dict.fromkeys(("abs", "absolute"), _absolute),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    "clamp_min": lambda b, n, x, low: _clamp(b, n, x, low),
    "clamp_max": lambda b, n, x, high: _clamp(b, n, x, None, high),
    "hardtanh": _hardtanh,
    "relu6": lambda b, n, x: _hardtanh(b, n, x, 0.0, 6.0),
    "leaky_relu": _leaky,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "mm", "mv"), _matmul),
    **dict.fromkeys(("conv1d", "conv2d"), _conv),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    "max_pool2d_with_indices": lambda b, n, *args: (_max_pool(b, n, *args), None),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive_average),
    "batch_norm": lambda b, n, x, w, c, mean, var, training, momentum, eps, *_: _batch_norm(
        b, n, x, w, c, mean, var, momentum, eps, training
    ),
    "_native_batch_norm_legit_no_training": lambda b, n, *args: (_batch_norm(b, n, *args), None, None),
    "add": _plus(1),
    "sub": _plus(-1),
    "rsub": lambda b, n, x, y, alpha=1: (
        b.affine(x, -alpha, _numpy(y), n) if not isinstance(y, Value) else _plus(-1)(b, n, y, x, alpha)
    ),
    "mul": _times,
    "div": _divided,
    "neg": lambda b, n, x: b.affine(x, -1.0, 0.0, n),
    **dict.fromkeys(("maximum", "max"), _extreme(1)),
    **dict.fromkeys(("minimum", "min"), _extreme(-1)),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "mean": _mean,
    "sum": lambda b, n, x, dim=None, keepdim=False: _mean(b, n, x, dim, keepdim, share=False),
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy"), _same),
    **dict.fromkeys(("_to_copy", "to"), _converted),
}
"""How each supported operation of torch is rewritten, by its name without the overload."""

MOVEMENTS = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "t"),
    *("squeeze", "unsqueeze", "expand", "repeat", "roll", "flip", "narrow", "slice", "select", "index_select"),
    *("chunk", "split", "split_with_sizes", "unbind", "index", "gather", "diagonal", "tile", "pixel_shuffle"),
    *("pixel_unshuffle", "channel_shuffle", "unfold", "rot90", "expand_as", "view_as", "copy", "stack"),
    *("slice_scatter", "select_scatter", "diagonal_scatter", "index_put", "scatter"),
}
"""Operations that only move data; tensors of floats among their arguments are data, others are positions."""

SIZES = {
    *("sym_size", "size", "dim", "numel", "sym_numel"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"),
}
"""Operations whose results depend on shapes alone."""


def supported() -> str:
    """What is supported, in words."""
    return f"supported operations: {', '.join(sorted(k for k in {*CONVERTERS, *MOVEMENTS} if k[0] != '_'))}"
