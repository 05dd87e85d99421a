"""Frozen networks as ordinary ONNX graphs, so that onnxruntime runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from verifier.errors import NetworkError
from verifier.files import write_bytes
from verifier.network.graph import Node
from verifier.network.onnx_writer import OnnxWriter, Precision
from verifier.network.operators import AffineOperator
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.repair.frozen import FrozenNetwork


def write_frozen_onnx(frozen: FrozenNetwork, path: str | Path, precision: Precision = "float32") -> None:
    """Write a frozen network to a file; both channels are in the graph (`fold` first, where that is possible)."""
    write_bytes(path, frozen_to_onnx(frozen, precision).SerializeToString())


def frozen_to_onnx(frozen: FrozenNetwork, precision: Precision = "float32") -> Any:
    """The frozen network as an ``onnx.ModelProto``: the original graph, and the value channel where it differs.

    A unit of the value channel multiplies with the slope of the piece on which the activation channel is
    (comparisons and casts); a MaxPool gathers the entry that won in the activation channel.
    """
    network = frozen.network
    writer = OnnxWriter(network, precision)
    value = {network.input: network.input}
    for node in network.nodes[1:]:
        writer.write(node)
        if node.name not in frozen.patches and all(value[i] == i for i in node.inputs):
            value[node.name] = node.name
            continue
        own = replace(
            node,
            name=f"value/{node.name}",
            operator=frozen.operator(node),
            inputs=tuple(value[i] for i in node.inputs),
        )
        value[node.name] = own.name
        writer.shapes[own.name] = own.shape
        _write_value(writer, own, node.inputs[0])
    return writer.model(value[network.output])


def _write_value(w: OnnxWriter, node: Node, activation: str) -> None:
    """Append a node of the value channel; ``activation`` is the input of its twin in the activation channel."""
    match node.operator:
        case AffineOperator():
            w.write(node)
        case PiecewiseLinear():
            _write_neurons(w, node, node.operator, activation)
        case MaxPool():
            _write_pool(w, node, node.operator, activation)
        case _:
            raise NetworkError(f"{type(node.operator).__name__} cannot be written to ONNX", place=node.name)


def _write_neurons(w: OnnxWriter, node: Node, operator: PiecewiseLinear, activation: str) -> None:
    kind = w.onnx.helper.np_dtype_to_tensor_dtype(w.dtype)
    slope = w.tensor(f"{node.name}/slope", operator.slopes[0])
    intercept = w.tensor(f"{node.name}/intercept", operator.intercepts[0])
    for k, threshold in enumerate(operator.breaks):
        name = f"{node.name}/{k}"
        above = w.emit("Greater", [activation, w.tensor(f"{name}/break", threshold)], f"{name}/above")
        mask = w.emit("Cast", [above], f"{name}/mask", to=kind)
        slope = _step(w, mask, slope, operator.slopes[k + 1] - operator.slopes[k], f"{name}/slope")
        intercept = _step(w, mask, intercept, operator.intercepts[k + 1] - operator.intercepts[k], f"{name}/intercept")
    w.emit("Add", [w.emit("Mul", [node.inputs[0], slope], f"{node.name}/product"), intercept], node.name)


def _step(w: OnnxWriter, mask: str, before: str, jump: float, name: str) -> str:
    """``before + jump * mask``."""
    if jump == 0:
        return before
    part = w.emit("Mul", [mask, w.tensor(f"{name}/jump", jump)], f"{name}/part")
    return w.emit("Add", [before, part], name)


def _write_pool(w: OnnxWriter, node: Node, operator: MaxPool, activation: str) -> None:
    winners = f"{node.name}/winners"
    w.nodes.append(
        w.onnx.helper.make_node(
            "MaxPool",
            [activation],
            [f"{node.name}/activation", winners],
            kernel_shape=list(operator.kernel),
            strides=list(operator.stride),
            pads=list(operator.padding),
            dilations=list(operator.dilation),
        )
    )
    # the winners are positions in the flattened batch
    flat = w.emit("Reshape", [node.inputs[0], w.integers(f"{node.name}/shape", [-1])], f"{node.name}/flat")
    w.emit("Gather", [flat, winners], node.name, axis=0)
