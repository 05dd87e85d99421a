"""Exact truth by enumeration: the linear regions of a small ReLU network as polytopes with rational vertices.

Everything is written anew in fractions, without the package's own arithmetic, bounds or solvers. A region is one choice
of active (z > 0) and inactive (z <= 0) for every neuron, which is the gradient convention; its closure is a polytope that
is cut out of the box neuron by neuron and kept as vertices with the constraints that are tight there (the double
description method: two vertices are joined by an edge if no other vertex has all the tight constraints that they share).
Strict constraints hold somewhere on a polytope if each is positive at some vertex: the mean of such points meets all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction as F

Affine = tuple[tuple[F, ...], F]
"""Coefficients over x, and a constant."""


def at(function: Affine, x: Sequence[F]) -> F:
    """The value at a point."""
    return sum((a * v for a, v in zip(function[0], x, strict=True)), function[1])


def combined(parts: Sequence[tuple[F, Affine]], constant: F, n: int) -> Affine:
    """``Σ factor · function + constant``."""
    total, shift = [F(0)] * n, constant
    for factor, (coefficients, own) in parts:
        if factor:
            shift += factor * own
            for j, a in enumerate(coefficients):
                total[j] += factor * a
    return tuple(total), shift


@dataclass(frozen=True)
class Polytope:
    """A closed, bounded polytope: its vertices, each with the numbers of the constraints that are tight there."""

    vertices: tuple[tuple[tuple[F, ...], frozenset[int]], ...]
    constraints: int

    @staticmethod
    def box(lower: Sequence[F], upper: Sequence[F]) -> Polytope:
        """A box; constraint 2k is its lower end k, 2k + 1 its upper."""
        corners: list[tuple[tuple[F, ...], frozenset[int]]] = [((), frozenset())]
        for k, (a, b) in enumerate(zip(lower, upper, strict=True)):
            ends = [(a, {2 * k, 2 * k + 1})] if a == b else [(a, {2 * k}), (b, {2 * k + 1})]
            corners = [((*x, v), tight | own) for x, tight in corners for v, own in ends]
        return Polytope(tuple(corners), 2 * len(lower))

    def cut(self, function: Affine) -> Polytope | None:
        """Where a function is >= 0; None where nowhere."""
        values = [at(function, x) for x, _ in self.vertices]
        if all(v >= 0 for v in values) and not any(v == 0 for v in values):
            return Polytope(self.vertices, self.constraints + 1)
        name = self.constraints
        kept = [(x, t | {name} if v == 0 else t) for (x, t), v in zip(self.vertices, values, strict=True) if v >= 0]
        for (x, tight), v in zip(self.vertices, values, strict=True):
            for (y, other), w in zip(self.vertices, values, strict=True):
                if v > 0 > w:
                    shared = tight & other
                    if not any(shared <= t for z, t in self.vertices if z not in (x, y)):
                        s = v / (v - w)
                        kept.append((tuple(a + s * (b - a) for a, b in zip(x, y, strict=True)), shared | {name}))
        return Polytope(tuple(kept), name + 1) if kept else None

    def somewhere(self, function: Affine) -> bool:
        """Whether a function is > 0 somewhere."""
        return any(at(function, x) > 0 for x, _ in self.vertices)


@dataclass(frozen=True)
class Region:
    """One linear region of one or several networks over the same x.

    Attributes:
        polytope: its closure.
        strict: functions that are > 0 on it.
        outputs: for each network the outputs as functions of x.
        gradients: for each network the derivative of every output by its own input, ``[output][input]``.
    """

    polytope: Polytope
    strict: tuple[Affine, ...]
    outputs: tuple[tuple[Affine, ...], ...]
    gradients: tuple[tuple[tuple[F, ...], ...], ...]

    def meets(self, closed: Sequence[Affine], strict: Sequence[Affine] = ()) -> bool:
        """Whether at some point functions are >= 0 and others > 0."""
        polytope: Polytope | None = self.polytope
        demanded = (*self.strict, *strict)
        for function in (*closed, *strict):
            polytope = None if polytope is None else polytope.cut(function)
        return polytope is not None and all(polytope.somewhere(f) for f in demanded)


Layers = Sequence[tuple[Sequence[Sequence[F]], Sequence[F]]]
"""Weight and bias of every layer; a ReLU between each two."""


def exact_layers(weights: Sequence[object], biases: Sequence[object]) -> Layers:
    """Float64 arrays as fractions."""
    return [
        ([[F(float(v)) for v in row] for row in w], [F(float(v)) for v in b])  # type: ignore[attr-defined]
        for w, b in zip(weights, biases, strict=True)
    ]


def regions(
    layers: Layers, lower: Sequence[F], upper: Sequence[F], copies: Sequence[tuple[F, Sequence[F]]] = ((F(1), ()),)
) -> Iterator[Region]:
    """The regions that meet the box.

    Args:
        copies: for each copy of the network factor t and shift c of its input ``t x + c`` (no shift: zeros).
    """
    n = len(lower)
    start = Region(Polytope.box(lower, upper), (), (), ())
    found: Iterator[Region] | list[Region] = [start]
    for factor, shift in copies:
        inputs = tuple(
            (tuple(factor if i == j else F(0) for i in range(n)), shift[j] if shift else F(0)) for j in range(n)
        )
        found = [r for region in found for r in through(region, layers, inputs, n)]
    return iter(found)


def through(region: Region, layers: Layers, inputs: tuple[Affine, ...], n: int) -> Iterator[Region]:
    """A region divided by the phases of one network, whose ``inputs`` are functions of the n entries of x."""
    eye = tuple(tuple(F(int(i == j)) for j in range(n)) for i in range(n))
    stack = [(region.polytope, region.strict, 0, 0, inputs, eye, (), ())]
    while stack:
        polytope, strict, layer, neuron, values, slopes, done, done_slopes = stack.pop()
        weight, bias = layers[layer]
        if neuron == len(weight):
            if layer == len(layers) - 1:
                yield Region(polytope, strict, (*region.outputs, done), (*region.gradients, done_slopes))
            else:
                stack.append((polytope, strict, layer + 1, 0, done, done_slopes, (), ()))
            continue
        row = weight[neuron]
        z = combined(list(zip(row, values, strict=True)), bias[neuron], n)
        slope = tuple(sum((a * s[j] for a, s in zip(row, slopes, strict=True)), F(0)) for j in range(n))
        zero = ((F(0),) * n, F(0)), (F(0),) * n
        if layer == len(layers) - 1:
            options = [(polytope, strict, z, slope)]
        else:
            negative = combined([(F(-1), z)], F(0), n)
            active, inactive = polytope.cut(z), polytope.cut(negative)
            options = []
            if inactive is not None:
                options.append((inactive, strict, *zero))
            if active is not None and active.somewhere(z):
                options.append((active, (*strict, z), z, slope))
        for part, demanded, value, own in options:
            if all(part.somewhere(f) for f in demanded):
                stack.append((part, demanded, layer, neuron + 1, values, slopes, (*done, value), (*done_slopes, own)))


def forward(layers: Layers, x: Sequence[F]) -> tuple[list[F], list[list[F]]]:
    """Outputs at a point, and the derivative of each by each input, by the gradient convention."""
    n = len(x)
    values, slopes = list(x), [[F(int(i == j)) for j in range(n)] for i in range(n)]
    for k, (weight, bias) in enumerate(layers):
        z = [sum((a * v for a, v in zip(row, values, strict=True)), b) for row, b in zip(weight, bias, strict=True)]
        d = [[sum((a * s[j] for a, s in zip(row, slopes, strict=True)), F(0)) for j in range(n)] for row in weight]
        last = k == len(layers) - 1
        values = z if last else [max(v, F(0)) for v in z]
        slopes = d if last else [row if v > 0 else [F(0)] * n for row, v in zip(d, z, strict=True)]
    return values, slopes


def solvable(found: Iterator[Region], meets: Callable[[Region], bool]) -> bool:
    """Whether a condition holds on some region."""
    return any(meets(region) for region in found)
