"""ONNX files: the wire format of Protocol Buffers, and the operators that proofs speak of, as a `Graph`.

Weights are the numbers of the file, float32 or float64; the function is the one that these define over the reals. The first
axis of a value is a batch of one.
"""

from __future__ import annotations

import gzip
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .graph import CheckError, Graph, Map, matrix, select

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
    while shift <= 63:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    raise CheckError("a number of more than 64 bits")


def _fields(data: Any) -> dict[int, list[Any]]:
    """A message's values by field, in order."""
    at, found = 0, defaultdict[int, list[Any]](list)
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at : at + size], at + size
        found[key >> 3].append(value)
    if at > len(data):
        raise CheckError("no ONNX file, or a truncated one")
    return found


def _text(values: list[Any]) -> str:
    return "".join(bytes(v).decode() for v in values)


def _integers(values: list[Any]) -> list[int]:
    """Integers one by one, or packed."""
    found = [v for v in values if isinstance(v, int)]
    for value in values:
        at, size = 0, 0 if isinstance(value, int) else len(value)
        while at < size:
            one, at = varint(value, at)
            found.append(one)
    return [v - (1 << 64) if v >> 63 else v for v in found]


def _tensor(data: Any) -> Any:
    m = _fields(data)
    (kind,) = _integers(m[2])
    if kind not in _TYPES or m[13]:
        raise CheckError("a tensor of another type than float, double, int or bool, or in another file")
    dtype = np.dtype(_TYPES[kind])
    if m[9] or dtype.kind == "f":
        values = np.frombuffer(m[9][-1] if m[9] else b"".join(m[4 if kind == 1 else 10]), dtype=dtype)
    else:
        values = np.array(_integers(m[7 if kind == 7 else 5]), dtype=dtype)
    return values.reshape(_integers(m[1])).astype(np.float64 if dtype.kind == "f" else np.int64)


_ATTRIBUTES: dict[int, Callable[[Any], Any]] = {
    1: lambda m: struct.unpack("<f", m[2][0])[0],
    2: lambda m: _integers(m[3] or [0])[0],
    3: lambda m: _text(m[4]),
    4: lambda m: _tensor(m[5][0]),
    7: lambda m: _integers(m[8]),
}


def _attributes(node: Any) -> dict[str, Any]:
    """Those of kinds that are read."""
    found = [(_text(m[1]), _ATTRIBUTES.get(_integers(m[20] or [0])[0]), m) for m in map(_fields, node[5])]
    return {name: None if read is None else read(m) for name, read, m in found}


# -- operators ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Value:
    """A node's number and the shape of its value."""

    node: int
    shape: tuple[int, ...]


class _Reader:
    def __init__(self, data: bytes, twins: bool) -> None:
        (main,) = _fields(memoryview(data))[7]
        m = _fields(main)
        self.twins, self.known = twins, {_text(_fields(t)[8]): _tensor(t) for t in m[5]}
        inputs = [v for v in map(_fields, m[11]) if _text(v[1]) not in self.known]
        if len(inputs) != 1 or len(m[12]) != 1:
            raise CheckError("a network with several inputs or outputs")
        dims = _fields(_fields(_fields(inputs[0][2][0])[1][0])[2][0])[1]
        shape = tuple((_integers(_fields(d)[1]) or [1])[0] or 1 for d in dims)
        self.graph = Graph(int(np.prod(shape)))
        self.known[_text(inputs[0][1])] = _Value(0, shape)
        for node in map(_fields, m[1]):
            kind, args = _text(node[4]), [self.known[_text([v])] if v else None for v in node[1]]
            try:
                self.known[_text(node[2][:1])] = self._operator(kind, args, _attributes(node))
            except (ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
                raise CheckError(f"operator {kind} of a form that is not read: {error}") from None
        self.graph.outputs["y"] = self.known[_text(_fields(m[12][0])[1])].node

    def _operator(self, kind: str, args: list[Any], given: dict[str, Any]) -> Any:
        x: Any = args[0] if args else given["value"]
        if kind in ("Constant", "Identity", "Dropout"):
            return x
        if kind in _MOVES:
            return self._moved(x, lambda a: _MOVES[kind](a, args[1:], given))
        if kind == "Relu":
            return _Value(self.graph.rectified(x.node) if self.twins else self.graph.unit(x.node), x.shape)
        if kind == "LeakyRelu":  # s z + relu(z) - s relu(z)
            slope, bent = given.get("alpha", float(np.float32(0.01))), _Value(self.graph.unit(x.node), x.shape)
            return self._affine([(x, self._scaled(x, slope)), (bent, None), (bent, self._scaled(x, -slope))], x.shape)
        if kind in ("Add", "Sub"):
            return self._sum(args[0], args[1], 1 if kind == "Add" else -1)
        if kind == "Mul":
            x, factor = args if isinstance(x, _Value) else args[::-1]
            return self._affine([(x, self._scaled(x, factor))], x.shape)
        if kind == "Gemm":
            if given.get("transA", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
                raise CheckError("Gemm with factors or a transposed first input")
            weight = args[1] if given.get("transB", 0) else args[1].T
            return self._affine([(x, matrix(weight))], (1, len(weight)), args[2] if len(args) > 2 else 0.0)
        if kind == "MatMul":
            return self._product(*args)
        if kind in ("Conv", "MaxPool"):
            automatic = given.get("auto_pad", "NOTSET") != "NOTSET" or given.get("ceil_mode", 0)
            if automatic or len(x.shape) != 4 or x.shape[0] != 1:
                raise CheckError(f"{kind} with automatic padding or ceil_mode, or not of two dimensions")
            return self._conv(x, given, *args[1:]) if kind == "Conv" else self._maxpool(x, given)
        raise CheckError(f"operator {kind} is not read")

    def _moved(self, x: Any, move: Callable[[Any], Any]) -> Any:
        """A constant or a value whose entries go to other places (-1: a zero)."""
        size = int(np.prod(x.shape))
        index = move(np.arange(size).reshape(x.shape))
        if not isinstance(x, _Value):
            return np.where(index < 0, 0, x.reshape(-1)[index])
        if np.array_equal(index.reshape(-1), np.arange(size)):
            return _Value(x.node, index.shape)
        return self._affine([(x, select(index.reshape(-1), size))], index.shape)

    def _scaled(self, x: _Value, factor: Any) -> Map:
        size = self.graph.nodes[x.node].size
        return select(np.arange(size), size, np.broadcast_to(factor, x.shape))

    def _affine(self, terms: list[tuple[_Value, Map | None]], shape: Any, constant: Any = 0.0) -> _Value:
        return _Value(self.graph.affine([(v.node, m) for v, m in terms], int(np.prod(shape)), constant), tuple(shape))

    def _sum(self, a: Any, b: Any, sign: int) -> Any:
        if not isinstance(a, _Value) and not isinstance(b, _Value):
            return a + sign * b
        terms, shape = list[tuple[_Value, Map | None]](), np.broadcast_shapes(a.shape, b.shape)
        constant: Any = 0.0
        for value, factor in ((a, 1), (b, sign)):
            if not isinstance(value, _Value):
                constant = factor * np.broadcast_to(value, shape)
            elif value.shape == shape:
                terms.append((value, None if factor == 1 else self._scaled(value, factor)))
            else:
                raise CheckError("a sum that repeats a value")
        return self._affine(terms, shape, constant)

    def _product(self, a: Any, b: Any) -> _Value:
        """Of a value and a matrix, for each row of the value; or of a matrix and one column."""
        if isinstance(b, _Value):
            if int(np.prod(b.shape)) != a.shape[-1]:
                raise CheckError("MatMul of a matrix and several columns")
            return self._affine([(b, matrix(a))], (len(a), 1))
        *rows, width = a.shape
        index = np.arange(int(np.prod(a.shape))).reshape(-1, width).T[None]
        weight = matrix(b.T) if index.shape[2] == 1 else Map(b.T[None], index, index.size)
        found = self._affine([(a, weight)], (b.shape[1], index.shape[2]))
        return _Value(self._moved(found, np.transpose).node, (*rows, b.shape[1]))

    def _conv(self, x: _Value, given: dict[str, Any], weight: Any, bias: Any = 0.0) -> _Value:
        places, groups = _windows(x.shape, weight.shape[2:], given), given.get("group", 1)
        shape = len(weight), *places.shape[3:]
        index = places.reshape(groups, -1, int(np.prod(shape[1:])))
        conv = Map(weight.reshape(groups, len(weight) // groups, -1), index, self.graph.nodes[x.node].size)
        if index.shape[1] != conv.weight.shape[2]:
            raise CheckError("Conv of another number of channels")
        return self._affine([(x, conv)], (1, *shape), np.broadcast_to(np.reshape(bias, (-1, 1, 1)), shape))

    def _maxpool(self, x: _Value, given: dict[str, Any]) -> _Value:
        """A knockout of ``max(a, b) = a + relu(b - a)``: neighbours of a window meet, one without another meets itself."""
        places = _windows(x.shape, given["kernel_shape"], given)
        shape = 1, len(places), *places.shape[3:]
        entries = places.transpose(0, 3, 4, 1, 2).reshape(int(np.prod(shape)), -1)
        first = np.take_along_axis(entries, (entries >= 0).argmax(axis=1)[:, None], axis=1)
        entries = np.where(entries < 0, first, entries)
        while entries.shape[1] > 1:
            left, right = entries[:, ::2], entries[:, [*range(1, entries.shape[1], 2), -1][: -(-entries.shape[1] // 2)]]
            one, other = (select(side.reshape(-1), self.graph.nodes[x.node].size) for side in (left, right))
            excess = self._affine([(x, other), (x, one.negative())], (left.size,))
            over = _Value(self.graph.unit(excess.node), excess.shape)
            x = self._affine([(x, one), (over, None)], excess.shape)
            entries = np.arange(left.size).reshape(left.shape)
        if not np.array_equal(entries[:, 0], np.arange(self.graph.nodes[x.node].size)):
            raise CheckError("MaxPool of single entries")
        return _Value(x.node, shape)


def _windows(shape: tuple[int, ...], kernel: Any, given: dict[str, Any]) -> Any:
    """Places in an image of the entries of each pixel's window, ``(C, h, w, H, W)``; -1 in the padding."""
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    (down, along), (rows, columns) = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    image = np.arange(np.prod(shape)).reshape(shape[1:])
    image = np.pad(image, ((0, 0), (top, bottom), (left, right)), constant_values=-1)
    reach = rows * (kernel[0] - 1) + 1, columns * (kernel[1] - 1) + 1
    found = np.lib.stride_tricks.sliding_window_view(image, reach, axis=(1, 2))
    return found[:, ::down, ::along, ::rows, ::columns].transpose(0, 3, 4, 1, 2)


def _axes(args: list[Any], given: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(k) for k in (args[0] if args else given["axes"]))


def _pad(a: Any, args: list[Any], given: dict[str, Any]) -> Any:
    pads = np.asarray(args[0] if args else given["pads"])
    if given.get("mode", "constant") != "constant" or (pads < 0).any() or np.any(args[1] if len(args) > 1 else 0):
        raise CheckError("Pad with anything but zeros")
    return np.pad(a, list(zip(pads[: a.ndim], pads[a.ndim :], strict=True)), constant_values=-1)


_MOVES: dict[str, Callable[[Any, list[Any], dict[str, Any]], Any]] = {
    "Flatten": lambda a, args, given: a.reshape(int(np.prod(a.shape[: given.get("axis", 1)])), -1),
    "Reshape": lambda a, args, given: a.reshape([a.shape[k] if s == 0 else int(s) for k, s in enumerate(args[0])]),
    "Pad": _pad,
    "Transpose": lambda a, args, given: np.transpose(a, given.get("perm")),
    "Squeeze": lambda a, args, given: np.squeeze(a, _axes(args, given)),
    "Unsqueeze": lambda a, args, given: np.expand_dims(a, _axes(args, given)),
    "Gather": lambda a, args, given: np.take(a, args[0], axis=given.get("axis", 0)),
}


def read_network(data: bytes, twins: bool = False) -> Graph:
    """The graph of an ONNX file's bytes.

    Args:
        twins: see `Graph.rectified`.

    Raises:
        CheckError: it is none, or has operators that are not read.
    """
    try:
        return _Reader(data, twins).graph
    except (IndexError, ValueError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise CheckError(f"no ONNX file that can be read: {error}") from None
