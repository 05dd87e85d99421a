"""Graphs under construction: what writes one, in the form that an opset has for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

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
        rough: the difference that onnxruntime's arithmetic explains, where it computes parts of the graph in a narrower type.
    """

    write: Callable[[Builder], str]
    first: int = 9
    last: int = 22
    rough: float = 0.0

    def model(self, opset: int, kind: str = "float32") -> Any:
        """The graph in this opset and type of number."""
        builder = Builder(opset, kind)
        return builder.model(self.write(builder))


def one(kind: str, *shape: int, first: int = 9, last: int = 22, **attributes: Any) -> Graph:
    """A graph of one node of one input."""
    return Graph(lambda b: b.op(kind, b.x(*shape), **attributes), first, last)


def with_constants(
    kind: str, shape: Sequence[int], *constants: Any, swap: bool = False, first: int = 9, **attrs: Any
) -> Graph:
    """A graph of one node of the input and constants: random ones of a shape (a tuple), or given arrays."""

    def write(b: Builder) -> str:
        x = b.x(*shape)
        held = [b.numbers(*c) if isinstance(c, tuple) else b.constant(c) for c in constants]
        return str(b.op(kind, *([*held, x] if swap else [x, *held]), **attrs))

    return Graph(write, first)


def float_type(b: Builder) -> int:
    """The type of a graph's floats, as ONNX counts types."""
    return int(helper.np_dtype_to_tensor_dtype(b.kind))
