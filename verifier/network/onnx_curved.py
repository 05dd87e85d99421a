"""Converters of ONNX operators that are curved, in terms of functions of one variable and products."""

from __future__ import annotations

import math

import numpy as np

from verifier.network.assembly import Assembler, Value
from verifier.network.curved import Smooth
from verifier.network.onnx_step import Converter, Step, Tensor
from verifier.network.piecewise import relu

LARGEST_SUM = 1 << 20
"""Products that one operator may need."""


def _function(step: Step) -> Tensor:
    """A function of one tensor by ONNX's name of it."""
    return step.assembler.smooth(step.value(), step.kind, (), step.name)


def _gelu(step: Step) -> Tensor:
    label = "GeluTanh" if step.attribute("approximate", "none") == "tanh" else "Gelu"
    return step.assembler.smooth(step.value(), label, (), step.name)


def _swish(step: Step) -> Tensor:
    return step.assembler.smooth(step.value(), "Silu", (float(step.attribute("alpha", 1.0)),), step.name)


def _elu(step: Step) -> Tensor:
    """Elu, Celu and Selu: one function where it is convex, else the sum of its two sides."""
    scale = float(step.attribute("gamma", 1.05070102214813232421875)) if step.kind == "Selu" else 1.0
    alpha = float(step.attribute("alpha", 1.67326319217681884765625 if step.kind == "Selu" else 1.0))
    width = alpha if step.kind == "Celu" else 1.0
    build, value, name = step.assembler, step.value(), step.name
    if 0 < alpha <= width:
        return build.affine(build.smooth(value, "Elu", (alpha, width), f"{name}/elu"), scale, 0.0, name)
    above = build.affine(build.apply(relu(), value, f"{name}/above"), scale, 0.0, f"{name}/right")
    turned = build.affine(value, -1.0 / width, 0.0, f"{name}/turned")
    below = build.affine(build.apply(relu(), turned, f"{name}/below"), -1.0, 0.0, f"{name}/left")
    power = build.smooth(below, "Exp", (), f"{name}/exp")
    return build.add_values([above, build.affine(power, scale * alpha, -scale * alpha, f"{name}/curved")], (1, 1), name)


def _hard_swish(step: Step) -> Tensor:
    build, value = step.assembler, step.value()
    gate = build.clip(build.affine(value, 1 / 6, 0.5, f"{step.name}/line"), 0.0, 1.0, f"{step.name}/gate")
    return build.product(value, gate, step.name)


def _power(step: Step) -> Tensor:
    """A constant power of a tensor, or a tensor as the power of a constant."""
    build = step.assembler
    if step.is_constant(0) and not step.is_constant(1):
        base = np.asarray(step.constant(0), dtype=np.float64)
        if (base <= 0).any():
            raise step.unsupported("of a base that is not positive")
        scaled = build.affine(step.value(1), np.log(base), 0.0, f"{step.name}/log")
        return build.smooth(scaled, "Exp", (), step.name)
    exponent = step.constant(1)
    assert exponent is not None
    if exponent.size and (exponent != exponent.flat[0]).any():
        raise step.unsupported("with different powers for different entries")
    return _to_power(build, step.value(), float(exponent.flat[0]), step.name)


def _to_power(build: Assembler, value: Value, n: float, name: str) -> Value:
    if n == 1:
        return value
    if n == 0:
        return build.affine(value, 0.0, 1.0, name)
    if n in (-1.0, 0.5):
        return build.smooth(value, "Reciprocal" if n < 0 else "Sqrt", (), name)
    return build.smooth(value, "Power", (n,), name)


# -- over axes -------------------------------------------------------------------------------------------
def _softmax(step: Step) -> Tensor:
    """``1 / Σ_j exp(z_j - z_i)``, which is Softmax, and for LogSoftmax minus the logarithm of that sum."""
    build, value, name = step.assembler, step.value(), step.name
    rank = len(value.shape)
    axis = int(step.attribute("axis", -1 if step.opset >= 13 else 1)) % rank
    over = [axis] if step.opset >= 13 else list(range(axis, rank))
    index = np.arange(value.size).reshape(value.shape)
    kept = [a for a in range(rank) if a not in over]
    rows = index.transpose(kept + over).reshape(-1, math.prod(value.shape[a] for a in over))
    count, size = rows.shape
    if count * size * size > LARGEST_SUM:
        raise step.unsupported(f"over {size} entries, {count} times,")
    pairs = build.select(value, np.repeat(rows[:, None, :], size, axis=1), f"{name}/all")
    own = build.select(value, np.repeat(rows[:, :, None], size, axis=2), f"{name}/own")
    difference = build.add_values([pairs, own], (1, -1), f"{name}/difference")
    sums = build.reduced(build.smooth(difference, "Exp", (), f"{name}/exp"), [2], False, f"{name}/sums", kind="sum")
    if step.kind == "Softmax":
        made = build.smooth(sums, "Reciprocal", (), f"{name}/reciprocal")
    else:
        made = build.affine(build.smooth(sums, "Log", (), f"{name}/log"), -1.0, 0.0, f"{name}/negative")
    back = np.empty(value.size, dtype=np.int64)
    back[rows.reshape(-1)] = np.arange(value.size)
    return build.select(made, back.reshape(value.shape), name)


def _norm(step: Step) -> Tensor:
    """ReduceSumSquare, ReduceL2, ReduceLogSum and ReduceLogSumExp."""
    build, value, name = step.assembler, step.value(), step.name
    axes = step.integers(1, "axes")
    if not axes:
        if step.attribute("noop_with_empty_axes", 0):
            return value
        axes = tuple(range(len(value.shape)))
    inner = {"ReduceSumSquare": ("Power", (2.0,)), "ReduceL2": ("Power", (2.0,)), "ReduceLogSumExp": ("Exp", ())}
    if step.kind in inner:
        value = build.smooth(value, *inner[step.kind], f"{name}/entries")
    total = build.reduced(value, axes, bool(step.attribute("keepdims", 1)), f"{name}/sum", kind="sum")
    outer = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log", "ReduceLogSumExp": "Log"}
    return build.smooth(total, outer[step.kind], (), name) if step.kind in outer else total


def _normalised(step: Step) -> Tensor:
    """LayerNormalization, InstanceNormalization and RMSNormalization: centred, over their root mean square."""
    build, value, name = step.assembler, step.value(), step.name
    rank = len(value.shape)
    per_channel = step.kind == "InstanceNormalization"
    first = 2 if per_channel else int(step.attribute("axis", -1)) % rank
    axes, epsilon = list(range(first, rank)), float(step.attribute("epsilon", np.float32(1e-5)))
    centred = value
    if step.kind != "RMSNormalization":
        mean = build.reduced(value, axes, True, f"{name}/mean", kind="mean")
        spread = build.broadcast(mean, value.shape, f"{name}/means")
        centred = build.add_values([value, spread], (1, -1), f"{name}/centred")
    squares = build.smooth(centred, "Power", (2.0,), f"{name}/squares")
    variance = build.affine(
        build.reduced(squares, axes, True, f"{name}/variance", kind="mean"), 1.0, epsilon, f"{name}/shifted"
    )
    factor = build.smooth(variance, "Power", (-0.5,), f"{name}/factor")
    made = build.product(centred, build.broadcast(factor, value.shape, f"{name}/factors"), f"{name}/normal")
    scale, shift = step.constant(1), step.constant(2)
    shape = (-1, *([1] * (rank - 2))) if per_channel else None
    ends = [
        np.asarray(d) if c is None else (c if shape is None else c.reshape(shape))
        for c, d in ((scale, 1.0), (shift, 0.0))
    ]
    return build.affine(made, ends[0], ends[1], name)


CURVED: dict[str, Converter] = {
    **dict.fromkeys(("Atan", "Cos", "Erf", "Exp", "Log", "Mish", "Reciprocal", "Sigmoid", "Sin"), _function),
    **dict.fromkeys(("Softplus", "Softsign", "Sqrt", "Tanh"), _function),
    **dict.fromkeys(("Celu", "Elu", "Selu"), _elu),
    "Gelu": _gelu,
    "HardSwish": _hard_swish,
    "Pow": _power,
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "RMSNormalization"), _normalised),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), _norm),
    "Swish": _swish,
}
"""The converter of every supported operator type of this kind."""


def gated(build: Assembler, first: Value, second: Value, name: str) -> Value | None:
    """``z · sigmoid(z)`` and ``z · (1 + erf(z / √2))`` as the functions that they are; None for other products."""
    for value, gate in ((first, second), (second, first)):
        made = build.made_by(gate.name)
        if made is None or value.shape != gate.shape:
            continue
        operator, (source,) = made
        if isinstance(operator, Smooth) and operator.label == "Sigmoid" and source == value.name:
            return build.smooth(value, "Silu", (), name)
        scale, shift, inner = build.line_of(gate.name)
        made = build.made_by(inner)
        if made is None or not isinstance(made[0], Smooth) or made[0].label != "Erf" or scale != shift:
            continue
        beta, offset, source = build.line_of(made[1][0])
        if source == value.name and offset == 0 and beta > 0:
            return build.affine(build.smooth(value, "Gelu", (beta,), f"{name}/gelu"), 2.0 * scale, 0.0, name)
    return None
