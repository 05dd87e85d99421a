"""Writes networks as ONNX models, in float32 or float64."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError, NetworkError
from verifier.files import write_bytes
from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Concat, Dense, Reshape, Scale, Select, Shape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear

Precision = Literal["float32", "float64"]
OPSET = 13
BATCH = "batch"


@checked
def write_onnx(network: Network, path: str | Path, precision: Precision = "float32") -> None:
    """Write the network to a file; ``.gz`` at the end of the name compresses it.

    Args:
        precision: "float32" rounds every weight to float32; "float64" keeps the network exactly, but
            onnxruntime has no float64 convolution on the CPU.

    Raises:
        InputError: no such precision.
        NetworkError: an operator that ONNX does not have.
        OutputError: the file cannot be written.

    Example:
        >>> import numpy as np, pathlib, tempfile, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> path = pathlib.Path(tempfile.mkdtemp(), "network.onnx")
        >>> verifier.write_onnx(network, path)
        >>> verifier.load(path).input_shape
        (2,)
    """
    import gzip

    path = Path(path)
    data = to_onnx(network, precision).SerializeToString()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def to_onnx(network: Network, precision: Precision = "float32") -> Any:
    """The network as an ``onnx.ModelProto`` with a free batch axis; see `write_onnx`.

    Raises:
        InputError: as `write_onnx`.
    """
    if precision not in ("float32", "float64"):
        raise InputError(f"precision {precision!r} does not exist", fix='"float32" or "float64"')
    return OnnxWriter(network, precision).model()


class OnnxWriter:
    """The state of one writing: nodes and tensors so far.

    Attributes:
        shapes: shape of every value that a node may use, without the batch.
        dtype: of all tensors but integers.
    """

    def __init__(self, network: Network, precision: Precision) -> None:
        import onnx

        self.onnx = onnx
        self.network = network
        self.dtype = np.dtype(precision)
        self.exact = precision == "float64"
        self.shapes = {n.name: n.shape for n in network}
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def model(self, output: str | None = None) -> Any:
        """The model of the nodes written so far, with this output (the network's, after writing it, if None)."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        if output is None:
            output = self.network.output
            for node in self.network.nodes[1:]:
                self.write(node)
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        ends = [
            helper.make_tensor_value_info(name, kind, [BATCH, *self.shapes[name]])
            for name in (self.network.input, output)
        ]
        if self.network.input == output:
            ends[1] = helper.make_tensor_value_info("output", kind, [BATCH, *self.network.output_shape])
            self.emit("Identity", [self.network.input], "output")
        tensors = [numpy_helper.from_array(a, name) for name, a in self.tensors]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], tensors)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="pwl-verifier"
        )

    def emit(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append an ONNX node; its output's name."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def tensor(self, name: str, array: npt.ArrayLike) -> str:
        """Append a constant of the network's precision; its name."""
        self.tensors.append((name, np.asarray(array, dtype=self.dtype)))
        return name

    def integers(self, name: str, values: npt.ArrayLike) -> str:
        """Append an integer constant; its name."""
        self.tensors.append((name, np.asarray(values, dtype=np.int64)))
        return name

    def write(self, node: Node) -> None:
        """Append the ONNX nodes of one node; its inputs must have been written.

        Raises:
            NetworkError: an operator that cannot be written.
        """
        writer = WRITERS.get(type(node.operator), _affine if isinstance(node.operator, AffineOperator) else None)
        if writer is None:
            raise NetworkError(f"{type(node.operator).__name__} cannot be written to ONNX", place=node.name)
        writer(self, node)


def _dense(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Dense)
    (source,) = node.inputs
    bias = w.tensor(f"{node.name}/bias", operator.bias)
    if len(node.shape) == 1:
        weight = w.tensor(f"{node.name}/weight", operator.weight)
        w.emit("Gemm", [source, weight, bias], node.name, transB=1)
        return
    weight = w.tensor(f"{node.name}/weight", operator.weight.T)
    w.emit("Add", [w.emit("MatMul", [source, weight], f"{node.name}/product"), bias], node.name)


def _conv(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Conv)
    inputs = [
        node.inputs[0],
        w.tensor(f"{node.name}/weight", operator.weight),
        w.tensor(f"{node.name}/bias", operator.bias),
    ]
    w.emit(
        "Conv",
        inputs,
        node.name,
        kernel_shape=list(operator.weight.shape[2:]),
        strides=list(operator.stride),
        pads=list(operator.padding),
        dilations=list(operator.dilation),
        group=operator.groups,
    )


def _scale(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Scale)
    current = node.inputs[0]
    scaled, shifted = bool((operator.scale != 1).any()), bool((operator.shift != 0).any())
    if scaled or not shifted:
        name = f"{node.name}/product" if shifted else node.name
        current = w.emit("Mul", [current, w.tensor(f"{node.name}/scale", operator.scale)], name)
    if shifted:
        w.emit("Add", [current, w.tensor(f"{node.name}/shift", operator.shift)], node.name)


def _sum(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Sum)
    current = node.inputs[0]
    if operator.signs[0] < 0:
        current = w.emit("Neg", [current], f"{node.name}/negative")
    if len(node.inputs) == 1:
        w.emit("Identity", [current], node.name)
    for k, sign in enumerate(operator.signs[1:], start=1):
        name = node.name if k == len(operator.signs) - 1 else f"{node.name}/{k}"
        current = w.emit("Add" if sign > 0 else "Sub", [current, node.inputs[k]], name)


def _concat(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Concat)
    w.emit("Concat", list(node.inputs), node.name, axis=operator.axis + 1)


def _flattened(w: OnnxWriter, source: str, shape: Shape, name: str) -> str:
    return w.emit("Reshape", [source, w.integers(f"{name}/shape", (-1, *shape))], name)


def _reshape(w: OnnxWriter, node: Node) -> None:
    _flattened(w, node.inputs[0], node.shape, node.name)


def _select(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Select)
    size = prod(w.shapes[node.inputs[0]])
    current = _flattened(w, node.inputs[0], (size,), f"{node.name}/flat")
    index: npt.NDArray[np.int64] = operator.index
    if (index < 0).any():
        pads = w.integers(f"{node.name}/pads", (0, 0, 0, 1))
        fill = w.tensor(f"{node.name}/fill", operator.fill)
        current = w.emit("Pad", [current, pads, fill], f"{node.name}/padded")
        index = np.where(index < 0, size, index)
    w.emit("Gather", [current, w.integers(f"{node.name}/index", index)], node.name, axis=1)


def _affine(w: OnnxWriter, node: Node) -> None:
    """Any affine operator, by its matrices."""
    operator = node.operator
    assert isinstance(operator, AffineOperator)
    constant, total = operator.constant(), ""
    for k, matrix in enumerate(operator.matrices(*(w.shapes[i] for i in node.inputs))):
        name = f"{node.name}/{k}"
        flat = _flattened(w, node.inputs[k], (matrix.shape[1],), f"{name}/flat")
        product = w.emit("MatMul", [flat, w.tensor(f"{name}/matrix", matrix.T.toarray())], f"{name}/product")
        total = w.emit("Add", [total, product], f"{name}/sum") if total else product
    if constant is not None:
        flat_constant = np.broadcast_to(constant, node.shape).reshape(-1)
        total = w.emit("Add", [total, w.tensor(f"{node.name}/constant", flat_constant)], f"{node.name}/total")
    _flattened(w, total, node.shape, node.name)


def _piecewise(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, PiecewiseLinear)
    (source,) = node.inputs
    if operator.is_relu:
        w.emit("Relu", [source], node.name)
    elif operator.label == "Abs":
        w.emit("Abs", [source], node.name)
    elif operator.label == "LeakyRelu" and not w.exact:
        # the attribute is a float32; in float64 the general form below keeps the slope exactly
        w.emit("LeakyRelu", [source], node.name, alpha=operator.slopes[0])
    elif operator.label == "Clip":
        low = [w.tensor(f"{node.name}/low", operator.breaks[0])] if operator.slopes[0] == 0 else [""]
        high = [w.tensor(f"{node.name}/high", operator.breaks[-1])] if operator.slopes[-1] == 0 else []
        w.emit("Clip", [source, *low, *high], node.name)
    else:
        _hinges(w, node, operator)


def _hinges(w: OnnxWriter, node: Node, operator: PiecewiseLinear) -> None:
    """Any elementwise function: a line plus ``jump * relu(z - break)`` for each breakpoint."""
    (source,) = node.inputs
    slope = w.tensor(f"{node.name}/slope", operator.slopes[0])
    start = w.tensor(f"{node.name}/start", operator.intercepts[0])
    line = w.emit("Mul", [source, slope], f"{node.name}/line")
    total = w.emit("Add", [line, start], f"{node.name}/total")
    for k, b in enumerate(operator.breaks):
        name = f"{node.name}/{k}"
        shifted = w.emit("Sub", [source, w.tensor(f"{name}/break", b)], f"{name}/shifted")
        hinge = w.emit("Relu", [shifted], f"{name}/hinge")
        jump = w.tensor(f"{name}/jump", operator.slopes[k + 1] - operator.slopes[k])
        part = w.emit("Mul", [hinge, jump], f"{name}/part")
        last = k == len(operator.breaks) - 1
        total = w.emit("Add", [total, part], node.name if last else f"{name}/total")


def _max_pool(w: OnnxWriter, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, MaxPool)
    w.emit(
        "MaxPool",
        list(node.inputs),
        node.name,
        kernel_shape=list(operator.kernel),
        strides=list(operator.stride),
        pads=list(operator.padding),
        dilations=list(operator.dilation),
    )


WRITERS: dict[type, Callable[[OnnxWriter, Node], None]] = {
    Dense: _dense,
    Conv: _conv,
    Scale: _scale,
    Sum: _sum,
    Concat: _concat,
    Reshape: _reshape,
    Select: _select,
    PiecewiseLinear: _piecewise,
    MaxPool: _max_pool,
}
"""How each operator is written."""
