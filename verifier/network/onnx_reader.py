"""Reads ONNX models (``.onnx``, ``.onnx.gz``) into networks.

The batch is fixed to 1. What depends on constants alone (shape arithmetic, prepared weights) is evaluated by
the reference implementation that comes with ONNX, in float64; the rest goes through the table of
`verifier.network.onnx_operators`, one converter for each operator type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler, Value, Weight, sparse_if_large
from verifier.network.graph import Network
from verifier.network.onnx_model import as_reals, initializers_of, opset_of, read_model, refuse_external_data, tensor
from verifier.network.operators import Array, Shape
from verifier.network.simplify import absorb_shifts

REALS, HALF, INTEGERS = {1, 11}, {10, 16}, {2, 3, 4, 5, 6, 7, 12, 13}
"""Element types: float32 and float64; float16 and bfloat16; integers of 8 to 64 bits."""

LEGACY: dict[str, Callable[..., Any] | None] = {
    **{"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide},
    "Gemm": None,
}
"""Operators whose broadcasting until opset 6 is known; numpy's function where they are elementwise."""

REFUSED = {"If", "Loop", "Scan"}
"""Control flow is never evaluated, not even on constants."""


def read_onnx(path: str | Path, input_shape: Shape | None = None) -> Network:
    """The network in an ONNX file, plain or gzipped.

    Weights are taken exactly (a float32 is a float64); where an operator's definition itself computes with
    constants (BatchNormalization, Gemm's alpha, average pooling) that is done in float64 and rounds there.

    Args:
        input_shape: full shape of the input with the batch, where the file leaves it open.

    Raises:
        NetworkError: a file that is damaged, or has several inputs or outputs, an open shape, NaN weights.
        UnsupportedOperatorError: an operator that is not piecewise linear or not known.
    """
    model = read_model(path)
    network = network_of_model(model, str(path), input_shape)
    return replace(network, model_file=str(Path(path).absolute()))


def network_of_model(model: Any, source: str = "", input_shape: Shape | None = None) -> Network:
    """The network of an ``onnx.ModelProto``; errors as in `read_onnx`."""
    return _Reader(model, source, input_shape).read()


class _Reader:
    """The state of one reading: constants, and the values that depend on the input."""

    def __init__(self, model: Any, source: str, input_shape: Shape | None) -> None:
        self.source = source
        self.graph = model.graph
        self.opset = opset_of(model, source)
        refuse_external_data(model, source)
        self.initializers = initializers_of(self.graph)
        self.remarks: dict[str, None] = {}
        self.constants: dict[str, Array] = {}
        self.values: dict[str, Value] = {}
        inputs = [i for i in self.graph.input if i.name not in self.initializers]
        if len(inputs) != 1 or len(self.graph.output) != 1:
            raise NetworkError(
                f"the model has {len(inputs)} inputs and {len(self.graph.output)} outputs",
                place=source,
                fix="one input and one output are supported: cut the model to the part in question",
            )
        shape = _input_shape(inputs[0], source, input_shape)
        self.integer_inputs = self._input_type(inputs[0].type.tensor_type.elem_type)
        self.integers = {inputs[0].name} if self.integer_inputs else set()
        name = inputs[0].name
        self.assembler = Assembler(shape, input_name=name, source=source)
        self.values[name] = self.assembler.input

    def read(self) -> Network:
        output = self.graph.output[0].name
        from verifier.network.onnx_movement import MOVES

        for node in self._needed(output):
            step = Step(self, node)
            try:
                results: Iterable[Value | Array] = step.convert()
            except UnsupportedOperatorError:
                raise
            except NetworkError as error:
                place = error.place if error.place else step.place
                raise NetworkError(error.problem, place=place, fix=error.fix) from None
            if self.integers.intersection(node.input) and node.op_type not in ("Cast", "CastLike"):
                if node.op_type not in MOVES:
                    raise step.unsupported("of integers that depend on the network's input (Cast them first)")
                self.integers.update(node.output)
            for name, result in zip(node.output, results, strict=False):
                if isinstance(result, Value):
                    self.values[name] = result
                else:
                    self.constants[name] = result
        if output not in self.values:
            raise NetworkError("the output does not depend on the input", place=self.source)
        network = absorb_shifts(self.assembler.finish(self.values[output], output))
        return replace(network, integer_inputs=self.integer_inputs, remarks=tuple(self.remarks))

    def _input_type(self, kind: int) -> bool:
        """Whether the input's type is one of integers; what there is to say of other types is noted."""
        from onnx import TensorProto

        name = TensorProto.DataType.Name(kind)
        if kind in REALS:
            return False
        if kind in HALF:
            self.computes_in_half(name)
            return False
        if kind not in INTEGERS:
            raise NetworkError(f"the input is of type {name}", place=self.source, fix="numbers are supported")
        self.remarks[
            f"the model's input is of type {name}: only integers count as inputs; "
            "what is proved is proved for the reals between them too"
        ] = None
        return True

    def computes_in_half(self, name: str) -> None:
        """Note that the model itself rounds more coarsely than any proof allows for."""
        self.remarks[
            f"the model computes in {name}, whose own rounding is no part of this: the answer is about the same "
            "weights in real arithmetic"
        ] = None

    def _needed(self, output: str) -> list[Any]:
        """The nodes that the output depends on, in the file's order."""
        wanted, kept = {output}, []
        for node in reversed(self.graph.node):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        return kept[::-1]

    def is_constant(self, name: str) -> bool:
        """Whether the tensor of this name is constant."""
        return name in self.constants or name in self.initializers

    def constant(self, name: str) -> Array | None:
        """The constant tensor of this name, floats as float64; None if it is no constant."""
        if name not in self.constants:
            raw = self.raw_constant(name)
            if raw is None:
                return None
            self.constants[name] = as_reals(raw)
        return self.constants[name]

    def raw_constant(self, name: str) -> Array | None:
        """The constant tensor as the file holds it; None if it is no constant."""
        if name in self.constants:
            return self.constants[name]
        if name not in self.initializers:
            return None
        return tensor(self.initializers[name], self.source)


class Step:
    """One ONNX node on its way into the network: what its converter may ask."""

    def __init__(self, reader: _Reader, node: Any) -> None:
        self.reader = reader
        self.node = node
        self.kind: str = node.op_type
        self.name: str = node.output[0]
        self.opset = reader.opset
        self.assembler = reader.assembler
        label = node.name or node.output[0]
        self.place = f"{reader.source}: node {label!r}" if reader.source else f"node {label!r}"

    def convert(self) -> Iterable[Value | Array]:
        """The node's outputs, each a value or a constant."""
        from verifier.network.onnx_operators import CONVERTERS

        known = self.node.domain in ("", "ai.onnx") and self.kind not in REFUSED
        if self.opset < 7 and self.attribute("broadcast", 0) and self.kind not in LEGACY:
            raise self.unsupported(f"by the broadcasting rules of opset {self.opset}")
        if known and all(i == "" or self.reader.is_constant(i) for i in self.node.input):
            return self.evaluate({i: self._constant(i) for i in self.node.input if i})
        converter: Callable[[Step], Value | Array | Iterable[Value]] | None = CONVERTERS.get(self.kind)
        if not known or converter is None:
            raise UnsupportedOperatorError(
                f"operator {self.kind!r} is not supported",
                place=self.place,
                fix=f"supported: {', '.join(sorted(CONVERTERS))}; and anything that depends on constants alone",
            )
        result = converter(self)
        return [result] if isinstance(result, (Value, np.ndarray)) else result

    def evaluate(self, feeds: dict[str, Array]) -> list[Array]:
        """What ONNX's reference implementation computes for this node alone."""
        function = LEGACY.get(self.kind)
        if self.opset < 7 and function is not None:
            return [function(self.operand(0), self.operand(1))]
        if self.kind == "Flatten":  # nearly every network has one, and the reference takes long to import
            (a,), axis = feeds.values(), self.attribute("axis", 1)
            flat = a.reshape(math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))
            return [as_reals(flat)]
        import onnx
        from onnx.reference import ReferenceEvaluator

        helper = onnx.helper
        inputs = [helper.make_tensor_value_info(n, _element_type(a), a.shape) for n, a in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=o) for o in self.node.output if o]
        graph = helper.make_graph([self.node], "one node", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            results = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:  # whatever a malformed node makes the reference raise
            raise NetworkError(f"{self.kind} cannot be evaluated: {error}", place=self.place) from None
        made = iter(as_reals(np.asarray(r)) for r in results)
        return [next(made) if o else np.zeros(0) for o in self.node.output]

    def value(self, k: int = 0) -> Value:
        """Input k, which must depend on the network's input."""
        name = self.node.input[k]
        if name in self.reader.values:
            return self.reader.values[name]
        if not self.reader.is_constant(name):
            raise NetworkError(f"input {name!r} is not computed anywhere", place=self.place)
        raise self.unsupported(f"with a constant as input {k}")

    def is_constant(self, k: int) -> bool:
        """Whether input k is given and constant."""
        return self.given(k) and self.node.input[k] not in self.reader.values

    def given(self, k: int) -> bool:
        """Whether input k is given."""
        return k < len(self.node.input) and self.node.input[k] != ""

    def constant(self, k: int) -> Array | None:
        """Input k, which must be constant or absent (None)."""
        if not self.given(k):
            return None
        if not self.is_constant(k):
            raise self.unsupported(f"with an input {k} ({self.node.input[k]!r}) that depends on the network's input")
        return self._constant(self.node.input[k])

    def operand(self, k: int) -> Value | Array:
        """Input k of elementwise arithmetic, a value or a constant, in a shape that numpy's broadcasting takes.

        Until opset 6 the second operand meets the first from attribute ``axis`` on, not at its end.
        """
        found: Any = self._constant(self.node.input[k]) if self.is_constant(k) else self.value(k)
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
        return Value(found.name, shape) if isinstance(found, Value) else found.reshape(shape)

    def weight(self, k: int) -> Weight:
        """Input k, a constant matrix; a large and nearly empty one is sparse."""
        if not self.is_constant(k):
            raise self.unsupported("of two tensors that depend on the network's input")
        raw = self.reader.raw_constant(self.node.input[k])
        assert raw is not None
        self.check_finite(raw)
        return sparse_if_large(raw)

    def check_finite(self, array: Array) -> None:
        """NetworkError if a float array holds NaN or infinity."""
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

    def _constant(self, name: str) -> Array:
        found = self.reader.constant(name)
        assert found is not None
        open_ended = self.kind in ("Clip", "Max", "Min", "Constant")
        self.check_finite(np.nan_to_num(found, posinf=0, neginf=0, nan=np.nan) if open_ended else found)
        return found


def _element_type(array: Array) -> int:
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _input_shape(proto: Any, source: str, given: Shape | None) -> Shape:
    """Full input shape with the batch fixed to 1, from the file or as given."""
    if given is not None:
        return tuple(int(d) for d in given)
    kind = proto.type.tensor_type
    if not proto.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise NetworkError("the input has no shape", place=source, fix="pass input_shape=(1, ...)")
    sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    if sizes and sizes[0] <= 0:
        sizes[0] = 1
    if any(s <= 0 for s in sizes):
        names = [d.dim_param or d.dim_value for d in kind.shape.dim]
        raise NetworkError(f"the input's shape {names} is open", place=source, fix="pass input_shape=(1, ...)")
    return tuple(sizes)
