"""Reads ONNX models (``.onnx``, ``.onnx.gz``) into networks.

The batch is fixed to 1. What depends on constants alone (shape arithmetic, prepared weights) is evaluated by
the reference implementation that comes with ONNX, in float64; the rest goes through the table of
`verifier.network.onnx_operators`, one converter for each operator type.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler, Value, Weight, sparse_if_large
from verifier.network.graph import Network
from verifier.network.operators import Array, Shape
from verifier.network.simplify import absorb_shifts

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
    return replace(network, model_file=str(Path(path).resolve()))


def read_model(path: str | Path) -> Any:
    """The ``ModelProto`` in a file, plain or gzipped; NetworkError for a damaged one."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = Path(path)
    if not path.is_file():
        raise NetworkError("there is no such file", place=str(path))
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                model = onnx.load_model_from_string(file.read())
        else:
            model = onnx.load_model(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise NetworkError(f"the gzip file is damaged: {error}", place=str(path), fix="fetch it again") from None
    except DecodeError:
        raise NetworkError(
            "this is not an ONNX model, or it is cut short", place=str(path), fix="fetch or export it again"
        ) from None
    except (onnx.checker.ValidationError, OSError) as error:
        raise NetworkError(f"the file cannot be read: {error}", place=str(path)) from None
    if not model.graph.node or not model.graph.output:
        raise NetworkError("the model has no graph", place=str(path), fix="is the file cut short?")
    return model


def network_of_model(model: Any, source: str = "", input_shape: Shape | None = None) -> Network:
    """The network of an ``onnx.ModelProto``; errors as in `read_onnx`."""
    return _Reader(model, source, input_shape).read()


class _Reader:
    """The state of one reading: constants, and the values that depend on the input."""

    def __init__(self, model: Any, source: str, input_shape: Shape | None) -> None:
        self.source = source
        self.graph = model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.initializers = {t.name: t for t in self.graph.initializer}
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
        name = inputs[0].name
        self.assembler = Assembler(shape, input_name=name, source=source)
        self.values[name] = self.assembler.input

    def read(self) -> Network:
        output = self.graph.output[0].name
        for node in self._needed(output):
            step = Step(self, node)
            try:
                results: Iterable[Value | Array] = step.convert()
            except UnsupportedOperatorError:
                raise
            except NetworkError as error:
                place = error.place if error.place else step.place
                raise NetworkError(error.problem, place=place, fix=error.fix) from None
            for name, result in zip(node.output, results, strict=False):
                if isinstance(result, Value):
                    self.values[name] = result
                else:
                    self.constants[name] = result
        if output not in self.values:
            raise NetworkError("the output does not depend on the input", place=self.source)
        return absorb_shifts(self.assembler.finish(self.values[output], output))

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
            self.constants[name] = raw.astype(np.float64) if raw.dtype.kind == "f" else raw
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
        if self.kind == "Flatten":  # nearly every network has one, and the reference takes long to import
            (a,), axis = feeds.values(), self.attribute("axis", 1)
            flat = a.reshape(math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))
            return [flat.astype(np.float64) if a.dtype in (np.float16, np.float32) else flat]
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
        arrays = [np.asarray(r) for r in results]
        return [a.astype(np.float64) if a.dtype in (np.float16, np.float32) else a for a in arrays]

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


def tensor(proto: Any, source: str) -> Array:
    """The array of a ``TensorProto``; NetworkError where its data is damaged."""
    from onnx import numpy_helper

    try:
        return np.asarray(numpy_helper.to_array(proto))
    except (ValueError, TypeError, OSError) as error:
        raise NetworkError(f"the data of tensor {proto.name!r} is damaged: {error}", place=source) from None


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
