"""The table of operations of torch that are read, and the converters of products, sums over axes and paddings."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from verifier.errors import UnsupportedOperatorError
from verifier.network import products, windows
from verifier.network.assembly import Assembler
from verifier.network.piecewise import absolute
from verifier.network.tensors import Value, sparse_if_large
from verifier.network.torch_curved import CURVED, euclidean_norm
from verifier.network.torch_elementwise import ELEMENTWISE, Converter, as_array
from verifier.network.torch_windows import WINDOWS


def _linear(b: Assembler, name: str, x: Value, weight: Any, bias: Any = None) -> Value:
    return b.times_matrix(x, sparse_if_large(as_array(weight)), None if bias is None else as_array(bias), name)


def _addmm(b: Assembler, name: str, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Value:
    """``beta · bias + alpha · x @ y``: addmm and baddbmm."""
    product = b.affine(_matmul(b, f"{name}/product", x, y), float(alpha), 0.0, f"{name}/alpha")
    if isinstance(bias, Value):
        return b.add_values([product, b.affine(bias, float(beta), 0.0, f"{name}/beta")], (1, 1), name)
    return b.affine(product, 1.0, beta * as_array(bias), name)


def _matmul(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        return products.matmul_of_two(b, x, y, name)
    left = isinstance(y, Value)
    value, matrix = (y, sparse_if_large(as_array(x))) if left else (x, sparse_if_large(as_array(y)))
    return products.matmul(b, value, matrix, name, left=left)


def _einsum(b: Assembler, name: str, equation: str, operands: Any, path: Any = None) -> Value:
    return products.einsum(b, equation, [o if isinstance(o, Value) else as_array(o) for o in operands], name)


def _extreme_over(sign: int) -> Converter:
    def convert(b: Assembler, name: str, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
        axes = [dim] if isinstance(dim, int) else dim or range(len(x.shape))
        return b.reduced(x, axes, keepdim, name, kind="max" if sign > 0 else "min")

    return convert


def _cat(b: Assembler, name: str, tensors: Any, dim: int = 0) -> Value:
    return b.concatenated([t if isinstance(t, Value) else as_array(t) for t in tensors], dim, name)


def _pad(b: Assembler, name: str, x: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    positions = torch.arange(x.size).reshape(x.shape)
    if mode == "constant":
        return b.select(x, F.pad(positions, list(pad), value=-1).numpy(), name, float(value or 0.0))
    return b.select(x, F.pad(positions.double(), list(pad), mode=mode).long().numpy(), name)


def _mean(b: Assembler, name: str, x: Value, dim: Any = None, keepdim: bool = False, kind: str = "mean") -> Value:
    axes = range(len(x.shape)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return b.reduced(x, axes, keepdim, name, kind=kind)


def _norm(b: Assembler, name: str, x: Value, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Value:
    if ord == 2:
        return euclidean_norm(b, name, x, dim, keepdim)
    magnitudes = b.apply(absolute(), x, f"{name}/magnitudes")
    if ord == 1:
        return _mean(b, name, magnitudes, dim, keepdim, "sum")
    if ord == inf:
        return _mean(b, name, magnitudes, dim, keepdim, "max")
    raise UnsupportedOperatorError(f"the norm of order {ord} is not supported (1, 2 and infinity are)")


def _cumulative_sum(b: Assembler, name: str, x: Value, dim: int) -> Value:
    axis = dim % len(x.shape)
    return windows.along_axes(b, x, {axis: np.tril(np.ones((x.shape[axis],) * 2))}, name)


def _triangle(take: Any) -> Converter:
    return lambda b, name, x, k=0: b.move(x, lambda index: take(index + 1, k) - 1, name)


CONVERTERS: dict[str, Converter] = {
    **ELEMENTWISE,
    **CURVED,
    **WINDOWS,
    "linear": _linear,
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("matmul", "mm", "mv", "bmm"), _matmul),
    "einsum": _einsum,
    "cumsum": _cumulative_sum,
    "tril": _triangle(np.tril),
    "triu": _triangle(np.triu),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "mean": _mean,
    "sum": lambda b, n, x, dim=None, keepdim=False: _mean(b, n, x, dim, keepdim, "sum"),
    "amax": _extreme_over(1),
    "amin": _extreme_over(-1),
    "linalg_vector_norm": _norm,
}
"""How each supported operation of torch is rewritten, by its name without the overload."""

MOVEMENTS = {
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "swapaxes",
        "movedim",
        "t",
        "mT",
    ),
    *("squeeze", "unsqueeze", "expand", "repeat", "roll", "flip", "narrow", "slice", "select", "index_select"),
    *("chunk", "split", "split_with_sizes", "unbind", "index", "gather", "diagonal", "tile", "pixel_shuffle"),
    *("pixel_unshuffle", "channel_shuffle", "unfold", "rot90", "expand_as", "view_as", "copy", "stack"),
    *("slice_scatter", "select_scatter", "diagonal_scatter", "index_put", "scatter"),
}
"""Operations that only move data; tensors of floats among their arguments are data, others are positions."""

OF_JUMPS = {
    *("add", "sub", "mul", "neg", "abs", "relu", "where", "sign", "gt", "ge", "lt", "le", "eq", "ne", "_to_copy", "to"),
    *(f"{form}_{kind}" for form in ("logical", "bitwise") for kind in ("and", "or", "xor", "not")),
    *("__and__", "__or__", "__xor__", "__invert__", "threshold", "softshrink", "hardshrink"),
}
"""Operations that take functions with jumps as they are; others take the values of these."""

SIZES = {
    *("sym_size", "size", "dim", "numel", "sym_numel"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"),
}
"""Operations whose results depend on shapes alone."""


def supported() -> list[str]:
    """The names of all operations that are read."""
    return sorted(name for name in {*CONVERTERS, *MOVEMENTS} if not name.startswith("_"))
