"""Operators that move data, graphs within graphs, and what classifiers end with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_graphs.builder import Builder, Graph, float_type, one, with_constants


def movements() -> dict[str, Graph]:
    """Operators that only move data."""

    def ints(*values: int) -> npt.NDArray[np.int64]:
        return np.array(values, dtype=np.int64)

    def split(b: Builder) -> str:
        x = b.x(1, 6, 2)
        if b.opset < 13:
            first, second = b.op("Split", x, outputs=2, axis=1, split=[2, 4])
        else:
            first, second = b.op("Split", x, b.constant(ints(2, 4)), outputs=2, axis=1)
        return str(b.op("Add", b.op("Relu", first), b.over("ReduceMean", second, [1], 18)))

    def slices(b: Builder) -> str:
        x = b.x(1, 5, 6)
        if b.opset < 10:
            return str(b.op("Slice", x, axes=[1, 2], starts=[1, -5], ends=[4, -1]))
        return str(b.op("Slice", x, *(b.constant(ints(*v)) for v in ((4, -5), (-9, -1), (1, 2), (-2, 2)))))

    def pad(mode: str) -> Callable[[Builder], str]:
        def write(b: Builder) -> str:
            x = b.x(1, 2, 4, 4)
            pads = [0, 0, 1, 2, 0, 0, 2, 0]
            if b.opset < 11:
                return str(b.op("Pad", x, pads=pads, mode=mode, **({"value": 0.5} if mode == "constant" else {})))
            return str(
                b.op(
                    "Pad",
                    x,
                    b.constant(ints(*pads)),
                    *([b.constant(np.array(0.5))] if mode == "constant" else []),
                    mode=mode,
                )
            )

        return write

    def scatter(b: Builder) -> str:
        return str(b.op("ScatterND", b.x(4, 3), b.constant(np.array([[1], [3]])), b.numbers(2, 3)))

    def scatter_values(b: Builder) -> str:
        x = b.x(1, 4)
        return str(
            b.op(
                "ScatterElements",
                b.numbers(1, 4),
                b.constant(np.array([[2, 0]])),
                b.op("Slice", x, *(b.constant(ints(v)) for v in (1, 3, 1))),
                axis=1,
            )
        )

    def sequence(b: Builder) -> str:
        parts = b.op("SplitToSequence", b.x(1, 6), b.constant(np.array(2)), axis=1)
        first, last = (b.op("SequenceAt", parts, b.constant(np.array(k))) for k in (0, 2))
        return str(b.op("Sub", b.op("Relu", first), last))

    def joined(b: Builder) -> str:
        parts = b.op("SplitToSequence", b.x(1, 6), axis=1)
        return str(b.op("ConcatFromSequence", parts, axis=0))

    def reshaped(b: Builder) -> str:
        x = b.x(1, 2, 3, 4)
        shape = b.op("Shape", x)
        first = b.op("Gather", shape, b.constant(np.array(0)))
        first = b.over("Unsqueeze", first, [0], 13)
        return str(b.op("Reshape", x, b.op("Concat", first, b.constant(ints(-1)), axis=0)))

    return {
        "transpose": one("Transpose", 1, 2, 3, 4, perm=[0, 2, 3, 1]), "transpose all": one("Transpose", 2, 3),
        "reshape": Graph(lambda b: b.op("Reshape", b.x(1, 2, 6), b.constant(ints(0, -1, 3)))), "reshape by shape": Graph(reshaped),
        "flatten": one("Flatten", 1, 2, 3, axis=2), "squeeze": Graph(lambda b: b.over("Squeeze", b.x(1, 1, 5), [1], 13)),
        "unsqueeze": Graph(lambda b: b.over("Unsqueeze", b.x(1, 5), [0, 2], 13)), "expand": with_constants("Expand", (1, 1, 3), ints(1, 4, 3)),
        "tile": with_constants("Tile", (1, 2, 3), ints(1, 2, 1)), "gather": with_constants("Gather", (1, 5, 2), np.array([[4, -1], [0, 2]]), axis=1),
        "gather elements": with_constants("GatherElements", (1, 4), np.array([[3, 0]]), axis=1, first=11), "gather nd": with_constants("GatherND", (3, 4), np.array([[0, 1], [2, 3]]), first=11),
        "slice": Graph(slices), "split": Graph(split), "space to depth": one("SpaceToDepth", 1, 1, 4, 4, blocksize=2),
        "pixel shuffle": one("DepthToSpace", 1, 4, 2, 3, blocksize=2, mode="CRD", first=11), "depth to space": one("DepthToSpace", 1, 8, 2, 3, blocksize=2),
        "pad constant": Graph(pad("constant")), "pad reflect": Graph(pad("reflect")), "pad edge": Graph(pad("edge")), "pad wrap": Graph(pad("wrap"), 19),
        "compress": with_constants("Compress", (1, 4), np.array([True, False, True, True]), axis=1),
        "where constant": Graph(lambda b: b.op("Where", b.constant(np.array([[True, False, True]])), b.op("Relu", b.x(1, 3)), b.numbers(2, 1)))  ,
        "scatter nd": Graph(scatter, 11), "scatter into constants": Graph(scatter_values, 11),
        "scatter": Graph(lambda b: b.op("Scatter", b.x(1, 4), b.constant(np.array([[2, 0]])), b.numbers(1, 2), axis=1), 9, 10),
        "sequence constructed": Graph(lambda b: b.op("ConcatFromSequence", b.op("SequenceConstruct", b.x(1, 3), b.op("Relu", "x")), axis=1), 11),
        "reshape to the size": Graph(lambda b: b.op("Reshape", b.x(1, 2, 3), b.over("Unsqueeze", b.op("Size", "x"), [0], 13))),
        "cast like": Graph(lambda b: b.op("CastLike", b.op("Relu", b.x(1, 3)), b.numbers(1)), 15),
        "split to sequence": Graph(sequence, 11), "sequence joined": Graph(joined, 11),
        "reverse sequence": Graph(lambda b: b.op("ReverseSequence", b.x(4, 2), b.constant(ints(2, 4)), batch_axis=1, time_axis=0), 10),
        "eye": Graph(lambda b: b.op("MatMul", b.op("EyeLike", b.x(3, 3), k=1), "x")),
        "center crop": Graph(lambda b: b.op("CenterCropPad", b.x(1, 5, 4), b.constant(ints(3, 2)), axes=[1, 2]), 18),
    }  # fmt: skip


def structures() -> dict[str, Graph]:
    """Graphs within graphs, functions, quantised constants, and what classifiers end with."""

    def branch(b: Builder, name: str, scale: float) -> Any:
        held = numpy_helper.from_array(np.array(scale, dtype=b.kind), f"{name}_c")
        node = helper.make_node("Mul", ["x", f"{name}_c"], [f"{name}_y"])
        out = onnx.ValueInfoProto(name=f"{name}_y", type=helper.make_tensor_type_proto(float_type(b), None))
        return helper.make_graph([node], name, [], [out], [held])

    def constant_if(b: Builder) -> str:
        b.x(1, 3)
        return str(
            b.op(
                "If",
                b.constant(np.array(False)),
                then_branch=branch(b, "then", 2.0),
                else_branch=branch(b, "else", -3.0),
            )
        )

    def local_function(b: Builder) -> str:
        nodes = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Sub", ["a", "r"], ["m"])]
        b.functions.append(
            helper.make_function("local", "Negative", ["a"], ["m"], nodes, [helper.make_opsetid("", b.opset)])
        )
        return str(b.op("Negative", b.x(1, 4), domain="local"))

    def dequantised(per_channel: bool) -> Callable[[Builder], str]:
        def write(b: Builder) -> str:
            whole = b.constant(b.rng.integers(-9, 9, (4, 3)).astype(np.int8))
            scale = (
                b.tensors.append(
                    numpy_helper.from_array(
                        np.float32([0.5, 0.25, 0.125]) if per_channel else np.float32(0.25), "scale"
                    )
                )
                or "scale"
            )
            zero = b.constant(np.zeros(3, np.int8) if per_channel else np.array(1, np.int8))
            weight = b.op("DequantizeLinear", whole, scale, zero, **({"axis": 1} if per_channel else {}))
            if b.kind == np.float64:
                weight = b.op("Cast", weight, to=float_type(b))
            return str(b.op("MatMul", b.x(1, 4), weight))

        return write

    def classifier(b: Builder) -> str:
        scores = b.op("Gemm", b.x(1, 4), b.numbers(4, 3), b.numbers(3))
        label = b.op("ArgMax", scores, axis=1)
        b.outputs = [(label, TensorProto.INT64), (scores, float_type(b))]
        return str(scores)

    def half(b: Builder) -> str:
        weight = b.op(
            "Cast", b.tensors.append(numpy_helper.from_array(np.float16([[0.1], [0.2]]), "h")) or "h", to=float_type(b)
        )
        return str(b.op("MatMul", b.x(1, 2), weight))

    def cast_to_half(b: Builder) -> str:
        y = b.op("Cast", b.op("MatMul", b.x(1, 3), b.numbers(3, 2)), to=TensorProto.FLOAT16)
        return str(b.op("Cast", b.op("Relu", y), to=float_type(b)))

    def batch_of_two(b: Builder) -> str:
        y = b.op("Relu", b.op("Gemm", b.x(2, 3), b.numbers(3, 4), b.numbers(4)))
        return str(b.op("Gemm", y, b.numbers(4, 2), b.numbers(2)))

    def channels_last(b: Builder) -> str:
        """As tf2onnx writes a layer of TensorFlow's: transposes around it, a shape from the input's."""
        x = b.x(1, 5, 4, 2)
        y = b.op("Conv", b.op("Transpose", x, perm=[0, 3, 1, 2]), b.numbers(3, 2, 2, 2), b.numbers(3))
        y = b.op("Transpose", b.op("Relu", y), perm=[0, 2, 3, 1])
        shape = b.op("Cast", b.op("Shape", x), to=TensorProto.INT32)
        ends = [np.array([v]) for v in (0, 1)]
        if b.opset < 10:
            first = b.op("Slice", shape, axes=[0], starts=[0], ends=[1])
        else:
            first = b.op("Slice", shape, *(b.constant(v) for v in (ends[0], ends[1], ends[0])))
        whole = b.op("Concat", first, b.constant(np.array([-1], np.int32)), axis=0)
        return str(b.op("Reshape", y, b.op("Cast", whole, to=TensorProto.INT64)))

    def constant_nodes(b: Builder) -> str:
        held = numpy_helper.from_array(np.arange(12, dtype=b.kind).reshape(4, 3) / 8)
        weight = b.op("Constant", value=held)
        return str(b.op("MatMul", b.x(1, 4), b.op("Transpose", b.op("Transpose", weight))))

    return {
        "if": Graph(constant_if), "local function": Graph(local_function), "dequantised": Graph(dequantised(False), 10), "dequantised channels": Graph(dequantised(True), 13),
        "classifier": Graph(classifier), "channels last": Graph(channels_last), "half weights": Graph(half), "cast to half": Graph(cast_to_half, rough=1e-2), "dense batch of two": Graph(batch_of_two), "constant nodes": Graph(constant_nodes),
    }  # fmt: skip
