"""The saliency engine on a network with MaxPool and one with skip connections, of thousands of units each."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier import compiled
from verifier.engines.base import Answer
from verifier.engines.native.settings import ExactSettings
from verifier.engines.saliency import SaliencyEngine
from verifier.engines.saliency.attack import MapDescent
from verifier.engines.saliency.engine import SaliencySettings
from verifier.engines.saliency.problem import Problem
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.replay import replay
from verifier.falsify.search import FalsifierSettings
from verifier.limits import NEVER, Deadline
from verifier.network.graph import Network
from verifier.options import Options

TREE = SaliencySettings(exact=ExactSettings.never())
"""The tree alone, without the exact search beside it that would answer for tiny networks."""

NETWORKS = Path(__file__).resolve().parents[2] / "benchmarks" / "networks"


@pytest.fixture(scope="module", params=["pool", "residual"])
def network(request: pytest.FixtureRequest) -> Network:
    compiled.ensure(compiled.SALIENCY)
    return verifier.load(NETWORKS / f"mnist-{request.param}.onnx")


def one() -> np.ndarray:
    """A hand-drawn 1."""
    x = np.zeros((28, 28))
    x[5:23, 13:16], x[6:8, 11:13] = 0.9, 0.6
    return x.reshape(-1)


def largest_entry(network: Network) -> float:
    return float(np.abs(network.gradient(one(), 1)).max())


def test_a_small_box_is_proved(network: Network) -> None:
    query = verifier.saliency_robustness(network, one(), epsilon=0.01, delta=0.1 * largest_entry(network), label=1)
    result = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(30))
    assert result.answer is Answer.UNSAT
    corners = np.where(np.random.default_rng(0).random((200, 784)) < 0.5, query.box.lower, query.box.upper)
    assert not query.holds(corners).any()


def test_a_large_box_has_a_witness_with_a_similar_map(network: Network) -> None:
    query = verifier.saliency_robustness(network, one(), epsilon=0.3, delta=largest_entry(network), label=1)
    result = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(30))
    assert result.answer is Answer.SAT
    assert result.x is not None
    assert replay(query, result.x).confirmed


def test_a_hard_question_ends_at_its_deadline(network: Network) -> None:
    query = verifier.saliency_robustness(network, one(), epsilon=0.15, delta=1e-3 * largest_entry(network), label=1)
    began = time.monotonic()
    result = SaliencyEngine(TREE).solve(query, Options(), Deadline.after(2.0))
    assert result.answer in (Answer.TIMEOUT, Answer.UNSAT)
    assert time.monotonic() - began < 30.0  # without the checks it took minutes; machines may be slow


def test_the_attack_comes_nearer_than_its_start(network: Network) -> None:
    query = verifier.saliency_robustness(network, one(), epsilon=0.3, delta=1e-6 * largest_entry(network), label=1)
    plain = verifier.robustness(network, one(), 0.3, label=1)
    rng = np.random.default_rng(0)
    points = np.where(rng.random((300, 784)) < 0.5, plain.box.lower, plain.box.upper)
    met = points[plain.holds(points)]
    if not len(met):
        found = verifier.verify(plain, engine="native", timeout=30).witness
        assert found is not None
        met = found.input.reshape(1, -1)
    attack = MapDescent(Problem.of(query), met[:1], hard=False)
    off = np.abs(network.gradient(met[0], 1).reshape(-1) - attack.center).max() / attack.radius.max()
    Falsifier(FalsifierSettings(most=20.0), lambda: (attack,)).run(query, NEVER)
    assert attack.distance < 0.8 * off
