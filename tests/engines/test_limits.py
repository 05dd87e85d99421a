"""Work ends when its time is over: what polls the deadline in force, and what the stages make of it."""

from __future__ import annotations

import importlib.util
import time
from itertools import pairwise

import numpy as np
import pytest

from verifier import Status, saliency_robustness, verify
from verifier.bounds import bounds
from verifier.bounds.lirpa import lirpa_bounds
from verifier.bounds.restriction import restrict
from verifier.engines.registry import get
from verifier.errors import EngineError, TimeLimitError
from verifier.limits import Deadline, in_force, poll
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, relu
from verifier.network.relu_form import relu_form
from verifier.options import Options
from verifier.properties.sets import Box

OVER = Deadline.after(0.0)


def dense(*sizes: int) -> Network:
    rng = np.random.default_rng(0)
    pairs = list(pairwise(sizes))
    return feedforward(
        [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in pairs], [0.1 * rng.normal(size=b) for _, b in pairs]
    )


def test_a_deadline_is_in_force_within_its_block_only() -> None:
    poll("outside")
    with in_force(OVER):
        with pytest.raises(TimeLimitError, match="inside"):
            poll("inside")
        with in_force(Deadline(None)):
            poll("in an inner block")
    poll("outside again")


@pytest.mark.parametrize(
    "work",
    [
        lambda net, box: bounds(net, box, "crown"),
        lambda net, box: bounds(net, box, "interval"),
        lambda net, box: ExactNetwork(net).values(box.lower),
        lambda net, box: ExactNetwork(net).gradient(box.lower, 0),
        lambda net, box: relu_form(net),
        lambda net, box: restrict(net, box, lambda *_: (np.zeros(0), np.zeros(0))),
    ],
    ids=["crown", "intervals", "exact values", "exact gradient", "layers", "unstable ReLUs"],
)
def test_long_computations_poll_it(work: object) -> None:
    net = dense(4, 5, 5, 2)
    with in_force(OVER), pytest.raises(TimeLimitError):
        work(net, Box(np.zeros(4), np.ones(4)))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["integrated", "smooth"])
def test_maps_of_large_networks_end_in_time(name: str) -> None:
    """Ten copies of a network of 1,536 neurons: forms, bounds and replays of them take seconds each."""
    net = dense(784, 512, 512, 512, 10)
    query = saliency_robustness(net, np.random.default_rng(1).random(784), epsilon=0.05, delta=0.1, map=name)
    verify(query, timeout=0.2)  # modules are loaded
    began = time.process_time()
    verdict = verify(query, timeout=1.0)
    assert verdict.status is Status.TIMEOUT
    assert time.process_time() - began < 2.0  # CPU time: the tests' machine is shared


def pooled(kernel: tuple[int, int], rectified: bool) -> Network:
    rng = np.random.default_rng(0)
    builder = NetworkBuilder((1, 4, 4))
    builder.add(Conv(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2)))
    if rectified:
        builder.add(relu())
    name = builder.add(MaxPool(kernel=kernel, stride=kernel))
    size = int(np.prod(builder.shape(name)))
    builder.add(Reshape((size,)))
    builder.add(Dense(rng.normal(size=(3, size)), np.zeros(3)))
    builder.add(relu())
    builder.add(Dense(rng.normal(size=(2, 3)), np.zeros(2)))
    return builder.build()


def test_alpha_crown_falls_back_where_auto_lirpa_fails() -> None:
    if importlib.util.find_spec("auto_LiRPA") is None:
        pytest.skip("auto_LiRPA is not installed")
    failed = []
    for kernel in ((1, 1), (2, 2), (3, 3), (1, 2), (2, 1)):
        for rectified in (False, True):
            net, box = pooled(kernel, rectified), Box(-np.ones(16), np.ones(16))
            found = bounds(net, box, "alpha-crown", steps=2)
            try:
                lirpa_bounds(net, box, "alpha-crown", steps=2)
            except EngineError:
                failed.append(kernel)
                assert "crown (alpha-crown failed" in found.method
            points = np.random.default_rng(2).uniform(-1, 1, size=(500, 16))
            assert found[net.output].contains(net.forward(points), 1e-9).all()
    assert failed, "auto_LiRPA takes all of these now: is the fallback still needed?"


@pytest.mark.parametrize(
    ("name", "epsilon"), [("gradient", 0.3), ("gradient-input", 0.3), ("integrated", 0.1), ("smooth", 0.3)]
)
def test_windows_of_one_entry(name: str, epsilon: float) -> None:
    """MaxPool over single entries is no neuron of the saliency engine's form, and still part of an activation pattern."""
    rng = np.random.default_rng(0)
    builder = NetworkBuilder((1, 2, 3))
    builder.add(MaxPool(kernel=(1, 1), stride=(1, 1)))
    builder.add(Reshape((6,)))
    builder.add(Dense(rng.normal(size=(4, 6)), np.zeros(4)))
    builder.add(relu())
    builder.add(Dense(rng.normal(size=(2, 4)), np.zeros(2)))
    query = saliency_robustness(builder.build(), rng.random(6), epsilon=epsilon, delta=0.01, map=name)
    result = get("saliency").solve(query, Options(), Deadline.after(60))
    assert result.answer.value in ("sat", "unsat"), result.reason
