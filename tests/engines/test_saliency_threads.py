"""The saliency engine's tree shared among threads: the same answers as by one."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

import verifier
from verifier.engines.saliency.branching import Search
from verifier.engines.saliency.problem import Problem
from verifier.engines.saliency.shared_tree import SharedTree
from verifier.limits import Deadline
from verifier.properties.query import Query
from verifier.search.replay import replay


def query_of(seed: int, share: float) -> Query:
    """A random network of two hidden layers, 3-40-40-3, whose label changes in the box."""
    rng = np.random.default_rng(seed)
    sizes = (3, 40, 40, 3)
    weights = [rng.normal(size=(n, m)) / np.sqrt(m) for m, n in itertools.pairwise(sizes)]
    network = verifier.feedforward(weights, [rng.normal(size=n) / 4 for n in sizes[1:]])
    x = rng.uniform(-1, 1, 3)
    label = int(np.argmax(network.forward(x)))
    size = float(np.abs(network.gradient(x, label)).max())
    return verifier.saliency_robustness(network, x, 0.3, share * size, label, domain=(-2.0, 2.0))


@pytest.mark.parametrize(("seed", "share"), [(0, 0.1), (0, 0.6), (3, 0.1), (3, 0.6), (5, 0.1)])
def test_two_threads_decide_as_one(seed: int, share: float) -> None:
    query = query_of(seed, share)
    found = []
    for threads in (1, 2):
        search = Search(Problem.of(query), Deadline.after(60))
        witness = None
        if not search.refuted_at_root():
            witness = search.run() if threads == 1 else SharedTree(search, threads).run()
        assert witness is not None or search.complete
        assert witness is None or replay(query, witness).confirmed
        found.append(witness is None)
    assert found[0] == found[1]


def test_what_is_left_at_the_deadline_is_no_proof() -> None:
    query = query_of(0, 0.1)
    search = Search(Problem.of(query), Deadline.after(60))
    assert not search.refuted_at_root()
    search.deadline = Deadline.after(0)
    assert SharedTree(search, 2).run() is None
    assert search.timed_out
    assert not search.complete


def test_an_error_in_a_thread_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(Problem.of(query_of(0, 0.1)), Deadline.after(60))
    assert not search.refuted_at_root()

    def fail(self: Search) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Search, "step", fail)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        SharedTree(search, 2).run()
    assert threading.active_count() == before
