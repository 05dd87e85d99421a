"""Integrated gradients, exactly, and the sampled approximations with their exact error.

Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017; exact computation by line restriction:
Sotoudeh & Thakur, ExactLine, NeurIPS 2019, Section 4. On a line the gradient is constant on every piece, so the
integral is a sum over pieces, and any quadrature rule is the same sum with other weights on the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.network.graph import Network, Node
from verifier.network.operators import Array
from verifier.regions.cells import Index
from verifier.regions.line import LineRestrictions, lines

METHODS = ("exact", "left", "right", "midpoint", "trapezoid", "gausslegendre")
"""Quadrature rules: exact, the Riemann sums, and Gauss-Legendre."""

Rule = tuple[Array, Array]
"""A quadrature rule as positions in [0, 1] and weights whose sum is 1."""
BINS = 200
"""Stretches of [0, 1] in which `IntegratedGradients.adapted` counts how much the gradient changes."""
Target = int | Sequence[int] | npt.NDArray[Any] | None


def quadrature(method: str, samples: int) -> tuple[Array, Array]:
    """Positions in [0, 1] and weights (sum 1) of a rule with so many gradient evaluations.

    Raises:
        InputError: an unknown rule, or too few samples for it.

    Source:
        the rules of Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Table 2 (left, right, trapezoid), and the
        midpoint rule.
    """
    if samples < 1 or (method == "trapezoid" and samples < 2):
        raise InputError(f"{method} needs more samples than {samples}")
    k = np.arange(samples)
    even = np.full(samples, 1.0 / samples)
    match method:
        case "left":
            return k / samples, even
        case "right":
            return (k + 1) / samples, even
        case "midpoint":
            return (k + 0.5) / samples, even
        case "trapezoid":
            weights = np.full(samples, 1.0 / (samples - 1))
            weights[[0, -1]] /= 2
            return k / (samples - 1), weights
        case "gausslegendre":
            x, w = np.polynomial.legendre.leggauss(samples)
            return (x + 1) / 2, w / 2
    raise InputError(f"unknown method {method!r}", fix=f"one of {', '.join(METHODS)}")


@dataclass(frozen=True, eq=False)
class AdaptedRule:
    """A midpoint rule with stretches of uneven width: `IntegratedGradients.adapted` makes it, a number of samples a `Rule`.

    A midpoint rule's error on a stretch of width h is about h times what the gradient changes by on it, so that the
    least sum for a number of samples has them at a density that goes with the root of the change per length.

    Attributes:
        change: how much the gradient changes in each of so many equal stretches of [0, 1], in any unit.

    Source:
        equidistribution of the error: de Boor, 1974.
    """

    change: Array

    def __call__(self, n_steps: int) -> Rule:
        """Positions and weights of ``n_steps`` samples."""
        density = np.sqrt(self.change + self.change.mean() / len(self.change) + 1e-300)
        mass = np.concatenate([[0.0], np.cumsum(density) / density.sum()])
        edges = np.interp(np.arange(n_steps + 1) / n_steps, mass, np.linspace(0, 1, len(mass)))
        edges[[0, -1]] = 0.0, 1.0
        return (edges[:-1] + edges[1:]) / 2, np.diff(edges)


class IntegratedGradients:
    """Integrated gradients of a network's outputs along the line from a baseline to an input.

    Args:
        network: the network.
        listener: is told how many linear pieces there are after each layer.

    Raises:
        InputError: baselines that do not fit the inputs, or a target that is missing or unknown.

    Source:
        Sundararajan, Taly, Yan, ICML 2017; exactly: Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Section 4,
        Equations 6 and 7; conductance: Dhamdhere, Sundararajan, Yan, ICLR 2019.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> IntegratedGradients(network).attribute([[0.9, 0.1]], target=0).round(6)
        array([[ 0.9, -0.1]])
    """

    @checked
    def __init__(self, network: Network, *, listener: Listener = ignore) -> None:
        self.network, self.listener = network, listener

    def _path(self, inputs: npt.ArrayLike, baselines: npt.ArrayLike | None, target: Target) -> Path:
        return Path(self.network, inputs, baselines, target, self.listener)

    @checked
    def attribute(
        self,
        inputs: npt.ArrayLike,
        baselines: npt.ArrayLike | None = None,
        target: Target = None,
        *,
        method: str | Rule = "exact",
        n_steps: int = 50,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attribute outputs to input entries.

        Args:
            inputs: one input or a batch ``(batch, *input_shape)``.
            baselines: of the same shape, or one for all; zero by default.
            target: output index, or one per input; may be left out if the network has one output.
            method: "exact", a quadrature rule of `METHODS` with ``n_steps`` gradient samples, or a rule of its own,
                positions and weights, such as `adapted` leads to.
            return_convergence_delta: also return, per input, sum of attributions minus ``f(input) - f(baseline)``.

        Returns:
            attributions of the shape of ``inputs``; with the deltas ``(batch,)`` if asked for.
        """
        path = self._path(inputs, baselines, target)
        result = path.exact() if isinstance(method, str) and method == "exact" else path.sampled(method, n_steps)
        shaped = result.reshape(path.shape)
        if not return_convergence_delta:
            return shaped
        return shaped, result.sum(axis=1) - path.change()

    def error(
        self,
        inputs: npt.ArrayLike,
        baselines: npt.ArrayLike | None = None,
        target: Target = None,
        *,
        method: str | Rule,
        n_steps: int = 50,
    ) -> Array:
        """Exact relative error ``Σ|sampled - exact| / Σ|exact|`` of a quadrature rule, per input ``(batch,)``."""
        path = self._path(inputs, baselines, target)
        return path.error(method, n_steps)

    def samples_for(
        self,
        error: float,
        inputs: npt.ArrayLike,
        baselines: npt.ArrayLike | None = None,
        target: Target = None,
        *,
        method: str = "trapezoid",
        limit: int = 100_000,
    ) -> npt.NDArray[np.int64]:
        """How many gradient samples a rule needs for a relative error of at most ``error``, per input ``(batch,)``.

        Found by doubling and bisection: the bound is kept at the number returned and missed with one sample less.
        The error is not monotone, so a much smaller number may keep it by luck. ``limit + 1`` where ``limit`` is
        not enough.
        """
        if not error > 0:
            raise InputError(f"the error must be positive, got {error}")
        path = self._path(inputs, baselines, target)
        return np.array([p.samples_for(error, method, limit) for p in path.each()], dtype=np.int64)

    def adapted(
        self, inputs: npt.ArrayLike, baselines: npt.ArrayLike | None = None, target: Target = None
    ) -> AdaptedRule:
        """A rule whose samples lie the denser the more the gradients change there, on the lines of some inputs.

        Shapes: inputs, baselines ``(batch, *input_shape)`` or one input.

        ExactLine (Section 4) names such non-uniform sampling as future work. Learn it on inputs like those it is for.

        Args:
            inputs, baselines, target: as for `attribute`.
        """
        change = np.zeros(BINS)
        for path in self._path(inputs, baselines, target).each():
            breaks = path.lines.breakpoints[1:-1]
            jumps = np.abs(np.diff(path.shares(), axis=0)).sum(axis=1) / max(np.abs(path.exact()).sum(), 1e-300)
            np.add.at(change, np.minimum((breaks * BINS).astype(np.int64), BINS - 1), jumps)
        return AdaptedRule(change)

    def conductance(
        self,
        layer: str,
        inputs: npt.ArrayLike,
        baselines: npt.ArrayLike | None = None,
        target: Target = None,
    ) -> Array:
        """Exact conductance of every entry of a node's value, ``(batch, *node shape)``.

        The conductance of y is the part of ``f(input) - f(baseline)`` that flows through y: ∫ ∂f/∂y · dy/dt dt
        along the line (Dhamdhere, Sundararajan, Yan, "How Important Is a Neuron?", ICLR 2019).
        """
        node = self.network[layer]
        path = self._path(inputs, baselines, target)
        return np.stack([p.conductance(node) for p in path.each()])


class Path:
    """Lines from baselines to inputs, with the output that is attributed on each.

    Attributes:
        lines: the restrictions.
        targets: ``(batch,)`` output index of each line.
        lengths: ``(pieces,)`` length in t of the pieces of all lines, one line after the other.
        owner: ``(pieces,)`` the line of each piece.
    """

    def __init__(
        self,
        network: Network,
        inputs: npt.ArrayLike,
        baselines: npt.ArrayLike | None,
        target: Target,
        listener: Listener = ignore,
    ) -> None:
        x, _ = network.batch(inputs)
        base = np.zeros_like(x[:1]) if baselines is None else network.batch(baselines)[0]
        if len(base) not in (1, len(x)):
            raise InputError(f"{len(base)} baselines for {len(x)} inputs", fix="give one, or one for each input")
        self.network, self.shape = network, np.shape(inputs)
        self.targets = _targets(network, target, len(x))
        self.lines: LineRestrictions = lines(network, base, x, listener=listener)
        ends = self.lines.offsets[1:] - 1
        self.lengths = np.delete(np.diff(self.lines.breakpoints), ends[:-1])
        self.owner = np.repeat(np.arange(len(x)), np.diff(self.lines.offsets) - 1)
        self._exact: Array | None = None

    def each(self) -> list[Path]:
        """The same lines one by one."""
        pairs = zip(self.lines.starts, self.lines.ends, self.targets.tolist(), strict=True)
        return [Path(self.network, end, start, target) for start, end, target in pairs]

    def change(self) -> Array:
        """``f(input) - f(baseline)`` of the attributed outputs, ``(batch,)``."""
        rows = np.arange(len(self.targets))
        start = self.network(self.lines.starts).reshape(len(rows), -1)
        end = self.network(self.lines.ends).reshape(len(rows), -1)
        result: Array = end[rows, self.targets] - start[rows, self.targets]
        return result

    def seeds(self, weights: Array) -> Array:
        """Output coefficients of each piece: its weight at its line's target, ``(pieces, m)``."""
        result = np.zeros((len(weights), self.network.output_size))
        result[np.arange(len(weights)), self.targets[self.owner]] = weights
        return result

    def weighted(self, weights: Array) -> Array:
        """Σ weight · gradient over the pieces of each line, times the difference of its ends: ``(batch, n)``."""
        sums = self.lines.patterns.sum_gradients(self.seeds(weights))
        result: Array = sums * (self.lines.ends - self.lines.starts)
        return result

    def exact(self) -> Array:
        """Exact integrated gradients, ``(batch, n)``."""
        if self._exact is None:
            self._exact = self.weighted(self.lengths)
        return self._exact

    def sampled(self, method: str | Rule, samples: int) -> Array:
        """What a quadrature rule gives, ``(batch, n)``; at a breakpoint the gradient right of it is taken."""
        return self.weighted(self.weights(method, samples))

    def weights(self, method: str | Rule, samples: int = 0) -> Array:
        """The weight that a quadrature rule gives to each piece, ``(pieces,)``."""
        t, w = quadrature(method, samples) if isinstance(method, str) else method
        weights = np.zeros(len(self.lengths))
        for k in range(len(self.targets)):
            first, last = self.lines.offsets[k], self.lines.offsets[k + 1]
            piece = np.searchsorted(self.lines.breakpoints[first:last], t, side="right") - 1
            np.add.at(weights, first - k + np.clip(piece, 0, last - first - 2), w)
        return weights

    def shares(self) -> Array:
        """Each piece's gradient times the difference of the ends, ``(pieces, n)``; for a single line."""
        (restriction,) = self.lines
        return restriction.gradient(int(self.targets[0])) * (restriction.end - restriction.start)

    def error(self, method: str | Rule, samples: int) -> Array:
        """Relative error of a quadrature rule, ``(batch,)``; 0 where the attribution is 0 throughout."""
        exact = self.exact()
        total = np.abs(exact).sum(axis=1)
        wrong = np.abs(self.sampled(method, samples) - exact).sum(axis=1)
        return np.divide(wrong, total, out=np.zeros_like(wrong), where=total > 0)

    def samples_for(self, error: float, method: str, limit: int) -> int:
        """See `IntegratedGradients.samples_for`; for a single line."""
        shares = self.shares()
        exact = self.lengths @ shares
        bound = error * float(np.abs(exact).sum())

        def good(count: int) -> bool:
            return bool(np.abs(self.weights(method, count) @ shares - exact).sum() <= bound)

        low = high = 2 if method == "trapezoid" else 1
        while not good(high):
            if high >= limit:
                return limit + 1
            low, high = high, min(2 * high, limit)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if good(middle) else (middle, high)
        return high

    def conductance(self, node: Node) -> Array:
        """Exact conductance of a node's entries; for a single line."""
        (restriction,) = self.lines
        total = np.zeros(node.size)

        def visit(passed: Node, sums: Array, first: Index) -> None:
            if passed.name != node.name:
                return
            t = np.append(restriction.breakpoints[first], 1.0)
            for i in range(0, len(first), 256):
                part = t[i : i + 257]
                values = self.network.values(restriction.at(part), [node.name])[node.name]
                change = np.diff(values.reshape(len(part), -1), axis=0)
                total[:] += (sums[i : i + 256] / np.diff(part)[:, None] * change).sum(axis=0)

        self.lines.patterns.sum_gradients(self.seeds(self.lengths), visit)
        return total.reshape(node.shape)


def _targets(network: Network, target: Target, count: int) -> npt.NDArray[np.int64]:
    if target is None:
        if network.output_size != 1:
            raise InputError(f"target is needed: the network has {network.output_size} outputs")
        target = 0
    targets = np.asarray(target).reshape(-1)
    if targets.dtype.kind not in "iu" or len(targets) not in (1, count):
        raise InputError(f"target must be one output index, or one for each of {count} inputs, got {target}")
    if ((targets < 0) | (targets >= network.output_size)).any():
        raise InputError(f"there is no output {target}", fix=f"outputs are 0 to {network.output_size - 1}")
    return np.broadcast_to(targets.astype(np.int64), (count,))
