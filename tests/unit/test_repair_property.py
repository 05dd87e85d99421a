"""Repair from a property: the loop ends with a proof for the whole box, or says why not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import verifier
from verifier.errors import InputError, PropertyError
from verifier.network.graph import Network, feedforward
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.repair import PropertyRepairStatus, repair_property
from verifier.verdict import Status, Verdict


def dense(seed: int, sizes: tuple[int, ...] = (3, 6, 6, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def native(query: Query) -> Verdict:
    return verifier.verify(query, engine="native", timeout=20.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_label_that_does_not_hold_is_made_to_hold_on_the_whole_box(seed: int) -> None:
    network = dense(seed)
    x = np.random.default_rng(seed).uniform(-1, 1, 3)
    wanted = int(np.argsort(network.forward(x))[-2])
    query = verifier.robustness(network, x, epsilon=0.05, label=wanted, domain=None)
    assert native(query).status is Status.VIOLATED
    result = repair_property(query, native, timeout=60.0)
    assert result.status is PropertyRepairStatus.REPAIRED
    assert result.verdict.status is Status.HOLDS
    assert (
        native(verifier.robustness(result.network, x, epsilon=0.05, label=wanted, domain=None)).status is Status.HOLDS
    )
    points = x + np.random.default_rng(1).uniform(-0.05, 0.05, (2000, 3))
    assert (result.network.forward(points).argmax(axis=1) == wanted).all()
    assert len(result.network.nodes) == len(network.nodes)
    assert 0 < len(result.counterexamples) <= 100
    assert all(name.startswith(network.nodes[-1].name) for name in result.changes)


def test_inputs_that_must_keep_their_class_do() -> None:
    network = dense(4)
    x = np.zeros(3)
    wanted = int(np.argsort(network.forward(x))[-2])
    keep = np.random.default_rng(0).normal(size=(20, 3)) * 3
    query = verifier.robustness(network, x, epsilon=0.02, label=wanted, domain=None)
    result = repair_property(query, native, keep=keep, timeout=60.0, reach=1e4)
    assert result.status in (PropertyRepairStatus.REPAIRED, PropertyRepairStatus.INFEASIBLE)
    before, after = network.forward(keep), result.network.forward(keep)
    label = before.argmax(axis=1)
    assert (after[np.arange(20), label] >= after.max(axis=1) - 1e-12).all()


def test_what_holds_is_left_alone_and_what_cannot_be_mended_is_said() -> None:
    network = dense(5)
    x = np.zeros(3)
    holds = verifier.robustness(network, x, epsilon=1e-4, domain=None)
    result = repair_property(holds, native)
    assert result.status is PropertyRepairStatus.HOLDS
    assert result.network is network
    # y0 <= 0 and y0 >= 1 forbidden everywhere but for an impossible band: both cases hold nowhere at once, yet cover all
    forbidden = (
        Conjunction(bound=[0.5], y_rows=[[1.0, 0.0, 0.0]]),
        Conjunction(bound=[-0.5], y_rows=[[-1.0, 0.0, 0.0]]),
    )
    query = Query(network=network, box=Box.around(x, 0.1, None), disjuncts=forbidden)
    result = repair_property(query, native, timeout=30.0)
    assert result.status in (PropertyRepairStatus.INFEASIBLE, PropertyRepairStatus.UNFINISHED)
    assert result.reason


def test_bad_questions_are_refused() -> None:
    network = dense(6)
    with pytest.raises(PropertyError, match="no row of the property speaks of outputs"):
        repair_property(
            Query(network=network, box=Box.around(np.zeros(3), 0.1, None), disjuncts=(Conjunction(bound=[]),)), native
        )
    with pytest.raises(PropertyError, match="not gradients"):
        repair_property(verifier.saliency_robustness(network, np.zeros(3), epsilon=0.1, delta=0.1, domain=None), native)
    with pytest.raises(InputError, match="margin must be positive"):
        repair_property(verifier.robustness(network, np.zeros(3), epsilon=0.1, domain=None), native, margin=0.0)
