"""ONNX graphs of every operator that is read, in the form that each opset has for it, and torch modules as exported.

`GRAPHS` maps a name to a `Graph`: what writes it into a `Builder`, and the opsets that it exists in. The tests load each
and compare it with onnxruntime; `onnx_agreement.py` does so for all opsets.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_curved_graphs import curved, jumping

OPSETS = range(9, min(onnx.defs.onnx_opset_version(), 22) + 1)
"""The opsets that exporters write today, as far as the installed onnx knows them."""


class Builder:
    """A graph under construction, in one opset and one type of number.

    Attributes:
        opset: version of the operators.
        kind: "float32" or "float64".
    """

    def __init__(self, opset: int, kind: str = "float32", seed: int = 0) -> None:
        self.opset, self.kind = opset, np.dtype(kind)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.functions: list[Any] = []
        self.shape: Sequence[int] = (1, 6)
        self.outputs: list[tuple[str, int]] = []

    def x(self, *shape: int) -> str:
        """The input, of this shape."""
        self.shape = shape
        return "x"

    def numbers(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        """A constant of random numbers."""
        return self.constant(self.rng.uniform(low, high, shape))

    def constant(self, array: npt.ArrayLike) -> str:
        """A constant; floats take the graph's type."""
        held = np.asarray(array)
        held = held.astype(self.kind) if held.dtype.kind == "f" else held
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(held, name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """A node; the name of its output, or the names of several."""
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def over(self, kind: str, value: str, axes: Sequence[int] | None, since: int, **attributes: Any) -> str:
        """A node whose axes are an attribute before opset ``since``, and an input from then on."""
        if axes is None:
            return str(self.op(kind, value, **attributes))
        if self.opset < since:
            return str(self.op(kind, value, axes=list(axes), **attributes))
        return str(self.op(kind, value, self.constant(np.array(axes, dtype=np.int64)), **attributes))

    def clip(self, value: str, low: float, high: float) -> str:
        """Clip, whose ends became inputs in opset 11."""
        if self.opset < 11:
            return str(self.op("Clip", value, min=low, max=high))
        return str(self.op("Clip", value, self.constant(np.array(low)), self.constant(np.array(high))))

    def model(self, output: str) -> Any:
        """The finished model."""
        kind = helper.np_dtype_to_tensor_dtype(self.kind)
        ends = self.outputs or [(output, kind)]
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [onnx.ValueInfoProto(name=n, type=helper.make_tensor_type_proto(k, None)) for n, k in ends],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 2)]
        if self.functions:
            opsets.append(helper.make_opsetid("local", 1))
        return helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=8)


@dataclass(frozen=True)
class Graph:
    """A graph of the corpus.

    Attributes:
        write: writes it into a builder; the output's name.
        first, last: the opsets that it exists in.
    """

    write: Callable[[Builder], str]
    first: int = 9
    last: int = 22

    def model(self, opset: int, kind: str = "float32") -> Any:
        """The graph in this opset and type of number."""
        builder = Builder(opset, kind)
        return builder.model(self.write(builder))


def _one(kind: str, *shape: int, first: int = 9, last: int = 22, **attributes: Any) -> Graph:
    """A graph of one node of one input."""
    return Graph(lambda b: b.op(kind, b.x(*shape), **attributes), first, last)


def _with(kind: str, shape: Sequence[int], *constants: Any, swap: bool = False, first: int = 9, **attrs: Any) -> Graph:
    """A graph of one node of the input and constants: random ones of a shape (a tuple), or given arrays."""

    def write(b: Builder) -> str:
        x = b.x(*shape)
        held = [b.numbers(*c) if isinstance(c, tuple) else b.constant(c) for c in constants]
        return str(b.op(kind, *([*held, x] if swap else [x, *held]), **attrs))

    return Graph(write, first)


GRAPHS: dict[str, Graph] = {}


def _elementwise() -> dict[str, Graph]:
    six = (1, 6)
    graphs = {
        "relu": _one("Relu", *six), "leaky relu": _one("LeakyRelu", *six, alpha=0.25), "abs": _one("Abs", *six),
        "neg": _one("Neg", *six), "identity": _one("Identity", *six), "hard sigmoid": _one("HardSigmoid", *six, alpha=0.5, beta=0.25),
        "thresholded relu at 0": _one("ThresholdedRelu", *six, alpha=0.0, first=10),
        "soft shrink": _one("Shrink", *six, lambd=0.5, bias=0.5),
        "prelu": _with("PRelu", (1, 3, 4), (3, 1)), "prelu one": _with("PRelu", (1, 3, 4), np.array([0.25])),
        "clip": Graph(lambda b: b.clip(b.x(1, 6), -0.25, 0.5)),
        "relu6": Graph(lambda b: b.clip(b.op("Mul", b.x(1, 6), b.constant(9.0)), 0.0, 6.0)),
        "add": _with("Add", (1, 3, 4), (3, 1)), "sub from": _with("Sub", (1, 4), (4,), swap=True),
        "mul": _with("Mul", (1, 2, 4), (4,)), "div": _with("Div", (1, 4), np.array([2.0, -0.5, 3.0, 1.5])),
        "sum": _with("Sum", (1, 4), (4,), (1, 4)), "mean": _with("Mean", (1, 4), (4,), (1, 4)),
        "max of constant": _with("Max", (1, 4), (4,)), "min of constant": _with("Min", (1, 4), (4,)),
        "batch normalisation": _with("BatchNormalization", (1, 3, 2, 2), (3,), (3,), (3,), np.array([0.5, 1.0, 2.0])),
        "dropout": _one("Dropout", *six), "dropout of inputs": Graph(lambda b: b.op("Dropout", b.x(1, 6), b.constant(np.array(0.5)), b.constant(np.array(False))), 12),
        "scaler": Graph(lambda b: b.op("Scaler", b.x(1, 3), domain="ai.onnx.ml", offset=[0.5, 1.0, -1.0], scale=[2.0, 0.5, 1.5])),
    }  # fmt: skip
    return graphs


def _spelled_out() -> dict[str, Graph]:
    """Activations written with comparisons, signs, masks and choices."""

    def leaky(kind: str) -> Callable[[Builder], str]:
        def write(b: Builder) -> str:
            x, zero = b.x(1, 6), b.constant(np.array(0.0))
            condition = b.op(kind, x, zero) if kind.startswith("G") else b.op("Not", b.op(kind, x, zero))
            return str(b.op("Where", condition, x, b.op("Mul", x, b.constant(np.array(0.25)))))

        return write

    def masked(b: Builder) -> str:
        x = b.x(1, 6)
        mask = b.op("Cast", b.op("Greater", x, b.constant(np.array(0.5))), to=_type(b))
        return str(b.op("Mul", b.op("Sub", x, b.constant(np.array(0.5))), mask))

    def soft_threshold(b: Builder) -> str:
        x = b.x(1, 6)
        excess = b.op("Relu", b.op("Sub", b.op("Abs", x), b.constant(np.array(0.25))))
        return str(b.op("Mul", b.op("Sign", x), excess))

    def dead_zone(b: Builder) -> str:
        x = b.x(1, 6)
        low, high = b.constant(np.array(-0.25)), b.constant(np.array(0.25))
        outside = b.op("Or", b.op("Less", x, low), b.op("Greater", x, high))
        edge = b.op("Mul", b.op("Sign", x), high)
        return str(b.op("Where", outside, b.op("Sub", x, edge), b.constant(np.array(0.0))))

    def between(b: Builder) -> str:
        x = b.x(1, 6)
        one = b.constant(np.array(1.0))
        inside = b.op("And", b.op("Greater", x, b.op("Neg", one)), b.op("Less", x, one))
        return str(b.op("Where", inside, x, b.op("Sign", x)))

    def dead_zone_by_xor(b: Builder) -> str:
        x = b.x(1, 6)
        low, high = b.constant(np.array(-0.25)), b.constant(np.array(0.25))
        outside = b.op("Xor", b.op("Less", x, low), b.op("Greater", x, high))
        return str(
            b.op("Where", outside, b.op("Sub", x, b.op("Mul", b.op("Sign", x), high)), b.constant(np.array(0.0)))
        )

    def zero_at_zero(b: Builder) -> str:
        x, zero = b.x(1, 6), b.constant(np.array(0.0))
        return str(b.op("Where", b.op("Equal", x, zero), zero, b.op("LeakyRelu", x, alpha=0.25)))

    def hinge_of_relu(b: Builder) -> str:
        y = b.op("Relu", b.op("Add", b.x(1, 6), b.constant(np.array(0.5))))
        return str(b.op("Where", b.op("Greater", y, b.constant(np.array(1.0))), b.constant(np.array(1.0)), y))

    return {
        "leaky by where": Graph(leaky("Greater")), "leaky by where, closed": Graph(leaky("GreaterOrEqual"), 12),
        "leaky by where, not": Graph(leaky("Less")), "leaky by where, not closed": Graph(leaky("LessOrEqual"), 12),
        "dead zone by xor": Graph(dead_zone_by_xor), "choice at a point": Graph(zero_at_zero, 11), "relu by mask": Graph(masked), "soft threshold by sign": Graph(soft_threshold),
        "dead zone by or": Graph(dead_zone), "hard tanh by and": Graph(between), "saturation by where": Graph(hinge_of_relu),
    }  # fmt: skip


def _type(b: Builder) -> int:
    return int(helper.np_dtype_to_tensor_dtype(b.kind))


def _two_paths() -> dict[str, Graph]:
    """Operators of two tensors that depend on the input."""

    def pair(kind: str, **attributes: Any) -> Graph:
        def write(b: Builder) -> str:
            x = b.x(1, 2, 3)
            other = b.op("MatMul", b.op("Relu", x), b.numbers(3, 3))
            return str(b.op(kind, x, other, **attributes))

        return Graph(write)

    def residual(b: Builder) -> str:
        x = b.x(1, 2, 4, 4)
        y = b.op("Relu", b.op("Conv", x, b.numbers(2, 2, 3, 3), b.numbers(2), pads=[1, 1, 1, 1]))
        return str(b.op("Relu", b.op("Add", b.op("Conv", y, b.numbers(2, 2, 1, 1)), x)))

    def broadcast(b: Builder) -> str:
        x = b.x(1, 3, 4)
        return str(b.op("Sub", x, b.over("ReduceMean", x, [-1], 18, keepdims=1)))

    def three(b: Builder) -> str:
        x = b.x(1, 4)
        return str(b.op("Max", x, b.op("Neg", x), b.op("MatMul", x, b.numbers(4, 4)), b.numbers(4)))

    return {
        **{f"{k.lower()} of two": pair(k) for k in ("Add", "Sub", "Max", "Min", "Sum", "Mean")},
        "concat of two": pair("Concat", axis=1), "residual": Graph(residual), "mean taken off": Graph(broadcast),
        "max of four": Graph(three),
        "concat with constants": Graph(lambda b: b.op("Concat", b.numbers(1, 2, 3), b.x(1, 1, 3), b.numbers(1, 1, 3), axis=1)),
    }  # fmt: skip


def _matrices() -> dict[str, Graph]:
    graphs = {
        "gemm": _with("Gemm", (1, 6), (4, 6), (4,), transB=1, alpha=0.5, beta=2.0),
        "gemm turned": _with("Gemm", (3, 2), (3, 4), (4,), transA=1),
        "matmul": _with("MatMul", (1, 6), (6, 4)), "matmul left": _with("MatMul", (4, 5), (3, 4), swap=True),
        "matmul vector": _with("MatMul", (1, 5, 6), (6,)), "matmul left vector": _with("MatMul", (1, 5, 6), (5,), swap=True),
        "matmul stack": _with("MatMul", (1, 3, 4, 5), (3, 5, 2)), "matmul left stack": _with("MatMul", (1, 3, 4, 5), (3, 2, 4), swap=True),
        "matmul stack grows": _with("MatMul", (1, 4, 5), (3, 5, 2)), "matmul two stacks": _with("MatMul", (2, 3, 4, 5), (2, 3, 5, 2)),
        "matmul stack of one": _with("MatMul", (1, 2, 4, 5), (1, 1, 5, 2)), "matmul one meets many": _with("MatMul", (1, 1, 4, 5), (1, 3, 5, 2)),
        "matmul vector by matrix": _with("MatMul", (5,), (5, 3)), "matmul vector by stack": _with("MatMul", (5,), (2, 5, 3)),
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
        graphs[name] = _with("Einsum", shape, constant, swap=swap, first=12, equation=equation)
    graphs["einsum transpose"] = Graph(lambda b: b.op("Einsum", b.x(1, 2, 3), equation="bij->bji"), 12)
    return graphs


def _windows() -> dict[str, Graph]:
    image, line, solid = (1, 2, 7, 6), (1, 2, 9), (1, 2, 5, 4, 6)
    graphs = {
        "conv": _with("Conv", image, (3, 2, 3, 2), (3,), strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
        "conv groups": _with("Conv", (1, 4, 5, 5), (8, 2, 3, 3), group=2), "conv depthwise": _with("Conv", (1, 3, 5, 5), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1]),
        "conv 1d": _with("Conv", line, (3, 2, 4), (3,), pads=[1, 2], strides=[2]),
        "conv 3d": _with("Conv", solid, (4, 2, 2, 3, 2), (4,)), "conv 3d strides": _with("Conv", solid, (2, 2, 3, 2, 3), strides=[2, 3, 2], pads=[1, 1, 0, 2, 1, 2], dilations=[1, 2, 1]),
        "conv 3d groups": _with("Conv", solid, (4, 1, 2, 2, 2), group=2, strides=[1, 2, 1]),
        "conv same upper": _with("Conv", image, (2, 2, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "conv same lower": _with("Conv", image, (2, 2, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
        "conv valid": _with("Conv", image, (2, 2, 3, 3), auto_pad="VALID"), "conv batch of two": _with("Conv", (2, 2, 5, 5), (3, 2, 3, 3), (3,)),
        "transposed": _with("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 2), (3,)), "transposed stride": _with("ConvTranspose", (1, 2, 4, 3), (2, 3, 4, 4), (3,), strides=[2, 2], pads=[1, 1, 1, 1]),
        "transposed odd": _with("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 5), (3,), strides=[3, 2], pads=[1, 0, 0, 2], output_padding=[1, 1]),
        "transposed dilated": _with("ConvTranspose", (1, 2, 4, 3), (2, 1, 3, 2), strides=[2, 1], dilations=[2, 3]),
        "transposed gaps": _with("ConvTranspose", (1, 2, 4, 3), (2, 1, 2, 1), (1,), strides=[3, 2]),
        "transposed groups": _with("ConvTranspose", (1, 4, 3, 3), (4, 2, 3, 3), (4,), group=2, strides=[2, 2]),
        "transposed 1d": _with("ConvTranspose", (1, 2, 5), (2, 3, 4), (3,), strides=[2], pads=[1, 1]), "transposed 3d": _with("ConvTranspose", (1, 2, 2, 3, 2), (2, 2, 2, 3, 2), (2,), strides=[2, 1, 2]),
        "transposed same": _with("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "transposed shape": _with("ConvTranspose", (1, 2, 4, 3), (2, 3, 3, 3), strides=[2, 2], output_shape=[8, 6]),
        "transposed batch": _with("ConvTranspose", (2, 2, 3, 3), (2, 2, 3, 3), (2,), strides=[2, 2]),
        "max pool": _one("MaxPool", *image, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), "max pool dilated": _one("MaxPool", *image, kernel_shape=[2, 2], dilations=[2, 1], first=10),
        "max pool ceiling": _one("MaxPool", *image, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, first=10), "max pool 1d": _one("MaxPool", *line, kernel_shape=[3], strides=[2]),
        "max pool 3d": _one("MaxPool", *solid, kernel_shape=[2, 2, 3], strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 1]), "max pool same": _one("MaxPool", *image, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        "max pool batch": _one("MaxPool", 2, 2, 4, 4, kernel_shape=[2, 2]),
        "max pool positions unused": Graph(lambda b: b.op("MaxPool", b.x(*image), outputs=2, kernel_shape=[2, 2])[0]),
        "average pool": _one("AveragePool", *image, kernel_shape=[2, 2], strides=[2, 1]), "average pool padded": _one("AveragePool", *image, kernel_shape=[3, 3], pads=[1, 1, 1, 0]),
        "average pool counted": _one("AveragePool", *image, kernel_shape=[3, 3], pads=[1, 1, 1, 0], count_include_pad=1), "average pool ceiling": _one("AveragePool", *image, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, first=10),
        "average pool 1d": _one("AveragePool", *line, kernel_shape=[3], pads=[1, 1]), "average pool 3d": _one("AveragePool", *solid, kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 1, 1]),
        "average pool dilated": _one("AveragePool", *image, kernel_shape=[2, 2], dilations=[2, 2], first=19),
        "global average": _one("GlobalAveragePool", 1, 3, 4, 5), "global max": _one("GlobalMaxPool", 1, 3, 4, 5), "global average 1d": _one("GlobalAveragePool", 1, 3, 4),
        "sum of magnitudes in windows": _one("LpPool", *image, kernel_shape=[2, 2], p=1, strides=[2, 1]), "global sum of magnitudes": _one("GlobalLpPool", 1, 3, 4, 5, p=1, last=21),
    }  # fmt: skip
    return graphs


def _resizes() -> dict[str, Graph]:
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
    }  # fmt: skip
    return graphs


def _over_axes() -> dict[str, Graph]:
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


def _movements() -> dict[str, Graph]:
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
        "transpose": _one("Transpose", 1, 2, 3, 4, perm=[0, 2, 3, 1]), "transpose all": _one("Transpose", 2, 3),
        "reshape": Graph(lambda b: b.op("Reshape", b.x(1, 2, 6), b.constant(ints(0, -1, 3)))), "reshape by shape": Graph(reshaped),
        "flatten": _one("Flatten", 1, 2, 3, axis=2), "squeeze": Graph(lambda b: b.over("Squeeze", b.x(1, 1, 5), [1], 13)),
        "unsqueeze": Graph(lambda b: b.over("Unsqueeze", b.x(1, 5), [0, 2], 13)), "expand": _with("Expand", (1, 1, 3), ints(1, 4, 3)),
        "tile": _with("Tile", (1, 2, 3), ints(1, 2, 1)), "gather": _with("Gather", (1, 5, 2), np.array([[4, -1], [0, 2]]), axis=1),
        "gather elements": _with("GatherElements", (1, 4), np.array([[3, 0]]), axis=1, first=11), "gather nd": _with("GatherND", (3, 4), np.array([[0, 1], [2, 3]]), first=11),
        "slice": Graph(slices), "split": Graph(split), "space to depth": _one("SpaceToDepth", 1, 1, 4, 4, blocksize=2),
        "pixel shuffle": _one("DepthToSpace", 1, 4, 2, 3, blocksize=2, mode="CRD", first=11), "depth to space": _one("DepthToSpace", 1, 8, 2, 3, blocksize=2),
        "pad constant": Graph(pad("constant")), "pad reflect": Graph(pad("reflect")), "pad edge": Graph(pad("edge")), "pad wrap": Graph(pad("wrap"), 19),
        "compress": _with("Compress", (1, 4), np.array([True, False, True, True]), axis=1),
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


def _structures() -> dict[str, Graph]:
    """Graphs within graphs, functions, quantised constants, and what classifiers end with."""

    def branch(b: Builder, name: str, scale: float) -> Any:
        held = numpy_helper.from_array(np.array(scale, dtype=b.kind), f"{name}_c")
        node = helper.make_node("Mul", ["x", f"{name}_c"], [f"{name}_y"])
        out = onnx.ValueInfoProto(name=f"{name}_y", type=helper.make_tensor_type_proto(_type(b), None))
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
                weight = b.op("Cast", weight, to=_type(b))
            return str(b.op("MatMul", b.x(1, 4), weight))

        return write

    def classifier(b: Builder) -> str:
        scores = b.op("Gemm", b.x(1, 4), b.numbers(4, 3), b.numbers(3))
        label = b.op("ArgMax", scores, axis=1)
        b.outputs = [(label, TensorProto.INT64), (scores, _type(b))]
        return str(scores)

    def half(b: Builder) -> str:
        weight = b.op(
            "Cast", b.tensors.append(numpy_helper.from_array(np.float16([[0.1], [0.2]]), "h")) or "h", to=_type(b)
        )
        return str(b.op("MatMul", b.x(1, 2), weight))

    def batch_of_two(b: Builder) -> str:
        y = b.op("Relu", b.op("Gemm", b.x(2, 3), b.numbers(3, 4), b.numbers(4)))
        return str(b.op("Gemm", y, b.numbers(4, 2), b.numbers(2)))

    def constant_nodes(b: Builder) -> str:
        held = numpy_helper.from_array(np.arange(12, dtype=b.kind).reshape(4, 3) / 8)
        weight = b.op("Constant", value=held)
        return str(b.op("MatMul", b.x(1, 4), b.op("Transpose", b.op("Transpose", weight))))

    return {
        "if": Graph(constant_if), "local function": Graph(local_function), "dequantised": Graph(dequantised(False), 10), "dequantised channels": Graph(dequantised(True), 13),
        "classifier": Graph(classifier), "half weights": Graph(half), "dense batch of two": Graph(batch_of_two), "constant nodes": Graph(constant_nodes),
    }  # fmt: skip


for _part in (
    _elementwise,
    _spelled_out,
    _two_paths,
    _matrices,
    _windows,
    _resizes,
    _over_axes,
    _movements,
    _structures,
):
    GRAPHS.update(_part())
GRAPHS.update({name: Graph(write, first) for name, (write, first) in {**curved(), **jumping()}.items()})


# -- torch modules, exported -----------------------------------------------------------------------------
def modules() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Torch modules by name, with the shape of one input."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Function(nn.Module):
        def __init__(self, function: Callable[[Any], Any]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Any) -> Any:
            return self.function(x)

    def unpacked(x: Any) -> Any:
        a, b, c = torch.split(x, 2, dim=1)
        return torch.relu(a) + b - c

    weight = torch.tensor(np.random.default_rng(0).normal(size=(3, 4, 2)), dtype=torch.float32)
    image = (2, 6, 6)
    return {
        "mlp": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
        "cnn": (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)), image),
        "generator": (nn.Sequential(nn.Linear(5, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(3, 1, 3, 2, 1, output_padding=1)), (5,)),
        "transposed 1d": (nn.ConvTranspose1d(2, 3, 3, 2, dilation=2, groups=1), (2, 5)), "transposed groups": (nn.ConvTranspose2d(2, 4, 3, 2, groups=2), image),
        "conv 3d": (nn.Sequential(nn.Conv3d(1, 2, 3, padding=1, stride=(1, 2, 1)), nn.ReLU(), nn.MaxPool3d(2), nn.AvgPool3d((1, 1, 2))), (1, 4, 5, 6)),
        "upsample": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 3)), image), "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), image),
        "bilinear corners": (nn.Upsample(size=(9, 7), mode="bilinear", align_corners=True), image),
        "adaptive max": (nn.AdaptiveMaxPool2d(1), image), "adaptive average": (nn.AdaptiveAvgPool2d((3, 2)), image),
        "average ceiling": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), image), "max ceiling": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), image),
        "reflection": (nn.ReflectionPad2d((1, 2, 0, 1)), image), "replication": (nn.ReplicationPad2d(1), image), "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), image),
        "pixel shuffle": (nn.Sequential(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)), image), "pixel unshuffle": (nn.PixelUnshuffle(2), image),
        "hard sigmoid": (nn.Hardsigmoid(), (6,)), "relu6": (nn.Sequential(nn.Linear(6, 6), nn.ReLU6()), (6,)), "hard tanh": (nn.Hardtanh(-0.5, 0.25), (6,)),
        "soft shrink": (nn.Softshrink(0.25), (6,)), "leaky": (nn.LeakyReLU(0.25), (6,)), "prelu": (nn.PReLU(2), image), "threshold": (nn.Threshold(0.5, 0.5), (6,)),
        "unpacked split": (Function(unpacked), (6,)), "chunk": (Function(lambda x: torch.cat(torch.chunk(x, 3, 1)[::-1], 1)), (6,)),
        "where leaky": (Function(lambda x: torch.where(x > 0, x, 0.25 * x)), (6,)), "amax": (Function(lambda x: x.amax((2, 3)) - x.amin((2, 3))), image),
        "max of rows": (Function(lambda x: x.max(2)[0]), image), "mean": (Function(lambda x: x - x.mean((2, 3), keepdim=True)), image), "l1 norm": (Function(lambda x: x.abs().sum(1)), (6,)),
        "cumulative sum": (Function(lambda x: x.cumsum(1)), (6,)), "triangle": (Function(lambda x: torch.tril(x)), (4, 4)),
        "einsum": (Function(lambda x: torch.einsum("bhi,hij->bhj", x, weight)), (3, 4)), "stack of matrices": (Function(lambda x: torch.matmul(x.unsqueeze(2), weight).squeeze(2)), (3, 4)),
        "stack": (Function(lambda x: torch.stack([x, -x, x.relu()], 1)), (4,)), "flip and roll": (Function(lambda x: torch.roll(x.flip(1), 2, 1)), (6,)),
        "maximum": (Function(lambda x: torch.maximum(x, x.flip(1)) + torch.minimum(x, torch.tensor(0.25))), (6,)), "clamp": (Function(lambda x: x.clamp(min=-0.5) + x.clamp(max=0.25)), (6,)),
        "narrow and select": (Function(lambda x: x.narrow(2, 1, 3) + x[:, :, 0:1] - x.select(2, 1).unsqueeze(2)), (6, 4)), "strided slice": (Function(lambda x: x[:, ::2, 1::3]), (6, 6)),
        "repeat": (Function(lambda x: x.repeat(1, 2).view(-1, 3, 4).transpose(1, 2)), (6,)), "dropout": (nn.Sequential(nn.Dropout(), nn.Linear(6, 2)), (6,)),
        "residual": (Function(lambda x: F.relu(x + F.conv2d(F.relu(x), torch.ones(2, 2, 3, 3) / 9, padding=1))), image),
        "fully padded": (Function(lambda x: F.pad(x, (1, 2), value=0.5)), (6,)), "shuffled channels": (nn.ChannelShuffle(2), (4, 3, 3)),
        "local norm of groups": (Function(lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5)), image),
    }  # fmt: skip


def exported(name: str, opset: int) -> Any:
    """A torch module as torch's older exporter writes it (the newer one needs onnxscript); None where it cannot."""
    import torch

    module, shape = modules()[name]
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module.eval(), torch.randn(1, *shape), file, opset_version=opset, dynamo=False)
        except (torch.onnx.errors.UnsupportedOperatorError, torch.onnx.errors.SymbolicValueError, RuntimeError):
            return None
    return onnx.load_model_from_string(file.getvalue())
