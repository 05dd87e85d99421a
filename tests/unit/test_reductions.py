"""Reductions compute the same function and, away from kinks and at ties, the same gradient."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.network.balance import BalanceWeights
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape, Scale, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, absolute, clip, leaky_relu, relu
from verifier.network.reduction import Reduction, reduce
from verifier.network.relu_reductions import TO_RELUS, WITHOUT_POOLS, FunctionsAsRelus, PoolsAsRelus, PoolsBeforeRelus
from verifier.network.shifts import AbsorbShifts

KINDS = {
    "leaky": leaky_relu(0.25),
    "abs": absolute(),
    "clip": clip(-0.5, 1.0),
    "clip low": clip(0.5, np.inf),
    "clip high": clip(-np.inf, 0.5),
    "general": PiecewiseLinear((-1.0, 1.0), (-1.0, 0.5, 2.0), (-1.5, 0.0, -1.5), (-1.0, 0.5)),
}


def one_activation(kind: PiecewiseLinear) -> Network:
    builder = NetworkBuilder((1,))
    builder.add(kind)
    return builder.build()


@pytest.mark.parametrize("name", KINDS)
def test_activations_as_relus_are_exact_with_the_gradient_at_the_kinks(name):
    network = one_activation(KINDS[name])
    reduced = reduce(network, TO_RELUS)
    assert reduced.network.is_relu_only
    assert reduced.exact
    ours, theirs = ExactNetwork(network), ExactNetwork(reduced.network)
    for x in (*KINDS[name].breaks, -3, Fraction(-1, 3), 0, Fraction(1, 7), 5):
        assert ours.output([x]) == theirs.output([x])
        assert ours.gradient([x], 0) == theirs.gradient([x], 0)


@given(st.integers(0, 10**6))
def test_maxpool_as_relus_is_exact_even_at_ties(seed):
    rng = np.random.default_rng(seed)
    kernel = tuple(int(v) for v in rng.integers(1, 4, size=2))
    stride = tuple(int(v) for v in rng.integers(1, 3, size=2))
    padding = tuple(int(v) for v in rng.integers(0, min(kernel), size=4))
    builder = NetworkBuilder((2, 4, 4))
    builder.add(MaxPool(kernel, stride, padding))
    builder.add(Reshape((int(np.prod(builder.shape(builder._last))),)))
    network = builder.build()
    reduced = reduce(network, (PoolsAsRelus(),)).network
    assert reduced.is_relu_only
    x = rng.integers(-2, 3, size=network.input_size)  # many ties
    assert ExactNetwork(network).output(x) == ExactNetwork(reduced).output(x)
    weights = rng.integers(-3, 4, size=network.output_size).astype(float)
    assert ExactNetwork(network).gradient(x, weights) == ExactNetwork(reduced).gradient(x, weights)


@pytest.mark.parametrize("seed", range(20))
def test_pools_before_their_relus_are_exact_even_at_ties(seed):
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 4, 4))
    first = builder.add(relu())
    pooled = builder.add(MaxPool((2, 2), (1, 1), (1, 0, 0, 1)), first)
    if seed % 4 == 3:  # a ReLU that something else reads too stays where it is
        pooled = builder.add(
            Reshape((16,)),
            builder.add(Sum((1, 1)), builder.add(Reshape((16,)), pooled), builder.add(Reshape((16,)), first)),
        )
    builder.add(Reshape((16,)), pooled)
    network = builder.build()
    turned = reduce(network, (PoolsBeforeRelus(),))
    assert (turned.network is network) == (seed % 4 == 3)
    assert turned.exact
    weights = rng.integers(-3, 4, size=16).astype(float)
    for reduced in (turned.network, reduce(network, WITHOUT_POOLS).network):
        for _ in range(5):
            x = rng.integers(-2, 3, size=16)  # many ties
            assert ExactNetwork(network).output(x) == ExactNetwork(reduced).output(x)
            assert ExactNetwork(network).gradient(x, weights) == ExactNetwork(reduced).gradient(x, weights)


def deep(rng: np.random.Generator) -> Network:
    builder = NetworkBuilder((2, 5, 5))
    builder.add(Scale(np.full((2, 5, 5), 2.0), np.full((2, 5, 5), -1.0)))
    builder.add(Conv(rng.normal(size=(3, 2, 2, 2)), rng.normal(size=3)))
    normal = [np.broadcast_to(rng.normal(size=(3, 1, 1)), (3, 4, 4)).copy() for _ in range(2)]
    builder.add(Scale(*normal))
    builder.add(leaky_relu(0.1))
    builder.add(MaxPool((2, 2), (2, 2)))
    builder.add(Reshape((12, 1)))
    builder.add(Reshape((12,)))
    builder.add(Scale(rng.normal(size=12), rng.normal(size=12)))
    builder.add(Dense(rng.normal(size=(4, 12)), rng.normal(size=4)))
    builder.add(Dense(rng.normal(size=(6, 4)), rng.normal(size=6)))
    builder.add(clip(-1.0, 1.0))
    builder.add(Dense(rng.normal(size=(5, 6)), np.zeros(5)))
    builder.add(Scale(np.ones(5), rng.normal(size=5)))
    return builder.build()


CHAINS: dict[str, tuple[Reduction, ...]] = {
    "to ReLUs": TO_RELUS,
    "as proofs have them": (PoolsAsRelus(), FunctionsAsRelus(gradients=False)),
    "as read": (AbsorbShifts(),),
    "all": (AbsorbShifts(), *TO_RELUS, AbsorbShifts()),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_reductions_leads_back_to_the_original_network(name):
    network, rng = deep(np.random.default_rng(5)), np.random.default_rng(6)
    reduced = reduce(network, CHAINS[name])
    assert reduced.original is network
    assert reduced.exact
    assert reduced.network.is_relu_only == (name != "as read")
    assert set(reduced.origin) == {node.name for node in reduced.network.nodes}
    assert set(reduced.origin.values()) <= {node.name for node in network.nodes}
    x = rng.integers(-4, 5, size=(3, network.input_size)) / 4
    assert (reduced.invert(x) == x).all()
    for point in x:
        assert ExactNetwork(network).output(point) == ExactNetwork(reduced.network).output(point)
    ours, theirs = network.values(x), reduced.network.values(x)
    for node in reduced.network.nodes:
        if reduced.origin[node.name] == node.name:  # a node that kept its name kept its value
            np.testing.assert_allclose(theirs[node.name], ours[node.name], rtol=1e-11, atol=1e-11)


def test_balancing_scales_outputs_and_gradients_by_a_power_of_two():
    network, rng = deep(np.random.default_rng(5)), np.random.default_rng(7)
    nodes = [
        replace(n, operator=replace(n.operator, weight=n.operator.weight * 2.0**30))
        if isinstance(n.operator, Dense)
        else n
        for n in network.nodes
    ]
    large = replace(network, nodes=tuple(nodes))
    assert not BalanceWeights().accepts(network)
    reduced = reduce(large, (*TO_RELUS[:1], BalanceWeights()))
    assert reduced.original is large
    assert reduced.exponent >= 90
    x = rng.integers(-4, 5, size=network.input_size) / 4
    ours, theirs = ExactNetwork(large), ExactNetwork(reduced.network)
    assert ours.output(x) == [v * 2**reduced.exponent for v in theirs.output(x)]
    assert ours.gradient(x, 1) == [v * 2**reduced.exponent for v in theirs.gradient(x, 1)]


def test_reductions_keep_what_a_network_says_of_itself():
    network = deep(np.random.default_rng(5))
    ends = np.zeros(network.input_size), np.ones(network.input_size)
    said = replace(network, integer_inputs=True, domain=ends, remarks=("read so",), source="a file")
    reduced = reduce(said, TO_RELUS).network
    assert (reduced.integer_inputs, reduced.domain, reduced.remarks, reduced.source) == (
        True,
        ends,
        ("read so",),
        "a file",
    )


def test_what_a_chain_does_not_accept_is_the_network_itself():
    network = one_activation(relu())
    for chain in CHAINS.values():
        assert reduce(network, chain).network is network


def test_absorbing_shifts_rounds_nothing():
    rng = np.random.default_rng(6)
    network = deep(rng)
    same = reduce(network, (AbsorbShifts(),)).network
    assert len(same.nodes) == len(network.nodes) - 2  # the last bias, and the doubled reshape
    x = rng.integers(-4, 5, size=network.input_size) / 4
    assert ExactNetwork(network).output(x) == ExactNetwork(same).output(x)


def test_a_value_that_is_used_twice_is_not_folded_away():
    builder = NetworkBuilder((3,))
    first = builder.add(Dense(np.eye(3), np.zeros(3)))
    shifted = builder.add(Scale(np.ones(3), np.ones(3)), first)
    from verifier.network.operators import Sum

    builder.add(relu(), builder.add(Sum((1, 1)), first, shifted))
    network = builder.build()
    assert reduce(network, (AbsorbShifts(),)).network is network
