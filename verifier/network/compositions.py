"""Layers in terms of functions of one variable, products and sums: what all readers make of what is curved or jumps."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import TypeAlias

import numpy as np

from verifier.errors import UnsupportedOperatorError
from verifier.network import curves
from verifier.network.assembly import Assembler
from verifier.network.curved import Smooth
from verifier.network.curves import Curve, Line
from verifier.network.operators import Array
from verifier.network.piecewise import absolute, relu
from verifier.network.tensors import Jump, Masked, Value

LARGEST_SUM = 1 << 20
"""Products, or exponentials, that one operator may need."""
SOFTSIGN_DIVISOR = curves.of_operator(absolute()).shifted(Fraction(1))
"""``1 + |z|``."""
Operand: TypeAlias = Value | Jump | Array


def as_node(build: Assembler, operand: Operand, name: str) -> Value | Array:
    """An operand with a node of its own, where it is a function with jumps."""
    return build.materialised(operand, f"{name}/steps") if isinstance(operand, Jump) else operand


def power(build: Assembler, value: Value, n: float, name: str) -> Value:
    """``value ** n``."""
    if n == 1:
        return value
    if n == 0:
        return build.affine(value, 0.0, 1.0, name)
    if n in (-1.0, 0.5):
        return build.smooth(value, "Reciprocal" if n < 0 else "Sqrt", (), name)
    return build.smooth(value, "Power", (n,), name)


def exponential(build: Assembler, base: Array, value: Value, name: str) -> Value:
    """``base ** value`` for positive bases, with the broadcasting of numpy.

    Raises:
        UnsupportedOperatorError: a base that is not positive.
    """
    if (base <= 0).any():
        raise UnsupportedOperatorError("a power of a base that is not positive")
    return build.smooth(build.affine(value, np.log(base), 0.0, f"{name}/log"), "Exp", (), name)


def quotient(build: Assembler, first: Value | Array, second: Value, name: str) -> Value:
    """``first / second``.

    Shapes: shapes that numpy broadcasts.
    """
    if isinstance(first, Value) and dict(build.functions(second)).get(first.name) == SOFTSIGN_DIVISOR:
        return build.smooth(first, "Softsign", (), name)
    inverse = build.smooth(second, "Reciprocal", (), f"{name}/reciprocal")
    if isinstance(first, Value):
        return build.product(first, inverse, name)
    return build.affine(inverse, np.asarray(first, dtype=np.float64), 0.0, name)


def elu(build: Assembler, value: Value, alpha: float, width: float, scale: float, name: str) -> Value:
    """``scale · z`` for z > 0, else ``scale · alpha · (exp(z / width) - 1)``: ELU, CELU and SELU."""
    if 0 < alpha <= width:  # one convex function
        return build.affine(build.smooth(value, "Elu", (alpha, width), f"{name}/elu"), scale, 0.0, name)
    above = build.affine(build.apply(relu(), value, f"{name}/above"), scale, 0.0, f"{name}/right")
    turned = build.affine(value, -1.0 / width, 0.0, f"{name}/turned")
    below = build.affine(build.apply(relu(), turned, f"{name}/below"), -1.0, 0.0, f"{name}/left")
    bent = build.smooth(below, "Exp", (), f"{name}/exp")
    return build.add_values([above, build.affine(bent, scale * alpha, -scale * alpha, f"{name}/curved")], (1, 1), name)


def hard_swish(build: Assembler, value: Value, name: str) -> Value:
    """``z · min(max(z / 6 + 1/2, 0), 1)``."""
    gate = build.clip(build.affine(value, 1 / 6, 0.5, f"{name}/line"), 0.0, 1.0, f"{name}/gate")
    return build.product(value, gate, name)


def masked(build: Assembler, value: Value, mask: Array, name: str) -> Value | Masked:
    """``value + mask``, where the mask may be minus infinity.

    Shapes: mask: a shape that numpy broadcasts with the value's.

    Raises:
        UnsupportedOperatorError: it is infinite otherwise.
    """
    if np.isnan(mask).any() or np.isposinf(mask).any():
        raise UnsupportedOperatorError("a sum with NaN or infinity is not supported")
    left_out = np.isneginf(mask)
    made = build.affine(value, 1.0, np.where(left_out, 0.0, mask), name)
    return Masked(made, np.broadcast_to(~left_out, made.shape)) if left_out.any() else made


def softmax(
    build: Assembler, value: Value | Masked, axes: Sequence[int], name: str, *, logarithm: bool = False
) -> Value:
    """Softmax over some axes together, ``1 / Σ_j exp(z_j - z_i)``; or its logarithm, minus that of the sum.

    Raises:
        UnsupportedOperatorError: it needs more than `LARGEST_SUM` exponentials, or takes the logarithm of 0.
    """
    kept = None
    if isinstance(value, Masked):
        kept, value = value.kept.astype(np.float64), value.value
        if logarithm:
            raise UnsupportedOperatorError("LogSoftmax of minus infinity is not supported")
    rank = len(value.shape)
    over = sorted(a % rank for a in axes)
    index = np.arange(value.size).reshape(value.shape)
    rows = index.transpose([a for a in range(rank) if a not in over] + over).reshape(
        -1, prod(value.shape[a] for a in over)
    )
    count, size = rows.shape
    if count * size * size > LARGEST_SUM:
        raise UnsupportedOperatorError(f"Softmax over {size} entries, {count} times, is too large")
    pairs = build.select(value, np.repeat(rows[:, None, :], size, axis=1), f"{name}/all")
    own = build.select(value, np.repeat(rows[:, :, None], size, axis=2), f"{name}/own")
    difference = build.add_values([pairs, own], (1, -1), f"{name}/difference")
    powers = build.smooth(difference, "Exp", (), f"{name}/exp")
    if kept is not None:
        powers = build.affine(powers, kept.reshape(-1)[rows][:, None, :], 0.0, f"{name}/kept")
    sums = build.reduced(powers, [2], False, f"{name}/sums", kind="sum")
    if logarithm:
        made = build.affine(build.smooth(sums, "Log", (), f"{name}/log"), -1.0, 0.0, f"{name}/negative")
    else:
        made = build.smooth(sums, "Reciprocal", (), f"{name}/reciprocal")
    if kept is not None:
        made = build.affine(made, kept.reshape(-1)[rows], 0.0, f"{name}/shares")
    back = np.empty(value.size, dtype=np.int64)
    back[rows.reshape(-1)] = np.arange(value.size)
    return build.select(made, back.reshape(value.shape), name)


def norm(
    build: Assembler,
    value: Value,
    axes: Sequence[int],
    keep: bool,
    name: str,
    *,
    inner: tuple[str, tuple[float, ...]] | None,
    outer: str | None,
) -> Value:
    """A function of the sum over some axes of a function of the entries: the Euclidean norm, the logarithm of a sum of powers …"""
    if inner is not None:
        value = build.smooth(value, *inner, f"{name}/entries")
    total = build.reduced(value, axes, keep, f"{name}/sum", kind="sum")
    return total if outer is None else build.smooth(total, outer, (), name)


def spread(
    build: Assembler, value: Value, axes: Sequence[int], name: str, *, centred: bool = True, less: int = 0
) -> tuple[Value, Value]:
    """The entries less their mean over some axes, and their mean square there (axes kept); ``less``: Bessel's correction."""
    if centred:
        mean = build.reduced(value, axes, True, f"{name}/mean", kind="mean")
        means = build.broadcast(mean, value.shape, f"{name}/means")
        value = build.add_values([value, means], (1, -1), f"{name}/centred")
    squares = build.smooth(value, "Power", (2.0,), f"{name}/squares")
    variance = build.reduced(squares, axes, True, f"{name}/variance", kind="mean")
    count = prod(value.shape[a] for a in axes)
    if less:
        variance = build.affine(variance, count / (count - less), 0.0, f"{name}/corrected")
    return value, variance


def normalised(
    build: Assembler, value: Value, axes: Sequence[int], epsilon: float, name: str, *, centred: bool = True
) -> Value:
    """Entries less their mean over some axes (if ``centred``), over the root of their mean square plus ``epsilon``."""
    shown, variance = spread(build, value, axes, name, centred=centred)
    factor = build.smooth(build.affine(variance, 1.0, epsilon, f"{name}/shifted"), "Power", (-0.5,), f"{name}/factor")
    return build.product(shown, build.broadcast(factor, value.shape, f"{name}/factors"), f"{name}/normal")


def gated(build: Assembler, first: Value, second: Value, name: str) -> Value | None:
    """``z · sigmoid(z)`` and ``z · (1 + erf(z / √2))`` as the functions that they are; None for other products."""
    for value, gate in ((first, second), (second, first)):
        made = build.made_by(gate.name)
        if made is None or value.shape != gate.shape:
            continue
        operator, (source,) = made
        if isinstance(operator, Smooth) and operator.label == "Sigmoid" and source == value.name:
            return build.smooth(value, "Silu", (), name)
        scale, shift, inner = build.line_of(gate.name)
        made = build.made_by(inner)
        if made is None or not isinstance(made[0], Smooth) or made[0].label != "Erf" or scale != shift:
            continue
        beta, offset, source = build.line_of(made[1][0])
        if source == value.name and offset == 0 and beta > 0:
            return build.affine(build.smooth(value, "Gelu", (beta,), f"{name}/gelu"), 2.0 * scale, 0.0, name)
    return None


def times(build: Assembler, first: Value, second: Value, name: str) -> Value:
    """The product of two tensors, as the function of one that it may be."""
    return gated(build, first, second, name) or build.product(first, second, name)


# -- truths ----------------------------------------------------------------------------------------------
def compared(build: Assembler, kind: str, first: Operand, second: Operand, name: str) -> Value | Jump:
    """A comparison (of `verifier.network.curves.COMPARISONS`): the truth of the difference against 0."""
    inner = f"{name}/difference"
    difference = build.combined(curves.minus, [first, second], inner)
    if difference is None:
        a, b = (as_node(build, o, name) for o in (first, second))
        if isinstance(a, Value) and isinstance(b, Value):
            difference = build.add_values([a, b], (1, -1), inner)
        elif isinstance(a, Value):
            difference = build.affine(a, 1.0, -np.asarray(b), inner)
        else:
            assert isinstance(b, Value)
            difference = build.affine(b, -1.0, np.asarray(a), inner)
    return build.through(curves.COMPARISONS[kind], difference, name)


def logic(build: Assembler, kind: str, first: Operand, second: Operand, name: str) -> Value | Jump:
    """And, Or and Xor of truth values: exact as functions of one tensor, by arithmetic of different ones."""

    def truth(one: Line, other: Line) -> Line:
        a, b = one[1], other[1]
        return Fraction(0), {"And": a * b, "Or": a + b - a * b, "Xor": a + b - 2 * a * b}[kind]

    found = build.combined(truth, [first, second], name)
    if isinstance(found, Jump):
        return Jump(found.root, found.shape, Curve(found.curve.breaks, found.curve.lines, found.curve.at, True))
    return _logic_of_nodes(build, kind, [as_node(build, o, name) for o in (first, second)], name)


def _logic_of_nodes(build: Assembler, kind: str, operands: list[Value | Array], name: str) -> Value:
    """max(a + b - 1, 0), min(a + b, 1), |a - b| of values 0 and 1."""
    full = np.broadcast_shapes(*(o.shape for o in operands))
    values = [build.broadcast(o, full, name) for o in operands if isinstance(o, Value)]
    constant: Array = sum((o.astype(np.float64) for o in operands if isinstance(o, np.ndarray)), np.zeros(()))
    if kind == "Xor":
        signs = (1, -1)[: len(values)]
        total = values[0] if len(values) == 1 else build.add_values(values, signs, f"{name}/difference")
        return build.apply(absolute(), build.affine(total, 1.0, -constant, f"{name}/shifted"), name)
    total = values[0] if len(values) == 1 else build.add_values(values, (1, 1), f"{name}/sum")
    if kind == "And":
        return build.apply(relu(), build.affine(total, 1.0, constant - 1.0, f"{name}/shifted"), name)
    return build.clip(build.affine(total, 1.0, constant, f"{name}/shifted"), -np.inf, 1.0, name)


def chosen(build: Assembler, condition: Value | Jump, first: Operand, second: Operand, name: str) -> Value | Jump:
    """``first`` where the condition is true, else ``second``.

    Of one tensor a function of its entries; by a condition on another one ``second + condition · (first - second)``.
    """
    found = build.combined(curves.chosen, [condition, first, second], name)
    if found is not None:
        return found
    truth = as_node(build, condition, name)
    assert isinstance(truth, Value)
    a, b = as_node(build, first, name), as_node(build, second, name)
    full = np.broadcast_shapes(truth.shape, a.shape, b.shape)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return build.affine(truth, a - b, b, name)
    ends = [build.broadcast(o, full, name) if isinstance(o, Value) else np.broadcast_to(o, full) for o in (a, b)]
    inner = f"{name}/difference"
    if isinstance(ends[0], Value) and isinstance(ends[1], Value):
        difference = build.add_values([ends[0], ends[1]], (1, -1), inner)
    elif isinstance(ends[0], Value):
        difference = build.affine(ends[0], 1.0, -np.asarray(ends[1]), inner)
    else:
        assert isinstance(ends[1], Value)
        difference = build.affine(ends[1], -1.0, np.asarray(ends[0]), inner)
    moved = build.product(truth, difference, f"{name}/moved")
    if isinstance(ends[1], Value):
        return build.add_values([ends[1], moved], (1, 1), name)
    return build.affine(moved, 1.0, np.asarray(ends[1]), name)
