"""Several layers at once, MAX-SMT as a method, and the evaluation of a difference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from verifier.errors import InputError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, leaky_relu, relu
from verifier.repair import (
    FrozenNetwork,
    LineRegion,
    OutputPolytope,
    PointRegion,
    RepairStatus,
    Requirement,
    Specification,
    check_exactly,
    output_class,
    repair,
    repairable_layers,
)
from verifier.repair.frozen import parameters


def dense(seed: int, sizes: tuple[int, ...] = (3, 8, 8, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def residual_convolution() -> Network:
    rng = np.random.default_rng(1)
    builder = NetworkBuilder((2, 6, 6))
    first = builder.add(Conv(rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3), padding=(1, 1, 1, 1)))
    active = builder.add(leaky_relu(0.2), first)
    second = builder.add(Conv(rng.normal(size=(3, 3, 3, 3)), rng.normal(size=3), padding=(1, 1, 1, 1)), active)
    builder.add(Sum((1, 1)), second, first)
    builder.add(MaxPool((2, 2), (2, 2)))
    builder.add(Reshape((27,)))
    builder.add(Dense(rng.normal(size=(5, 27)), rng.normal(size=5)))
    builder.add(relu())
    builder.add(Dense(rng.normal(size=(3, 5)), rng.normal(size=3)))
    return builder.build()


def needs_two_layers() -> tuple[Network, Specification]:
    """y = relu(x0): at (1, 0) at least 2 and at (1, 1) at most 0, which only the first layer can tell apart; at (-1, 0),
    where the neuron is inactive, at least 1, which only the last layer can do."""
    network = feedforward([[[1.0, 0.0]], [[1.0]]], [[0.0], [0.0]])
    high, low = [OutputPolytope(np.array([[s]]), np.array([b])) for s, b in ((-1.0, -2.0), (1.0, 0.0))]
    one = OutputPolytope(np.array([[-1.0]]), np.array([-1.0]))
    places = (([1.0, 0.0], high), ([1.0, 1.0], low), ([-1.0, 0.0], one))
    return network, Specification(tuple(Requirement(PointRegion(x), p) for x, p in places))


def test_two_layers_do_what_neither_does_alone() -> None:
    network, specification = needs_two_layers()
    layers = repairable_layers(network)
    alone = repair(network, specification, layers=layers, reach=1e6)
    assert alone.status is RepairStatus.INFEASIBLE
    result = repair(network, specification, method="layers", reach=1e6)
    assert result.status is RepairStatus.REPAIRED
    assert set(result.frozen.patches) == set(layers)
    assert check_exactly(result.frozen, specification).proved
    # the least: the last bias by 1, then the weight of x1 by -2; each step proved least given the other
    assert result.norms["l1"] == pytest.approx(3.0, rel=1e-6)
    for step in result.attempts.values():
        assert step.least <= step.norm <= step.least * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_several_layers_cost_no_more_than_the_first_or_the_last_alone(seed: int) -> None:
    network = dense(seed, (2, 4, 4, 3))
    label = int(network.forward([0.0, 0.0]).argmin())
    line = Requirement(LineRegion([0.0, 0.0], [0.5, 0.25]), output_class(3, label, margin=0.125))
    specification = Specification((line,))
    result = repair(network, specification, method="layers")
    assert result.status is RepairStatus.REPAIRED
    assert check_exactly(result.frozen, specification).proved
    layers = repairable_layers(network)
    alone = [repair(network, specification, layers=[layer]) for layer in (layers[0], layers[-1])]
    norms = [single.norms["l1"] for single in alone if single.status is RepairStatus.REPAIRED]
    assert result.norms["l1"] <= min(norms) * (1 + 1e-6)


def test_what_no_layers_can_do_is_said() -> None:
    network = dense(1, (2, 3, 2))
    both = (Requirement(PointRegion([0.5, 0.5]), output_class(2, k, margin=0.1)) for k in (0, 1))
    result = repair(network, Specification(tuple(both)), method="layers", timeout=20.0)
    assert result.status in (RepairStatus.IMPROVED, RepairStatus.UNCHANGED)
    assert result.reason


def test_max_smt_is_a_method() -> None:
    network = dense(7, (2, 3, 2))
    rng = np.random.default_rng(0)
    places = rng.normal(size=(8, 2))
    spec = Specification(
        tuple(Requirement(PointRegion(p), output_class(2, k)) for p, k in zip(places, [0, 1] * 4, strict=True))
    )
    layers = [repairable_layers(network)[-1]]
    best = repair(network, spec, method="maxsmt", layers=layers, timeout=60.0)
    greedy = repair(network, spec, method="greedy", layers=layers, steps=10)
    assert best.met_after >= greedy.met_after > greedy.met_before
    assert best.status in (RepairStatus.REPAIRED, RepairStatus.ROUNDED, RepairStatus.IMPROVED)
    line = LineRegion([0.0, 0.0], [0.5, 0.25])
    label = int(network.forward([0.0, 0.0]).argmin())
    feasible = Specification((Requirement(line, output_class(2, label, margin=0.125)),))
    smt, lp = repair(network, feasible, method="maxsmt"), repair(network, feasible)
    assert smt.status is lp.status is RepairStatus.REPAIRED
    assert smt.norms["l1"] == pytest.approx(lp.norms["l1"], rel=1e-6)
    with pytest.raises(InputError, match="too many for MAX-SMT"):
        repair(dense(0, (2, 30, 30, 2)), feasible, method="maxsmt", layers=["dense_2"])


@pytest.mark.parametrize("network", [dense(3), residual_convolution()], ids=["dense", "residual"])
def test_the_difference_is_the_difference(network: Network) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, network.input_size))
    frozen = FrozenNetwork(network)
    assert not frozen.difference(x).any()
    layers = repairable_layers(network)
    for chosen in [[name] for name in layers] + [list(layers)]:
        patched = frozen
        for name in chosen:
            change = np.zeros(parameters(network[name].operator).size)
            change[rng.integers(0, len(change), 3)] = rng.normal(size=3)
            patched = patched.patched(name, change)
        expected = patched.forward(x) - network.forward(x)
        assert np.abs(expected).max() > 0
        assert np.allclose(patched.difference(x), expected, atol=1e-9 * (1 + np.abs(expected).max()))
        assert np.allclose(patched.difference(x[0]), expected[0], atol=1e-9 * (1 + np.abs(expected).max()))
