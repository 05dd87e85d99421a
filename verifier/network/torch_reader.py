"""Reads ``torch.nn.Module``s into networks, through ``torch.fx``.

The module is traced symbolically (a copy of it, in evaluation mode, in float64: weights are kept exactly) and
each call is rewritten by the table of modules or of functions. Whatever only moves data is run by torch itself
on an array of positions; whatever depends on constants alone (sizes, prepared weights) is simply run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import inf, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler, Value, extra_for_ceiling, sparse_if_large, with_extra
from verifier.network.graph import Network
from verifier.network.operators import Array, Concat, Conv, Shape
from verifier.network.piecewise import MaxPool, absolute, relu
from verifier.network.simplify import absorb_shifts


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
        if not _depends((args, options)):
            return getattr(args[0], function)(*args[1:], **options) if node.op == "call_method" else function(*args, **options)
        name = node.target if node.op == "call_method" else getattr(function, "__name__", str(function))
        converter = FUNCTIONS.get(str(name))
        if converter is not None:
            return converter(self.build, node.name, *args, **options)
        if name in SIZES:
            return _size(str(name), args, options)
        if name in MOVEMENTS:
            return self._move(node, function, args, options)
        raise UnsupportedOperatorError(f"{name} is not supported", fix=_supported())

    def _module(self, node: fx.Node, args: tuple[Any, ...]) -> Any:
        module = self.modules[str(node.target)]
        for kind, converter in MODULES.items():
            if isinstance(module, kind):
                return converter(self.build, node.name, module, args[0])
        raise UnsupportedOperatorError(f"module {type(module).__name__} is not supported", fix=_supported())

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


def _supported() -> str:
    modules = ", ".join(sorted(m.__name__ for m in MODULES))
    return f"supported modules: {modules}; functions: {', '.join(sorted({*FUNCTIONS, *MOVEMENTS, *SIZES}))}"


def _numpy(tensor: Any) -> Array:
    return np.array(tensor.detach().double().numpy() if isinstance(tensor, torch.Tensor) else tensor, dtype=np.float64)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[1])) if len(value) == 2 else (1, int(value[0]))
    return int(value), int(value)


def _window(value: Any, line: bool, default: int = 1) -> tuple[int, int]:
    """A window's size per axis; along the last axis only for one-dimensional operators."""
    if not line:
        return _pair(value)
    return default, int(value[0]) if isinstance(value, (tuple, list)) else int(value)


# -- parts -----------------------------------------------------------------------------------------------
def _linear(b: Assembler, name: str, x: Value, weight: Any, bias: Any = None) -> Value:
    return b.times_matrix(x, sparse_if_large(_numpy(weight)), None if bias is None else _numpy(bias), name)


def _conv(
    b: Assembler,
    name: str,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    node, _, line = b.image(x, name, "a convolution")
    kernel = _numpy(weight)
    kernel = kernel[:, :, None, :] if line else kernel
    steps, spread = _window(stride, line), _window(dilation, line)
    if padding == "same":
        total = [spread[k] * (kernel.shape[2 + k] - 1) for k in (0, 1)]
        pads = total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    else:
        pad = _window(0 if padding == "valid" else padding, line, 0)
        pads = pad[0], pad[1], pad[0], pad[1]
    constant = np.zeros(len(kernel)) if bias is None else _numpy(bias)
    return b.windowed(Conv(kernel, constant, steps, pads, spread, groups), node, line, name)


def _conv_module(b: Assembler, name: str, m: Any, x: Value) -> Value:
    if m.padding_mode != "zeros":
        raise UnsupportedOperatorError(f"padding_mode {m.padding_mode!r} is not supported")
    return _conv(b, name, x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _max_pool(
    b: Assembler,
    name: str,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    node, shape, line = b.image(x, name, "max pooling")
    kernel, spread, pad = _window(kernel_size, line), _window(dilation, line), _window(padding, line, 0)
    steps = _window(kernel_size if stride is None else stride, line)
    pads = pad[0], pad[1], pad[0], pad[1]
    if return_indices:
        raise UnsupportedOperatorError("return_indices is not supported")
    if ceil_mode:
        pads = with_extra(pads, extra_for_ceiling((shape[1], shape[2]), kernel, steps, pads, spread))
    return b.windowed(MaxPool(kernel, steps, pads, spread), node, line, name)


def _average_pool(
    b: Assembler,
    name: str,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    _, shape, line = b.image(x, name, "average pooling")
    kernel, pad = _window(kernel_size, line), _window(padding, line, 0)
    steps = _window(kernel_size if stride is None else stride, line)
    pads = pad[0], pad[1], pad[0], pad[1]
    extra = extra_for_ceiling((shape[1], shape[2]), kernel, steps, pads) if ceil_mode else (0, 0)
    return b.average_pool(x, kernel, steps, pads, extra, count_include_pad, name, divisor=divisor_override)


def _adaptive_average(b: Assembler, name: str, x: Value, output_size: Any) -> Value:
    _, shape, line = b.image(x, name, "average pooling")
    wanted = (1, output_size) if line else output_size
    if isinstance(output_size, int) and not line:
        wanted = (output_size, output_size)
    sizes = [shape[k + 1] if wanted[k] is None else int(np.ravel(wanted[k])[0]) for k in (0, 1)]
    if shape[1] % sizes[0] or shape[2] % sizes[1]:
        raise UnsupportedOperatorError(f"adaptive pooling of {shape[1:]} to {tuple(sizes)} (windows of unequal size)")
    kernel = shape[1] // sizes[0], shape[2] // sizes[1]
    return b.average_pool(x, kernel, kernel, (0, 0, 0, 0), (0, 0), True, name)


def _batch_norm(b: Assembler, name: str, m: Any, x: Value) -> Value:
    if m.running_mean is None:
        raise UnsupportedOperatorError("batch normalisation without running statistics is not supported")
    factor = 1.0 / np.sqrt(_numpy(m.running_var) + m.eps)
    shift = -_numpy(m.running_mean) * factor
    if m.affine:
        factor, shift = factor * _numpy(m.weight), shift * _numpy(m.weight) + _numpy(m.bias)
    shape = (-1, *([1] * (len(x.shape) - 2)))
    return b.affine(x, factor.reshape(shape), shift.reshape(shape), name)


def _prelu(b: Assembler, name: str, x: Value, weight: Any) -> Value:
    slope = _numpy(weight).reshape(-1)
    return b.leaky(x, slope if slope.size == 1 else slope.reshape(-1, *([1] * (len(x.shape) - 2))), name)


def _clamp(b: Assembler, name: str, x: Value, min: Any = None, max: Any = None) -> Value:
    return b.clip(x, -inf if min is None else float(min), inf if max is None else float(max), name)


def _hardtanh(b: Assembler, name: str, x: Value, min_val: float = -1, max_val: float = 1, inplace: bool = False) -> Value:
    return b.clip(x, float(min_val), float(max_val), name)


def _leaky(b: Assembler, name: str, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return b.leaky(x, np.asarray(negative_slope), name)


def _plus(sign: int) -> Callable[..., Value]:
    def convert(b: Assembler, name: str, x: Any, y: Any, alpha: float = 1) -> Value:
        if isinstance(x, Value) and isinstance(y, Value):
            return b.add_values([x, y if alpha == 1 else b.affine(y, alpha, 0.0, f"{name}/alpha")], (1, sign), name)
        if isinstance(x, Value):
            return b.affine(x, 1.0, sign * alpha * _numpy(y), name)
        return b.affine(y, sign * alpha, _numpy(x), name)

    return convert


def _times(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        raise UnsupportedOperatorError("a product of two computed tensors is not piecewise linear")
    return b.affine(x, _numpy(y), 0.0, name) if isinstance(x, Value) else b.affine(y, _numpy(x), 0.0, name)


def _divided(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(y, Value):
        raise UnsupportedOperatorError("division by a computed tensor is not piecewise linear")
    return b.affine(x, 1.0 / _numpy(y), 0.0, name)


def _matmul(b: Assembler, name: str, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, torch.Tensor) and y.ndim == 2:
        return b.times_matrix(x, sparse_if_large(_numpy(y)).T, None, name)
    if isinstance(y, Value) and isinstance(x, torch.Tensor) and x.ndim == 2:
        return b.matrix_times(sparse_if_large(_numpy(x)), y, name)
    raise UnsupportedOperatorError("matmul needs one constant matrix of two axes")


def _extreme(sign: int) -> Callable[..., Value]:
    def convert(b: Assembler, name: str, x: Any, y: Any = None) -> Value:
        if isinstance(x, Value) and isinstance(y, Value):
            return b.larger(x, y, name, sign)
        value, bound = (x, y) if isinstance(x, Value) else (y, x)
        if not isinstance(bound, torch.Tensor):
            raise UnsupportedOperatorError("max and min need two tensors")
        return b.clip_by(value, _numpy(bound), name, sign)

    return convert


def _cat(b: Assembler, name: str, tensors: Any, dim: int = 0) -> Value:
    if not all(isinstance(t, Value) for t in tensors):
        raise UnsupportedOperatorError("concatenation with constant tensors is not supported")
    axis = dim % len(tensors[0].shape)
    trimmed = axis > 0 and all(t.shape[0] == 1 for t in tensors)
    nodes = [b.view(t, t.shape[1:] if trimmed else t.shape, name) for t in tensors]
    total = (*tensors[0].shape[:axis], sum(t.shape[axis] for t in tensors), *tensors[0].shape[axis + 1 :])
    return Value(b.add(Concat(axis - 1 if trimmed else axis), *nodes, name=name), total)


def _pad(b: Assembler, name: str, x: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    positions = torch.arange(x.size).reshape(x.shape)
    if mode == "constant":
        return b.select(x, F.pad(positions, list(pad), value=-1).numpy(), name, float(value or 0.0))
    return b.select(x, F.pad(positions.double(), list(pad), mode=mode).long().numpy(), name)


def _mean(b: Assembler, name: str, x: Value, dim: Any = None, keepdim: bool = False, share: bool = True) -> Value:
    rank = len(x.shape)
    axes = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    over = sorted({a % rank for a in axes})
    kept = [a for a in range(rank) if a not in over]
    count = prod(x.shape[a] for a in over)
    turned = b.move(x, lambda i: i.transpose(kept + over), f"{name}/turned")
    rows = Value(turned.name, (prod(x.shape[a] for a in kept), count))
    total = b.times_matrix(rows, np.full((1, count), 1.0 / count if share else 1.0), None, name)
    full = tuple(1 if a in over else d for a, d in enumerate(x.shape)) if keepdim else tuple(x.shape[a] for a in kept)
    return Value(total.name, full)


def _same(b: Assembler, name: str, x: Value, *args: Any, **options: Any) -> Value:
    return x


def _relu(b: Assembler, name: str, x: Value, inplace: bool = False) -> Value:
    return b.apply(relu(), x, name)


def _absolute(b: Assembler, name: str, x: Value) -> Value:
    return b.apply(absolute(), x, name)


def _flat(b: Assembler, name: str, m: Any, x: Value) -> Value:
    """A module that only moves data, run on the positions."""
    return b.select(x, m(torch.arange(x.size).reshape(x.shape)).numpy(), name)


Converter = Callable[..., Value]
MODULES: dict[type, Converter] = {
    nn.Linear: lambda b, n, m, x: _linear(b, n, x, m.weight, m.bias),
    nn.Conv1d: _conv_module,
    nn.Conv2d: _conv_module,
    nn.ReLU: lambda b, n, m, x: _relu(b, n, x),
    nn.LeakyReLU: lambda b, n, m, x: _leaky(b, n, x, m.negative_slope),
    nn.PReLU: lambda b, n, m, x: _prelu(b, n, x, m.weight),
    nn.Hardtanh: lambda b, n, m, x: _hardtanh(b, n, x, m.min_val, m.max_val),
    nn.MaxPool1d: lambda b, n, m, x: _max_pool(
        b, n, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.MaxPool2d: lambda b, n, m, x: _max_pool(
        b, n, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool1d: lambda b, n, m, x: _average_pool(
        b, n, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad
    ),
    nn.AvgPool2d: lambda b, n, m, x: _average_pool(
        b, n, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool1d: lambda b, n, m, x: _adaptive_average(b, n, x, m.output_size),
    nn.AdaptiveAvgPool2d: lambda b, n, m, x: _adaptive_average(b, n, x, m.output_size),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Flatten: _flat,
    nn.Unflatten: _flat,
    nn.Identity: lambda b, n, m, x: x,
    nn.Dropout: lambda b, n, m, x: x,
    nn.Dropout1d: lambda b, n, m, x: x,
    nn.Dropout2d: lambda b, n, m, x: x,
    nn.ConstantPad1d: lambda b, n, m, x: _pad(b, n, x, m.padding, value=m.value),
    nn.ConstantPad2d: lambda b, n, m, x: _pad(b, n, x, m.padding, value=m.value),
    nn.ZeroPad2d: lambda b, n, m, x: _pad(b, n, x, m.padding),
}
"""How each supported module is rewritten (subclasses too: ReLU6 is a Hardtanh)."""

FUNCTIONS: dict[str, Converter] = {
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("abs", "absolute"), _absolute),
    **dict.fromkeys(("clamp", "clip", "clamp_"), _clamp),
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    "relu6": lambda b, n, x, inplace=False: _hardtanh(b, n, x, 0.0, 6.0),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), _leaky),
    "prelu": _prelu,
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d"), _conv),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), _adaptive_average),
    **dict.fromkeys(("add", "add_", "iadd"), _plus(1)),
    **dict.fromkeys(("sub", "sub_", "isub"), _plus(-1)),
    **dict.fromkeys(("mul", "mul_", "imul"), _times),
    **dict.fromkeys(("div", "truediv", "itruediv", "div_"), _divided),
    **dict.fromkeys(("neg", "negative"), lambda b, n, x: b.affine(x, -1.0, 0.0, n)),
    **dict.fromkeys(("matmul", "mm"), _matmul),
    **dict.fromkeys(("maximum", "max"), _extreme(1)),
    **dict.fromkeys(("minimum", "min"), _extreme(-1)),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "pad": _pad,
    "mean": _mean,
    "sum": lambda b, n, x, dim=None, keepdim=False: _mean(b, n, x, dim, keepdim, share=False),
    **dict.fromkeys(("dropout", "contiguous", "clone", "detach", "float", "double", "to"), _same),
}
"""How each supported function or method is rewritten, by name."""

MOVEMENTS = set(
    "view reshape flatten unflatten permute transpose swapaxes t squeeze unsqueeze expand getitem chunk split "
    "unbind narrow select index_select repeat roll flip movedim".split()
)
SIZES = {"getattr", "size", "dim", "numel"}
