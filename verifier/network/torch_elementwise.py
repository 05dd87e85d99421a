"""Converters of operations of torch that work entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
import torch

from verifier.errors import UnsupportedOperatorError
from verifier.network import compositions, curves
from verifier.network.assembly import Assembler
from verifier.network.curves import Curve
from verifier.network.operators import Array
from verifier.network.piecewise import absolute, relu
from verifier.network.tensors import Jump, Value

Converter = Callable[..., Any]


def as_array(tensor: Any) -> Array:
    """A tensor or number as float64."""
    return np.array(tensor.detach().double().numpy() if isinstance(tensor, torch.Tensor) else tensor, dtype=np.float64)


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
    factor = 1.0 / np.sqrt(as_array(variance) + eps)
    shift = -as_array(mean) * factor
    if weight is not None:
        factor, shift = factor * as_array(weight), shift * as_array(weight)
    if bias is not None:
        shift = shift + as_array(bias)
    shape = (-1, *([1] * (len(x.shape) - 2)))
    return b.affine(x, factor.reshape(shape), shift.reshape(shape), name)


def _prelu(b: Assembler, name: str, x: Value, weight: Any) -> Value:
    slope = as_array(weight).reshape(-1)
    return b.leaky(x, slope if slope.size == 1 else slope.reshape(-1, *([1] * (len(x.shape) - 2))), name)


def _clamp(b: Assembler, name: str, x: Value, min: Any = None, max: Any = None) -> Value:
    return b.clip(x, -inf if min is None else float(min), inf if max is None else float(max), name)


def _hardtanh(
    b: Assembler, name: str, x: Value, min_val: float = -1, max_val: float = 1, inplace: bool = False
) -> Value:
    return b.clip(x, float(min_val), float(max_val), name)


def _leaky(b: Assembler, name: str, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return b.leaky(x, np.asarray(negative_slope), name)


def _plus(sign: int) -> Converter:
    def convert(b: Assembler, name: str, x: Any, y: Any, alpha: float = 1) -> Any:
        if isinstance(x, Jump) or isinstance(y, Jump):
            found = b.combined(curves.plus if sign > 0 else curves.minus, [operand(x), operand(y)], name)
            if alpha == 1 and found is not None:
                return found
            x, y = (compositions.as_node(b, operand(o), name) for o in (x, y))
        if isinstance(x, Value) and isinstance(y, Value):
            return b.add_values([x, y if alpha == 1 else b.affine(y, alpha, 0.0, f"{name}/alpha")], (1, sign), name)
        if isinstance(x, Value):
            return b.affine(x, 1.0, sign * alpha * as_array(y), name)
        return b.affine(y, sign * alpha, as_array(x), name)

    return convert


def _times(b: Assembler, name: str, x: Any, y: Any) -> Any:
    if isinstance(x, (Value, Jump)) and isinstance(y, (Value, Jump)):
        found = b.combined(curves.times, [x, y], name)
        if found is not None:
            return found
        first, second = (compositions.as_node(b, o, name) for o in (x, y))
        return compositions.times(b, first, second, name)  # type: ignore[arg-type]
    return (
        b.affine(x, as_array(y), 0.0, name) if not isinstance(y, (Value, Jump)) else b.affine(y, as_array(x), 0.0, name)
    )


def _divided(b: Assembler, name: str, x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise UnsupportedOperatorError("a division that rounds is not supported")
    if isinstance(y, Value):
        return compositions.quotient(b, x if isinstance(x, Value) else as_array(x), y, name)
    return b.affine(x, 1.0 / as_array(y), 0.0, name)


def _same(b: Assembler, name: str, x: Value, *args: Any, **options: Any) -> Value:
    return x


def _converted(b: Assembler, name: str, x: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    dtype = next((a for a in args if isinstance(a, torch.dtype)), dtype)
    if isinstance(x, Jump) and x.curve.logical and dtype != torch.bool:
        return Jump(x.root, x.shape, Curve(x.curve.breaks, x.curve.lines, x.curve.at))
    if dtype not in (None, torch.float32, torch.float64):
        raise UnsupportedOperatorError(f"a conversion to {dtype} rounds, which is not supported")
    return x


def _dropout(b: Assembler, name: str, x: Value, p: float, train: bool) -> Value:
    if train and p > 0:
        raise UnsupportedOperatorError("dropout in training mode is random; pass training=self.training to it")
    return x


def _relu(b: Assembler, name: str, x: Value, inplace: bool = False) -> Value:
    return b.apply(relu(), x, name)


def _absolute(b: Assembler, name: str, x: Value) -> Value:
    return b.apply(absolute(), x, name)


def _hardsigmoid(b: Assembler, name: str, x: Value) -> Value:
    return b.clip(b.affine(x, 1.0 / 6.0, 0.5, f"{name}/linear"), 0.0, 1.0, name)


def _threshold(b: Assembler, name: str, x: Any, threshold: float, value: float) -> Any:
    t = Fraction(float(threshold))
    lines = (Fraction(0), Fraction(float(value))), (Fraction(1), Fraction(0))
    return b.through(Curve((t,), lines, (lines[0],)), x, name)


def _softshrink(b: Assembler, name: str, x: Any, lambd: float = 0.5) -> Any:
    edge, zero, one = Fraction(float(lambd)), Fraction(0), Fraction(1)
    lines = (one, edge), (zero, zero), (one, -edge)
    return b.through(Curve((-edge, edge), lines, (lines[1],) * 2), x, name) if edge else x


def _hardshrink(b: Assembler, name: str, x: Any, lambd: float = 0.5) -> Any:
    edge, zero, one = Fraction(float(lambd)), (Fraction(0), Fraction(0)), (Fraction(1), Fraction(0))
    return b.through(Curve((-edge, edge), (one, zero, one), (zero, zero)), x, name) if edge else x


def _compared(kind: str) -> Converter:
    return lambda b, name, x, y: compositions.compared(b, kind, operand(x), operand(y), name)


def _logic(kind: str) -> Converter:
    return lambda b, name, x, y: compositions.logic(b, kind, operand(x), operand(y), name)


def _not(b: Assembler, name: str, x: Any) -> Any:
    return b.through(Curve((), ((Fraction(-1), Fraction(1)),), (), True), x, name)


def _where(b: Assembler, name: str, condition: Any, x: Any, y: Any) -> Any:
    parts = [operand(x), operand(y)]
    if not isinstance(condition, torch.Tensor):
        return compositions.chosen(b, condition, parts[0], parts[1], name)
    parts = [compositions.as_node(b, p, name) for p in parts]
    sizes = [p.size for p in parts]
    places = [np.arange(n).reshape(p.shape) for n, p in zip(sizes, parts, strict=True)]
    return b.rearrange(parts, np.where(condition.bool().numpy(), places[0], sizes[0] + places[1]), name)


def operand(x: Any) -> Any:
    """A computed tensor as it is, a constant as float64."""
    return x if isinstance(x, (Value, Jump)) else as_array(x)


def _extreme(sign: int) -> Converter:
    """The greater (or lesser) of two tensors, or the greatest entry over one axis, or of all."""
    kind = "max" if sign > 0 else "min"

    def convert(b: Assembler, name: str, x: Any, y: Any = None, keepdim: bool = False) -> Any:
        if y is None:
            return b.reduced(x, range(len(x.shape)), False, name, kind=kind)
        if isinstance(y, int):
            return b.reduced(x, [y], keepdim, name, kind=kind), None
        if isinstance(x, Value) and isinstance(y, Value):
            return b.larger(x, y, name, sign)
        value, bound = (x, y) if isinstance(x, Value) else (y, x)
        return b.clip_by(value, as_array(bound), name, sign)

    return convert


def _spellings(kind: str) -> tuple[str, ...]:
    """The names of an operation of truth values."""
    return tuple(pattern.format(kind.lower()) for pattern in ("logical_{}", "bitwise_{}", "__{}__"))


ELEMENTWISE: dict[str, Converter] = {
    "relu": _relu,
    **dict.fromkeys(("abs", "absolute"), _absolute),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    "clamp_min": lambda b, n, x, low: _clamp(b, n, x, low),
    "clamp_max": lambda b, n, x, high: _clamp(b, n, x, None, high),
    "hardtanh": _hardtanh,
    "relu6": lambda b, n, x: _hardtanh(b, n, x, 0.0, 6.0),
    "leaky_relu": _leaky,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
    "where": _where,
    "sign": lambda b, n, x: b.through(curves.SIGN, x, n),
    **{
        kind: _compared(name)
        for kind, name in (
            ("gt", "Greater"),
            ("ge", "GreaterOrEqual"),
            ("lt", "Less"),
            ("le", "LessOrEqual"),
            ("eq", "Equal"),
        )
    },
    "ne": lambda b, n, x, y: _not(b, n, _compared("Equal")(b, f"{n}/equal", x, y)),
    **{name: _logic(kind) for kind in ("And", "Or", "Xor") for name in _spellings(kind)},
    **dict.fromkeys(("logical_not", "bitwise_not", "__invert__"), _not),
    "hardshrink": _hardshrink,
    "threshold": _threshold,
    "softshrink": _softshrink,
    "hardsigmoid": _hardsigmoid,
    "batch_norm": lambda b, n, x, w, c, mean, var, training, momentum, eps, *_: _batch_norm(
        b, n, x, w, c, mean, var, momentum, eps, training
    ),
    "_native_batch_norm_legit_no_training": lambda b, n, *args: (_batch_norm(b, n, *args), None, None),
    "add": _plus(1),
    "sub": _plus(-1),
    "rsub": lambda b, n, x, y, alpha=1: (
        b.affine(x, -alpha, as_array(y), n) if not isinstance(y, Value) else _plus(-1)(b, n, y, x, alpha)
    ),
    "mul": _times,
    "div": _divided,
    "neg": lambda b, n, x: b.affine(x, -1.0, 0.0, n),
    **dict.fromkeys(("maximum", "max"), _extreme(1)),
    **dict.fromkeys(("minimum", "min"), _extreme(-1)),
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy"), _same),
    **dict.fromkeys(("_to_copy", "to"), _converted),
}
"""How each operation of this kind is rewritten, by its name without the overload."""
