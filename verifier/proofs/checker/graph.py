"""A network as a graph of affine nodes, ReLUs and gates, and the linear maps between them.

Values are flat, many at once: ``(B, n)``. There is one kind of map, a product of gathered entries: entry (g, o, p) of the result is
the sum over k of ``weight[g, o, k]`` times entry ``index[g, k, p]`` of the value. A matrix has one g and one p; a sparse one a g
for every row; a convolution a p for every pixel, and a g for every group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

FEW = 8
"""A matrix with so many entries in each row at most is a sparse one."""


class CheckError(Exception):
    """A file that cannot be read or checked."""


@dataclass(frozen=True, eq=False)
class Map:
    """A linear map.

    Attributes:
        weight: ``(G, O, K)``.
        index: ``(G, K, P)``; -1 where nothing is taken.
        size: entries of what comes in.
        turned: it is the transpose of that.
    """

    weight: Any
    index: Any
    size: int
    turned: bool = False

    @cached_property
    def _back(self) -> tuple[Any, Any, Any]:
        """Where the gathered entries come from: in the order of the value's entries, the first one of each, and which these are."""
        flat = self.index.reshape(-1)
        order = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]
        entries, first = np.unique(flat[order], return_index=True)
        return order, first, entries

    @property
    def terms(self) -> int:
        """The most terms of a sum, forwards or backwards."""
        often = np.bincount(self._back[2].searchsorted(self.index[self.index >= 0]), minlength=1).max()
        return int(max(self.weight.shape[2], self.weight.shape[1] * often))

    @cached_property
    def _plain(self) -> bool:
        return self.index.shape == (1, self.size, 1) and np.array_equal(self.index[0, :, 0], np.arange(self.size))

    def apply(self, v: Any, back: bool = False) -> Any:
        """Forwards ``(B, n)`` to ``(B, m)``, or backwards: the transpose of it."""
        (groups, width, pixels), count = self.index.shape, len(v)
        if back == self.turned:
            taken = v if self._plain else np.append(v, np.zeros((count, 1), dtype=v.dtype), axis=1)[:, self.index]
            return self._times(self.weight.swapaxes(1, 2), taken.reshape(count, groups, width, pixels))
        spread = self._times(self.weight, v.reshape(count, groups, self.weight.shape[1], pixels))
        if self._plain:
            return spread
        order, first, entries = self._back
        out = np.zeros((count, self.size), dtype=spread.dtype)
        if len(entries):
            out[:, entries] = np.add.reduceat(spread[:, order], first, axis=1)
        return out

    @staticmethod
    def _times(weight: Any, v: Any) -> Any:
        """``v (B, G, a, P)`` by ``weight (G, a, b)``: ``(B, G b P)``."""
        if len(weight) > 1 and 1 in weight.shape[1:]:
            return np.einsum("rgap,gab->rgbp", v, weight).reshape(len(v), -1)
        if v.shape[3] == 1:
            return (v[..., 0].swapaxes(0, 1) @ weight).swapaxes(0, 1).reshape(len(v), -1)
        return (weight.swapaxes(1, 2) @ v).reshape(len(v), -1)

    def absolute(self) -> Map:
        """With |weight|."""
        return replace(self, weight=abs(self.weight))

    def negative(self) -> Map:
        """With -weight."""
        return replace(self, weight=-self.weight)


def through(m: Map | None, v: Any, back: bool = False) -> Any:
    """A value through a map; None is the identity."""
    return v if m is None else m.apply(v, back)


def select(index: Any, size: int, factor: Any = 1.0) -> Map:
    """Entry i of the result is ``factor[i]`` times entry ``index[i]``, or 0 where that is -1."""
    return Map(
        np.broadcast_to(np.asarray(factor, dtype=np.float64).reshape(-1, 1, 1), (len(index), 1, 1)),
        index[:, None, None],
        size,
    )


def matrix(weight: Any) -> Map:
    """``weight (m, n)`` as a map: sparse where each row has few entries."""
    (rows, size), most = weight.shape, int(np.count_nonzero(weight, axis=1).max(initial=0))
    if not 0 < most <= max(2, min(FEW, size // 2)):
        return Map(np.ascontiguousarray(weight)[None], np.arange(size)[None, :, None], size)
    row, column = np.nonzero(weight)
    place = np.arange(len(row)) - np.searchsorted(row, row)
    index, factor = np.full((rows, most, 1), -1), np.zeros((rows, 1, most))
    index[row, place, 0], factor[row, 0, place] = column, weight[row, column]
    return Map(factor, index, size)


@dataclass(frozen=True, eq=False)
class Node:
    """One node.

    Attributes:
        kind: "input", "affine", "relu" (of its input) or "gate" (its input where the ReLU ``relu`` is on, else 0).
        size: entries.
        terms: the numbers of the nodes that it is made of, each with its map (None: the identity).
        constant: of an affine node ``(size,)``, else 0.
        relu: of a gate, the number of its ReLU's node; of a ReLU, its own.
        part: of a ReLU or gate, the numbers of its units.
    """

    kind: str
    size: int
    terms: tuple[tuple[int, Map | None], ...] = ()
    constant: Any = 0.0
    relu: int = -1
    part: slice = field(default_factory=lambda: slice(0))


class Graph:
    """Nodes in an order in which inputs come first; node 0 is the input.

    Attributes:
        outputs: the nodes that rows speak of, by name: "x", "y", and "g" for a gradient.
        asked: by node ``low, high (size,)``: between these is its value at every solution.
        inversion, rounds: what follows for phases from what is asked of a gradient, and how often at most that is gone through.
        units: how many ReLUs and gates there are; ``relus``: the first so many are ReLUs.
    """

    def __init__(self, inputs: int) -> None:
        self.nodes = [Node("input", inputs)]
        self.outputs = {"x": 0}
        self.asked: dict[int, tuple[Any, Any]] = {}
        self.inversion: Callable[[Any, Any], None] | None = None
        self.rounds = 0
        self.units = self.relus = 0

    def affine(self, terms: list[tuple[int, Map | None]], size: int, constant: Any = 0.0) -> int:
        """Add ``Σ map(node) + constant``; a constant alone is added to what the node before is made of."""
        before = self.nodes[terms[0][0]] if len(terms) == 1 and terms[0][1] is None else self.nodes[0]
        if before.kind == "affine" and not before.constant.any():
            terms = list(before.terms)
        full = np.broadcast_to(np.asarray(constant, dtype=np.float64).reshape(-1), size)
        self.nodes.append(Node("affine", size, tuple(terms), full))
        return len(self.nodes) - 1

    def unit(self, source: int, relu: int = -1) -> int:
        """Add ReLUs of a node's value, or gates of the ReLUs of a node; all ReLUs come before all gates."""
        size, number = self.nodes[source].size, len(self.nodes)
        part = slice(self.units, self.units + size)
        kind, own = ("relu", number) if relu < 0 else ("gate", relu)
        self.nodes.append(Node(kind, size, ((source, None),), relu=own, part=part))
        self.units = part.stop
        self.relus = self.units if relu < 0 else self.relus
        return number

    def rectified(self, source: int) -> int:
        """ReLUs of a node's value, as a node. Where an entry z of few terms is minus an earlier one, ``relu(z) = relu(-z) + z``: its own
        ReLU is left unused."""
        node, number, twins, seen = self.nodes[source], self.unit(source), dict[int, int](), dict[Any, int]()
        m = node.terms[0][1] if len(node.terms) == 1 else None
        if m is None or m.turned or m.weight.shape[1] > 1 or m.index.shape[2] > 1:
            return number
        for k, (taken, factors, constant) in enumerate(zip(m.index, m.weight + 0.0, node.constant, strict=True)):
            own, other = ((taken.tobytes(), *(sign * factors + 0.0).ravel(), sign * constant + 0.0) for sign in (1, -1))
            if other in seen:
                twins[k] = seen[other]
            seen.setdefault(own, k)
        if not twins:
            return number
        first, added = np.arange(node.size), np.full(node.size, -1)
        first[list(twins)], added[list(twins)] = list(twins.values()), list(twins)
        return self.affine([(number, select(first, node.size)), (source, select(added, node.size))], node.size)
