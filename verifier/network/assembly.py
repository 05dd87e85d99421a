"""What all readers share: a graph of framework tensors is rewritten into the small operator set.

Framework tensors carry a batch axis that a `Network` does not have. Readers therefore fix the batch to 1 and
follow each tensor's *full* shape, while the network's node keeps a shape of its own with the same number of
entries in the same row-major order. A reshape of any kind then only changes the full shape; a `Reshape` node
appears where an operator needs another arrangement. Every other movement of data (transpose, slice, gather,
split, expand ...) is found by letting the framework's own operator move an array of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import prod
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.lazy import sp
from verifier.network import curves
from verifier.network.activation import Activation
from verifier.network.curved import Product, Smooth
from verifier.network.curves import Curve, Line
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import (
    Array,
    Concat,
    Dense,
    Operator,
    Reshape,
    Scale,
    Select,
    Shape,
    Sum,
)
from verifier.network.piecewise import MaxPool, PiecewiseLinear, clip, leaky_relu, relu
from verifier.network.steps import Jumping, sign
from verifier.network.tensors import Jump, Value, Weight, without_batch


def _uniform(scale: Array, shift: Array) -> Line | None:
    """Slope and intercept, if all entries have the same."""
    ends = [a.reshape(-1) for a in (scale, shift)]
    if any(not a.size or (a != a[0]).any() or not np.isfinite(a[0]) for a in ends):
        return None
    return Fraction(float(ends[0][0])), Fraction(float(ends[1][0]))


class Assembler:
    """Builds a network from framework tensors; the methods name what a framework's operators do.

    Args:
        shape: full shape of the input, batch axis included.
        source: the file or module, for messages.

    Attributes:
        remarks: what a user must know of how the graph was read, in turn.
    """

    def __init__(self, shape: Shape, *, input_name: str, source: str) -> None:
        self.builder = NetworkBuilder(without_batch(shape), input_name=input_name, source=source)
        self.input = Value(input_name, shape)
        self._views: dict[tuple[str, Shape], str] = {}
        self._names = {input_name}
        self._made_from: dict[str, tuple[str, Curve]] = {}
        self._materialised: dict[Jump, Value] = {}
        self.remarks: dict[str, None] = {}

    def finish(self, value: Value, name: str) -> Network:
        """The network whose output is this value, without its batch axis."""
        return self.builder.build(self.view(value, without_batch(value.shape), name))

    # -- the plain parts ---------------------------------------------------------------------------------
    def add(self, operator: Operator, *inputs: str, name: str) -> str:
        """Append an operator under this name, or the next free one like it; the node's name."""
        free, k = name, 1
        while free in self._names:
            free, k = f"{name}/{k}", k + 1
        self._names.add(free)
        return self.builder.add(operator, *inputs, name=free)

    def view(self, value: Value, shape: Shape, name: str) -> str:
        """A node with the value's entries in this shape."""
        held = self.builder.shape(value.name)
        if held == shape:
            return value.name
        key = (value.name, shape)
        if key not in self._views:
            self._views[key] = self.add(Reshape(shape), value.name, name=f"{name}/view")
        return self._views[key]

    def move(self, value: Value, movement: Callable[[npt.NDArray[np.int64]], Any], name: str) -> Value:
        """What ``movement`` makes of the value: it is given the flat positions of the entries in full shape.

        A position of -1 in what it returns is a zero.
        """
        index = np.asarray(movement(np.arange(value.size, dtype=np.int64).reshape(value.shape)), dtype=np.int64)
        return self.select(value, index, name)

    def select(self, value: Value, index: npt.NDArray[np.int64], name: str, fill: float = 0.0) -> Value:
        """The entries at these flat positions, in the index's shape; ``fill`` where it is -1."""
        if index.size == value.size and np.array_equal(index.reshape(-1), np.arange(value.size)):
            return Value(value.name, index.shape)
        operator = Select(np.ascontiguousarray(index.reshape(without_batch(index.shape))), fill)
        return Value(self.add(operator, value.name, name=name), index.shape)

    def rearrange(self, parts: Sequence[Value | Array], index: npt.NDArray[np.int64], name: str) -> Value:
        """Entries of several tensors, values and constants, in a new order.

        Args:
            parts: at least one is a value.
            index: of the result's shape: flat positions, counted through all parts in turn; -1 is a zero.
        """
        if len(parts) == 1 and isinstance(parts[0], Value):
            return self.select(parts[0], index, name)
        starts = np.cumsum([0, *(p.size for p in parts)])
        part_of = np.searchsorted(starts, index, side="right") - 1  # -1 where the index is
        used = [k for k in range(len(parts)) if (part_of == k).any()]
        values = [k for k in used if isinstance(parts[k], Value)] or [
            next(k for k, p in enumerate(parts) if isinstance(p, Value))
        ]
        moved, shift, start = np.full(index.shape, -1, dtype=np.int64), np.zeros(index.shape), 0
        for k in used:
            part, here = parts[k], part_of == k
            if isinstance(part, Value):
                moved[here] = index[here] - starts[k] + start
                start += part.size
            else:
                shift[here] = part.reshape(-1)[index[here] - starts[k]]
        held = [parts[k] for k in values]
        joined = held[0]
        assert isinstance(joined, Value)
        if len(held) > 1:
            flat = [self.view(v, (v.size,), name) for v in held if isinstance(v, Value)]
            joined = Value(self.add(Concat(0), *flat, name=f"{name}/joined"), (start,))
        return self.affine(self.select(joined, moved, name), 1.0, shift, name)

    def broadcast(self, value: Value, shape: Shape, name: str) -> Value:
        """The value spread over a larger shape, as numpy does."""
        return self.move(value, lambda index: np.broadcast_to(index, shape), name)

    # -- elementwise -------------------------------------------------------------------------------------
    @overload
    def apply(self, operator: Activation, value: Value, name: str) -> Value: ...
    @overload
    def apply(self, operator: Activation, value: Value | Jump, name: str) -> Value | Jump: ...
    def apply(self, operator: Activation, value: Value | Jump, name: str) -> Value | Jump:
        """An elementwise operator."""
        if not isinstance(operator, PiecewiseLinear):
            value = self.materialised(value, f"{name}/steps") if isinstance(value, Jump) else value
            return Value(self.add(operator, value.name, name=name), value.shape)
        if isinstance(value, Jump):
            return self._settled(value.root, value.shape, curves.of_operator(operator).after(value.curve), name)
        made = Value(self.add(operator, value.name, name=name), value.shape)
        self._made_from[made.name] = value.name, curves.of_operator(operator)
        return made

    @overload
    def affine(self, value: Value, scale: Array | float, shift: Array | float, name: str) -> Value: ...
    @overload
    def affine(self, value: Value | Jump, scale: Array | float, shift: Array | float, name: str) -> Value | Jump: ...
    def affine(self, value: Value | Jump, scale: Array | float, shift: Array | float, name: str) -> Value | Jump:
        """``scale * value + shift``, with the broadcasting of numpy.

        Raises:
            UnsupportedOperatorError: different numbers for the entries of a tensor that jumps.
        """
        scale, shift = np.asarray(scale, dtype=np.float64), np.asarray(shift, dtype=np.float64)
        line = _uniform(scale, shift)
        if isinstance(value, Jump):
            if line is None or len(np.broadcast_shapes(scale.shape, shift.shape)) > len(value.shape):
                raise UnsupportedOperatorError("different numbers for the entries of a tensor that jumps")
            return self._settled(value.root, value.shape, curves.affine(*line).after(value.curve), name)
        full = np.broadcast_shapes(value.shape, scale.shape, shift.shape)
        value = self.broadcast(value, full, name)
        if (scale == 1.0).all() and (shift == 0.0).all():
            return value
        held = self.builder.shape(value.name)
        spread = [np.ascontiguousarray(np.broadcast_to(a, full)).reshape(held) for a in (scale, shift)]
        made = Value(self.add(Scale(spread[0], spread[1]), value.name, name=name), full)
        if line is not None:
            self._made_from[made.name] = value.name, curves.affine(*line)
        return made

    def through(self, outer: Curve, value: Value | Jump, name: str) -> Value | Jump:
        """A function of every entry, with jumps or without."""
        root, inner = next(self.functions(value))
        return self._settled(root, value.shape, outer.after(inner), name)

    def combined(
        self, function: Callable[..., Line | None], operands: Sequence[Value | Jump | Array], name: str
    ) -> Value | Jump | None:
        """A function of the affine pieces of several tensors (`curves.combined`).

        None where they are not all functions of the entries of one node, or constants with one number, or the function
        has no value.
        """
        full = np.broadcast_shapes(*(o.shape for o in operands))
        computed = [o for o in operands if not isinstance(o, np.ndarray)]
        if not computed or any(o.shape != full for o in computed):
            return None
        known = [dict(self.functions(o)) for o in computed]
        root = next((r for r in known[0] if all(r in k for k in known[1:])), None)
        if root is None:
            return None
        parts: list[Curve] = []
        functions = iter(known)
        for o in operands:
            if isinstance(o, np.ndarray):
                line = _uniform(np.zeros(()), o.astype(np.float64))
                if line is None:
                    return None
                parts.append(curves.affine(*line))
            else:
                parts.append(next(functions)[root])
        found = curves.combined(function, *parts)
        return None if found is None else self._settled(root, full, found, name)

    def functions(self, value: Value | Jump) -> Iterator[tuple[str, Curve]]:
        """Of which nodes' entries a tensor is a function, the nearest first, while that is short."""
        root, curve = (value.root, value.curve) if isinstance(value, Jump) else (value.name, curves.IDENTITY)
        while True:
            yield root, curve
            if root not in self._made_from:
                return
            root, inner = self._made_from[root]
            if len(curve.breaks) * (len(inner.breaks) + 1) > curves.MOST_BREAKS:
                return
            curve = curve.after(inner)

    def smooth(self, value: Value, label: str, parameters: tuple[float, ...], name: str) -> Value:
        """A function of `verifier.network.curved.FUNCTIONS`, entry by entry."""
        return self.apply(Smooth(label, parameters), value, name)

    def product(self, first: Value, second: Value, name: str) -> Value:
        """The product of two tensors, with the broadcasting of numpy."""
        full = np.broadcast_shapes(first.shape, second.shape)
        first, second = (self.broadcast(v, full, f"{name}/spread") for v in (first, second))
        if first.name == second.name:
            return self.smooth(first, "Power", (2.0,), name)
        size = first.size
        flat = [self.view(v, (size,), name) for v in (first, second)]
        both = self.add(Concat(0), *flat, name=f"{name}/factors")
        halves = self.add(Reshape((2, size)), both, name=f"{name}/halves")
        return Value(self.add(Product(), halves, name=name), full)

    def made_by(self, name: str) -> tuple[Operator, tuple[str, ...]] | None:
        """The operator of a node with one input, and that input."""
        node = self.builder.node(name)
        return (node.operator, node.inputs) if len(node.inputs) == 1 else None

    def line_of(self, name: str) -> tuple[float, float, str]:
        """Scale, shift and source of a node that is the same line of all entries of another; else 1, 0 and itself."""
        scale, shift = 1.0, 0.0
        while True:
            node = self.builder.node(name)
            operator = node.operator
            if not isinstance(operator, Scale):
                return scale, shift, name
            line = _uniform(operator.scale, operator.shift)
            if line is None:
                return scale, shift, name
            scale, shift, name = scale * float(line[0]), shift + scale * float(line[1]), node.inputs[0]

    def materialised(self, jump: Jump, name: str) -> Value:
        """A function with jumps as a node of its own.

        Raises:
            UnsupportedOperatorError: its numbers are no floats.
        """
        if jump in self._materialised:
            return self._materialised[jump]
        curve = jump.curve
        values = [slope * b + intercept for b, (slope, intercept) in zip(curve.breaks, curve.at, strict=True)]
        numbers = [*curve.breaks, *(v for line in curve.lines for v in line), *values]
        if not curve.breaks or len(curve.breaks) > curves.MOST_BREAKS or any(Fraction(float(v)) != v for v in numbers):
            raise UnsupportedOperatorError(f"a step function with {len(curve.breaks)} jumps or rounded numbers")
        slopes, intercepts = (tuple(map(float, part)) for part in zip(*curve.lines, strict=True))
        operator = Jumping(tuple(map(float, curve.breaks)), slopes, intercepts, tuple(map(float, values)))
        if (operator.breaks, operator.intercepts, operator.values) == ((0.0,), (-1.0, 1.0), (0.0,)):
            operator = sign()
        made = Value(self.add(operator, jump.root, name=name), jump.shape)
        self._materialised[jump] = made
        return made

    def _settled(self, root: str, shape: Shape, curve: Curve, name: str) -> Value | Jump:
        """A function of a node's entries as a value, if it is continuous."""
        operator = None if curve.logical else curve.operator()
        if operator is not None:
            return self.apply(operator, Value(root, shape), name)
        if not curve.logical and not curve.breaks:
            slope, intercept = (float(v) for v in curve.lines[0])
            if curves.affine(Fraction(slope), Fraction(intercept)).lines == curve.lines:
                return self.affine(Value(root, shape), slope, intercept, name)
        return Jump(root, shape, curve)

    def add_values(self, values: Sequence[Value], signs: Sequence[int], name: str) -> Value:
        """The sum (or difference) of several values, with the broadcasting of numpy."""
        full = np.broadcast_shapes(*(v.shape for v in values))
        spread = [self.broadcast(v, full, name) for v in values]
        shape = without_batch(full)
        nodes = [self.view(v, shape, name) for v in spread]
        return Value(self.add(Sum(tuple(signs)), *nodes, name=name), full)

    def leaky(self, value: Value, slope: Array, name: str) -> Value:
        """z where z > 0, else slope * z, one slope for all or one for each entry (PRelu)."""
        slope = np.asarray(slope, dtype=np.float64)
        if slope.size and (slope == slope.flat[0]).all():
            s = float(slope.flat[0])
            if s == 1.0:
                return value
            return self.apply(relu() if s == 0.0 else leaky_relu(s), value, name)
        # slope * z + (1 - slope) * relu(z): at z = 0 its gradient is the slope, as the convention wants
        active = self.affine(self.apply(relu(), value, f"{name}/relu"), 1.0 - slope, 0.0, f"{name}/active")
        return self.add_values([self.affine(value, slope, 0.0, f"{name}/all"), active], (1, 1), name)

    def clip(self, value: Value, low: float, high: float, name: str) -> Value:
        """min(max(value, low), high)."""
        if low == -np.inf and high == np.inf:
            return value
        if low == 0.0 and high == np.inf:
            return self.apply(relu(), value, name)
        return self.apply(clip(low, high), value, name)

    def larger(self, first: Value, second: Value, name: str, sign: int = 1) -> Value:
        """max(first, second), or min for ``sign = -1``: first ± relu(±(second - first))."""
        difference = self.add_values([second, first], (sign, -sign), f"{name}/difference")
        excess = self.apply(relu(), difference, f"{name}/excess")
        return self.add_values([first, excess], (1, sign), name)

    def clip_by(self, value: Value, bound: Array, name: str, sign: int) -> Value:
        """max(value, bound) for ``sign = 1``, min for ``sign = -1``, with one bound for each entry."""
        bound = np.asarray(bound, dtype=np.float64)
        if bound.size and (bound == bound.flat[0]).all():
            b = float(bound.flat[0])
            full = np.broadcast_shapes(value.shape, bound.shape)
            ends = (b, np.inf) if sign > 0 else (-np.inf, b)
            return self.clip(self.broadcast(value, full, name), *ends, name=name)
        above = self.affine(value, sign, -sign * bound, f"{name}/difference")
        return self.affine(self.apply(relu(), above, f"{name}/excess"), sign, bound, name)

    # -- matrices ----------------------------------------------------------------------------------------
    def times_matrix(self, value: Value, matrix: Weight, bias: Array | None, name: str) -> Value:
        """``value @ matrix.T + bias`` over the last axis; ``matrix`` is ``(outputs, inputs)``.

        Raises:
            NetworkError: a tensor that does not fit the matrix.
        """
        outputs, inputs = matrix.shape
        if value.shape[-1] != inputs:
            raise NetworkError(f"a tensor of shape {value.shape} cannot meet a weight of {inputs} inputs")
        node = self.view(value, without_batch(value.shape), name)
        constant = np.zeros(outputs) if bias is None else np.asarray(bias, dtype=np.float64)
        # contiguous, whatever transposition it came from: products with it are then fast
        weight: Any = matrix if sp.issparse(matrix) else np.ascontiguousarray(matrix)
        return Value(self.add(Dense(weight, constant), node, name=name), (*value.shape[:-1], outputs))

    def matrix_times(self, matrix: Weight, value: Value, name: str) -> Value:
        """``matrix @ value`` over the last two axes (the last one, if there is only one)."""
        if len(value.shape) == 1:
            return self.times_matrix(value, matrix, None, name)
        turned = self.move(value, lambda i: i.swapaxes(-1, -2), f"{name}/turned")
        product = self.times_matrix(turned, matrix, None, f"{name}/product")
        return self.move(product, lambda i: i.swapaxes(-1, -2), name)

    # -- sums and maxima over axes ------------------------------------------------------------------------
    def rows_over(self, value: Value, axes: Sequence[int], name: str) -> tuple[Value, list[int], list[int]]:
        """The value as ``(rows, entries)``, the entries along some axes last; the axes kept, and those gone over."""
        rank = len(value.shape)
        over = sorted({a % rank for a in axes})
        kept = [a for a in range(rank) if a not in over]
        turned = self.move(value, lambda index: index.transpose(kept + over), f"{name}/turned")
        shape = prod(value.shape[a] for a in kept), prod(value.shape[a] for a in over)
        return Value(turned.name, shape), kept, over

    def reduced(self, value: Value, axes: Sequence[int], keep: bool, name: str, *, kind: str) -> Value:
        """The "sum", "mean", "max" or "min" over some axes, which stay with size 1 if ``keep``."""
        rows, kept, over = self.rows_over(value, axes, name)
        count = rows.shape[1]
        if kind in ("sum", "mean"):
            made = self.times_matrix(rows, np.full((1, count), 1.0 / count if kind == "mean" else 1.0), None, name)
        else:
            made = self.greatest(rows, name, 1 if kind == "max" else -1)
        sizes = [1 if a in over else d for a, d in enumerate(value.shape)]
        return Value(made.name, tuple(sizes) if keep else tuple(value.shape[a] for a in kept))

    def greatest(self, rows: Value, name: str, sign: int = 1) -> Value:
        """The greatest entry of each row ``(rows, entries)``, or the least for ``sign = -1``."""
        if rows.shape[1] == 1:
            return rows
        signed = self.affine(rows, sign, 0.0, f"{name}/negative")
        node = self.view(signed, (1, *rows.shape), name)
        made = self.add(MaxPool((1, rows.shape[1]), (1, rows.shape[1])), node, name=f"{name}/max" if sign < 0 else name)
        return self.affine(Value(made, rows.shape[:1]), sign, 0.0, name)

    def concatenated(self, parts: Sequence[Value | Array], axis: int, name: str) -> Value:
        """Tensors one after the other along an axis; at least one is a value."""
        rank = len(parts[0].shape)
        axis %= rank
        values = [p for p in parts if isinstance(p, Value)]
        if len(values) < len(parts):
            starts = np.cumsum([0, *(p.size for p in parts)])
            places = [np.arange(s, s + p.size).reshape(p.shape) for s, p in zip(starts, parts, strict=False)]
            return self.rearrange(parts, np.concatenate(places, axis), name)
        if len(values) == 1:
            return values[0]
        trimmed = axis > 0 and all(v.shape[0] == 1 for v in values)
        nodes = [self.view(v, v.shape[1:] if trimmed else v.shape, name) for v in values]
        total = (*values[0].shape[:axis], sum(v.shape[axis] for v in values), *values[0].shape[axis + 1 :])
        return Value(self.add(Concat(axis - 1 if trimmed else axis), *nodes, name=name), total)
