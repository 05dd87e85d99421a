"""Converters of ONNX operators that work entry by entry."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from verifier.errors import NetworkError
from verifier.network import compositions, curves
from verifier.network.curves import Curve
from verifier.network.onnx_step import HALF, INTEGERS, REALS, Converter, Step, Tensor
from verifier.network.operators import Array
from verifier.network.piecewise import absolute, relu
from verifier.network.tensors import Jump, Masked, Value

BOOL = 9
"""Element type of truth values."""


# -- functions of one tensor -----------------------------------------------------------------------------
def _relu(step: Step) -> Tensor:
    return step.assembler.apply(relu(), step.function(), step.name)


def _abs(step: Step) -> Tensor:
    return step.assembler.apply(absolute(), step.function(), step.name)


def _leaky_relu(step: Step) -> Tensor:
    return step.assembler.leaky(step.value(), np.asarray(step.attribute("alpha", 0.01)), step.name)


def _prelu(step: Step) -> Tensor:
    slope = step.constant(1)
    assert slope is not None
    if step.opset < 7 and slope.size > 1:  # one slope for each channel
        slope = slope.reshape(-1, *([1] * (len(step.value().shape) - 2)))
    return step.assembler.leaky(step.value(), slope, step.name)


def _clip(step: Step) -> Tensor:
    ends = []
    for k, (attribute, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        end = step.constant(k)
        ends.append(float(step.attribute(attribute, default)) if end is None else float(end.reshape(-1)[0]))
    limit = float(np.finfo(np.float32).max)
    low, high = (-np.inf if ends[0] <= -limit else ends[0]), (np.inf if ends[1] >= limit else ends[1])
    if low >= high:  # by definition min(max(x, low), high)
        return np.full(step.value().shape, high)
    return step.assembler.clip(step.value(), low, high, step.name)


def _hard_sigmoid(step: Step) -> Tensor:
    alpha, beta = step.attribute("alpha", 0.2), step.attribute("beta", 0.5)
    linear = step.assembler.affine(step.value(), alpha, beta, f"{step.name}/linear")
    return step.assembler.clip(linear, 0.0, 1.0, step.name)


def _curve(*parts: tuple[float, float], breaks: tuple[float, ...], at: tuple[int, ...]) -> Curve:
    """A curve from its lines (slope, intercept) and the line that holds at each breakpoint."""
    lines = tuple((Fraction(s), Fraction(i)) for s, i in parts)
    return Curve(tuple(map(Fraction, breaks)), lines, tuple(lines[k] for k in at))


def _thresholded_relu(step: Step) -> Tensor:
    alpha = float(step.attribute("alpha", 1.0))
    return step.assembler.through(_curve((0, 0), (1, 0), breaks=(alpha,), at=(0,)), step.function(), step.name)


def _shrink(step: Step) -> Tensor:
    lambd, bias = float(step.attribute("lambd", 0.5)), float(step.attribute("bias", 0.0))
    if lambd < 0:
        raise step.unsupported("with a negative lambd")
    if lambd == 0:
        raise step.unsupported("with lambd 0")
    curve = _curve((1, bias), (0, 0), (1, -bias), breaks=(-lambd, lambd), at=(1, 1))
    return step.assembler.through(curve, step.function(), step.name)


def _sign(step: Step) -> Tensor:
    return step.assembler.through(curves.SIGN, step.function(), step.name)


def _not(step: Step) -> Tensor:
    condition = step.function()
    negated = Curve((), ((Fraction(-1), Fraction(1)),), (), True)
    return step.assembler.through(negated, condition, step.name)


def _negative(step: Step) -> Tensor:
    return step.assembler.affine(step.function(), -1.0, 0.0, step.name)


def _cast(step: Step) -> Tensor:
    from onnx import TensorProto, helper

    value = step.function()
    kind = int(step.attribute("to", 1))
    if step.kind == "CastLike":
        like = step.reader.raw_constant(step.node.input[1])
        kind = 1 if like is None else int(helper.np_dtype_to_tensor_dtype(like.dtype))
        if step.node.input[1] in step.reader.integers:
            raise step.unsupported("to integers")
    if isinstance(value, Jump) and value.curve.logical and kind in REALS | HALF | INTEGERS:
        plain = Curve(value.curve.breaks, value.curve.lines, value.curve.at)
        return Jump(value.root, value.shape, plain)  # truth values are 0 and 1 in every type
    if kind == BOOL:
        unequal = Curve((Fraction(0),), ((Fraction(0), Fraction(1)),) * 2, ((Fraction(0), Fraction(0)),), True)
        return step.assembler.through(unequal, value, step.name)
    if kind in HALF:
        step.reader.computes_in_half(TensorProto.DataType.Name(kind))
    elif kind not in REALS:
        raise step.unsupported(f"to {TensorProto.DataType.Name(kind)}, which makes integers of numbers,")
    return value


def _dropout(step: Step) -> Tensor:
    training = step.constant(2)
    if (step.opset < 7 and not step.attribute("is_test", 0)) or (training is not None and bool(training.any())):
        raise step.unsupported("in training mode")
    return step.value()


def _batch_normalization(step: Step) -> Tensor:
    # by the batch's own statistics: until opset 6 unless is_test says otherwise, until 13 where there are more outputs
    training = step.attribute("training_mode", 0) or any(step.node.output[1:])
    if training or (step.opset < 7 and not step.attribute("is_test", 0)):
        raise step.unsupported("in training mode")
    value = step.value()
    scale, shift, mean, variance = (step.constant(k) for k in range(1, 5))
    if scale is None or shift is None or mean is None or variance is None:
        raise NetworkError("BatchNormalization needs scale, shift, mean and variance", place=step.place)
    factor = scale / np.sqrt(variance + step.attribute("epsilon", 1e-5))
    # until opset 8 there may be one number for each entry instead of each channel
    each = step.opset < 9 and not step.attribute("spatial", 1)
    shape = value.shape[1:] if each else (-1, *([1] * (len(value.shape) - 2)))
    return step.assembler.affine(value, factor.reshape(shape), (shift - factor * mean).reshape(shape), step.name)


# -- functions of several tensors ------------------------------------------------------------------------
def _extreme(step: Step) -> Tensor:
    """Max and Min of values and constants."""
    sign = 1 if step.kind == "Max" else -1
    values = [k for k in range(len(step.node.input)) if not step.is_constant(k)]
    result = step.value(values[0])
    for k in values[1:]:
        result = step.assembler.larger(result, step.value(k), f"{step.name}/{k}", sign)
    for k in range(len(step.node.input)):
        if step.is_constant(k):
            bound = step.constant(k)
            assert bound is not None
            result = step.assembler.clip_by(result, bound, f"{step.name}/{k}", sign)
    return result


def _sum(step: Step) -> Tensor:
    """Add, Sub, Sum and Mean of values and constants."""
    build = step.assembler
    operands = [step.operand(k) for k in range(len(step.node.input))]
    if any(isinstance(o, Jump) for o in operands):
        function = curves.minus if step.kind == "Sub" else curves.plus
        whole = len(operands) == 2 and not all(isinstance(o, np.ndarray) for o in operands)
        together = build.combined(function, operands, step.name) if whole else None
        if together is not None:
            return together
        operands = [step.nodes(o) for o in operands]
    signs = [1 if k == 0 or step.kind != "Sub" else -1 for k in range(len(operands))]
    constants = [o * s for o, s in zip(operands, signs, strict=True) if isinstance(o, np.ndarray)]
    values = [(o, s) for o, s in zip(operands, signs, strict=True) if isinstance(o, Value)]
    share = 1.0 / len(operands) if step.kind == "Mean" else 1.0
    if len(values) == 1:
        value, scale = values[0]
    else:
        stem = f"{step.name}/sum" if constants or share != 1 else step.name
        value, scale = build.add_values([v for v, _ in values], [s for _, s in values], stem), 1
    total: Array = sum(constants, np.zeros(()))
    if step.kind == "Add" and np.isinf(total).any():
        return compositions.masked(build, value, total, step.name)
    return build.affine(value, scale * share, total * share, step.name)


def _product(step: Step) -> Tensor:
    """Mul, and Div by a constant."""
    first, second = step.operand(0), step.operand(1)
    computed = isinstance(second, np.ndarray) or isinstance(first, np.ndarray)
    if isinstance(first, Jump) or isinstance(second, Jump) or not computed:
        if step.kind == "Div" and isinstance(second, np.ndarray) and second.size == 1:
            return step.assembler.affine(first, 1.0 / second.astype(np.float64), 0.0, step.name)  # type: ignore[arg-type]
        if step.kind == "Mul":
            found = step.assembler.combined(curves.times, [first, second], step.name)
            if found is not None:
                return found
        first, second = (step.nodes(o) for o in (first, second))
    value, factor = (second, first) if isinstance(second, Value) else (first, second)
    assert isinstance(value, Value)
    if step.kind == "Div" and value is second:
        assert not isinstance(factor, Jump)
        return compositions.quotient(step.assembler, factor, value, step.name)
    if isinstance(factor, Value):
        return compositions.times(step.assembler, value, factor, step.name)
    assert isinstance(factor, np.ndarray)
    if step.kind == "Div":
        if (factor == 0).any():
            raise NetworkError("division by zero", place=step.place)
        factor = 1.0 / factor.astype(np.float64)
    return step.assembler.affine(value, factor, 0.0, step.name)


def _comparison(step: Step) -> Tensor:
    """A comparison of two functions of one tensor, or of different ones: the truth of their difference against 0."""
    return compositions.compared(step.assembler, step.kind, step.operand(0), step.operand(1), step.name)


def _logic(step: Step) -> Tensor:
    return compositions.logic(step.assembler, step.kind, step.operand(0), step.operand(1), step.name)


def _where(step: Step) -> Tensor:
    """A choice between tensors: by a constant condition a movement, else by its truth."""
    condition = step.operand(0)
    parts = [step.operand(k) for k in (1, 2)]
    if isinstance(condition, np.ndarray):
        return _moved_choice(step, condition, parts)
    return compositions.chosen(step.assembler, condition, parts[0], parts[1], step.name)


def _moved_choice(step: Step, condition: Array, parts: list[Any]) -> Tensor:
    parts = [step.nodes(p) for p in parts]
    sizes = [p.size for p in parts]
    index = np.where(
        condition.astype(bool),
        np.arange(sizes[0]).reshape(parts[0].shape),
        sizes[0] + np.arange(sizes[1]).reshape(parts[1].shape),
    )
    finite = [np.where(np.isneginf(p), 0.0, p) if isinstance(p, np.ndarray) else p for p in parts]
    made = step.assembler.rearrange(finite, index, step.name)
    entries = [~np.isneginf(p).reshape(-1) if isinstance(p, np.ndarray) else np.ones(p.size, dtype=bool) for p in parts]
    kept = np.concatenate(entries)[index]
    return made if kept.all() else Masked(made, kept)


ELEMENTWISE: dict[str, Converter] = {
    "Abs": _abs,
    "Add": _sum,
    **dict.fromkeys(("And", "Or", "Xor"), _logic),
    "BatchNormalization": _batch_normalization,
    **dict.fromkeys(("Cast", "CastLike"), _cast),
    "Clip": _clip,
    "Div": _product,
    "Dropout": _dropout,
    **dict.fromkeys(curves.COMPARISONS, _comparison),
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    **dict.fromkeys(("Max", "Min"), _extreme),
    "Mean": _sum,
    "Mul": _product,
    "Neg": _negative,
    "Not": _not,
    "PRelu": _prelu,
    "Relu": _relu,
    "Shrink": _shrink,
    "Sign": _sign,
    "Sub": _sum,
    "Sum": _sum,
    "ThresholdedRelu": _thresholded_relu,
    "Where": _where,
}
"""The converter of every supported operator type of this kind."""
