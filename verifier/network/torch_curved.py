"""Converters of operations of torch that are curved: functions of one variable, products of tensors, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from verifier.errors import UnsupportedOperatorError
from verifier.network import compositions, products
from verifier.network.assembly import Assembler
from verifier.network.tensors import Masked, Value
from verifier.network.torch_elementwise import Converter, as_array

SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)
"""Alpha and scale of SELU, as torch has them."""


def _function(label: str, *parameters: float) -> Converter:
    return lambda b, name, x: b.smooth(x, label, parameters, name)


def _gelu(b: Assembler, name: str, x: Value, approximate: str = "none") -> Value:
    return b.smooth(x, "Gelu" if approximate == "none" else "GeluTanh", (), name)


def _softplus(b: Assembler, name: str, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    b.remarks[
        f"torch computes Softplus as a straight line from {threshold:g} on; it is read as log(1 + exp(z)), which is less than "
        f"{math.exp(-threshold) / beta:.1g} away"
    ] = None
    inner = b.affine(x, float(beta), 0.0, f"{name}/scaled")
    return b.affine(b.smooth(inner, "Softplus", (), f"{name}/softplus"), 1.0 / beta, 0.0, name)


def _log_sigmoid(b: Assembler, name: str, x: Value) -> Value:
    turned = b.affine(x, -1.0, 0.0, f"{name}/turned")
    return b.affine(b.smooth(turned, "Softplus", (), f"{name}/softplus"), -1.0, 0.0, name)


def _logarithm(shift: float, base: float) -> Converter:
    def convert(b: Assembler, name: str, x: Value) -> Value:
        found = b.smooth(b.affine(x, 1.0, shift, f"{name}/shifted"), "Log", (), f"{name}/log")
        return b.affine(found, 1.0 / math.log(base), 0.0, name)

    return convert


def _elu(b: Assembler, name: str, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    return compositions.elu(b, x, float(alpha), 1.0 / float(input_scale), float(scale), name)


def _celu(b: Assembler, name: str, x: Value, alpha: float = 1) -> Value:
    return compositions.elu(b, x, float(alpha), float(alpha), 1.0, name)


def _power(b: Assembler, name: str, x: Any, exponent: Any) -> Value:
    if isinstance(x, Value) and isinstance(exponent, Value):
        raise UnsupportedOperatorError("a power with a computed exponent of a computed tensor is not supported")
    if isinstance(exponent, Value):
        return compositions.exponential(b, as_array(x), exponent, name)
    n = as_array(exponent)
    if n.size != 1:
        raise UnsupportedOperatorError("different powers for different entries are not supported")
    return compositions.power(b, x, float(n.reshape(-1)[0]), name)


def _glu(b: Assembler, name: str, x: Value, dim: int = -1) -> Value:
    halves = np.split(np.arange(x.size).reshape(x.shape), 2, axis=dim)
    value, gate = (b.select(x, half, f"{name}/{k}") for k, half in enumerate(halves))
    return b.product(value, b.smooth(gate, "Sigmoid", (), f"{name}/gate"), name)


# -- over axes -------------------------------------------------------------------------------------------
def _axes(x: Value, dim: Any) -> list[int]:
    """The axes that an argument names: all of them for None and []."""
    if dim is None or (not isinstance(dim, int) and not dim):
        return list(range(len(x.shape)))
    return [a % len(x.shape) for a in ([dim] if isinstance(dim, int) else dim)]


def _softmax(logarithm: bool) -> Converter:
    def convert(b: Assembler, name: str, x: Value | Masked, dim: int, *args: Any, **options: Any) -> Value:
        return compositions.softmax(b, x, [dim], name, logarithm=logarithm)

    return convert


def _masked_fill(b: Assembler, name: str, x: Value, mask: Any, value: Any) -> Value | Masked:
    if not isinstance(mask, torch.Tensor):
        raise UnsupportedOperatorError("a mask that is computed is not supported")
    number, chosen = float(as_array(value)), mask.bool().numpy()
    if number == -math.inf:
        return compositions.masked(b, x, np.where(chosen, -np.inf, 0.0), name)
    full = np.broadcast_shapes(x.shape, chosen.shape)
    x, chosen = b.broadcast(x, full, f"{name}/spread"), np.broadcast_to(chosen, full)
    return b.affine(x, np.where(chosen, 0.0, 1.0), np.where(chosen, number, 0.0), name)


def _log_sum_exp(b: Assembler, name: str, x: Value, dim: Any, keepdim: bool = False) -> Value:
    return compositions.norm(b, x, _axes(x, dim), keepdim, name, inner=("Exp", ()), outer="Log")


def euclidean_norm(b: Assembler, name: str, x: Value, dim: Any, keepdim: bool) -> Value:
    """The norm of order 2 over some axes."""
    return compositions.norm(b, x, _axes(x, dim), keepdim, name, inner=("Power", (2.0,)), outer="Sqrt")


def _scaled(b: Assembler, name: str, x: Value, weight: Any, bias: Any, shape: Sequence[int]) -> Value:
    scale, shift = (np.asarray(d) if a is None else as_array(a).reshape(shape) for a, d in ((weight, 1.0), (bias, 0.0)))
    return b.affine(x, scale, shift, name)


def _layer_norm(
    b: Assembler, name: str, x: Value, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    axes = list(range(len(x.shape) - len(shape), len(x.shape)))
    return _scaled(b, name, compositions.normalised(b, x, axes, float(eps), name), weight, bias, tuple(shape))


def _rms_norm(b: Assembler, name: str, x: Value, shape: Any, weight: Any = None, eps: float | None = None) -> Value:
    if eps is None:
        raise UnsupportedOperatorError(
            "RMSNorm without eps takes the one of its numbers' type, which is no part of the module",
            fix="RMSNorm(…, eps=1e-6)",
        )
    axes = list(range(len(x.shape) - len(shape), len(x.shape)))
    made = compositions.normalised(b, x, axes, float(eps), name, centred=False)
    return _scaled(b, name, made, weight, None, tuple(shape))


def _group_norm(
    b: Assembler,
    name: str,
    x: Value,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    channels = (-1, *([1] * (len(x.shape) - 2)))
    grouped = Value(x.name, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    axes = list(range(2, len(grouped.shape)))
    made = compositions.normalised(b, grouped, axes, float(eps), name)
    return _scaled(b, name, Value(made.name, x.shape), weight, bias, channels)


def _instance_norm(
    b: Assembler,
    name: str,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    by_input: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    if not by_input:
        raise UnsupportedOperatorError("instance normalisation by kept statistics is not supported")
    made = compositions.normalised(b, x, list(range(2, len(x.shape))), float(eps), name)
    return _scaled(b, name, made, weight, bias, (-1, *([1] * (len(x.shape) - 2))))


def _variance(root: bool) -> Converter:
    def convert(
        b: Assembler,
        name: str,
        x: Value,
        dim: Any = None,
        unbiased: Any = True,
        keepdim: bool = False,
        *,
        correction: Any = None,
    ) -> Value:
        if isinstance(dim, bool):  # var(x, unbiased)
            dim, unbiased = None, dim
        axes = _axes(x, dim)
        less = int(unbiased) if correction is None else int(correction)
        _, variance = compositions.spread(b, x, axes, name, less=less)
        shape = variance.shape if keepdim else tuple(d for a, d in enumerate(x.shape) if a not in axes)
        made = Value(variance.name, shape)
        return b.smooth(made, "Sqrt", (), f"{name}/root") if root else made

    return convert


# -- attention -------------------------------------------------------------------------------------------
def _attention(
    b: Assembler,
    name: str,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Scaled dot-product attention: ``softmax(q kᵀ · scale + mask) v``."""
    if enable_gqa or dropout_p or not all(isinstance(v, Value) for v in (query, key, value)):
        raise UnsupportedOperatorError("attention with shared heads, dropout or constant parts is not supported")
    turned = b.move(key, lambda index: index.swapaxes(-1, -2), f"{name}/keys")
    scores = products.matmul_of_two(b, query, turned, f"{name}/scores")
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    mask = np.zeros(())
    if attn_mask is not None:
        if isinstance(attn_mask, Value):
            raise UnsupportedOperatorError("an attention mask that is computed is not supported")
        array = as_array(attn_mask)
        mask = np.where(array != 0, 0.0, -np.inf) if attn_mask.dtype == torch.bool else array
    if is_causal:
        mask = np.where(np.tril(np.ones(scores.shape[-2:])) > 0, 0.0, -np.inf)
    scores = b.affine(scores, factor, 0.0, f"{name}/scaled")
    shown = compositions.masked(b, scores, mask, f"{name}/masked")
    weights = compositions.softmax(b, shown, [len(scores.shape) - 1], f"{name}/weights")
    return products.matmul_of_two(b, weights, value, name)


CURVED: dict[str, Converter] = {
    "sigmoid": _function("Sigmoid"),
    "tanh": _function("Tanh"),
    "exp": _function("Exp"),
    "log": _function("Log"),
    "sqrt": _function("Sqrt"),
    "rsqrt": _function("Power", -0.5),
    "square": _function("Power", 2.0),
    "reciprocal": _function("Reciprocal"),
    "sin": _function("Sin"),
    "cos": _function("Cos"),
    **dict.fromkeys(("atan", "arctan"), _function("Atan")),
    **dict.fromkeys(("erf", "special_erf"), _function("Erf")),
    "silu": _function("Silu"),
    "mish": _function("Mish"),
    "gelu": _gelu,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "log1p": _logarithm(1.0, math.e),
    "log2": _logarithm(0.0, 2.0),
    "log10": _logarithm(0.0, 10.0),
    "expm1": lambda b, n, x: b.affine(b.smooth(x, "Exp", (), f"{n}/exp"), 1.0, -1.0, n),
    "exp2": lambda b, n, x: compositions.exponential(b, np.asarray(2.0), x, n),
    "elu": _elu,
    "celu": _celu,
    "selu": lambda b, n, x: compositions.elu(b, x, SELU[0], 1.0, SELU[1], n),
    "hardswish": lambda b, n, x: compositions.hard_swish(b, x, n),
    "pow": _power,
    "glu": _glu,
    **dict.fromkeys(("softmax", "_softmax"), _softmax(False)),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax(True)),
    "logsumexp": _log_sum_exp,
    "masked_fill": _masked_fill,
    "layer_norm": _layer_norm,
    "native_layer_norm": lambda b, n, *args: (_layer_norm(b, n, *args), None, None),
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "var": _variance(False),
    "std": _variance(True),
    "scaled_dot_product_attention": _attention,
}
"""How each operation of this kind is rewritten, by its name without the overload."""
