"""ONNX files: the wire format of Protocol Buffers, and the operators that proofs speak of, as a `Graph`.

Weights are the numbers of the file, float32 or float64; the function is the one that these define over the reals. The first
axis of a value is a batch of one.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .graph import CheckError, Conv, Graph, Sparse, matrix, select

_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def read_bytes(path: Path | str) -> bytes:
    """A file's bytes, gunzipped where they are gzip."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


# -- the wire format ---------------------------------------------------------------------------------------
def varint(data: Any, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends.

    Raises:
        CheckError: a number of more than 64 bits.
    """
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise CheckError("a number of more than 64 bits")


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind, end = key & 7, at
        if kind == 0:
            value, end = varint(data, at)
        elif kind in (1, 5):
            end = at + (8 if kind == 1 else 4)
            value = data[at:end]
        elif kind == 2:
            size, at = varint(data, at)
            end = at + size
            value = data[at:end]
        else:
            raise CheckError("no ONNX file: an unknown kind of field")
        if end > len(data):
            raise CheckError("no ONNX file, or a truncated one")
        yield key >> 3, value
        at = end


def _all(data: Any, number: int) -> list[Any]:
    return [value for k, value in _fields(data) if k == number]


def _text(data: Any, number: int) -> str:
    return "".join(bytes(v).decode() for v in _all(data, number))


def _integers(data: Any, number: int) -> list[int]:
    found: list[int] = []
    for value in _all(data, number):
        if isinstance(value, int):
            found.append(value)
        else:
            at = 0
            while at < len(value):
                one, at = varint(value, at)
                found.append(one)
    return [v - (1 << 64) if v >> 63 else v for v in found]


def _tensor(data: Any) -> Any:
    shape, (kind,) = _integers(data, 1), _integers(data, 2)
    if kind not in _TYPES or _all(data, 13):
        raise CheckError("a tensor of another type than float, double, int or bool, or in another file")
    dtype = np.dtype(_TYPES[kind])
    if _all(data, 9):
        values = np.frombuffer(_all(data, 9)[-1], dtype=dtype)
    elif dtype.kind == "f":
        values = np.frombuffer(b"".join(_all(data, 4 if kind == 1 else 10)), dtype=dtype)
    else:
        values = np.array(_integers(data, 7 if kind == 7 else 5), dtype=dtype)
    return values.reshape(shape).astype(np.float64 if dtype.kind == "f" else np.int64)


def _attributes(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for data in _all(node, 5):
        kind, value = (_integers(data, 20) or [0])[0], None
        if kind == 1:
            (value,) = struct.unpack("<f", _all(data, 2)[0])
        elif kind in (2, 7):
            numbers = _integers(data, 3 if kind == 2 else 8)
            value = (numbers or [0])[0] if kind == 2 else numbers
        elif kind in (3, 4):
            value = _text(data, 4) if kind == 3 else _tensor(_all(data, 5)[0])
        found[_text(data, 1)] = value
    return found


# -- operators ---------------------------------------------------------------------------------------------
class _Value:
    """A node's number and the shape of its value."""

    def __init__(self, node: int, shape: tuple[int, ...]) -> None:
        self.node, self.shape = node, shape


class _Reader:
    def __init__(self, data: bytes) -> None:
        (graph,) = _all(memoryview(data), 7)
        self.known: dict[str, Any] = {_text(t, 8): _tensor(t) for t in _all(graph, 5)}
        inputs = [v for v in _all(graph, 11) if _text(v, 1) not in self.known]
        if len(inputs) != 1 or len(_all(graph, 12)) != 1:
            raise CheckError("a network with several inputs or outputs")
        dims = _all(_all(_all(_all(inputs[0], 2)[0], 1)[0], 2)[0], 1)
        shape = tuple((_integers(d, 1) or [1])[0] or 1 for d in dims)
        self.graph = Graph(int(np.prod(shape)))
        self.known[_text(inputs[0], 1)] = _Value(0, shape)
        for node in _all(graph, 1):
            kind, names = _text(node, 4), [bytes(v).decode() for v in _all(node, 1)]
            args = [self.known[name] if name else None for name in names]
            try:
                result = self._operator(kind, args, _attributes(node))
            except (ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
                raise CheckError(f"operator {kind} of a form that is not read: {error}") from None
            self.known[bytes(_all(node, 2)[0]).decode()] = result
        self.graph.outputs["y"] = self.known[_text(_all(graph, 12)[0], 1)].node

    def _operator(self, kind: str, args: list[Any], given: dict[str, Any]) -> Any:
        x: Any = args[0] if args else None
        graph = self.graph
        if kind == "Constant":
            return given["value"]
        if kind in ("Identity", "Dropout"):
            return x
        if kind in _MOVES:
            whole = x if not isinstance(x, _Value) else np.arange(graph.nodes[x.node].size).reshape(x.shape)
            index = _MOVES[kind](whole, args[1:], given)
            if not isinstance(x, _Value):
                return index
            if index.size == graph.nodes[x.node].size and (np.diff(index.reshape(-1)) == 1).all():
                return _Value(x.node, index.shape)
            return self._affine([(x, select(index.reshape(-1), graph.nodes[x.node].size))], index.shape)
        if kind == "Relu":
            return _Value(graph.relu(x.node), x.shape)
        if kind == "LeakyRelu":  # s z + relu(z) - s relu(z)
            slope, hinge = given.get("alpha", float(np.float32(0.01))), _Value(graph.relu(x.node), x.shape)
            bent = [(hinge, self._scaled(hinge, factor)) for factor in (1.0, -slope)]
            return self._affine([(x, self._scaled(x, slope)), *bent], x.shape)
        if kind in ("Add", "Sub"):
            return self._sum(args, 1 if kind == "Add" else -1)
        if kind == "Mul":
            x, factor = (args[1], args[0]) if isinstance(args[1], _Value) else args
            full = np.broadcast_to(np.asarray(factor), x.shape).reshape(-1)
            return self._affine([(x, select(np.arange(len(full)), len(full), full))], x.shape)
        if kind == "Gemm":
            a, b, c = (*args, None)[:3]
            if given.get("transA", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
                raise CheckError("Gemm with factors or a transposed first input")
            weight = b if given.get("transB", 0) else b.T
            return self._affine([(a, matrix(weight))], (1, len(weight)), c)
        if kind == "MatMul" and isinstance(x, _Value):
            weight, blocks = args[1].T, int(np.prod(x.shape[:-1]))
            return self._affine([(x, matrix(weight, blocks))], (*x.shape[:-1], len(weight)))
        if kind == "MatMul":
            if int(np.prod(args[1].shape)) != x.shape[-1]:
                raise CheckError("MatMul of a matrix and several columns")
            return self._affine([(args[1], matrix(x))], (len(x), 1))
        if kind == "Conv":
            weight = args[1]
            pads, ones = given.get("pads", [0, 0, 0, 0]), [1, 1]
            if given.get("auto_pad", "NOTSET") != "NOTSET" or weight.ndim != 4 or x.shape[0] != 1:
                raise CheckError("Conv with automatic padding, or not of two dimensions")
            conv = Conv(
                weight,
                x.shape[1:],
                tuple(given.get("strides", ones)),
                tuple(pads),
                tuple(given.get("dilations", ones)),
                given.get("group", 1),
            )
            bias = np.zeros(len(weight)) if len(args) < 3 else args[2]
            return self._affine([(x, conv)], (1, *conv.out), np.repeat(bias, conv.out[1] * conv.out[2]))
        if kind == "MaxPool":
            return self._maxpool(x, given)
        raise CheckError(f"operator {kind} is not read")

    def _scaled(self, x: _Value, factor: float) -> Sparse:
        size = self.graph.nodes[x.node].size
        return select(np.arange(size), size, None if factor == 1 else np.full(size, factor))

    def _affine(self, terms: list[tuple[_Value, Any]], shape: tuple[int, ...], constant: Any = None) -> _Value:
        size = int(np.prod(shape))
        return _Value(self.graph.affine([(v.node, m) for v, m in terms], size, constant), tuple(shape))

    def _sum(self, args: list[Any], sign: int) -> Any:
        if not any(isinstance(a, _Value) for a in args):
            return args[0] + sign * args[1]
        shape = np.broadcast_shapes(*(a.shape for a in args))
        terms: list[tuple[_Value, Any]] = []
        constant = None
        for value, factor in zip(args, (1, sign), strict=True):
            if isinstance(value, _Value):
                if value.shape != shape:
                    raise CheckError("a sum that repeats a value")
                terms.append((value, self._scaled(value, factor)))
            else:
                constant = factor * np.broadcast_to(value, shape)
        return self._affine(terms, shape, constant)

    def _maxpool(self, x: _Value, given: dict[str, Any]) -> _Value:
        """A knockout of ``max(a, b) = a + relu(b - a)``: neighbours of a window meet, one without another meets itself."""
        if given.get("auto_pad", "NOTSET") != "NOTSET" or given.get("ceil_mode", 0) or len(x.shape) != 4:
            raise CheckError("MaxPool with automatic padding or ceil_mode")
        strides, pads = tuple(given.get("strides", [1, 1])), tuple(given.get("pads", [0, 0, 0, 0]))
        kernel = np.zeros((1, 1, *given["kernel_shape"]))
        shape = Conv(kernel, (1, *x.shape[2:]), strides, pads, tuple(given.get("dilations", [1, 1])), 1)
        margin = ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
        index = np.pad(np.arange(np.prod(x.shape)).reshape(x.shape[1:]), margin, constant_values=-1)
        places = [(rows, columns) for *_, (_, _, rows, columns) in shape._places()]
        entries = np.stack([index[:, rows, columns].reshape(-1) for rows, columns in places], axis=1)
        first = np.take_along_axis(entries, (entries >= 0).argmax(axis=1)[:, None], axis=1)
        entries = np.where(entries < 0, first, entries)
        while entries.shape[1] > 1:
            half, size = -(-entries.shape[1] // 2), self.graph.nodes[x.node].size
            left = entries[:, ::2].reshape(-1)
            right = entries[:, np.minimum(2 * np.arange(half) + 1, entries.shape[1] - 1)].reshape(-1)
            negated = select(left, size, np.full(len(left), -1.0))
            excess = self._affine([(x, select(right, size)), (x, negated)], left.shape)
            over = _Value(self.graph.relu(excess.node), left.shape)
            x = self._affine([(x, select(left, size)), (over, self._scaled(over, 1))], left.shape)
            entries = np.arange(len(left)).reshape(-1, half)
        if np.array_equal(entries[:, 0], np.arange(self.graph.nodes[x.node].size)):
            return _Value(x.node, (1, index.shape[0], *shape.out[1:]))
        raise CheckError("MaxPool of single entries")


def _axes(args: list[Any], given: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(k) for k in (args[0] if args else given["axes"]))


def _flatten(a: Any, args: list[Any], given: dict[str, Any]) -> Any:
    axis = given.get("axis", 1)
    return a.reshape(int(np.prod(a.shape[:axis])), -1)


def _reshape(a: Any, args: list[Any], given: dict[str, Any]) -> Any:
    return a.reshape([a.shape[k] if s == 0 else int(s) for k, s in enumerate(args[0])])


def _pad(a: Any, args: list[Any], given: dict[str, Any]) -> Any:
    pads = np.asarray(args[0] if args else given["pads"])
    if given.get("mode", "constant") != "constant" or (pads < 0).any() or np.any(args[1] if len(args) > 1 else 0):
        raise CheckError("Pad with anything but zeros")
    return np.pad(a, list(zip(pads[: a.ndim], pads[a.ndim :], strict=True)), constant_values=-1)


_MOVES: dict[str, Callable[[Any, list[Any], dict[str, Any]], Any]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Pad": _pad,
    "Transpose": lambda a, args, given: np.transpose(a, given.get("perm")),
    "Squeeze": lambda a, args, given: np.squeeze(a, _axes(args, given)),
    "Unsqueeze": lambda a, args, given: np.expand_dims(a, _axes(args, given)),
    "Gather": lambda a, args, given: np.take(a, args[0], axis=given.get("axis", 0)),
}


def read_network(data: bytes) -> Graph:
    """The graph of an ONNX file's bytes.

    Raises:
        CheckError: it is none, or has operators that are not read.
    """
    try:
        return _Reader(data).graph
    except (IndexError, ValueError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise CheckError(f"no ONNX file that can be read: {error}") from None
