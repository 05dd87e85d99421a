"""Reads ``torch.nn.Module``s into networks, through ``torch.export``.

A copy of the module, in evaluation mode and in float64 (weights are kept exactly), is exported: torch itself writes
down what the module computes and turns operations in place and writes through views into operations that make new
tensors. Each operation is rewritten by the table of `verifier.network.torch_operators`; whatever only moves data is
run by torch on positions of entries; whatever depends on constants alone is simply run. In the end the network is
evaluated beside the module on random inputs, and a difference is an error.
"""

from __future__ import annotations

import copy
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler
from verifier.network.graph import Network
from verifier.network.operators import Shape
from verifier.network.reduction import reduce
from verifier.network.shifts import AbsorbShifts
from verifier.network.tensors import Jump, Masked, Value
from verifier.network.torch_operators import CONVERTERS, MOVEMENTS, OF_JUMPS, SIZES

WHAT_IS_READ = "`verifier inspect --operators` lists what is supported"
"""What to do about an operation that is not."""
SAMPLES = 4
"""Random inputs on which a network is compared with its module."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference from the module's own output, relative to its largest entry, by the module's precision."""


def read_torch(module: nn.Module, input_shape: Shape) -> Network:
    """The network that a module computes in evaluation mode.

    Args:
        module: a module whose ``forward`` takes one tensor and has no control flow that depends on data. Operations
            in place and views are taken for what they do.
        input_shape: shape of one input, without the batch.

    Raises:
        UnsupportedOperatorError: an operation outside the piecewise-linear set, by its place.
        NetworkError: a module that cannot be exported or changes itself, NaN weights, shapes that do not fit, or a
            network that differs from the module on random inputs.
    """
    source = type(module).__name__
    shape = (1, *input_shape)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch.export
        plain, precision = _evaluable(module, shape, source)
        exported = _export(plain, shape, precision, source)
        network = reduce(_Reader(exported, shape, source).read(), (AbsorbShifts(),)).network
        _compare(network, plain, shape, precision, source)
    return network


def _evaluable(module: nn.Module, shape: Shape, source: str) -> tuple[nn.Module, torch.dtype]:
    """A copy in evaluation mode: in float64 if it can be run so, else (it converts its data itself) in float32."""
    problem: Exception | None = None
    for precision in (torch.float64, torch.float32):
        try:
            plain = copy.deepcopy(module).eval().to(device="cpu", dtype=precision)
            plain(torch.zeros(shape, dtype=precision))
        except Exception as error:  # whatever the module's own code raises
            problem = problem or error
        else:
            return plain, precision
    raise NetworkError(
        f"the module cannot be run on an input of shape {shape}: {_first_line(problem)}",
        place=source,
        fix="input_shape is the shape of one input without the batch",
    )


def _export(plain: nn.Module, shape: Shape, precision: torch.dtype, source: str) -> Any:
    """The module as an ``ExportedProgram`` without operations in place."""
    example = torch.zeros(shape, dtype=precision)
    try:
        with _quiet():
            exported = torch.export.export(plain, (example,), strict=False)
            if any(_writes(node) for node in exported.graph_module.graph.nodes):
                exported = exported.run_decompositions({})
    except Exception as error:  # whatever the module's own code raises when it meets a symbolic tensor
        raise NetworkError(
            f"the module cannot be exported: {_first_line(error)}",
            place=source,
            fix="control flow that depends on data is not supported; or export it to ONNX and load that",
        ) from None
    changed = exported.graph_signature.buffers_to_mutate
    if changed:
        names = ", ".join(sorted(changed.values()))
        raise NetworkError(
            f"the module changes its own {names} whenever it is called, so it is no function of its input",
            place=source,
            fix="leave that out in evaluation mode",
        )
    return exported


def _writes(node: fx.Node) -> bool:
    """Whether a node changes a tensor in place, or holds a graph in which that may happen."""
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    return isinstance(node.target, torch._ops.HigherOrderOperator)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own log of a failed export: the error says what is wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _compare(network: Network, plain: nn.Module, shape: Shape, precision: torch.dtype, source: str) -> None:
    """Evaluate network and module side by side; NetworkError if they differ."""
    generator = torch.Generator().manual_seed(0)
    for k in range(SAMPLES):
        x = torch.randn(shape, generator=generator, dtype=precision) * (0.1, 1.0, 10.0)[k % 3]
        theirs = plain(x.clone()).detach().double().reshape(-1).numpy()
        ours = network.forward(x.double().numpy().reshape(network.input_shape)).reshape(-1)
        largest = float(np.abs(theirs).max(initial=0.0))
        gap = float(np.abs(ours - theirs).max(initial=0.0)) if ours.shape == theirs.shape else np.inf
        if not gap <= TOLERANCE[precision] * max(1.0, largest):
            raise NetworkError(
                f"the network that was read differs from the module by {gap:.3g} at a random input",
                place=source,
                fix="this is a fault of the reader: please report the module, or export it to ONNX and load that",
            )


class _Reader:
    """The state of one reading."""

    def __init__(self, exported: Any, shape: Shape, source: str) -> None:
        self.exported = exported
        self.source = source
        signature = exported.graph_signature
        if len(signature.user_inputs) != 1:
            raise NetworkError(f"the module takes {len(signature.user_inputs)} inputs, not one", place=source)
        if len(signature.user_outputs) != 1:
            raise NetworkError(
                f"the module returns {len(signature.user_outputs)} tensors, not one",
                place=source,
                fix="wrap it in a module that returns the one in question",
            )
        (self.input,) = signature.user_inputs
        self.output = signature.user_outputs[0]
        self.build = Assembler(shape, input_name=self.input, source=source)
        self.known: dict[str, Any] = {self.input: self.build.input}
        tensors = {**exported.state_dict, **exported.constants}
        for name, target in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items():
            self.known[name] = tensors[target].detach()
        for name, target in signature.inputs_to_lifted_tensor_constants.items():
            self.known[name] = tensors[target].detach()

    def read(self) -> Network:
        self._run(self.exported.graph_module, self.known)
        result = self._value_of("output")(self.known.get(self.output))
        if not isinstance(result, Value):
            raise NetworkError("the module must return one tensor that depends on its input", place=self.source)
        return replace(self.build.finish(result, "output"), remarks=tuple(self.build.remarks))

    def _run(self, graph: fx.GraphModule, known: dict[str, Any]) -> Any:
        """Rewrite a graph node by node into ``known``; what it returns."""
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                continue
            args, options = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: known.get(n.name))
            if node.op == "output":
                return args[0]
            where = _path(node) or node.name
            place = f"{self.source}: {where}"
            try:
                known[node.name] = self._step(graph, node, where, args, options)
            except UnsupportedOperatorError as error:
                raise UnsupportedOperatorError(error.problem, place=place, fix=error.fix or WHAT_IS_READ) from None
            except NetworkError as error:
                raise NetworkError(error.problem, place=error.place or place, fix=error.fix) from None
            except (TypeError, RuntimeError, IndexError, ValueError) as error:
                raise NetworkError(f"{_kind(node)} cannot be read: {_first_line(error)}", place=place) from None
        return None

    def _step(self, graph: fx.GraphModule, node: fx.Node, where: str, args: Any, options: Any) -> Any:
        kind, target = _kind(node), node.target
        if node.op == "get_attr":
            return operator.attrgetter(str(target))(graph)
        if kind.startswith("_assert"):
            return None  # what it would say was decided when the module was exported
        if kind == "wrap_with_set_grad_enabled":
            return self._inner(args[1], args[2:])
        if target is operator.getitem and isinstance(args[0], (tuple, list)):
            found = args[0][args[1]]
            if found is None and node.users:
                raise UnsupportedOperatorError(
                    f"the result number {args[1]} of an operation (positions of maxima, say)"
                )
            return found
        assert callable(target)
        if not _depends((args, options)):
            return target(*args, **options)
        converter = CONVERTERS.get(kind)
        if kind not in ("softmax", "_softmax") and any(isinstance(a, Masked) for a in (*args, *options.values())):
            raise UnsupportedOperatorError(f"{kind} of minus infinity is not supported (a Softmax takes it)")
        if kind not in OF_JUMPS:
            args, options = _mapped(self._value_of(where), args), _mapped(self._value_of(where), options)
        if converter is not None:
            return converter(self.build, where, *args, **options)
        if kind in SIZES:
            return target(torch.zeros((), dtype=torch.float64).expand(args[0].shape), *args[1:], **options)
        if kind in MOVEMENTS:
            return self._move(target, where, args, options)
        raise UnsupportedOperatorError(f"{kind} is not supported", fix=WHAT_IS_READ)

    def _value_of(self, where: str) -> Callable[[Any], Any]:
        """Gives a function with jumps a node of its own."""
        return lambda a: self.build.materialised(a, f"{where}/steps") if isinstance(a, Jump) else a

    def _inner(self, graph: fx.GraphModule, args: Any) -> Any:
        """A graph inside the graph: what ran under ``torch.no_grad()``."""
        names = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
        return self._run(graph, dict(zip(names, args, strict=True)))

    def _move(self, target: Any, where: str, args: Any, options: Any) -> Any:
        """Run a movement of data on the positions of the entries, counted through all tensors of numbers in turn."""
        computes = "value" in target._overloadname or "reduce" in target._overloadname or args[-1] is True
        if computes or any(isinstance(a, float) for a in args):
            raise UnsupportedOperatorError(f"{target} with a number or a sum in it is not supported")
        parts: list[Any] = []
        starts = [0]

        def positions(a: Any) -> Any:
            constant = isinstance(a, torch.Tensor) and a.is_floating_point()
            if not isinstance(a, Value) and not constant:
                return a
            parts.append(a.double().numpy() if constant else a)
            starts.append(starts[-1] + parts[-1].size)
            return torch.arange(starts[-2], starts[-1]).reshape(tuple(a.shape))

        args, options = _mapped(positions, args), _mapped(positions, options)
        moved = target(*args, **options)
        if isinstance(moved, torch.Tensor):
            return self.build.rearrange(parts, moved.numpy(), where)
        return tuple(self.build.rearrange(parts, m.numpy(), f"{where}/{k}") for k, m in enumerate(moved))


def _kind(node: fx.Node) -> str:
    """The operation's name without its overload: "add" of ``aten.add.Tensor``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__)
    return str(getattr(target, "__name__", target))


def _path(node: fx.Node) -> str:
    """The path of torch's own module that an operation belongs to ("features.0"); "" outside of such."""
    for path, kind in reversed((node.meta.get("nn_module_stack") or {}).values()):
        return str(path) if str(kind).startswith("torch.nn.modules.") else ""
    return ""


def _mapped(change: Callable[[Any], Any], arguments: Any) -> Any:
    """Nested arguments with each leaf changed."""
    if isinstance(arguments, dict):
        return {k: _mapped(change, a) for k, a in arguments.items()}
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(_mapped(change, a) for a in arguments)
    return change(arguments)


def _depends(arguments: Any) -> bool:
    """Whether something that depends on the input is anywhere in nested arguments."""
    if isinstance(arguments, (Value, Jump, Masked)):
        return True
    if isinstance(arguments, dict):
        return any(_depends(a) for a in arguments.values())
    return isinstance(arguments, (tuple, list)) and any(_depends(a) for a in arguments)
