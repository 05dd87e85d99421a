"""Converters of ONNX operators that are curved."""

from __future__ import annotations

import numpy as np

from verifier.network import compositions
from verifier.network.onnx_step import Converter, Step, Tensor
from verifier.network.tensors import Masked


def _function(step: Step) -> Tensor:
    """A function of one tensor by ONNX's name of it."""
    return step.assembler.smooth(step.value(), step.kind, (), step.name)


def _gelu(step: Step) -> Tensor:
    label = "GeluTanh" if step.attribute("approximate", "none") == "tanh" else "Gelu"
    return step.assembler.smooth(step.value(), label, (), step.name)


def _swish(step: Step) -> Tensor:
    return step.assembler.smooth(step.value(), "Silu", (float(step.attribute("alpha", 1.0)),), step.name)


def _elu(step: Step) -> Tensor:
    """Elu, Celu and Selu."""
    scale = float(step.attribute("gamma", 1.05070102214813232421875)) if step.kind == "Selu" else 1.0
    alpha = float(step.attribute("alpha", 1.67326319217681884765625 if step.kind == "Selu" else 1.0))
    width = alpha if step.kind == "Celu" else 1.0
    return compositions.elu(step.assembler, step.value(), alpha, width, scale, step.name)


def _hard_swish(step: Step) -> Tensor:
    return compositions.hard_swish(step.assembler, step.value(), step.name)


def _power(step: Step) -> Tensor:
    """A constant power of a tensor, or a tensor as the power of a constant."""
    if step.is_constant(0) and not step.is_constant(1):
        base = np.asarray(step.constant(0), dtype=np.float64)
        return compositions.exponential(step.assembler, base, step.value(1), step.name)
    exponent = step.constant(1)
    assert exponent is not None
    if exponent.size and (exponent != exponent.flat[0]).any():
        raise step.unsupported("with different powers for different entries")
    return compositions.power(step.assembler, step.value(), float(exponent.flat[0]), step.name)


# -- over axes -------------------------------------------------------------------------------------------
def _softmax(step: Step) -> Tensor:
    found = step.tensor(0)
    value = found if isinstance(found, Masked) else step.value()
    rank = len((value.value if isinstance(value, Masked) else value).shape)
    axis = int(step.attribute("axis", -1 if step.opset >= 13 else 1)) % rank
    over = [axis] if step.opset >= 13 else list(range(axis, rank))
    return compositions.softmax(step.assembler, value, over, step.name, logarithm=step.kind == "LogSoftmax")


NORMS: dict[str, tuple[tuple[str, tuple[float, ...]] | None, str | None]] = {
    "ReduceSumSquare": (("Power", (2.0,)), None),
    "ReduceL2": (("Power", (2.0,)), "Sqrt"),
    "ReduceLogSum": (None, "Log"),
    "ReduceLogSumExp": (("Exp", ()), "Log"),
}
"""What is done to the entries before they are added up, and to the sum."""


def _norm(step: Step) -> Tensor:
    """ReduceSumSquare, ReduceL2, ReduceLogSum and ReduceLogSumExp."""
    value, axes = step.value(), step.integers(1, "axes")
    if not axes:
        if step.attribute("noop_with_empty_axes", 0):
            return value
        axes = tuple(range(len(value.shape)))
    inner, outer = NORMS[step.kind]
    keep = bool(step.attribute("keepdims", 1))
    return compositions.norm(step.assembler, value, axes, keep, step.name, inner=inner, outer=outer)


def _normalised(step: Step) -> Tensor:
    """LayerNormalization, InstanceNormalization and RMSNormalization, with scale and shift."""
    value, rank = step.value(), len(step.value().shape)
    per_channel = step.kind == "InstanceNormalization"
    first = 2 if per_channel else int(step.attribute("axis", -1)) % rank
    epsilon = float(step.attribute("epsilon", np.float32(1e-5)))
    centred = step.kind != "RMSNormalization"
    made = compositions.normalised(step.assembler, value, list(range(first, rank)), epsilon, step.name, centred=centred)
    shape = (-1, *([1] * (rank - 2))) if per_channel else None
    ends = [
        np.asarray(d) if c is None else (c if shape is None else c.reshape(shape))
        for c, d in ((step.constant(1), 1.0), (step.constant(2), 0.0))
    ]
    return step.assembler.affine(made, ends[0], ends[1], step.name)


CURVED: dict[str, Converter] = {
    **dict.fromkeys(("Atan", "Cos", "Erf", "Exp", "Log", "Mish", "Reciprocal", "Sigmoid", "Sin"), _function),
    **dict.fromkeys(("Softplus", "Softsign", "Sqrt", "Tanh"), _function),
    **dict.fromkeys(("Celu", "Elu", "Selu"), _elu),
    "Gelu": _gelu,
    "HardSwish": _hard_swish,
    "Pow": _power,
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "RMSNormalization"), _normalised),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(NORMS, _norm),
    "Swish": _swish,
}
"""The converter of every supported operator type of this kind."""
