"""A network as a graph of affine nodes, ReLUs and gates, and the linear maps between them.

Values are flat. A map has `apply` (values ``(B, n)`` to ``(B, m)``), `adjoint` (rows ``(R, m)`` to ``(R, n)``), `absolute`,
`exact` (with `Fraction` for every number) and ``terms``, the most terms that any of its sums has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

FEW = 8
"""A matrix with so many entries in each row at most is a sparse one."""


class CheckError(Exception):
    """A file that cannot be read or checked."""


exact = np.vectorize(Fraction, otypes=[object])
"""An array with a `Fraction` for every entry."""


@dataclass(frozen=True, eq=False)
class Dense:
    """``weight (m, n)`` on each of ``blocks`` parts of the value."""

    weight: Any
    blocks: int = 1

    @property
    def terms(self) -> int:
        """Of a sum."""
        return max(self.weight.shape)

    def apply(self, v: Any) -> Any:
        """Forwards."""
        return (v.reshape(len(v) * self.blocks, -1) @ self.weight.T).reshape(len(v), -1)

    def adjoint(self, a: Any) -> Any:
        """Backwards."""
        return (a.reshape(len(a) * self.blocks, -1) @ self.weight).reshape(len(a), -1)

    def absolute(self) -> Dense:
        """With |weight|."""
        return replace(self, weight=abs(self.weight))

    def exact(self, number: Any = exact) -> Dense:
        """In rationals."""
        return replace(self, weight=number(self.weight))


@dataclass(frozen=True, eq=False)
class Sparse:
    """Entry i of the result is the sum over k of ``factor[i, k]`` times entry ``index[i, k]``; ``size`` entries come in.

    Nothing is taken where the index is -1. ``factor`` None: all are 1.
    """

    index: Any
    size: int
    factor: Any = None

    @cached_property
    def _back(self) -> tuple[Any, Any, Any, Any]:
        """Where it reads, entry by entry of what comes in: which results and places in them; where each entry's begin."""
        result, place = np.nonzero(self.index >= 0)
        order = np.argsort(self.index[result, place], kind="stable")
        result, place = result[order], place[order]
        return result, place, *np.unique(self.index[result, place], return_index=True)

    @cached_property
    def _whole(self) -> bool:
        return bool((self.index >= 0).all())

    @property
    def identity(self) -> bool:
        """Whether it leaves a value as it is."""
        return self.factor is None and np.array_equal(self.index, np.arange(self.size)[:, None])

    @property
    def terms(self) -> int:
        """Of a sum."""
        often = np.bincount(self.index[self.index >= 0], minlength=1).max()
        return 1 + max(self.index.shape[1], int(often))

    def apply(self, v: Any) -> Any:
        """Forwards."""
        found = v[:, self.index]
        found = found if self._whole else np.where(self.index < 0, 0, found)
        found = found if self.factor is None else found * self.factor
        return found[:, :, 0] if found.shape[2] == 1 else found.sum(axis=2)

    def adjoint(self, a: Any) -> Any:
        """Backwards."""
        result, place, entries, first = self._back
        out, a = np.zeros((len(a), self.size), dtype=a.dtype), a[:, result]
        a = a if self.factor is None else a * self.factor[result, place]
        if len(entries):
            out[:, entries] = a if len(entries) == len(result) else np.add.reduceat(a, first, axis=1)
        return out

    def absolute(self) -> Sparse:
        """With |factor|."""
        return self if self.factor is None else replace(self, factor=abs(self.factor))

    def exact(self, number: Any = exact) -> Sparse:
        """In rationals."""
        return replace(self, factor=number(np.ones(self.index.shape) if self.factor is None else self.factor))


def select(index: Any, size: int, factor: Any = None) -> Sparse:
    """Entry i of the result is ``factor[i]`` times entry ``index[i]``, or 0 where that is -1."""
    return Sparse(index[:, None], size, None if factor is None else np.asarray(factor)[:, None])


def matrix(weight: Any, blocks: int = 1) -> Dense | Sparse:
    """``weight (m, n)`` as a map: sparse where each row has few entries."""
    most = int(np.count_nonzero(weight, axis=1).max(initial=0))
    if blocks > 1 or not 0 < most <= max(2, min(FEW, len(weight[0]) // 2)):
        return Dense(np.ascontiguousarray(weight), blocks)
    row, column = np.nonzero(weight)
    place = np.arange(len(row)) - np.searchsorted(row, row)
    index, factor = np.full((len(weight), most), -1), np.zeros((len(weight), most))
    index[row, place], factor[row, place] = column, weight[row, column]
    return Sparse(index, weight.shape[1], factor)


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution: ``weight (out, in / groups, h, w)`` on ``shape (in, H, W)``; ``pads`` top, left, bottom, right."""

    weight: Any
    shape: tuple[int, int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int

    @property
    def terms(self) -> int:
        """Of a sum."""
        return int(np.prod(self.weight.shape)) // self.groups

    @property
    def padded(self) -> tuple[int, int, int]:
        """The input's shape with its padding."""
        return self.shape[0], self.shape[1] + self.pads[0] + self.pads[2], self.shape[2] + self.pads[1] + self.pads[3]

    @property
    def out(self) -> tuple[int, int, int]:
        """The result's shape."""
        size = [
            (full - dilation * (kernel - 1) - 1) // stride + 1
            for full, dilation, kernel, stride in zip(
                self.padded[1:], self.dilations, self.weight.shape[2:], self.strides, strict=True
            )
        ]
        return self.weight.shape[0], size[0], size[1]

    def _places(self) -> Any:
        """By group and entry of the kernel: the group, its weights ``(out, in)``, and where the input's entries are."""
        outs, ins = self.weight.shape[0] // self.groups, self.weight.shape[1]
        for g in range(self.groups):
            for i, j in np.ndindex(*self.weight.shape[2:]):
                rows, columns = (
                    slice(k * d, k * d + (n - 1) * s + 1, s)
                    for k, d, n, s in zip((i, j), self.dilations, self.out[1:], self.strides, strict=True)
                )
                part = slice(g * outs, (g + 1) * outs)
                yield part, self.weight[part, :, i, j], (slice(None), slice(g * ins, (g + 1) * ins), rows, columns)

    def apply(self, v: Any) -> Any:
        """Forwards."""
        top, left = self.pads[:2]
        full = np.zeros((len(v), *self.padded), dtype=v.dtype)
        full[:, :, top : top + self.shape[1], left : left + self.shape[2]] = v.reshape(-1, *self.shape)
        found = np.zeros((len(v), *self.out), dtype=v.dtype)
        for part, weight, places in self._places():
            found[:, part] += np.moveaxis(np.tensordot(weight, full[places], (1, 1)), 0, 1)
        return found.reshape(len(v), -1)

    def adjoint(self, a: Any) -> Any:
        """Backwards."""
        a = a.reshape(-1, *self.out)
        full = np.zeros((len(a), *self.padded), dtype=a.dtype)
        for part, weight, places in self._places():
            full[places] += np.moveaxis(np.tensordot(weight, a[:, part], (0, 1)), 0, 1)
        top, left = self.pads[:2]
        return full[:, :, top : top + self.shape[1], left : left + self.shape[2]].reshape(len(a), -1)

    def absolute(self) -> Conv:
        """With |weight|."""
        return replace(self, weight=abs(self.weight))

    def exact(self, number: Any = exact) -> Conv:
        """In rationals."""
        return replace(self, weight=number(self.weight))


@dataclass(frozen=True, eq=False)
class Node:
    """One node.

    Attributes:
        kind: "input", "affine", "relu" (of its input) or "gate" (its input where the ReLU ``relu`` is on, else 0).
        size: entries.
        terms: by input, the node's number and the map (None where the value is taken as it is: ReLUs, gates).
        constant: of an affine node, ``(size,)`` or None.
        relu: of a gate, the number of its ReLU's node.
        first: the number of the first unit of a ReLU or gate.
    """

    kind: str
    size: int
    terms: tuple[tuple[int, Any], ...] = ()
    constant: Any = None
    relu: int = -1
    first: int = -1


class Graph:
    """Nodes in an order in which inputs come first; node 0 is the input.

    Attributes:
        outputs: the nodes that rows speak of, by name: "x", "y", and "g" for a gradient.
        asked: by node ``low, high (size,)``: between these is its value at every solution.
        units: how many ReLUs and gates there are; ``relus``: the first so many are ReLUs.
    """

    def __init__(self, inputs: int) -> None:
        self.nodes = [Node("input", inputs)]
        self.outputs = {"x": 0}
        self.asked: dict[int, tuple[Any, Any]] = {}
        self.units = self.relus = 0

    def affine(self, terms: list[tuple[int, Any]], size: int, constant: Any = None) -> int:
        """Add ``Σ map(node) + constant``; a constant alone is added to what the node before is made of."""
        if len(terms) == 1 and isinstance(terms[0][1], Sparse) and terms[0][1].identity:
            before = self.nodes[terms[0][0]]
            if before.kind == "affine" and before.constant is None:
                terms = list(before.terms)
        full = None if constant is None else np.broadcast_to(np.asarray(constant, dtype=np.float64).reshape(-1), size)
        self.nodes.append(Node("affine", size, tuple(terms), full))
        return len(self.nodes) - 1

    def relu(self, source: int) -> int:
        """Add a ReLU node."""
        size = self.nodes[source].size
        self.nodes.append(Node("relu", size, ((source, None),), first=self.units))
        self.units += size
        self.relus = self.units
        return len(self.nodes) - 1

    def gate(self, source: int, relu: int) -> int:
        """Add gates; all ReLUs come before."""
        size = self.nodes[source].size
        self.nodes.append(Node("gate", size, ((source, None),), relu=relu, first=self.units))
        self.units += size
        return len(self.nodes) - 1
