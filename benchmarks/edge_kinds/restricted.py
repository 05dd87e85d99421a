"""Networks restricted to a box: a value that a known point has must never be ruled out, however few points have it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import NetworkBuilder
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, leaky_relu, relu
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box

SECONDS = 0.1
WAYS = {
    "boxes, active neurons folded": NativeSettings(condensed_from=0, exact=ExactSettings.never()),
    "ReLU splitting": NativeSettings(low_dimension=0, exact=ExactSettings.never()),
}


def attained(seed: int) -> Query:
    """The output is to be what it is at one point, whose numbers have few bits, as those of the network do."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int, bits: int = 3) -> np.ndarray:
        return rng.integers(-(2**bits), 2**bits + 1, size=shape) / 2.0**bits

    sizes = [int(rng.integers(1, 3)), *(int(n) for n in rng.integers(2, 5, size=rng.integers(1, 3)))]
    builder = NetworkBuilder((sizes[0],))
    kind = rng.random()
    for inside, out in pairwise(sizes):
        before, branches = builder._last, []
        for _ in range(1 + (0.4 <= kind < 0.6)):  # one branch, or two beside each other
            # some neurons are active, and some inactive, on all of the box
            layer = Dense(numbers(out, inside), numbers(out) * rng.choice([1.0, 8.0], size=out))
            branches.append(builder.add(leaky_relu(0.25) if kind < 0.2 else relu(), builder.add(layer, before)))
        if len(branches) > 1:
            builder.add(Sum((1, -1)), *branches)
    last = sizes[-1]
    if 0.2 <= kind < 0.4:
        builder.add(Reshape((1, 1, last)))
        builder.add(MaxPool((1, 2), (1, 1), (0, int(rng.integers(2)), 0, 0)))
        last = int(np.prod(builder.shape(builder._last)))
        builder.add(Reshape((last,)))
    builder.add(Dense(numbers(1, last), numbers(1)))
    network, x = builder.build(), numbers(sizes[0], bits=5)
    y = float(ExactNetwork(network).values(x)[network.output].fractions()[0])  # of few bits: exact
    row, width = np.array([[1.0], [-1.0]]), np.abs(numbers(sizes[0])) + 0.125
    box = Box(x - width * rng.random(sizes[0]), x + width * rng.random(sizes[0]))
    return Query(network=network, box=box, disjuncts=(Conjunction(y_rows=row, bound=np.array([y, -y])),))


def _trials(seed: int) -> Iterable[Trial]:
    name, settings = list(WAYS.items())[seed % 2]
    began = time.perf_counter()
    result = NativeEngine(settings).solve(attained(seed // 2), Options(prepass=False), Deadline.after(SECONDS))
    outcome = {Answer.SAT: Outcome.RIGHT, Answer.UNSAT: Outcome.WRONG}.get(result.answer, Outcome.UNDECIDED)
    yield Trial(engine=name, outcome=outcome, seconds=time.perf_counter() - began, detail=f"attained({seed // 2})")


KINDS = [
    Kind(
        name="a value that one point has",
        what="an output equals its exact value at a known point: no search on a restricted network may rule that out",
        run=_trials,
        cost=0.1,
    ),
]
