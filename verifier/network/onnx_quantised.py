"""Converters of ONNX's operators of quantised networks: values between layers are whole numbers of 8 bits or less.

Each is what it says in real arithmetic: QuantizeLinear is a staircase (`verifier.network.steps.rounding`), DequantizeLinear a line,
and QLinearConv and QLinearMatMul are what lies between the two. onnxruntime divides by a scale in float32, so next to a
jump it may take the other step.
"""

from __future__ import annotations

import numpy as np

from verifier.network import products, windows
from verifier.network.onnx_linear import window_of
from verifier.network.onnx_step import Converter, Step, Tensor
from verifier.network.operators import Array
from verifier.network.steps import rounding
from verifier.network.tensors import Value

RANGES = {2: (0, 255), 3: (-128, 127), 21: (0, 15), 22: (-8, 7)}
"""The least and the greatest number of each element type: uint8, int8, uint4, int4."""


def _along(numbers: Array, rank: int, axis: int) -> Array:
    """One number, or one for each place of an axis, in a shape that broadcasts."""
    if numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * rank
    shape[axis % rank] = -1
    return numbers.reshape(shape)


def _zero(step: Step, k: int, rank: int, axis: int) -> Array:
    found = step.constant(k)
    return np.zeros(()) if found is None else _along(found.astype(np.float64), rank, axis)


def _rounded(step: Step, value: Value, scale: Array, zero: int, name: str) -> Value:
    """Whole numbers of input ``zero``'s type, in units of ``scale``."""
    from onnx import helper

    raw = step.reader.raw_constant(step.node.input[zero]) if step.given(zero) else None
    kind = 2 if raw is None else int(helper.np_dtype_to_tensor_dtype(raw.dtype))
    kind = int(step.attribute("output_dtype", 0)) or kind
    if kind not in RANGES or step.attribute("block_size", 0):
        raise step.unsupported("to a type of more than 8 bits, of floats, or in blocks")
    shift = 0.0 if raw is None else float(raw.reshape(-1)[0])
    if raw is not None and (raw.astype(np.float64) != shift).any():
        raise step.unsupported("with a zero point for each channel")
    unit = float(scale.reshape(-1)[0])
    if (scale != unit).any():  # the division rounds here, and the steps have width 1
        value, unit = step.assembler.affine(value, 1.0 / scale, 0.0, f"{name}/scaled"), 1.0
    low, high = RANGES[kind]
    stairs = rounding(unit, int(low - shift), int(high - shift))
    if unit <= 0 or not stairs.even:
        raise step.unsupported("with a scale that is not positive or has more digits than float32")
    return step.assembler.affine(step.assembler.apply(stairs, value, f"{name}/steps"), 1.0, shift, name)


def _scale(step: Step, k: int, rank: int, axis: int) -> Array:
    found = step.constant(k)
    assert found is not None
    return _along(found.astype(np.float64), rank, axis)


def _quantise(step: Step) -> Tensor:
    value = step.value()
    rank, axis = len(value.shape), int(step.attribute("axis", 1))
    return _rounded(step, value, _scale(step, 1, rank, axis), 2, step.name)


def _real(step: Step, k: int, axis: int = 1) -> Value:
    """Inputs k, k + 1 and k + 2 (numbers, scale and zero point) as the real numbers that they stand for."""
    value = step.value(k)
    rank = len(value.shape)
    centred = step.assembler.affine(value, 1.0, -_zero(step, k + 2, rank, axis), f"{step.name}/centred")
    return step.assembler.affine(centred, _scale(step, k + 1, rank, axis), 0.0, f"{step.name}/real")


def _dequantise(step: Step) -> Tensor:
    if step.attribute("block_size", 0):
        raise step.unsupported("in blocks")
    return _real(step, 0, int(step.attribute("axis", 1)))


def _weight(step: Step, k: int, axis: int) -> Array:
    whole = step.constant(k)
    assert whole is not None
    rank = whole.ndim
    return (whole.astype(np.float64) - _zero(step, k + 2, rank, axis)) * _scale(step, k + 1, rank, axis)


def _conv(step: Step) -> Tensor:
    value, weight, bias = _real(step, 0), _weight(step, 3, 0), step.constant(8)
    each = _scale(step, 1, 1, 0) * _scale(step, 4, 1, 0)
    shift = np.zeros(len(weight)) if bias is None else bias.astype(np.float64) * each
    window = window_of(step, value.shape[2:], weight.shape[2:])
    made = windows.conv(
        step.assembler, value, weight, shift, window, int(step.attribute("group", 1)), f"{step.name}/conv"
    )
    return _rounded(step, made, _scale(step, 6, len(made.shape), 1), 7, step.name)


def _matmul(step: Step) -> Tensor:
    made = products.matmul(step.assembler, _real(step, 0), _weight(step, 3, -1), f"{step.name}/product", left=False)
    return _rounded(step, made, _scale(step, 6, len(made.shape), -1), 7, step.name)


QUANTISED: dict[str, Converter] = {
    "DequantizeLinear": _dequantise,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QuantizeLinear": _quantise,
}
"""The converter of every supported operator type of this kind."""
