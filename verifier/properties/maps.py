"""Saliency maps: which numbers explain an output at an input.

All maps here are built from gradients of one combination ``o`` of outputs (the label's, or the label's minus
another's). With fixed numbers ``v_k``, ``t_k`` and points ``c_k``, let

    F(x) = Σ_k v_k o(t_k x + c_k)          map(x) = s(x) ⊙ ∇F(x)          s(x) = 1 or x - baseline

so the vanilla gradient, SmoothGrad (the mean gradient over fixed noise; Smilkov et al., 2017), Gradient⊙Input and
the Riemann sum of Integrated Gradients (Sundararajan et al., ICML 2017) are all of one kind. F is a piecewise-linear
network itself, with as many copies of the network as there are points: a condition on ∇F is a condition on the
vanilla gradient of one output of it (`sampled_network`), and whatever decides that decides these. The integral
of Integrated Gradients itself (``path``) has no such network, and neither has Grad-CAM (`verifier.properties.grad_cam`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Array, Concat, Dense, Reshape, Scale, Sum


@dataclass(frozen=True, kw_only=True, eq=False)
class SaliencyMap:
    """One kind of saliency map, ready to be evaluated. Made by the functions of this module.

    Attributes:
        name: one of `verifier.properties.named_maps.NAMES`: what engines declare that they can take.
        weights, factors: ``(k,)``: v and t of the module's formula.
        points: ``(k, n)``: c; None for zeros.
        baseline: ``(n,)``: the map is multiplied by ``x - baseline``; None: by nothing.
        absolute: whether the absolute value of every entry is taken.
        path: whether ∇F is ``∫ ∇o(baseline + t (x - baseline)) dt`` over [0, 1] instead of a sum over points.
        other: for the gradient of a difference of outputs, the output that is subtracted; None: the runner-up
            at the query's own input, if ``name`` is "difference".

    Raises:
        PropertyError: the difference of an output and itself.

    Source:
        Simonyan et al., 2014; Sundararajan et al., ICML 2017; Smilkov et al., 2017: the functions of this
        module say which.
    """

    name: str
    weights: Array
    factors: Array
    points: Array | None = None
    baseline: Array | None = None
    absolute: bool = False
    path: bool = False
    other: int | None = None

    @property
    def plain(self) -> bool:
        """Whether ∇F is the network's own gradient."""
        return not self.path and self.points is None

    @property
    def by_gradient(self) -> bool:
        """Whether ∇F and x say what the map is, with F a network (`sampled_network`)."""
        return not self.path

    @property
    def discrete(self) -> bool:
        """Whether the map takes finitely many values."""
        return self.baseline is None

    def shape(self, network: Network) -> tuple[int, ...]:
        """The map's shape: for pictures."""
        return network.input_shape

    def output(self, exact: ExactNetwork, x: Sequence[Fraction], label: int) -> Array:
        """The coefficients of ``o`` over the flattened outputs, ``(m,)``."""
        network = exact.network
        weights = network.output_weights(label)
        if self.name == "difference":
            other = self.other
            if other is None and network.output_size > 1:
                y = exact.output(x)
                other = max((j for j in range(len(y)) if j != label), key=y.__getitem__)
            if other is None or other == label or not 0 <= other < network.output_size:
                raise PropertyError(f"the difference of output {label} and output {other} is no map")
            weights[other] = -1.0
        return weights

    def gradient(self, network: Network, output: Array, x: Array) -> Array:
        """∇F at a batch ``(batch, n)``, in float64 (at x = baseline of a path map, any gradient near it)."""
        if self.path:
            from verifier.attribution.integrated_gradients import Path

            assert self.baseline is not None
            path = Path(network, x, self.baseline[None], 0 if network.output_size == 1 else int(np.argmax(output)))
            return np.asarray(path.lines.patterns.sum_gradients(path.lengths[:, None] * output))
        if self.plain:
            return network.gradient(x, output).reshape(len(x), -1)
        assert self.points is not None
        total = np.zeros_like(x)
        for v, t, c in zip(self.weights, self.factors, self.points, strict=True):
            total += v * t * network.gradient(t * x + c, output).reshape(len(x), -1)
        return total

    def values(self, network: Network, output: Array, x: Array) -> Array:
        """The map at a batch ``(batch, n)``, in float64."""
        return self.of_gradient(self.gradient(network, output, x), x)

    def of_gradient(self, gradient: Array, x: Array) -> Array:
        """The map for a known ∇F."""
        found = gradient if self.baseline is None else (x - self.baseline) * gradient
        return np.abs(found) if self.absolute else found

    def exact(self, network: ExactNetwork, output: Array, x: Sequence[Fraction]) -> list[Fraction]:
        """The map at one point in rational arithmetic, by the gradient convention."""
        g = self._exact_gradient(network, output, x)
        if self.baseline is not None:
            steps = [v - Fraction(b) for v, b in zip(x, self.baseline.tolist(), strict=True)]
            g = [s * v for s, v in zip(steps, g, strict=True)]
        return [abs(v) for v in g] if self.absolute else g

    def _exact_gradient(self, network: ExactNetwork, output: Array, point: Sequence[Fraction]) -> list[Fraction]:
        if self.plain:
            return network.gradient(point, output)
        total = [Fraction(0)] * len(point)
        for weight, at in self._exact_terms(
            network, point
        ):  # each when its turn comes: the gradient looks at the clock
            total = [s + weight * g for s, g in zip(total, network.gradient(at, output), strict=True)]
        return total

    def _exact_terms(
        self, network: ExactNetwork, point: Sequence[Fraction]
    ) -> Iterator[tuple[Fraction, list[Fraction]]]:
        """Weights, and the points whose gradients they are of."""
        if self.path:
            from verifier.regions.exact import exact_breakpoints

            assert self.baseline is not None
            start = [Fraction(v) for v in self.baseline.tolist()]
            for a, b in pairwise(exact_breakpoints(network.network, start, point)):
                t = (a + b) / 2
                yield b - a, [s + t * (p - s) for s, p in zip(start, point, strict=True)]
        else:
            assert self.points is not None
            for v, t, c in zip(self.weights.tolist(), self.factors.tolist(), self.points.tolist(), strict=True):
                at = [Fraction(t) * p + Fraction(q) for p, q in zip(point, c, strict=True)]
                yield Fraction(v) * Fraction(t), at


def gradient_map() -> SaliencyMap:
    """The vanilla gradient.

    Source:
        Simonyan, Vedaldi, Zisserman, 2014.
    """
    return SaliencyMap(name="gradient", weights=np.ones(1), factors=np.ones(1))


def absolute_gradient() -> SaliencyMap:
    """The absolute value of every entry of the gradient.

    Source:
        Simonyan, Vedaldi, Zisserman, 2014.
    """
    return SaliencyMap(name="absolute", weights=np.ones(1), factors=np.ones(1), absolute=True)


def logit_difference(other: int | None = None) -> SaliencyMap:
    """The gradient of ``y_label - y_other``; ``other`` is the runner-up at the query's input by default.

    Source:
        the gradient of a margin, as in Carlini, Wagner, IEEE S&P 2017.
    """
    return SaliencyMap(name="difference", weights=np.ones(1), factors=np.ones(1), other=other)


def gradient_times_input(size: int) -> SaliencyMap:
    """``x ⊙ ∇o(x)`` for inputs of ``size`` entries.

    Source:
        Shrikumar, Greenside, Kundaje, ICML 2017.
    """
    return SaliencyMap(name="gradient-input", weights=np.ones(1), factors=np.ones(1), baseline=np.zeros(size))


def integrated_gradients(baseline: npt.ArrayLike, steps: int | None = 8) -> SaliencyMap:
    """``(x - baseline) ⊙`` the mean gradient on the segment from the baseline to x.

    Args:
        baseline: ``(n,)``.
        steps: points of the midpoint rule; None for the integral itself.

    Raises:
        PropertyError: less than one step.

    Source:
        Sundararajan, Taly, Yan, ICML 2017.
    """
    start = np.array(baseline, dtype=np.float64).reshape(-1)
    if steps is None:
        return SaliencyMap(name="integrated-exact", weights=np.ones(1), factors=np.ones(1), baseline=start, path=True)
    if steps < 1:
        raise PropertyError(f"integrated gradients need at least one step, got {steps}")
    t = (np.arange(steps) + 0.5) / steps
    return SaliencyMap(
        name="integrated",
        weights=1.0 / (steps * t),
        factors=t,
        points=(1.0 - t)[:, None] * start,
        baseline=start,
    )


def smooth_gradient(noise: npt.ArrayLike) -> SaliencyMap:
    """The mean gradient over ``x + noise``, for a fixed set of noise vectors ``(k, n)``.

    Raises:
        PropertyError: no noise vector, or an entry that is not finite.

    Source:
        SmoothGrad: Smilkov et al., 2017.
    """
    points = np.atleast_2d(np.array(noise, dtype=np.float64))
    if not len(points) or not np.isfinite(points).all():
        raise PropertyError("SmoothGrad needs at least one noise vector of finite numbers")
    count = len(points)
    return SaliencyMap(name="smooth", weights=np.full(count, 1.0 / count), factors=np.ones(count), points=points)


def sampled_network(network: Network, saliency_map: SaliencyMap, output: Array) -> Network:
    """The network whose outputs are those of ``network``, flattened, and F after them.

    Shapes: output ``(outputs,)``.

    Not for path maps. The network itself is its first part, node by node.
    """
    assert saliency_map.points is not None
    builder = NetworkBuilder(network.input_shape, input_name=network.input, source=network.source)
    for node in network.nodes[1:]:
        builder.add(node.operator, *node.inputs, name=node.name)
    shape, m = network.input_shape, network.output_size
    own = builder.add(Reshape((m,)), network.output, name="map: outputs")
    parts = []
    for k, (v, t, c) in enumerate(
        zip(saliency_map.weights, saliency_map.factors, saliency_map.points, strict=True), start=1
    ):

        def copied(name: str, k: int = k) -> str:
            return f"map: point {k}: {name}"

        builder.add(Scale(np.full(shape, t), c.reshape(shape)), network.input, name=copied(network.input))
        for node in network.nodes[1:]:
            builder.add(node.operator, *(copied(i) for i in node.inputs), name=copied(node.name))
        flat = builder.add(Reshape((m,)), copied(network.output), name=copied("outputs"))
        parts.append(builder.add(Dense(v * output[None], np.zeros(1)), flat, name=copied("weighted output")))
    total = parts[0] if len(parts) == 1 else builder.add(Sum((1,) * len(parts)), *parts, name="map: F")
    return builder.build(builder.add(Concat(0), own, total, name="map: outputs and F"))
