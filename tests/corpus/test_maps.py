"""Conditions on saliency maps: every engine against exact enumeration, on tiny networks."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from maps_oracle import decide

from verifier.engines import registry
from verifier.engines.base import Answer
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import feedforward
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.builders import saliency_robustness
from verifier.properties.maps import SaliencyMap
from verifier.properties.named_maps import NAMES, named_map
from verifier.properties.query import Query

MAPS = [name for name in NAMES if name not in ("integrated-exact", "grad-cam")]  # dense networks have no feature maps
KINDS = [
    (name, similarity)
    for name in MAPS
    for similarity in ("linf", "l1", "l2", "top-k")
    if not (similarity == "l2" and name in ("gradient-input", "integrated"))
]


def make(seed: int, name: str, similarity: str, *, hidden: tuple[int, ...] = (4, 3), n: int = 2) -> Query:
    """A query at several sizes of delta, 0 among them.

    Most have dyadic numbers, so that kinks and ties occur; every third has all digits, so that no sum or map is a float64
    number.
    """
    rng = np.random.default_rng([seed, NAMES.index(name)])
    sizes = (n, *hidden, 3)

    def rounded(values: Array, digits: int) -> Array:
        return values if seed % 3 == 2 else np.round(values * digits) / digits

    weights = [rounded(rng.normal(size=(b, a)), 4) for a, b in itertools.pairwise(sizes)]
    network = feedforward(weights, [rounded(rng.normal(size=len(w)) / 2, 4) for w in weights])
    x = rounded(rng.normal(size=n), 4)
    chosen: SaliencyMap = named_map(name, n, steps=2, samples=2, sigma=0.25, seed=seed)
    label = int(np.argmax(network.forward(x)))
    output = chosen.output(ExactNetwork(network), [Fraction(v) for v in x.tolist()], label)
    size = float(np.abs(chosen.values(network, output, x[None])).max())
    delta = size * float(rng.choice([0.0, 0.1, 0.5, 1.0]))
    k = 1 if similarity == "top-k" else 0
    return saliency_robustness(
        network,
        x,
        epsilon=float(rng.choice([0.25, 1.0])),
        delta=delta,
        domain=None,
        map=chosen,
        similarity=similarity,
        top_k=k,
    )


def ask(engine: str, query: Query, seconds: float = 10.0) -> Answer | None:
    """The engine's answer, its witness confirmed; None if it says that it cannot take the query."""
    found = registry.get(engine)
    if found.rejects(query.network, query):
        return None
    result = found.solve(query, Options(engine=engine), Deadline.after(seconds))
    if result.answer is Answer.SAT:
        assert result.x is not None
        assert replay(query, result.x).exact
    return result.answer


@pytest.mark.parametrize(("name", "similarity"), KINDS)
def test_engines_agree_with_enumeration(name: str, similarity: str) -> None:
    decided: Counter[str] = Counter()
    seeds = range(3)
    for seed in seeds:
        query = make(seed, name, similarity, hidden=(3,) if name in ("integrated", "smooth") else (3, 2))
        strict = decide(query)
        for engine in ("maps", "saliency", "highs"):
            answer = ask(engine, query)
            assert answer is not Answer.SAT or strict, (engine, seed)
            assert answer is not Answer.UNSAT or not strict, (engine, seed)
            decided[engine] += answer in (Answer.SAT, Answer.UNSAT)
    # what is left are maps whose distance is delta up to rounding
    assert max(decided.values()) >= len(seeds) - 1, decided


@pytest.mark.parametrize(
    ("name", "similarity"), [("absolute", "linf"), ("gradient", "l1"), ("absolute", "top-k"), ("smooth", "l1")]
)
def test_exact_solvers_agree_with_enumeration(name: str, similarity: str) -> None:
    engines = [engine for engine in ("z3", "yices") if registry.get(engine).availability().installed]
    assert "z3" in engines
    for seed in range(3):
        query = make(seed, name, similarity, hidden=(4,))
        strict = decide(query)
        for engine in engines:
            answer = ask(engine, query, 20.0)
            assert answer is (Answer.SAT if strict else Answer.UNSAT), (engine, seed)


def test_the_oracle_knows_both_answers() -> None:
    """Enumeration finds witnesses and refutes, for maps with and without the input as a factor."""
    for name in ("absolute", "gradient-input", "smooth"):
        found = {decide(make(seed, name, "linf", hidden=(3,))) for seed in range(8)}
        assert found == {True, False}, name


def test_the_condition_is_part_of_the_truth() -> None:
    """Without its condition a query has more witnesses: the condition is not lost on the way."""
    changed = 0
    for seed in range(8):
        query = make(seed, "absolute", "l1", hidden=(3,))
        changed += decide(query) != decide(replace(query, condition=None, gradient=None))
    assert changed
