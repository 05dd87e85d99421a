"""One node of an ONNX graph on its way into a network: what its converter may ask."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler
from verifier.network.onnx_model import as_reals
from verifier.network.operators import Array
from verifier.network.tensors import Jump, Masked, Value, Weight, sparse_if_large

REALS, HALF, INTEGERS = {1, 11}, {10, 16}, {2, 3, 4, 5, 6, 7, 12, 13}
"""Element types: float32 and float64; float16 and bfloat16; integers of 8 to 64 bits."""

OPEN_ENDED = {"Add", "Clip", "Constant", "Max", "Min", "Where"}
"""Operators whose constants may be infinite."""

Tensor: TypeAlias = Value | Jump | Masked | Array | list[Any]
"""What a name of the graph stands for: a value, a function with jumps, one with entries left out, a constant, a sequence of these."""


class Names(ABC):
    """What is known while a graph is read.

    Attributes:
        source: the file, for messages.
        opset: version of ONNX's own operators.
        assembler: builds the network.
        values: the tensors that depend on the input.
        integers: names of those that are integers.
        used: names that something uses.
    """

    source: str
    opset: int
    assembler: Assembler
    values: dict[str, Value | Jump | Masked | list[Any]]
    integers: set[str]
    used: set[str]

    @abstractmethod
    def is_constant(self, name: str) -> bool:
        """Whether the tensor of this name is constant."""

    @abstractmethod
    def constant(self, name: str) -> Array | None:
        """The constant tensor of this name, floats as float64; None if it is no constant."""

    @abstractmethod
    def raw_constant(self, name: str) -> Array | None:
        """The constant tensor as the file holds it; None if it is no constant."""

    @abstractmethod
    def computes_in_half(self, name: str) -> None:
        """Note that the model itself rounds more coarsely than any proof allows for."""

    @abstractmethod
    def branch(self, graph: Any) -> list[Tensor]:
        """The outputs of a graph within the graph, which may use all names known so far."""


class Step:
    """One node, and what is known before it."""

    def __init__(self, reader: Names, node: Any) -> None:
        self.reader = reader
        self.node = node
        self.kind: str = node.op_type
        self.name: str = node.output[0]
        self.opset = reader.opset
        self.assembler = reader.assembler
        label = node.name or node.output[0]
        self.place = f"{reader.source}: node {label!r}" if reader.source else f"node {label!r}"

    def evaluate(self, feeds: dict[str, Array]) -> list[Array]:
        """What ONNX's reference implementation computes for this node alone.

        Shapes: feeds ``(…)``, the full shapes that ONNX knows.

        Raises:
            NetworkError: ONNX's own implementation fails.
        """
        if self.kind == "Flatten":  # nearly every network has one, and the reference takes long to import
            (a,), axis = feeds.values(), self.attribute("axis", 1)
            flat = a.reshape(math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))
            return [as_reals(flat)]
        import onnx
        from onnx.reference import ReferenceEvaluator

        helper = onnx.helper
        inputs = [helper.make_tensor_value_info(n, _element_type(a), a.shape) for n, a in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=o) for o in self.node.output if o]
        node = self.node
        if self.kind == "Scatter":  # the older name, which the reference does not know
            node = onnx.NodeProto.FromString(node.SerializeToString())
            node.op_type = "ScatterElements"
        graph = helper.make_graph([node], "one node", inputs, outputs)
        # quantisation by the rules of opset 19, which contain the older ones: the reference has no others
        opset = max(self.opset, {"DequantizeLinear": 19, "QuantizeLinear": 19, "Scatter": 11}.get(self.kind, 0))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        try:
            results = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:  # whatever a malformed node makes the reference raise
            raise NetworkError(f"{self.kind} cannot be evaluated: {error}", place=self.place) from None
        made = iter(as_reals(np.asarray(r)) for r in results)
        return [next(made) if o else np.zeros(0) for o in self.node.output]

    def value(self, k: int = 0) -> Value:
        """Input k, which must depend on the network's input."""
        found = self.tensor(k)
        if isinstance(found, Value):
            return found
        if isinstance(found, Jump):
            name = self.node.input[k]
            made = self.assembler.materialised(found, f"{name}/steps")
            self.reader.values[name] = made
            return made
        if isinstance(found, Masked):
            raise self.unsupported("of minus infinity (a Softmax takes it)")
        raise self.unsupported(f"with a {'sequence' if isinstance(found, list) else 'constant'} as input {k}")

    def tensor(self, k: int) -> Tensor:
        """Input k, whatever it is.

        Raises:
            NetworkError: it is not computed anywhere.
        """
        name = self.node.input[k]
        if name in self.reader.values:
            return self.reader.values[name]
        if not self.reader.is_constant(name):
            raise NetworkError(f"input {name!r} is not computed anywhere", place=self.place)
        return self.given_constant(name)

    def nodes(self, found: Value | Jump | Array) -> Value | Array:
        """An operand with a node of its own, where it is a function with jumps.

        Shapes: found of its full shape.
        """
        return self.assembler.materialised(found, f"{self.name}/steps") if isinstance(found, Jump) else found

    def function(self, k: int = 0) -> Value | Jump:
        """Input k, which must depend on the network's input, jumps allowed."""
        found = self.tensor(k)
        return found if isinstance(found, Jump) else self.value(k)

    def is_constant(self, k: int) -> bool:
        """Whether input k is given and constant."""
        return self.given(k) and self.node.input[k] not in self.reader.values

    def given_constant(self, name: str) -> Array:
        """The constant of this name, which must be finite where the operator does not take infinity."""
        found = self.reader.constant(name)
        assert found is not None
        shown = np.nan_to_num(found, posinf=0, neginf=0, nan=np.nan) if self.kind in OPEN_ENDED else found
        self.check_finite(shown)
        return found

    def used(self, k: int) -> bool:
        """Whether anything uses output k."""
        return k < len(self.node.output) and self.node.output[k] in self.reader.used

    def given(self, k: int) -> bool:
        """Whether input k is given."""
        return k < len(self.node.input) and self.node.input[k] != ""

    def constant(self, k: int) -> Array | None:
        """Input k, which must be constant or absent (None)."""
        if not self.given(k):
            return None
        if not self.is_constant(k):
            raise self.unsupported(f"with an input {k} ({self.node.input[k]!r}) that depends on the network's input")
        return self.given_constant(self.node.input[k])

    def operand(self, k: int) -> Value | Jump | Array:
        """Input k of elementwise arithmetic in a shape that numpy's broadcasting takes.

        Until opset 6 the second operand meets the first from attribute ``axis`` on, not at its end.

        Raises:
            NetworkError: shapes that do not meet.
        """
        found: Any = self.tensor(k)
        if isinstance(found, (list, Masked)):
            raise self.unsupported("of a sequence" if isinstance(found, list) else "of minus infinity")
        if k != 1 or self.opset >= 7 or self.kind == "Sum":
            return found  # type: ignore[no-any-return]
        first: Any = self.operand(0)
        if not self.attribute("broadcast", 0):
            if first.shape != found.shape:
                raise NetworkError(
                    f"operands of shapes {first.shape} and {found.shape} do not meet without broadcast=1",
                    place=self.place,
                )
            return found  # type: ignore[no-any-return]
        rank, size = len(first.shape), len(found.shape)
        axis = int(self.attribute("axis", rank - size))
        axis += rank if axis < 0 else 0
        wanted = first.shape[axis : axis + size]
        if len(wanted) != size or any(d not in (1, w) for d, w in zip(found.shape, wanted, strict=True)):
            raise NetworkError(
                f"operands of shapes {first.shape} and {found.shape} do not meet at axis {axis}", place=self.place
            )
        shape = (*found.shape, *([1] * (rank - axis - size)))
        return found.reshape(shape) if isinstance(found, np.ndarray) else replace(found, shape=shape)

    def weight(self, k: int) -> Weight:
        """Input k, a constant matrix; a large and nearly empty one is sparse."""
        if not self.is_constant(k):
            raise self.unsupported("of two tensors that depend on the network's input")
        raw = self.reader.raw_constant(self.node.input[k])
        assert raw is not None
        self.check_finite(raw)
        return sparse_if_large(raw)

    def check_finite(self, array: Array) -> None:
        """NetworkError if a float array holds NaN or infinity.

        Shapes: array ``(…)``, any shape.
        """
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NetworkError("a weight is NaN or infinite", place=self.place)

    def integers(self, k: int, attribute: str = "") -> tuple[int, ...] | None:
        """Integers from input k, or from an attribute (older opsets); None if neither is given."""
        if self.given(k):
            array = self.constant(k)
            return tuple(int(v) for v in np.asarray(array).reshape(-1))
        found = self.attribute(attribute, None) if attribute else None
        return None if found is None else tuple(int(v) for v in found)

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the node, strings decoded."""
        import onnx

        for a in self.node.attribute:
            if a.name == name:
                found = onnx.helper.get_attribute_value(a)
                return found.decode() if isinstance(found, bytes) else found
        return default

    def unsupported(self, what: str) -> UnsupportedOperatorError:
        """The error for a use of a known operator that has no piecewise-linear form here."""
        return UnsupportedOperatorError(f"{self.kind} {what} is not supported", place=self.place)


Converter: TypeAlias = Callable[[Step], "Tensor | Iterable[Tensor]"]


def _element_type(array: Array) -> int:
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
