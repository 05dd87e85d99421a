"""Activations written with ReLUs: `TO_RELUS` makes a network of affine operators and ReLUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifier.network.graph import Network, NetworkBuilder, Node
from verifier.network.operators import Concat, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, relu
from verifier.network.reduction import Reduced, Reduction, rewritten
from verifier.rounding import float_above


@dataclass(frozen=True)
class PoolsAsRelus(Reduction):
    """Every MaxPool as a knockout of ``max(a, b) = a + relu(b - a)``; exact over the reals.

    A window of k entries takes ``k - 1`` ReLUs. At a tie the gradient goes to the first maximum, as in `MaxPool`.

    Attributes:
        full: an entry without a partner meets itself, and padding is the window's first entry within the image: more ReLUs,
            numbered alike in all windows, as proofs have them.

    Source:
        Arora et al., ICLR 2018.
    """

    full: bool = False

    def accepts(self, network: Network) -> bool:
        return any(isinstance(n.operator, MaxPool) for n in network.activations)

    def apply(self, network: Network) -> Reduced:
        return rewritten(network, self._knockout)

    def _knockout(self, builder: NetworkBuilder, node: Node, source: str) -> str | None:
        if not isinstance(node.operator, MaxPool):
            return None
        windows = node.operator.windows(builder.shape(source))
        present = np.argsort(windows < 0, axis=1, kind="stable")
        first = np.take_along_axis(windows, present[:, :1], axis=1)
        players = np.where(windows < 0, first, windows) if self.full else np.take_along_axis(windows, present, axis=1)
        current, round_number = source, 0
        while (players[:, 1:] >= 0).any():
            if players.shape[1] % 2:
                players = np.hstack([players, players[:, -1:] if self.full else np.full((len(players), 1), -1)])
            left, right, name = players[:, ::2], players[:, 1::2], f"{node.name}/round{round_number}"
            match, alone = right >= 0, (right < 0) & (left >= 0)
            a = builder.add(Select(left[match]), current, name=f"{name}/left")
            b = builder.add(Select(right[match]), current, name=f"{name}/right")
            excess = builder.add(
                relu(), builder.add(Sum((1, -1)), b, a, name=f"{name}/difference"), name=f"{name}/excess"
            )
            winners = builder.add(Sum((1, 1)), a, excess, name=f"{name}/winner")
            if alone.any():
                rest = builder.add(Select(left[alone]), current, name=f"{name}/alone")
                winners = builder.add(Concat(0), winners, rest, name=f"{name}/left over")
            players = np.full(left.shape, -1, dtype=np.int64)
            players[match] = np.arange(match.sum())
            players[alone] = match.sum() + np.arange(alone.sum())
            current, round_number = winners, round_number + 1
        return builder.add(Select(players[:, 0].reshape(node.shape)), current, name=node.name)


@dataclass(frozen=True)
class PoolsBeforeRelus(Reduction):
    """``maxpool(relu(z))`` as ``relu(maxpool(z))`` where nothing else reads these ReLUs: fewer of them, and no ties of zeros.

    Exact, gradients by the convention included: where all of a window is at most 0 both have none, else the first of the
    largest entries has it in both.
    """

    def accepts(self, network: Network) -> bool:
        return bool(_pooled(network))

    def apply(self, network: Network) -> Reduced:
        late = _pooled(network)

        def turned(builder: NetworkBuilder, node: Node, source: str) -> str | None:
            if node.name in late:
                return source
            if not isinstance(node.operator, MaxPool) or node.inputs[0] not in late:
                return None
            return builder.add(relu(), builder.add(node.operator, source, name=f"{node.name}/before"), name=node.name)

        return rewritten(network, turned)


def _pooled(network: Network) -> set[str]:
    """The ReLUs that one MaxPool reads, and nothing else."""
    readers = Counter(i for node in network.nodes for i in node.inputs)
    read = {n.inputs[0] for n in network.activations if isinstance(n.operator, MaxPool)} - {network.output}
    return {name for name in read if readers[name] == 1 and _is_relu(network[name])}


@dataclass(frozen=True)
class FunctionsAsRelus(Reduction):
    """Every elementwise function by ReLUs: LeakyReLU by one, Clip by one per finite end, |z| by two.

    With slopes s_0, s_1, … and breakpoints b_1, b_2, … that have slopes a_k of their own by the gradient convention,

        f(z) = s_0 z + t_0 + Σ_k (a_k - s_{k-1}) (relu(b_k - z) - (b_k - z)) + (s_k - a_k) relu(z - b_k)

    (at b_k both ReLUs have the slope 0, and what is left is a_k). Coefficients that are no float64 numbers are sums of
    two, so nothing is rounded: exact where the pieces meet exactly.

    Attributes:
        gradients: False writes all ReLUs as ``relu(z - b_k)``, one for each breakpoint, whatever the convention has there.

    Source:
        sums of hinges, as in Arora et al., ICLR 2018.
    """

    gradients: bool = True

    def accepts(self, network: Network) -> bool:
        return any(_is_other(n) for n in network.activations)

    def apply(self, network: Network) -> Reduced:
        gaps = [g for n in network.activations if isinstance(n.operator, PiecewiseLinear) for g in n.operator.gaps]
        return rewritten(network, self._hinges, exact=not any(gaps))

    def _hinges(self, builder: NetworkBuilder, node: Node, source: str) -> str | None:
        operator = node.operator
        if not isinstance(operator, PiecewiseLinear) or operator.is_relu:
            return None
        slopes, breaks = operator.slopes, operator.breaks
        own = operator.at_breaks if self.gradients else slopes[:-1]
        parts: list[str] = []
        rest = operator.intercepts[0]

        def scaled(factor: float, shift: float, of: str, name: str) -> str:
            if factor == 1 and shift == 0:
                return of
            part = Scale(np.full(node.shape, factor), np.full(node.shape, shift))
            return builder.add(part, of, name=f"{node.name}/{name}")

        def add(value: str, coefficients: tuple[float, ...], name: str) -> None:
            nonlocal rest
            for k, factor in enumerate(coefficients):
                parts.append(scaled(factor, rest, value, f"{name}{k}"))
                rest = 0.0

        turned = [v for a, s in zip(own, slopes, strict=False) for v in (a, -s)]
        add(source, _floats(slopes[0], *turned), "line")
        for k, (b, a) in enumerate(zip(breaks, own, strict=True)):
            left, right = _floats(a, -slopes[k]), _floats(slopes[k + 1], -a)
            if left:  # relu(b - z) - b; the z of the formula is in the line
                hinge = builder.add(relu(), scaled(-1.0, b, source, f"before{k}"), name=f"{node.name}/left{k}")
                add(scaled(1.0, -b, hinge, f"shifted{k}"), left, f"falling{k}.")
            if right:
                hinge = builder.add(relu(), scaled(1.0, -b, source, f"behind{k}"), name=f"{node.name}/right{k}")
                add(hinge, right, f"rising{k}.")
        return parts[0] if len(parts) == 1 else builder.add(Sum((1,) * len(parts)), *parts, name=node.name)


def _is_other(node: Node) -> bool:
    return isinstance(node.operator, PiecewiseLinear) and not node.operator.is_relu


def _is_relu(node: Node) -> bool:
    return isinstance(node.operator, PiecewiseLinear) and node.operator.is_relu


def _floats(*terms: float) -> tuple[float, ...]:
    """Float64 numbers whose sum is exactly that of the terms: none for zero, one where it is one, else the terms."""
    total = sum(map(Fraction, terms), Fraction(0))
    if Fraction(float(total)) == total:
        return (float(total),) if total else ()
    return tuple(t for t in terms if t)


TO_RELUS: tuple[Reduction, ...] = (PoolsAsRelus(), FunctionsAsRelus())
"""To affine operators and ReLUs, gradients included."""
TO_HINGES: tuple[Reduction, ...] = (PoolsAsRelus(full=True), FunctionsAsRelus(gradients=False))
"""To affine operators and ReLUs as proofs number these, which speak of values alone: one ReLU for each breakpoint."""
WITHOUT_POOLS: tuple[Reduction, ...] = (PoolsBeforeRelus(), PoolsAsRelus())
"""To elementwise activations, gradients included, with as few ReLUs as that takes."""


def gaps(reduced: Reduced) -> dict[str, float]:
    """By how much nodes' values may be off: where an original's pieces do not meet, the ReLUs go on from the one before."""
    last = {origin: name for name, origin in reduced.origin.items()}
    found = {}
    for node in reduced.original.activations:
        if isinstance(node.operator, PiecewiseLinear) and any(node.operator.gaps):
            found[last[node.name]] = float_above(sum(node.operator.gaps, Fraction(0)))
    return found
