"""Cuts from bounds that fail: a witness is never cut off, at scales from 1 to 2⁴⁰, where the bound is tight at the witness."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.bounds.condensed import CondensedNetwork
from verifier.bounds.condensed_refine import refine
from verifier.bounds.crown_slopes import NeuronBounder, below
from verifier.bounds.restriction import restrict
from verifier.engines.native.cuts import sharpened
from verifier.engines.native.settings import SharpenSettings
from verifier.engines.native.subproblem_search import SubproblemSearch
from verifier.limits import NEVER
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, feedforward
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.properties.sets import Box
from verifier.rounding import float_above


@dataclass(frozen=True)
class Witnessed:
    """A query that a known point meets by a hair, and the exact values of its network there."""

    query: Query
    point: npt.NDArray[np.float64]
    values: dict[str, list[Fraction]]


def witnessed(seed: int) -> Witnessed:
    """Two hidden layers; the output has only positive weights behind the first, so that the lower lines that fit the
    witness's own phases make a bound that is its value there."""
    rng = np.random.default_rng(seed)
    n, first, second = int(rng.integers(2, 6)), int(rng.integers(3, 8)), int(rng.integers(2, 5))
    scale = 2.0 ** int(rng.integers(0, 40))
    weights = [
        scale * rng.normal(size=(first, n)),
        np.abs(rng.normal(size=(second, first))) * (rng.random((second, first)) < 0.7),
        np.abs(rng.normal(size=(1, second))),
    ]
    center, radius = rng.normal(size=n), float(rng.choice([1e-9, 1e-3, 0.3, 2.0]))
    box = Box(center - radius, center + radius)
    point = np.clip(box.lower + rng.random(n) * box.width, box.lower, box.upper)
    shift = -weights[0] @ center + scale * radius * rng.normal(size=first)
    middle = np.maximum(weights[0] @ point + shift, 0.0)
    biases = [shift, -weights[1] @ middle + scale * radius * rng.normal(size=second), np.zeros(1)]
    network: Network = feedforward(weights, biases)
    exact = ExactNetwork(network).values(point)
    values = {node.inputs[0]: exact[node.inputs[0]].fractions() for node in network.activations}
    bound = float_above(exact[network.output].fractions()[0])
    disjunct = Conjunction(y_rows=np.ones((1, 1)), bound=np.array([bound]))
    return Witnessed(Query(network=network, box=box, disjuncts=(disjunct,)), point, values)


def _lost(condensed: CondensedNetwork, case: Witnessed) -> str:
    """Which neuron's bounds the witness is outside of."""
    if condensed.empty:
        return "everything"
    for node in case.query.network.activations:
        z, fixed = case.values[node.inputs[0]], condensed.fixed[node.name]
        for k, v in enumerate(z):
            if v * int(fixed[k]) < 0:
                return f"{node.name}, neuron {k}, fixed"
    for block in condensed.blocks[1:]:
        z = case.values[case.query.network[block.node].inputs[0]]
        ends = zip(block.neurons[: block.count].tolist(), block.z_low.tolist(), block.z_high.tolist(), strict=True)
        for k, low, high in ends:
            if not Fraction(low) <= z[k] <= Fraction(high):
                return f"{block.node}, neuron {k}"
    return ""


def _run(seed: int) -> Iterable[Trial]:
    case = witnessed(seed)
    query, conditions = case.query, Conditions.of(case.query)
    condensed = restrict(query.network, query.box, NeuronBounder(1), fold_active=bool(seed % 2))
    search = SubproblemSearch(query, conditions, condensed, NEVER)
    row = search.start.take([0])
    signs = [np.array([case.values[query.network[b.node].inputs[0]][k] > 0 for k in b.neurons[: b.count]], dtype=bool)
             for b in condensed.blocks[1:]]  # fmt: skip
    weights = np.concatenate([np.zeros(0, dtype=bool), *signs]).astype(np.float32)[:, None]
    began = time.perf_counter()
    slope, constant = below(condensed, row, weights, np.zeros((condensed.neurons, 1), dtype=np.int8))
    value = Fraction(constant) + sum(
        (Fraction(s) * Fraction(x) for s, x in zip(slope.tolist(), case.point.tolist(), strict=True)), Fraction(0)
    )
    lost = "" if value <= 0 else f"the cut is {float(value)} at it"
    cut = condensed.within(slope, constant)
    assert cut is not None
    lost = lost or _lost(refine(cut, NeuronBounder(3)), case)
    yield _trial("a cut and the bounds under it", lost, seed, began)
    began = time.perf_counter()
    node, _ = search.root([0], 3)
    always = SharpenSettings(share=np.inf, gain=-np.inf, rounds=3)
    lost = "a proof before any cut"
    if len(node):
        better, left = sharpened(search, node, NeuronBounder(2), always, 3)
        lost = _lost(better.condensed, case) or ("" if len(left) else "everything")
    yield _trial("cuts, one after the other", lost, seed, began)


def _trial(engine: str, lost: str, seed: int, began: float) -> Trial:
    outcome = Outcome.WRONG if lost else Outcome.RIGHT
    detail = f"witnessed({seed}): {lost}"
    return Trial(engine=engine, outcome=outcome, seconds=time.perf_counter() - began, detail=detail)


KINDS = [
    Kind(
        name="cuts keep the witness",
        what="where a bound is tight at a witness, neither the cut nor any neuron's bound under it may leave it out",
        run=_run,
        cost=0.02,
    ),
]
