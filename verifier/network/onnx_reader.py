"""Reads ONNX models (``.onnx``, ``.onnx.gz``) into networks.

The batch is fixed to 1. What depends on constants alone (shape arithmetic, prepared weights) is evaluated by
the reference implementation that comes with ONNX, in float64; the rest goes through the table of
`verifier.network.onnx_operators`, one converter for each operator type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network import tails
from verifier.network.assembly import Assembler
from verifier.network.graph import Network
from verifier.network.onnx_model import as_reals, initializers_of, opset_of, read_model, refuse_external_data, tensor
from verifier.network.onnx_movement import MOVES
from verifier.network.onnx_operators import CONVERTERS, WHAT_IS_READ, foreign, refusal
from verifier.network.onnx_quantised import QUANTISED
from verifier.network.onnx_step import HALF, INTEGERS, REALS, Names, Step, Tensor
from verifier.network.operators import Array, Shape
from verifier.network.ports import in_turn
from verifier.network.reduction import reduce
from verifier.network.shifts import AbsorbShifts
from verifier.network.tails import Tail
from verifier.network.tensors import Jump, Masked, Value, without_batch

LEGACY: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
"""numpy's functions of the operators whose broadcasting until opset 6 is known."""

OPEN = "say it with the batch: load(path, input_shape=(1, 3, 32, 32)), or --input-shape 1,3,32,32"
"""What to do about an open input shape."""
REFUSED = {"Loop", "Scan"}
"""Loops are never evaluated, not even on constants."""

TAILS = {*tails.ELEMENTWISE, *tails.JOINT}
"""Operators that may be left out at the end where only the order of outputs is asked for."""

DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
"""Where the operators come from that are known by name."""


def read_onnx(
    path: str | Path, input_shape: Shape | None = None, *, ordered: bool = False, outputs: Sequence[str] | None = None
) -> Network:
    """The network in an ONNX file, plain or gzipped.

    Weights are taken exactly (a float32 is a float64); where an operator's definition itself computes with
    constants (BatchNormalization, Gemm's alpha, average pooling) that is done in float64 and rounds there.

    Args:
        input_shape: full shape of the input with the batch, where the file leaves it open.
        ordered: whether a last Softmax, Sigmoid … may be left out (`Network.tail`).
        outputs: names of the tensors (or nodes) that are the network's outputs, inner ones too; None: the model's.

    Raises:
        NetworkError: a file that is damaged, or has an open shape, NaN weights.
        UnsupportedOperatorError: an operator that is not piecewise linear or not known.
    """
    model = read_model(path)
    network = network_of_model(model, str(path), input_shape, ordered=ordered, outputs=outputs)
    return replace(network, model_file=str(Path(path).absolute()))


def network_of_model(
    model: Any,
    source: str = "",
    input_shape: Shape | None = None,
    *,
    ordered: bool = False,
    outputs: Sequence[str] | None = None,
) -> Network:
    """The network of an ``onnx.ModelProto``; arguments and errors as in `read_onnx`."""
    return _Reader(model, source, input_shape, outputs).read(ordered)


class _Reader(Names):
    """The state of one reading: constants, and the values that depend on the input."""

    def __init__(
        self, model: Any, source: str, input_shape: Shape | None, outputs: Sequence[str] | None = None
    ) -> None:
        self.source, self.outputs = source, outputs
        refuse_external_data(model, source)
        model = _without_functions(model, source)
        self.graph = model.graph
        self.opset = opset_of(model, source)
        self.initializers = initializers_of(self.graph)
        self.remarks: dict[str, None] = {}
        self.constants: dict[str, Array] = {}
        self.values: dict[str, Value | Jump | Masked | list[Any]] = {}
        inputs = [i for i in self.graph.input if i.name not in self.initializers]
        if not inputs:
            raise NetworkError("the model has no input", place=source)
        if input_shape is not None and len(inputs) > 1:
            raise NetworkError(
                f"one shape is given, and the model has {len(inputs)} inputs ({', '.join(i.name for i in inputs)})",
                place=source,
                fix="fix the shapes in the model (onnx.tools.update_model_dims)",
            )
        shapes = [_input_shape(i, source, input_shape) for i in inputs]
        whole = [self._input_type(i.type.tensor_type.elem_type) for i in inputs]
        if len(set(whole)) > 1:
            raise NetworkError(
                "some inputs are integers and others are not",
                place=source,
                fix="give the model inputs of floats and Cast inside of it",
            )
        self.integer_inputs = whole[0]
        self.integers = {i.name for i in inputs} if whole[0] else set()
        self.input_ports = in_turn([(i.name, without_batch(s)) for i, s in zip(inputs, shapes, strict=True)])
        if len(inputs) == 1:
            self.assembler = Assembler(shapes[0], input_name=inputs[0].name, source=source)
            self.values[inputs[0].name] = self.assembler.input
            return
        size = sum(port.size for port in self.input_ports)
        self.assembler = Assembler((1, size), input_name="inputs", source=source)
        for port, shape in zip(self.input_ports, shapes, strict=True):
            index = port.places.reshape(shape)
            self.values[port.name] = self.assembler.select(self.assembler.input, index, port.name)

    def read(self, ordered: bool) -> Network:
        wanted = list(_the_outputs(self.graph, self.source, self.remarks, self.outputs))
        tail = None
        last = next((node for node in self.graph.node if wanted[0] in node.output), None)
        if ordered and last is not None and last.op_type in TAILS and len(wanted) == 1:
            tail, wanted = Tail(last.op_type, last.input[0]), [last.input[0]]
            self.remarks[tail.remark] = None
        self.used = set(wanted)
        self._run(_needed(self.graph, set(wanted)))
        found = [self._output(name) for name in wanted]
        if tail is not None and tail.joint:
            self._one_group(Step(self, last), found[0])
        if len(found) == 1:
            joined, name = found[0], wanted[0]
        else:
            flat = [Value(self.assembler.view(v, (v.size,), n), (v.size,)) for v, n in zip(found, wanted, strict=True)]
            joined, name = self.assembler.concatenated(flat, 0, "outputs"), "outputs"
        network = reduce(self.assembler.finish(joined, name), (AbsorbShifts(),)).network
        return replace(
            network,
            integer_inputs=self.integer_inputs,
            tail=tail,
            remarks=(*self.remarks, *self.assembler.remarks),
            input_ports=self.input_ports,
            output_ports=in_turn([(n, without_batch(v.shape)) for v, n in zip(found, wanted, strict=True)]),
        )

    def _output(self, name: str) -> Value:
        found = self.values.get(name)
        if isinstance(found, Jump):
            found = self.assembler.materialised(found, f"{name}/steps")
        if not isinstance(found, Value):
            which = "the output" if self.outputs is None else f"the output {name!r}"
            raise NetworkError(f"{which} does not depend on the input", place=self.source)
        return found

    def _one_group(self, step: Step, scores: Value) -> None:
        """Refuse a Softmax over parts of the outputs: the order of those of different parts is not kept."""
        rank = len(scores.shape)
        axis = int(step.attribute("axis", -1 if self.opset >= 13 else 1)) % rank
        over = scores.shape[axis] if self.opset >= 13 else int(np.prod(scores.shape[axis:]))
        if over != scores.size:
            raise step.unsupported(f"over {over} of {scores.size} outputs at a time")

    def _run(self, nodes: list[Any]) -> None:
        self.used.update(name for node in nodes for name in node.input)
        for node in nodes:
            step = Step(self, node)
            try:
                results = list(self._converted(step))
            except UnsupportedOperatorError as error:
                place, fix = error.place or step.place, error.fix or WHAT_IS_READ
                raise UnsupportedOperatorError(error.problem, place=place, fix=fix) from None
            except NetworkError as error:
                raise NetworkError(error.problem, place=error.place or step.place, fix=error.fix) from None
            if self.integers.intersection(node.input) and node.op_type not in FROM_INTEGERS:
                if node.op_type not in MOVES:
                    raise step.unsupported("of integers that depend on the network's input (Cast them first)")
                self.integers.update(node.output)
            for name, result in zip(node.output, results, strict=False):
                if isinstance(result, np.ndarray):
                    self.constants[name] = result
                else:
                    self.values[name] = result

    def _converted(self, step: Step) -> Iterable[Tensor]:
        """A node's outputs, each a value or a constant."""
        node, kind = step.node, step.kind
        known = node.domain in DOMAINS and kind not in REFUSED
        if self.opset < 7 and step.attribute("broadcast", 0) and kind not in (*LEGACY, "Gemm"):
            raise step.unsupported(f"by the broadcasting rules of opset {self.opset}")
        if kind == "If" and known:
            condition = step.constant(0)
            assert condition is not None
            return self.branch(step.attribute("then_branch" if condition.all() else "else_branch", None))
        if kind == "ZipMap":
            return [step.value()]
        if known and kind not in KEPT and all(i == "" or self.is_constant(i) for i in node.input):
            if self.opset < 7 and kind in LEGACY:
                return [LEGACY[kind](step.operand(0), step.operand(1))]
            return step.evaluate({i: step.given_constant(i) for i in node.input if i})
        converter = CONVERTERS.get(kind)
        if not known or converter is None:
            problem, fix = refusal(kind) if node.domain in DOMAINS else foreign(kind, node.domain)
            raise UnsupportedOperatorError(problem, place=step.place, fix=fix)
        result = converter(step)
        return [result] if isinstance(result, (Value, Jump, Masked, np.ndarray)) else result

    def branch(self, graph: Any) -> list[Tensor]:
        """The outputs of a graph within the graph, which may use all names known so far."""
        self.initializers.update(initializers_of(graph))
        outputs = [o.name for o in graph.output]
        self.used.update(outputs)
        self._run(_needed(graph, set(outputs)))
        made: list[Tensor] = []
        for name in outputs:
            constant = self.constant(name)
            made.append(self.values[name] if constant is None else constant)
        return made

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


FROM_INTEGERS = {"Cast", "CastLike", "Shape", "Size", *QUANTISED}
"""Operators that make something else of integers than integers by the rules of integers."""

KEPT = {"SequenceConstruct"}
"""Operators whose outputs are no constant arrays even where their inputs are."""


def _needed(graph: Any, outputs: set[str]) -> list[Any]:
    """The nodes that some outputs depend on, in the file's order."""
    wanted, kept = set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_names_in(node))
    return kept[::-1]


def _names_in(node: Any) -> Iterator[str]:
    """The names that a node uses, those inside of its graphs included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (o.name for o in graph.output)
            for inner in graph.node:
                yield from _names_in(inner)


def _without_functions(model: Any, source: str) -> Any:
    """The model with its own functions written out."""
    if not model.functions:
        return model
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # whatever a malformed function makes the inliner raise
        raise NetworkError(f"its functions cannot be written out: {error}", place=source) from None


def _the_outputs(graph: Any, source: str, remarks: dict[str, None], asked: Sequence[str] | None) -> list[str]:
    """The outputs in question: those that are asked for, or all of floats (a classifier's scores, not its label)."""
    if asked is not None:
        by_node = {node.name: node.output[0] for node in graph.node if node.name}
        known = {*(o for node in graph.node for o in node.output), *(i.name for i in graph.input)}
        found = [name if name in known else by_node.get(name, "") for name in asked]
        if not asked or "" in found:
            problem = f"no node or tensor is called {asked[found.index('')]!r}" if asked else "no output is asked for"
            shown = [o.name for o in graph.output]
            raise NetworkError(problem, place=source, fix=f"its outputs are {', '.join(shown)}; netron shows the rest")
        return found
    names = [str(o.name) for o in graph.output]
    if len(names) == 1:
        return names
    floats = [str(o.name) for o in graph.output if _may_hold_floats(o)]
    if not floats:
        raise NetworkError(
            f"the model has {len(names)} outputs ({', '.join(names)}) and none of floats",
            place=source,
            fix="export the scores",
        )
    others = ", ".join(n for n in names if n not in floats)
    if others:
        verb = "is the one" if len(floats) == 1 else "are those"
        remarks[f"of the model's outputs {', '.join(floats)} {verb} in question; {others} is left out"] = None
    return floats


def _may_hold_floats(output: Any) -> bool:
    kind = output.type
    if kind.HasField("sequence_type"):  # ZipMap's: a map from classes to scores for each input
        return True
    return kind.tensor_type.elem_type in REALS | HALF


def _input_shape(proto: Any, source: str, given: Shape | None) -> Shape:
    """Full input shape with the batch fixed to 1, from the file or as given."""
    if given is not None:
        return tuple(int(d) for d in given)
    kind = proto.type.tensor_type
    if not proto.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise NetworkError("the input has no shape", place=source, fix=OPEN)
    sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    if sizes and sizes[0] <= 0:
        sizes[0] = 1
    if any(s <= 0 for s in sizes):
        names = [d.dim_param or d.dim_value for d in kind.shape.dim]
        raise NetworkError(f"the input's shape {names} is open", place=source, fix=OPEN)
    return tuple(sizes)
