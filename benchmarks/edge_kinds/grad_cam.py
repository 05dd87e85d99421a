"""Grad-CAM conditions on small networks against an enumeration of the linear regions.

The feature maps are as many numbers as there are inputs, so that the network behind them can be enumerated as one over
"its own input": its derivatives there are the ∂o/∂A of the definition.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction as F

import numpy as np
from edge_kinds.enumeration import Affine, Layers, Region, at, combined, exact_layers, regions, through
from edge_kinds.kind import Kind, Outcome, Trial

import verifier
from verifier import Network, Status
from verifier.network.graph import NetworkBuilder
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import relu

SHAPES = ((2, 1, 2), (1, 2, 2), (4, 1, 1), (3, 1, 1), (1, 1, 3))
LIMIT = 2.0
"""Seconds for an answer."""


class Question:
    """ "Has an input within ε of x̂, whose Grad-CAM is within δ of x̂'s, another label?", in exact numbers."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape = SHAPES[rng.integers(len(SHAPES))]
        n, classes = int(np.prod(self.shape)), 2
        sizes = (n, n, 3, classes)
        scale = float(rng.choice([0.25, 0.1]))
        self.weights = [rng.integers(-4, 5, size=(b, a)) * scale for a, b in itertools.pairwise(sizes)]
        self.biases = [rng.integers(-2, 3, size=b) * scale for b in sizes[1:]]
        x = rng.integers(-4, 5, size=n) * 0.25
        self.x, self.epsilon = x, float(rng.choice([0.25, 0.5, 1.0]))
        self.label = int(np.argmax(self.network.forward(x)))
        self.low, self.high = ([F(float(v)) + s * F(self.epsilon) for v in x] for s in (-1, 1))
        eye = [[F(int(i == j)) for j in range(n)] for i in range(n)]
        first, *rest = exact_layers(self.weights, self.biases)
        self.first: Layers = [first, (eye, [F(0)] * n)]
        self.rest: Layers = rest
        self.reference = self.map_at([F(float(v)) for v in x])
        sizes_seen = [abs(a - b) for v in self.corners for a, b in zip(self.map_at(v), self.reference, strict=True)]
        self.delta = float(max(sizes_seen)) * float(rng.choice([0.0, 0.25, 0.5, 1.0]))

    @property
    def network(self) -> Network:
        """The network, with its feature maps in the node "features"."""
        builder = NetworkBuilder((int(np.prod(self.shape)),))
        builder.add(Dense(self.weights[0], self.biases[0]))
        builder.add(Reshape(self.shape))
        builder.add(relu(), name="features")
        builder.add(Reshape((int(np.prod(self.shape)),)))
        builder.add(Dense(self.weights[1], self.biases[1]))
        builder.add(relu())
        builder.add(Dense(self.weights[2], self.biases[2]))
        return builder.build()

    @property
    def corners(self) -> list[list[F]]:
        """Some points of the ball."""
        rng = np.random.default_rng(0)
        picks = rng.integers(0, 2, size=(4, len(self.x)))
        ends = list(zip(self.low, self.high, strict=True))
        return [[ends[j][k] for j, k in enumerate(row)] for row in picks.tolist()]

    def pieces(self, low: Sequence[F], high: Sequence[F]) -> Iterable[Region]:
        """The regions of feature maps and outputs together that meet a box."""
        for region in regions(self.first, low, high):
            yield from through(region, self.rest, region.outputs[0], len(self.x))

    def weighted(self, region: Region) -> list[Affine]:
        """Σ α_k A_k on a region, as functions of x."""
        channels, size = self.shape[0], len(self.x) // self.shape[0]
        slopes, features = region.gradients[1][self.label], region.outputs[0]
        alpha = [sum(slopes[k * size : (k + 1) * size], F(0)) / size for k in range(channels)]
        parts = [[(alpha[k], features[k * size + p]) for k in range(channels)] for p in range(size)]
        return [combined(part, F(0), len(self.x)) for part in parts]

    def map_at(self, x: Sequence[F]) -> list[F]:
        """The map at a point, by the one region whose phases are those of the point (z > 0 active, else not)."""
        for region in self.pieces(x, x):
            if all(at(f, x) > 0 for f in region.strict):
                return [max(at(f, x), F(0)) for f in self.weighted(region)]
        raise AssertionError("no region holds the point")

    def similar(self, region: Region) -> list[Affine]:
        """Functions that are >= 0 where the map is similar on a region.

        relu(m) <= r + δ is m <= r + δ (which is >= 0), and relu(m) >= r - δ is m >= r - δ where that is above 0.
        """
        n, delta, found = len(self.x), F(self.delta), []
        for m, r in zip(self.weighted(region), self.reference, strict=True):
            found.append(combined([(F(-1), m)], r + delta, n))
            if r - delta > 0:
                found.append(combined([(F(1), m)], delta - r, n))
        return found

    def violated(self) -> bool:
        """Whether there is a witness."""
        other = 1 - self.label
        for region in self.pieces(self.low, self.high):
            y = region.outputs[1]
            row = combined([(F(1), y[other]), (F(-1), y[self.label])], F(0), len(self.x))
            if region.meets([*self.similar(region), row]):
                return True
        return False

    def is_witness(self, x: Sequence[F]) -> bool:
        """Whether a point is one."""
        inside = all(a <= v <= b for a, v, b in zip(self.low, x, self.high, strict=True))
        for region in self.pieces(x, x):
            if all(at(f, x) > 0 for f in region.strict):
                y = [at(f, x) for f in region.outputs[1]]
                gaps = [abs(a - b) for a, b in zip(self.map_at(x), self.reference, strict=True)]
                return inside and y[1 - self.label] >= y[self.label] and max(gaps) <= F(self.delta)
        return False


def grad_cam(seed: int) -> Iterable[Trial]:
    """One question to the engine that takes Grad-CAM."""
    asked = Question(seed)
    began = time.monotonic()
    query = verifier.saliency_robustness(
        asked.network, asked.x, epsilon=asked.epsilon, delta=asked.delta, label=asked.label, domain=None, map="grad-cam"
    )
    found = verifier.verify(query, engine="maps", timeout=LIMIT, prepass=seed % 2 == 0)
    truth, outcome, detail = asked.violated(), Outcome.RIGHT, ""
    if found.status is Status.HOLDS and truth:
        outcome, detail = Outcome.WRONG, f"holds ({found.stage}), but there is a witness"
    elif found.status is Status.VIOLATED:
        assert found.witness is not None
        x = found.witness.exact_input or [F(float(v)) for v in found.witness.input]
        if not truth or not asked.is_witness(list(x)):
            outcome, detail = Outcome.WRONG, f"violated at {[float(v) for v in x]}, which is no witness"
    elif found.status is not Status.HOLDS:
        outcome, detail = Outcome.UNDECIDED, f"{found.status.value}: {found.reason} (truth: {truth})"
    yield Trial(engine="maps", outcome=outcome, seconds=time.monotonic() - began, detail=detail)


KINDS = [
    Kind(
        name="Grad-CAM",
        what="saliency robustness by Grad-CAM of a layer of small networks, δ up to the largest distance seen; truth: the "
        "linear regions of feature maps and outputs, on each of which the map is a ReLU of affine functions.",
        run=grad_cam,
        cost=0.1,
    )
]
