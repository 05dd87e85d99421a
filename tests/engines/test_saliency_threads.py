"""The saliency engine's tree shared among threads: the same answers as by one."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

import verifier
from verifier.bab import Ending
from verifier.engines.saliency.problem import Problem
from verifier.engines.saliency.tree import Tree
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.properties.query import Query


def query_of(seed: int, share: float) -> Query:
    """A random network of two hidden layers, 3-40-40-3, whose label changes in the box."""
    rng = np.random.default_rng(seed)
    sizes = (3, 40, 40, 3)
    weights = [rng.normal(size=(n, m)) / np.sqrt(m) for m, n in itertools.pairwise(sizes)]
    network = verifier.feedforward(weights, [rng.normal(size=n) / 4 for n in sizes[1:]])
    x = rng.uniform(-1, 1, 3)
    label = int(np.argmax(network.forward(x)))
    size = float(np.abs(network.gradient(x, label)).max())
    return verifier.saliency_robustness(network, x, epsilon=0.3, delta=share * size, label=label, domain=(-2.0, 2.0))


@pytest.mark.parametrize(("seed", "share"), [(0, 0.1), (0, 0.6), (3, 0.1), (3, 0.6), (5, 0.1)])
def test_two_threads_decide_as_one(seed: int, share: float) -> None:
    query = query_of(seed, share)
    found = []
    for threads in (1, 2):
        tree, deadline = Tree(Problem.of(query)), Deadline.after(60)
        witness = None if tree.refuted_at_root(deadline) else tree.run(deadline, threads)
        assert tree.result.ending is (Ending.PROVED if witness is None else Ending.WITNESS)
        assert witness is None or replay(query, witness).confirmed
        found.append(witness is None)
    assert found[0] == found[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_that_pauses_goes_on_where_it_was(threads: int) -> None:
    query = query_of(0, 0.1)
    whole, deadline = Tree(Problem.of(query)), Deadline.after(60)
    assert not whole.refuted_at_root(deadline)
    whole.run(deadline)
    tree = Tree(Problem.of(query))
    assert not tree.refuted_at_root(deadline)
    pauses = 0
    while tree.result.ending is Ending.OPEN:
        tree.run(deadline, threads, most=1)
        pauses += 1
    assert tree.result.ending is whole.result.ending
    assert pauses > 1


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_left_at_the_deadline_is_no_proof(threads: int) -> None:
    tree = Tree(Problem.of(query_of(0, 0.1)))
    assert not tree.refuted_at_root(Deadline.after(60))
    assert tree.run(Deadline.after(0), threads) is None
    assert (tree.result.ending, tree.result.late) == (Ending.OPEN, True)
    assert tree.result.left > 0


def test_an_error_in_a_thread_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(Problem.of(query_of(0, 0.1)))
    assert not tree.refuted_at_root(Deadline.after(60))

    def fail(self: Tree, *rest: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Tree, "bound", fail)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        tree.run(Deadline.after(60), 2)
    assert threading.active_count() == before
