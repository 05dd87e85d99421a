"""Reads ``torch.nn.Module``s into networks, through ``torch.fx``.

The module is traced symbolically (a copy of it, in evaluation mode, in float64: weights are kept exactly) and
each call is rewritten by the table of modules or of functions. Whatever only moves data is run by torch itself
on an array of positions; whatever depends on constants alone (sizes, prepared weights) is simply run.
"""

from __future__ import annotations

import copy
import operator
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler, Value
from verifier.network.graph import Network
from verifier.network.operators import Shape
from verifier.network.simplify import absorb_shifts
from verifier.network.torch_operators import FUNCTIONS, MODULES, MOVEMENTS, SIZES, supported


def read_torch(module: nn.Module, input_shape: Shape) -> Network:
    """The network that a module computes in evaluation mode.

    Args:
        module: Sequential or a module with a ``forward`` without control flow that depends on data.
        input_shape: shape of one input, without the batch.

    Raises:
        UnsupportedOperatorError: a module or function outside the piecewise-linear set, by its place.
        NetworkError: a module that cannot be traced, NaN weights, shapes that do not fit.
    """
    source = type(module).__name__
    plain = copy.deepcopy(module).eval().double().cpu()
    try:
        traced = fx.symbolic_trace(plain)
    except Exception as error:  # whatever the module's own code raises when it meets a symbolic tensor
        raise NetworkError(
            f"the module cannot be traced: {error}", place=source, fix="export it to ONNX and load that"
        ) from None
    reader = _Reader(traced, (1, *input_shape), source)
    with torch.no_grad():
        return absorb_shifts(reader.read())


class _Reader:
    """The state of one reading."""

    def __init__(self, traced: fx.GraphModule, shape: Shape, source: str) -> None:
        self.traced = traced
        self.source = source
        self.modules = dict(traced.named_modules())
        inputs = [n for n in traced.graph.nodes if n.op == "placeholder"]
        if len(inputs) != 1:
            raise NetworkError(f"the module takes {len(inputs)} inputs, not one", place=source)
        self.build = Assembler(shape, input_name=inputs[0].name, source=source)
        self.known: dict[str, Any] = {inputs[0].name: self.build.input}

    def read(self) -> Network:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                continue
            place = f"{self.source}: {node.target if node.op == 'call_module' else node.name}"
            try:
                self.known[node.name] = self._step(node)
            except UnsupportedOperatorError as error:
                raise UnsupportedOperatorError(error.problem, place=place, fix=error.fix) from None
            except NetworkError as error:
                raise NetworkError(error.problem, place=error.place or place, fix=error.fix) from None
            except (TypeError, RuntimeError, IndexError, ValueError) as error:
                raise NetworkError(f"cannot be read: {error}", place=place) from None
            if node.op == "output":
                result = self.known[node.name]
                if not isinstance(result, Value):
                    raise NetworkError("the module must return one tensor that depends on its input", place=place)
                return self.build.finish(result, "output")
        raise NetworkError("the module returns nothing", place=self.source)

    def _step(self, node: fx.Node) -> Any:
        args, options = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: self.known[n.name])
        if node.op == "output":
            return args[0]
        if node.op == "get_attr":
            found: Any = self.traced
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        if node.op == "call_module":
            return self._module(node, args)
        function: Any = node.target
        of_results = function is operator.getitem and not isinstance(args[0], Value)
        if of_results or not _depends((args, options)):
            run = getattr(args[0], function) if node.op == "call_method" else partial(function, args[0])
            return run(*args[1:], **options)
        name = node.target if node.op == "call_method" else getattr(function, "__name__", str(function))
        converter = FUNCTIONS.get(str(name))
        if converter is not None:
            return converter(self.build, node.name, *args, **options)
        if name in SIZES:
            return _size(str(name), args, options)
        if name in MOVEMENTS:
            return self._move(node, function, args, options)
        raise UnsupportedOperatorError(f"{name} is not supported", fix=supported())

    def _module(self, node: fx.Node, args: tuple[Any, ...]) -> Any:
        module = self.modules[str(node.target)]
        for kind, converter in MODULES.items():
            if isinstance(module, kind):
                return converter(self.build, node.name, module, args[0])
        raise UnsupportedOperatorError(f"module {type(module).__name__} is not supported", fix=supported())

    def _move(self, node: fx.Node, function: Any, args: Any, options: dict[str, Any]) -> Any:
        """Run a movement of data on the positions of the entries."""
        value = args[0]
        if not isinstance(value, Value) or _depends((args[1:], options)):
            raise UnsupportedOperatorError(f"{node.target} of several computed tensors is not supported")
        positions = torch.arange(value.size).reshape(value.shape)
        if node.op == "call_method":
            moved = getattr(positions, function)(*args[1:], **options)
        else:
            moved = function(positions, *args[1:], **options)
        if isinstance(moved, torch.Tensor):
            return self.build.select(value, moved.numpy(), node.name)
        return tuple(self.build.select(value, m.numpy(), f"{node.name}/{k}") for k, m in enumerate(moved))


def _depends(arguments: Any) -> bool:
    """Whether a Value is anywhere in nested arguments."""
    if isinstance(arguments, Value):
        return True
    if isinstance(arguments, dict):
        return any(_depends(a) for a in arguments.values())
    return isinstance(arguments, (tuple, list)) and any(_depends(a) for a in arguments)


def _size(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    value = args[0]
    if name == "getattr":
        if args[1] not in ("shape", "ndim", "dtype", "device"):
            raise UnsupportedOperatorError(f"attribute {args[1]!r} of a tensor is not supported")
        return getattr(torch.empty(value.shape, device="meta", dtype=torch.float64), args[1])
    return getattr(torch.empty(value.shape, device="meta"), name)(*args[1:], **options)
