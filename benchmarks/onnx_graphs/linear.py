"""Matrices, windows, interpolation, and sums and maxima over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper

from onnx_graphs.builder import Builder, Graph, one, with_constants


def matrices() -> dict[str, Graph]:
    """Products with matrices and stacks of them, and einsum."""
    graphs = {
        "gemm": with_constants("Gemm", (1, 6), (4, 6), (4,), transB=1, alpha=0.5, beta=2.0),
        "gemm turned": with_constants("Gemm", (3, 2), (3, 4), (4,), transA=1),
        "matmul": with_constants("MatMul", (1, 6), (6, 4)), "matmul left": with_constants("MatMul", (4, 5), (3, 4), swap=True),
        "matmul vector": with_constants("MatMul", (1, 5, 6), (6,)), "matmul left vector": with_constants("MatMul", (1, 5, 6), (5,), swap=True),
        "matmul stack": with_constants("MatMul", (1, 3, 4, 5), (3, 5, 2)), "matmul left stack": with_constants("MatMul", (1, 3, 4, 5), (3, 2, 4), swap=True),
        "matmul stack grows": with_constants("MatMul", (1, 4, 5), (3, 5, 2)), "matmul two stacks": with_constants("MatMul", (2, 3, 4, 5), (2, 3, 5, 2)),
        "matmul stack of one": with_constants("MatMul", (1, 2, 4, 5), (1, 1, 5, 2)), "matmul one meets many": with_constants("MatMul", (1, 1, 4, 5), (1, 3, 5, 2)),
        "matmul vector by matrix": with_constants("MatMul", (5,), (5, 3)), "matmul vector by stack": with_constants("MatMul", (5,), (2, 5, 3)),
    }  # fmt: skip
    equations = {
        "einsum matrix": ("bi,io->bo", (1, 5), (5, 3)), "einsum batch": ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)),
        "einsum heads": ("bhid,hde->bhie", (1, 2, 3, 4), (2, 4, 3)), "einsum outer": ("i,j->ij", (3,), (4,)),
        "einsum sum": ("bij,j->b", (1, 3, 4), (4,)), "einsum dots": ("...i,io->...o", (1, 2, 5), (5, 3)),
        "einsum implicit": ("bi,ij", (1, 4), (4, 3)), "einsum diagonal": ("ii,i->i", (3, 3), (3,)),
        "einsum scaling": ("bij,i->bij", (1, 3, 4), (3,)), "einsum right first": ("oi,bi->bo", (3, 5), (1, 5)),
    }  # fmt: skip
    for name, (equation, first, second) in equations.items():
        swap = name.endswith("right first")
        shape, constant = (second, first) if swap else (first, second)
        graphs[name] = with_constants("Einsum", shape, constant, swap=swap, first=12, equation=equation)
    graphs["einsum transpose"] = Graph(lambda b: b.op("Einsum", b.x(1, 2, 3), equation="bij->bji"), 12)
    return graphs


def windows() -> dict[str, Graph]:
    """Convolutions and pooling."""
    image, line, solid = (1, 2, 7, 6), (1, 2, 9), (1, 2, 5, 4, 6)
    graphs = {
        "conv": with_constants("Conv", image, (3, 2, 3, 2), (3,), strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
        "conv groups": with_constants("Conv", (1, 4, 5, 5), (8, 2, 3, 3), group=2), "conv depthwise": with_constants("Conv", (1, 3, 5, 5), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1]),
        "conv 1d": with_constants("Conv", line, (3, 2, 4), (3,), pads=[1, 2], strides=[2]),
        "conv 3d": with_constants("Conv", solid, (4, 2, 2, 3, 2), (4,)), "conv 3d strides": with_constants("Conv", solid, (2, 2, 3, 2, 3), strides=[2, 3, 2], pads=[1, 1, 0, 2, 1, 2], dilations=[1, 2, 1]),
        "conv 3d groups": with_constants("Conv", solid, (4, 1, 2, 2, 2), group=2, strides=[1, 2, 1]),
        "conv same upper": with_constants("Conv", image, (2, 2, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "conv same lower": with_constants("Conv", image, (2, 2, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
        "conv valid": with_constants("Conv", image, (2, 2, 3, 3), auto_pad="VALID"), "conv batch of two": with_constants("Conv", (2, 2, 5, 5), (3, 2, 3, 3), (3,)),
        "transposed": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 2), (3,)), "transposed stride": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 3, 4, 4), (3,), strides=[2, 2], pads=[1, 1, 1, 1]),
        "transposed odd": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 5), (3,), strides=[3, 2], pads=[1, 0, 0, 2], output_padding=[1, 1]),
        "transposed dilated": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 1, 3, 2), strides=[2, 1], dilations=[2, 3]),
        "transposed gaps": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 1, 2, 1), (1,), strides=[3, 2]),
        "transposed groups": with_constants("ConvTranspose", (1, 4, 3, 3), (4, 2, 3, 3), (4,), group=2, strides=[2, 2]),
        "transposed 1d": with_constants("ConvTranspose", (1, 2, 5), (2, 3, 4), (3,), strides=[2], pads=[1, 1]), "transposed 3d": with_constants("ConvTranspose", (1, 2, 2, 3, 2), (2, 2, 2, 3, 2), (2,), strides=[2, 1, 2]),
        "transposed same": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "transposed shape": with_constants("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 3), strides=[2, 2], output_shape=[8, 6]),
        "transposed batch": with_constants("ConvTranspose", (2, 2, 3, 3), (2, 2, 3, 3), (2,), strides=[2, 2]),
        "max pool": one("MaxPool", *image, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), "max pool dilated": one("MaxPool", *image, kernel_shape=[2, 2], dilations=[2, 1], first=10),
        "max pool ceiling": one("MaxPool", *image, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, first=10), "max pool 1d": one("MaxPool", *line, kernel_shape=[3], strides=[2]),
        "max pool 3d": one("MaxPool", *solid, kernel_shape=[2, 2, 3], strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 1]), "max pool same": one("MaxPool", *image, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        "max pool batch": one("MaxPool", 2, 2, 4, 4, kernel_shape=[2, 2]),
        "max pool positions unused": Graph(lambda b: b.op("MaxPool", b.x(*image), outputs=2, kernel_shape=[2, 2])[0]),
        "average pool": one("AveragePool", *image, kernel_shape=[2, 2], strides=[2, 1]), "average pool padded": one("AveragePool", *image, kernel_shape=[3, 3], pads=[1, 1, 1, 0]),
        "average pool counted": one("AveragePool", *image, kernel_shape=[3, 3], pads=[1, 1, 1, 0], count_include_pad=1), "average pool ceiling": one("AveragePool", *image, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, first=10),
        "average pool 1d": one("AveragePool", *line, kernel_shape=[3], pads=[1, 1]), "average pool 3d": one("AveragePool", *solid, kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 1, 1]),
        "average pool dilated": one("AveragePool", *image, kernel_shape=[2, 2], dilations=[2, 2], first=19),
        "global average": one("GlobalAveragePool", 1, 3, 4, 5), "global max": one("GlobalMaxPool", 1, 3, 4, 5), "global average 1d": one("GlobalAveragePool", 1, 3, 4),
        "sum of magnitudes in windows": one("LpPool", *image, kernel_shape=[2, 2], p=1, strides=[2, 1]), "global sum of magnitudes": one("GlobalLpPool", 1, 3, 4, 5, p=1, last=21),
    }  # fmt: skip
    return graphs


def resizes() -> dict[str, Graph]:
    """Interpolation."""

    def upsample(mode: str, scales: Sequence[float]) -> Callable[[Builder], str]:
        return lambda b: b.op("Upsample", b.x(1, 2, 3, 4), b.constant(np.float32(scales)), mode=mode)

    def resize(scales: Sequence[float] | None, sizes: Sequence[int] | None = None, **attributes: Any) -> Graph:
        def write(b: Builder) -> str:
            x = b.x(1, 2, 5, 4)
            b.tensors.append(numpy_helper.from_array(np.float32(scales or []), "scales"))
            if b.opset < 11:
                return str(b.op("Resize", x, "scales", mode=attributes["mode"]))
            if b.opset < 13:
                b.tensors.append(numpy_helper.from_array(np.zeros(0, np.float32), "roi"))
            extra = [] if sizes is None else [b.constant(np.int64(sizes))]
            return str(
                b.op(
                    "Resize",
                    x,
                    "roi" if b.opset < 13 else "",
                    "" if sizes and b.opset > 12 else "scales",
                    *extra,
                    **attributes,
                )
            )

        first = 10 if set(attributes) == {"mode"} and sizes is None else 11
        return Graph(write, first)

    twice = [1.0, 1.0, 2.0, 2.0]
    graphs = {
        "upsample nearest": Graph(upsample("nearest", twice), 9, 9), "upsample linear": Graph(upsample("linear", twice), 9, 9),
        "resize nearest": resize(twice, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        "resize nearest odd": resize([1.0, 1.0, 1.5, 2.5], mode="nearest", nearest_mode="round_prefer_ceil"),
        "resize linear": resize(twice, mode="linear"), "resize linear corners": resize(twice, mode="linear", coordinate_transformation_mode="align_corners"),
        "resize linear torch": resize(None, [1, 2, 7, 9], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        "resize down": resize([1.0, 1.0, 0.5, 0.5], mode="linear", coordinate_transformation_mode="asymmetric"),
        "resize cubic": resize(twice, mode="cubic", cubic_coeff_a=-0.75), "resize to sizes": resize(None, [1, 2, 10, 8], mode="nearest"),
        "resize nearest as tf2onnx writes it": resize(None, [1, 2, 12, 6], mode="nearest", nearest_mode="floor", coordinate_transformation_mode="tf_half_pixel_for_nn"),
    }  # fmt: skip
    return graphs


def over_axes() -> dict[str, Graph]:
    """Sums, means and maxima over axes."""
    graphs: dict[str, Graph] = {}
    for kind, since in (("ReduceMean", 18), ("ReduceSum", 13), ("ReduceMax", 18), ("ReduceMin", 18), ("ReduceL1", 18)):
        for name, axes, keep in (("", [1, -1], 1), (" flat", [2], 0), (" all", None, 1)):
            graphs[f"{kind}{name}"] = Graph(
                lambda b, k=kind, a=axes, n=keep, s=since: b.over(k, b.x(1, 3, 4, 2), a, s, keepdims=n)  # type: ignore[misc]
            )
    for name, more in (("", {}), (" exclusive", {"exclusive": 1}), (" reverse", {"reverse": 1, "exclusive": 1})):
        graphs[f"cumulative sum{name}"] = Graph(
            lambda b, m=more: b.op("CumSum", b.x(1, 4, 3), b.constant(np.array(1)), **m),
            11,  # type: ignore[misc]
        )
    graphs["triangle"] = Graph(lambda b: b.op("Trilu", b.x(1, 4, 4)), 14)
    graphs["lower triangle"] = Graph(lambda b: b.op("Trilu", b.x(1, 4, 3), b.constant(np.array(1)), upper=0), 14)
    return graphs


def quantised() -> dict[str, Graph]:
    """Networks with whole numbers between their layers, as quantisation writes them in both of its formats.

    Scales are powers of two, so that onnxruntime divides by them exactly and takes the same step at a jump.
    """

    def scale(b: Builder, *values: float) -> str:
        name = f"scale{len(b.tensors)}"
        b.tensors.append(numpy_helper.from_array(np.float32(values if len(values) > 1 else values[0]), name))
        return name

    def whole(b: Builder, kind: str, *shape: int) -> str:
        return b.constant(b.rng.integers(-90 if kind == "int8" else 0, 90, shape).astype(kind))

    def zero(b: Builder, kind: str, value: int = 0) -> str:
        return b.constant(np.array(value, dtype=kind))

    def pair(b: Builder, value: str, width: float, kind: str = "uint8", middle: int = 100) -> str:
        ends = scale(b, width), zero(b, kind, middle)
        return str(b.op("DequantizeLinear", b.op("QuantizeLinear", value, *ends), *ends))

    def dense(b: Builder) -> str:
        x = pair(b, b.x(1, 6), 1 / 32)
        weight = b.op("DequantizeLinear", whole(b, "int8", 6, 5), scale(b, 1 / 128), zero(b, "int8"))
        hidden = pair(b, b.op("Relu", b.op("MatMul", x, weight)), 1 / 64, "int8", -128)
        return str(
            b.op("MatMul", hidden, b.op("DequantizeLinear", whole(b, "int8", 5, 3), scale(b, 1 / 128), zero(b, "int8")))
        )

    def channels(b: Builder) -> str:
        ends = scale(b, 0.125, 0.25, 0.5), b.constant(np.zeros(3, np.int8))
        return str(b.op("DequantizeLinear", b.op("QuantizeLinear", b.x(1, 3, 4), *ends, axis=1), *ends, axis=1))

    def convolution(b: Builder) -> str:
        ends = scale(b, 1 / 64), zero(b, "uint8", 128)
        x = b.op("QuantizeLinear", b.x(1, 2, 5, 5), *ends)
        weight = whole(b, "int8", 3, 2, 3, 3), scale(b, 1 / 128, 1 / 64, 1 / 256), b.constant(np.zeros(3, np.int8))
        after = scale(b, 1 / 32), zero(b, "uint8", 90)
        y = b.op(
            "QLinearConv",
            x,
            *ends,
            *weight,
            *after,
            b.constant(np.array([5, -300, 40], np.int32)),
            pads=[1, 1, 0, 0],
            strides=[2, 2],
        )
        return str(b.op("DequantizeLinear", y, *after))

    def matrix(b: Builder) -> str:
        ends, after = (scale(b, 1 / 64), zero(b, "uint8", 128)), (scale(b, 0.125), zero(b, "uint8", 60))
        y = b.op(
            "QLinearMatMul",
            b.op("QuantizeLinear", b.x(1, 6), *ends),
            *ends,
            whole(b, "uint8", 6, 4),
            scale(b, 1 / 128),
            zero(b, "uint8", 30),
            *after,
        )
        return str(b.op("DequantizeLinear", y, *after))

    return {
        f"jumps: quantised {name}": Graph(write, first)
        for name, write, first in (("layers", dense, 10), ("channels", channels, 13), ("convolution", convolution, 10), ("matrix", matrix, 10))
    }  # fmt: skip
