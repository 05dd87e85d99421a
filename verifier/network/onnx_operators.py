"""Converters of ONNX operators, one function for each operator or family, in one table."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from verifier.errors import NetworkError
from verifier.lazy import sp
from verifier.network.assembly import Padding, Value, extra_for_ceiling, with_extra
from verifier.network.onnx_movement import MOVEMENTS, Converter
from verifier.network.onnx_reader import Step
from verifier.network.operators import Array, Conv, Shape, window_output_size
from verifier.network.piecewise import MaxPool, absolute, relu


# -- matrices --------------------------------------------------------------------------------------------
def _matmul(step: Step) -> Value:
    if step.is_constant(0):
        return _constant_matmul(step)
    value, matrix = step.value(0), step.weight(1)
    if sp.issparse(matrix):
        return step.assembler.times_matrix(value, matrix.T.tocsr(), None, step.name)
    lead = matrix.shape[:-2]
    if any(d != 1 for d in lead) or len(lead) > max(0, len(value.shape) - 2):
        raise step.unsupported(f"with a stack of matrices {matrix.shape}")
    if matrix.ndim == 1:
        product = step.assembler.times_matrix(value, matrix[None, :], None, step.name)
        return Value(product.name, value.shape[:-1])
    return step.assembler.times_matrix(value, matrix.reshape(matrix.shape[-2:]).T, None, step.name)


def _constant_matmul(step: Step) -> Value:
    matrix, value = step.weight(0), step.value(1)
    lead = matrix.shape[:-2]
    if any(d != 1 for d in lead) or len(lead) > max(0, len(value.shape) - 2):
        raise step.unsupported(f"with a stack of matrices {matrix.shape}")
    if matrix.ndim == 1:
        product = step.assembler.matrix_times(matrix[None, :], value, step.name)
        return Value(product.name, (*value.shape[:-2], value.shape[-1]) if len(value.shape) > 1 else ())
    if not sp.issparse(matrix):
        matrix = matrix.reshape(matrix.shape[-2:])
    return step.assembler.matrix_times(matrix, value, step.name)


def _gemm(step: Step) -> Value:
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    turn_a, turn_b = step.attribute("transA", 0), step.attribute("transB", 0)
    build = step.assembler
    bias = _gemm_bias(step, beta)
    if step.is_constant(0):
        matrix, value = step.weight(0), step.value(1)
        matrix = matrix.T if turn_a else matrix
        value = build.move(value, np.transpose, f"{step.name}/turned") if turn_b else value
        product = build.matrix_times(alpha * matrix if alpha != 1 else matrix, value, step.name)
    else:
        value, matrix = step.value(0), step.weight(1)
        value = build.move(value, np.transpose, f"{step.name}/turned") if turn_a else value
        matrix = matrix if turn_b else matrix.T
        matrix = alpha * matrix if alpha != 1 else matrix
        row = bias if isinstance(bias, np.ndarray) and (bias.ndim < 2 or len(bias) == 1) else None
        if row is not None:
            row = np.broadcast_to(row.reshape(-1), matrix.shape[0])
            return build.times_matrix(value, matrix, row, step.name)
        product = build.times_matrix(value, matrix, None, step.name)
    if isinstance(bias, Value):
        return build.add_values([product, bias], (1, 1), f"{step.name}/sum")
    return product if bias is None else build.affine(product, 1.0, bias, f"{step.name}/sum")


def _gemm_bias(step: Step, beta: float) -> Value | Array | None:
    if not step.given(2) or beta == 0:
        return None
    if step.is_constant(2):
        constant = step.constant(2)
        assert constant is not None
        return beta * constant if beta != 1 else constant
    return step.assembler.affine(step.value(2), beta, 0.0, f"{step.name}/beta")


# -- windows ---------------------------------------------------------------------------------------------
def _pair(values: Iterable[int] | None, line: bool) -> tuple[int, int]:
    """Attribute values of one or two axes as (H, W); ones by default."""
    found = [1] * (1 if line else 2) if values is None else [int(v) for v in values]
    if len(found) != (1 if line else 2):
        raise NetworkError(f"windows over {len(found)} axes do not fit the tensor", fix="one or two are supported")
    return (1, found[0]) if line else (found[0], found[1])


def _padding(
    step: Step,
    size: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    line: bool,
) -> Padding:
    """(top, left, bottom, right) from ``pads`` or ``auto_pad``."""
    auto = step.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        ends = []
        for axis in (0, 1):
            outputs = -(-size[axis] // stride[axis])
            total = max(0, (outputs - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - size[axis])
            small, large = total // 2, total - total // 2
            ends.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]
    pads = [int(p) for p in step.attribute("pads", [0] * (2 if line else 4))] if auto == "NOTSET" else [0, 0, 0, 0]
    if any(p < 0 for p in pads):
        raise step.unsupported("with negative padding")
    return (0, pads[0], 0, pads[1]) if len(pads) == 2 else (pads[0], pads[1], pads[2], pads[3])


def _windows(step: Step, value: Value, kernel: Iterable[int]) -> tuple[Any, ...]:
    line = len(value.shape) == 3
    size = (1, value.shape[2]) if line else value.shape[2:]
    window = _pair(kernel, line)
    stride, dilation = _pair(step.attribute("strides", None), line), _pair(step.attribute("dilations", None), line)
    return size, window, stride, dilation, _padding(step, size, window, stride, dilation, line)


def _conv(step: Step) -> Value:
    value, weight, bias = step.value(), step.constant(1), step.constant(2)
    assert weight is not None
    if len(value.shape) not in (3, 4):
        raise step.unsupported(f"over a tensor of shape {value.shape}")
    _, _, stride, dilation, padding = _windows(step, value, weight.shape[2:])
    if weight.ndim == 3:
        weight = weight[:, :, None, :]
    node, _, line = step.assembler.image(value, step.name, "a convolution")
    bias = np.zeros(len(weight)) if bias is None else bias
    operator = Conv(weight, bias, stride, padding, dilation, step.attribute("group", 1))
    return step.assembler.windowed(operator, node, line, step.name)


def _max_pool(step: Step) -> Value:
    if len(step.node.output) > 1 and step.node.output[1]:
        raise step.unsupported("with its second output (the positions)")
    value = step.value()
    node, _, line = step.assembler.image(value, step.name, "max pooling")
    size, kernel, stride, dilation, padding = _windows(step, value, step.attribute("kernel_shape", None))
    if step.attribute("ceil_mode", 0):
        padding = with_extra(padding, extra_for_ceiling(size, kernel, stride, padding, dilation))
    return step.assembler.windowed(MaxPool(kernel, stride, padding, dilation), node, line, step.name)


def _average_pool(step: Step) -> Value:
    value = step.value()
    step.assembler.image(value, step.name, "average pooling")
    size, kernel, stride, dilation, padding = _windows(step, value, step.attribute("kernel_shape", None))
    extra = (0, 0)
    if step.attribute("ceil_mode", 0):
        extra = extra_for_ceiling(size, kernel, stride, padding, dilation)
    window_output_size(size, kernel, stride, with_extra(padding, extra), dilation)
    count = bool(step.attribute("count_include_pad", 0))
    return step.assembler.average_pool(value, kernel, stride, padding, extra, count, step.name, dilation)


def _global_pool(step: Step) -> Value:
    value = step.value()
    node, (channels, height, width), _ = step.assembler.image(value, step.name, "global pooling")
    shape = (1, channels, *([1] * (len(value.shape) - 2)))
    image = Value(node, (1, channels, height, width))
    if step.kind == "GlobalMaxPool":
        pooled = step.assembler.windowed(MaxPool((height, width), (1, 1)), node, False, step.name)
    else:
        pooled = step.assembler.average_pool(image, (height, width), (1, 1), (0, 0, 0, 0), (0, 0), True, step.name)
    return Value(pooled.name, shape)


def _reduce(step: Step) -> Value:
    """ReduceMean and ReduceSum over fixed axes: the axes go last and meet a row of equal weights."""
    value = step.value()
    rank = len(value.shape)
    axes = step.integers(1, "axes")
    if not axes:
        if step.attribute("noop_with_empty_axes", 0):
            return value
        axes = tuple(range(rank))
    over = sorted({a % rank for a in axes})
    kept = [a for a in range(rank) if a not in over]
    count = prod(value.shape[a] for a in over)
    turned = step.assembler.move(value, lambda i: i.transpose(kept + over), f"{step.name}/turned")
    rows = Value(turned.name, (prod(value.shape[a] for a in kept), count))
    weight = np.full((1, count), 1.0 / count if step.kind == "ReduceMean" else 1.0)
    total = step.assembler.times_matrix(rows, weight, None, step.name)
    if step.attribute("keepdims", 1):
        return Value(total.name, tuple(1 if a in over else d for a, d in enumerate(value.shape)))
    return Value(total.name, tuple(value.shape[a] for a in kept))


# -- elementwise -----------------------------------------------------------------------------------------
def _relu(step: Step) -> Value:
    return step.assembler.apply(relu(), step.value(), step.name)


def _abs(step: Step) -> Value:
    return step.assembler.apply(absolute(), step.value(), step.name)


def _leaky_relu(step: Step) -> Value:
    return step.assembler.leaky(step.value(), np.asarray(step.attribute("alpha", 0.01)), step.name)


def _prelu(step: Step) -> Value:
    slope = step.constant(1)
    assert slope is not None
    if step.opset < 7 and slope.size > 1:  # one slope for each channel
        slope = slope.reshape(-1, *([1] * (len(step.value().shape) - 2)))
    return step.assembler.leaky(step.value(), slope, step.name)


def _clip(step: Step) -> Value:
    ends = []
    for k, (attribute, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        end = step.constant(k)
        ends.append(float(step.attribute(attribute, default)) if end is None else float(end.reshape(-1)[0]))
    limit = float(np.finfo(np.float32).max)
    low, high = (-np.inf if ends[0] <= -limit else ends[0]), (np.inf if ends[1] >= limit else ends[1])
    return step.assembler.clip(step.value(), low, high, step.name)


def _hard_sigmoid(step: Step) -> Value:
    alpha, beta = step.attribute("alpha", 0.2), step.attribute("beta", 0.5)
    linear = step.assembler.affine(step.value(), alpha, beta, f"{step.name}/linear")
    return step.assembler.clip(linear, 0.0, 1.0, step.name)


def _extreme(step: Step) -> Value:
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


def _negative(step: Step) -> Value:
    return step.assembler.affine(step.value(), -1.0, 0.0, step.name)


def _sum(step: Step) -> Value:
    """Add, Sub and Sum of values and constants."""
    build = step.assembler
    operands = [step.operand(k) for k in range(len(step.node.input))]
    signs = [1 if k == 0 or step.kind != "Sub" else -1 for k in range(len(operands))]
    constants = [o * s for o, s in zip(operands, signs, strict=True) if not isinstance(o, Value)]
    values = [(o, s) for o, s in zip(operands, signs, strict=True) if isinstance(o, Value)]
    if len(values) == 1:
        value, scale = values[0]
    else:
        stem = f"{step.name}/sum" if constants else step.name
        value, scale = build.add_values([v for v, _ in values], [s for _, s in values], stem), 1
    return build.affine(value, scale, sum(constants, np.zeros(())), step.name)


def _product(step: Step) -> Value:
    """Mul, and Div by a constant."""
    first, second = step.operand(0), step.operand(1)
    value, factor = (second, first) if isinstance(second, Value) else (first, second)
    if isinstance(factor, Value) or not isinstance(value, Value) or (step.kind == "Div" and value is second):
        raise step.unsupported("by a tensor that depends on the network's input (not piecewise linear)")
    if step.kind == "Div":
        if (factor == 0).any():
            raise NetworkError("division by zero", place=step.place)
        factor = 1.0 / factor.astype(np.float64)
    return step.assembler.affine(value, factor, 0.0, step.name)


def _batch_normalization(step: Step) -> Value:
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


CONVERTERS: dict[str, Converter] = {
    **MOVEMENTS,
    "Abs": _abs,
    "Add": _sum,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Conv": _conv,
    "Div": _product,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Max": _extreme,
    "MaxPool": _max_pool,
    "Min": _extreme,
    "Mul": _product,
    "Neg": _negative,
    "PRelu": _prelu,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Relu": _relu,
    "Sub": _sum,
    "Sum": _sum,
}
"""The converter of every supported operator type."""
