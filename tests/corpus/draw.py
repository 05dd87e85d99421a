"""Draw cases for the corpus: ``python tests/corpus/draw.py FIRST COUNT >> tests/corpus/cases.jsonl``.

A case is drawn from its index; the numbers of the file were drawn once and are kept. Drawing evaluates networks with
matrix products, so another processor may draw numbers that differ in their last bits.

Traits: zero weights, dead neurons, duplicated neurons, kinks exactly on x̂, ties of outputs, thresholds that are met
exactly on the boundary, boxes of width 1e-6.
"""

from __future__ import annotations

import itertools
import sys
from math import prod
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from corpus_cases import Case, line
from corpus_oracle import verdicts

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Array, Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, absolute, clip, leaky_relu, relu
from verifier.properties.builders import robustness, saliency_robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box

FAMILIES = ("dense", "conv", "dense", "elementwise", "dense", "maxpool", "conv", "residual")
KINDS = ("values", "saliency", "robustness", "saliency")


class Generator:
    """Draws one case."""

    def __init__(self, index: int) -> None:
        self.family = FAMILIES[index % len(FAMILIES)]
        self.kind = KINDS[(index // len(FAMILIES)) % len(KINDS)]
        self.name = f"{index:03d}-{self.family}-{self.kind}"
        self.rng = np.random.default_rng([20231111, index])
        self.dyadic = bool(self.rng.random() < 0.7)
        self.narrow = bool(self.rng.random() < 0.15)
        self.kink = bool(self.rng.random() < 0.4)
        self.zero_share = float(self.rng.choice([0.0, 0.0, 0.3, 0.6]))

    # -- networks ------------------------------------------------------------------------------------------
    def numbers(self, *shape: int) -> Array:
        """Weights: dyadic (so that kinks and ties can be exact) or arbitrary floats, some of them zero."""
        values = self.rng.normal(size=shape)
        if self.dyadic:
            values = np.round(values * 4) / 4
        return np.where(self.rng.random(shape) < self.zero_share, 0.0, values)

    def dense(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        """Weight and bias of a layer with, now and then, a dead neuron and a duplicate."""
        weight, bias = self.numbers(outputs, inputs), self.numbers(outputs)
        if outputs > 2 and self.rng.random() < 0.2:
            weight[0], bias[0] = weight[1], bias[1]
        if outputs > 1 and self.rng.random() < 0.2:
            if self.rng.random() < 0.5:
                weight[-1], bias[-1] = 0.0, 0.0
            else:
                bias[-1] = -50.0
        return weight, bias

    def network(self, point: Array, shape: tuple[int, ...], outputs: int) -> Network:
        """A network of the case's family; with the trait "kink", some preactivations are exactly 0 at the point."""
        builder = NetworkBuilder(shape)
        family, rng = self.family, self.rng

        def activate() -> None:
            operator: PiecewiseLinear = relu()
            if family == "elementwise":
                operator = (leaky_relu(0.25), leaky_relu(0.1), absolute(), clip(-0.5, 1.0), clip(0.0, 6.0))[
                    rng.integers(5)
                ]
            builder.add(operator)

        def add_dense(outputs: int, kink: bool) -> None:
            current = builder._last
            inputs = builder.shape(current)[0]
            weight, bias = self.dense(inputs, outputs)
            if kink and self.kink:
                value = builder.build(current).values(point)[current][0]
                hit = rng.random(outputs) < 0.5
                bias = np.where(hit, -(weight @ value), bias)
            builder.add(Dense(weight, bias))

        neurons = int(rng.integers(2, 7))
        if family in ("conv", "maxpool"):
            channels = 2 if family == "conv" else 1
            kernel = self.numbers(channels, 1, 2, 2)
            stride = (2, 2) if family == "conv" else (1, 1)
            padding = (0, 0, 1, 1) if shape[1] == 3 and family == "conv" else (0, 0, 0, 0)
            builder.add(Conv(kernel, self.numbers(channels), stride=stride, padding=padding))
            if family == "maxpool":
                builder.add(relu())
                builder.add(MaxPool((2, 2), (1, 1)) if rng.random() < 0.5 else MaxPool((2, 1), (1, 1)))
            else:
                activate()
            builder.add(Reshape((prod(builder.shape(builder._last)),)))
            if family == "conv" and rng.random() < 0.5:
                add_dense(int(rng.integers(2, 4)), True)
                activate()
        elif family == "residual":
            add_dense(neurons, True)
            activate()
            first = builder._last
            add_dense(neurons, True)
            activate()
            builder.add(Sum((1, 1 if rng.random() < 0.5 else -1)), builder._last, first)
        else:
            add_dense(neurons, True)
            activate()
            if rng.random() < 0.6:
                add_dense(int(rng.integers(2, 7)), True)
                activate()
        add_dense(outputs, False)
        return builder.build()

    # -- queries -------------------------------------------------------------------------------------------
    def query(self) -> Query:
        """The case's query."""
        rng = self.rng
        if self.family in ("conv", "maxpool"):
            side = 3 if self.family == "maxpool" or rng.random() < 0.6 else 4
            shape: tuple[int, ...] = (1, side, side)
        else:
            shape = (int(rng.integers(2, 5)),)
        n, outputs = prod(shape), int(rng.integers(2, 4))
        point = np.round(rng.random(n) * 4) / 4 if rng.random() < 0.8 else rng.random(n)
        network = self.network(point, shape, outputs)
        epsilon = 5e-7 if self.narrow else float(rng.choice([0.125, 0.25, 0.5, 1.0]))
        if self.kind == "values":
            return self.values_query(network, point, epsilon)
        label = int(np.argmax(network.forward(point)))
        network = self.balanced(network, point, epsilon, label)
        if self.kind == "robustness":
            return robustness(network, point, epsilon, label=label)
        delta = self.delta(network, point, epsilon, label)
        return saliency_robustness(network, point, epsilon=epsilon, delta=delta, label=label)

    def balanced(self, network: Network, point: Array, epsilon: float, label: int) -> Network:
        """The network with its last bias moved so that the label's lead at the point is a share of what
        the gradient could take away within the box: both verdicts become likely, and ties possible."""
        values = network.forward(point).reshape(-1)
        other = int(np.argsort(np.where(np.arange(len(values)) == label, -np.inf, values))[-1])
        weights = np.zeros(len(values))
        weights[label], weights[other] = 1.0, -1.0
        reach = epsilon * float(np.abs(network.gradient(point, weights)).sum())
        lead = reach * float(self.rng.choice([0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.25, 1.5, 2.0]))
        last = network.nodes[-1].operator
        assert isinstance(last, Dense)
        bias = last.bias.copy()
        bias[label] += lead - float(values[label] - values[other])
        builder = NetworkBuilder(network.input_shape)
        for node in network.nodes[1:-1]:
            builder.add(node.operator, *node.inputs, name=node.name)
        return builder.build(builder.add(Dense(last.weight, bias), *network.nodes[-1].inputs, name=network.output))

    def delta(self, network: Network, point: Array, epsilon: float, label: int) -> float:
        """A distance of gradients: often exactly one that another linear region of the box has."""
        box = Box.around(point, epsilon)
        samples = box.sample(300, self.rng)
        gradients = network.gradient(samples, label).reshape(len(samples), -1)
        distance = np.abs(gradients - network.gradient(point, label).reshape(-1)).max(axis=1)
        flipped = np.argmax(network.forward(samples).reshape(len(samples), -1), axis=1) != label
        found = np.unique(distance[flipped]) if flipped.any() else np.unique(distance)
        chosen = float(found[0] if self.rng.random() < 0.7 else self.rng.choice(found))
        return float(
            max(0.0, chosen * self.rng.choice([1.0, 1.0, 1.0, 0.5, 1.5]) - self.rng.choice([0.0, 0.0, 2**-20]))
        )

    def values_query(self, network: Network, point: Array, epsilon: float) -> Query:
        """Rows over outputs and inputs, thresholds often the exact maximum over corners and samples."""
        rng = self.rng
        box = Box.around(point, epsilon)
        corners = (
            np.array(list(itertools.product(*zip(box.lower, box.upper, strict=True))))
            if box.size <= 9
            else box.sample(64, rng)
        )
        points = np.concatenate([np.unique(corners, axis=0), box.sample(200, rng), point[None]])
        outputs = network.forward(points).reshape(len(points), -1)
        found = []
        for _ in range(int(rng.integers(1, 4))):
            rows = int(rng.integers(1, 3))
            y_rows = np.round(rng.normal(size=(rows, outputs.shape[1])) * 2) / 2
            x_rows = np.round(rng.normal(size=(rows, box.size)) * 2) / 2 * (rng.random((rows, 1)) < 0.4)
            reached = outputs @ y_rows.T + points @ x_rows.T
            bound = reached.min(axis=0)
            shift = np.abs(reached.max(axis=0) - bound) * rng.choice([0.0, 0.0, 0.1, -0.05, -0.2], size=rows)
            found.append(Conjunction(x_rows=x_rows, y_rows=y_rows, bound=bound + shift, strict=rng.random(rows) < 0.25))
        common = None
        if rng.random() < 0.4:
            row = np.round(rng.normal(size=(1, box.size)) * 2) / 2
            common = Conjunction(x_rows=row, bound=row @ point + (0.0 if rng.random() < 0.5 else epsilon / 4))
        return Query(network=network, box=box, disjuncts=tuple(found), common=common, anchor=point)


def main() -> None:
    """Print the lines of COUNT cases from index FIRST on."""
    first, count = map(int, sys.argv[1:])
    for index in range(first, first + count):
        generator = Generator(index)
        rounded = Case(line(generator.name, generator.query(), ("", ""))).query
        print(line(generator.name, rounded, verdicts(rounded)), flush=True)


if __name__ == "__main__":
    main()
