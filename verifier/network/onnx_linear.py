"""Converters of ONNX operators that multiply by constants or slide windows, and of sums and maxima over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from verifier.errors import NetworkError
from verifier.network import products, windows
from verifier.network.onnx_step import Converter, Step, Tensor
from verifier.network.operators import Array, Shape
from verifier.network.piecewise import absolute
from verifier.network.tensors import Value
from verifier.network.windows import Window, window


# -- matrices --------------------------------------------------------------------------------------------
def _matmul(step: Step) -> Tensor:
    left = step.is_constant(0)
    if not left and not step.is_constant(1):
        return products.matmul_of_two(step.assembler, step.value(0), step.value(1), step.name)
    value, matrix = (step.value(1), step.weight(0)) if left else (step.value(0), step.weight(1))
    return products.matmul(step.assembler, value, matrix, step.name, left=left)


def _einsum(step: Step) -> Tensor:
    operands = [step.constant(k) if step.is_constant(k) else step.value(k) for k in range(len(step.node.input))]
    return products.einsum(step.assembler, str(step.attribute("equation", "")), operands, step.name)


def _gemm(step: Step) -> Tensor:
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    turn_a, turn_b = step.attribute("transA", 0), step.attribute("transB", 0)
    build = step.assembler
    bias = _gemm_bias(step, beta)
    if step.is_constant(0):
        matrix, value = step.weight(0), step.value(1)
        matrix = matrix.T if turn_a else matrix
        value = build.move(value, np.transpose, f"{step.name}/turned") if turn_b else value
        product = build.matrix_times(alpha * matrix if alpha != 1 else matrix, value, step.name)
    elif not step.is_constant(1):
        first, second = (
            build.move(v, np.transpose, f"{step.name}/turned {k}") if turn else v
            for k, (v, turn) in enumerate(((step.value(0), turn_a), (step.value(1), turn_b)))
        )
        stem = step.name if alpha == 1 and bias is None else f"{step.name}/product"
        product = build.affine(products.matmul_of_two(build, first, second, stem), alpha, 0.0, f"{step.name}/alpha")
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


def _cumulative_sum(step: Step) -> Tensor:
    value, axis = step.value(), step.integers(1)
    assert axis is not None
    where = axis[0] % len(value.shape)
    matrix = np.tril(np.ones((value.shape[where],) * 2), -1 if step.attribute("exclusive", 0) else 0)
    if step.attribute("reverse", 0):
        matrix = matrix[::-1, ::-1]
    return windows.along_axes(step.assembler, value, {where: matrix}, step.name)


# -- windows ---------------------------------------------------------------------------------------------
def window_of(step: Step, sizes: Shape, kernel: Sequence[int] | None) -> Window:
    """The window of a node's attributes, ``pads`` or ``auto_pad`` included.

    Raises:
        NetworkError: there is no kernel.
    """
    if kernel is None:
        raise NetworkError(f"{step.kind} without a kernel_shape", place=step.place)
    plain = window(kernel, step.attribute("strides", None), step.attribute("dilations", None))
    auto = step.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + e - n) for n, s, e in zip(sizes, plain.stride, plain.extent, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        ends = (small, large) if auto == "SAME_UPPER" else (large, small)
    else:
        pads = list(step.attribute("pads", ())) if auto == "NOTSET" else []
        ends = (pads[: plain.rank], pads[plain.rank :])
    return window(plain.kernel, plain.stride, plain.dilation, *ends)


def _conv(step: Step) -> Tensor:
    value, weight, bias = step.value(), step.constant(1), step.constant(2)
    assert weight is not None
    w = window_of(step, value.shape[2:], weight.shape[2:])
    bias = np.zeros(len(weight)) if bias is None else bias
    return windows.conv(step.assembler, value, weight, bias, w, int(step.attribute("group", 1)), step.name)


def _conv_transpose(step: Step) -> Tensor:
    value, weight, bias = step.value(), step.constant(1), step.constant(2)
    assert weight is not None
    groups, sizes = int(step.attribute("group", 1)), value.shape[2:]
    plain = window(weight.shape[2:], step.attribute("strides", None), step.attribute("dilations", None))
    more = tuple(int(v) for v in step.attribute("output_padding", (0,) * plain.rank))
    auto, shape = step.attribute("auto_pad", "NOTSET"), step.attribute("output_shape", None)
    if auto in ("SAME_UPPER", "SAME_LOWER") or shape is not None:
        wanted = [int(v) for v in shape][-plain.rank :] if shape is not None else []
        wanted = wanted or [n * s for n, s in zip(sizes, plain.stride, strict=True)]
        total = [
            s * (n - 1) + o + e - y
            for s, n, o, e, y in zip(plain.stride, sizes, more, plain.extent, wanted, strict=True)
        ]
        if min(total) < 0:
            raise step.unsupported(f"to the output shape {wanted}, larger than the kernel reaches,")
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        ends = (small, large) if auto == "SAME_UPPER" else (large, small)
    else:
        pads = [int(p) for p in step.attribute("pads", ())] if auto == "NOTSET" else []
        ends = (pads[: plain.rank], pads[plain.rank :])
    w = window(plain.kernel, plain.stride, plain.dilation, *ends)
    bias = np.zeros(weight.shape[1] * groups) if bias is None else bias
    return windows.conv_transpose(step.assembler, value, weight, bias, w, more, groups, step.name)


def _max_pool(step: Step) -> Tensor:
    if len(step.node.output) > 1 and step.used(1):
        raise step.unsupported("with its second output (the positions)")
    value = step.value()
    w = window_of(step, value.shape[2:], step.attribute("kernel_shape", None))
    if step.attribute("ceil_mode", 0):
        w = w.rounded_up(value.shape[2:])
    return windows.max_pool(step.assembler, value, w, step.name)


def _average_pool(step: Step) -> Tensor:
    """AveragePool, and LpPool with p = 1: the sum of magnitudes."""
    value, build = step.value(), step.assembler
    w = window_of(step, value.shape[2:], step.attribute("kernel_shape", None))
    if step.attribute("ceil_mode", 0):
        w = w.rounded_up(value.shape[2:])
    if step.kind == "LpPool":
        value = build.apply(absolute(), _first_norm(step, value), f"{step.name}/magnitudes")
        return windows.average_pool(build, value, w, step.name, count_padding=True, divisor=1)
    count = bool(step.attribute("count_include_pad", 0))
    return windows.average_pool(build, value, w, step.name, count_padding=count)


def _global_pool(step: Step) -> Tensor:
    value, build = step.value(), step.assembler
    axes = range(2, len(value.shape))
    if step.kind == "GlobalLpPool":
        value = build.apply(absolute(), _first_norm(step, value), f"{step.name}/magnitudes")
    kind = {"GlobalMaxPool": "max", "GlobalAveragePool": "mean", "GlobalLpPool": "sum"}[step.kind]
    return build.reduced(value, axes, True, step.name, kind=kind)


def _first_norm(step: Step, value: Value) -> Value:
    if step.attribute("p", 2) != 1:
        raise step.unsupported(f"with p = {step.attribute('p', 2)} (p = 1 is piecewise linear)")
    return value


def _resize(step: Step) -> Tensor:
    """Resize and Upsample: interpolation along each axis by itself, as ONNX's reference implementation defines it."""
    from onnx import helper

    value = step.value()
    rank = len(value.shape)
    upsample = step.kind == "Upsample"
    attributes = {
        a.name: helper.get_attribute_value(a) for a in step.node.attribute if a.name not in ("scales", "axes")
    }
    if upsample or step.opset < 11:
        attributes.update(coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    where = step.attribute("coordinate_transformation_mode", "half_pixel")
    if where == "tf_crop_and_resize":
        raise step.unsupported("with tf_crop_and_resize")
    if (
        where == "tf_half_pixel_for_nn"
    ):  # until opset 12, and in what tf2onnx writes: half a pixel further than half_pixel
        if step.attribute("mode", "nearest") != "nearest" or step.attribute("nearest_mode", "") != "floor":
            raise step.unsupported("with tf_half_pixel_for_nn and another mode than nearest, floor")
        attributes.update(coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil")
    if attributes.pop("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise step.unsupported("that keeps the aspect ratio")
    axes = [int(a) % rank for a in step.attribute("axes", range(rank))]
    place = 1 if upsample or step.opset < 11 else 2
    scales = step.attribute("scales", None) if step.attribute("scales", None) is not None else step.constant(place)
    sizes = None if upsample or step.opset < 11 else step.integers(3)
    matrices = {}
    for k, axis in enumerate(axes):
        length = value.shape[axis]
        if sizes is not None:
            extra: dict[str, Array] = {"sizes": np.array([length, sizes[k]], dtype=np.int64)}
            if sizes[k] == length:
                continue
        else:
            scale = float(np.asarray(scales).reshape(-1)[k])
            extra = {"scales": np.array([1.0, scale], dtype=np.float32)}
            if scale == 1.0:
                continue
        matrices[axis] = _interpolation(step, length, attributes, extra)
    return windows.along_axes(step.assembler, value, matrices, step.name)


def _interpolation(step: Step, length: int, attributes: dict[str, Any], extra: dict[str, Array]) -> Array:
    """The matrix ``(outputs, length)`` of interpolation along one axis."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    inputs = ["x", "", *(["scales"] if "scales" in extra else ["", "sizes"])]
    node = helper.make_node("Resize", inputs, ["y"], **attributes)
    infos = [helper.make_tensor_value_info("x", 11, [length, length])]
    infos += [helper.make_tensor_value_info(n, 1 if n == "scales" else 7, [2]) for n in extra]
    graph = helper.make_graph([node], "one axis", infos, [helper.make_tensor_value_info("y", 11, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(step.opset, 13))])
    try:
        (made,) = ReferenceEvaluator(model).run(None, {"x": np.eye(length), **extra})
    except Exception as error:  # whatever a malformed node makes the reference raise
        raise NetworkError(f"{step.kind} cannot be evaluated: {error}", place=step.place) from None
    return np.asarray(made, dtype=np.float64).T


# -- over axes -------------------------------------------------------------------------------------------
REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceL1": "sum"}


def _reduce(step: Step) -> Tensor:
    value, build = step.value(), step.assembler
    if step.kind == "ReduceL1":
        value = build.apply(absolute(), value, f"{step.name}/magnitudes")
    axes = step.integers(1, "axes")
    if not axes:
        if step.attribute("noop_with_empty_axes", 0):
            return value
        axes = tuple(range(len(value.shape)))
    return build.reduced(value, axes, bool(step.attribute("keepdims", 1)), step.name, kind=REDUCTIONS[step.kind])


LINEAR: dict[str, Converter] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "CumSum": _cumulative_sum,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalLpPool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "LpPool": _average_pool,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
}
"""The converter of every supported operator type of this kind."""
