"""Repair: frozen networks, key points, greedy patches, linear programs, and the exact check."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.errors import InputError, NetworkError, PropertyError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.repair import (
    FrozenNetwork,
    LineRegion,
    OutputPolytope,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    Requirement,
    Specification,
    check,
    check_exactly,
    drawdown,
    output_class,
    repair,
    repairable_layers,
    specification_from_dict,
)
from verifier.repair.export import frozen_to_onnx
from verifier.repair.frozen import parameters
from verifier.repair.greedy import best_change, best_deltas
from verifier.repair.keypoints import key_points
from verifier.repair.linear import solve_layer
from verifier.repair.rows import layer_rows
from verifier.repair.smt import solve_max_smt

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def dense(seed: int, sizes: tuple[int, ...] = (3, 8, 8, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def convolutional(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((2, 6, 6))
    builder.add(Conv(rng.normal(size=(3, 2, 3, 3)) * 0.3, rng.normal(size=3), stride=(1, 1), padding=(1, 1, 1, 1)))
    builder.add(relu())
    builder.add(MaxPool((2, 2), (2, 2)))
    builder.add(Conv(rng.normal(size=(4, 3, 2, 2)) * 0.3, rng.normal(size=4)))
    builder.add(relu())
    builder.add(Reshape((16,)))
    builder.add(Dense(rng.normal(size=(3, 16)), rng.normal(size=3)))
    return builder.build()


def leaky_clip() -> Network:
    rng = np.random.default_rng(3)
    builder = NetworkBuilder((4,))
    size = 4
    for activation in (leaky_relu(0.2), clip(-0.5, 1.0), absolute()):
        builder.add(Dense(rng.normal(size=(6, size)), rng.normal(size=6)))
        builder.add(activation)
        size = 6
    builder.add(Dense(rng.normal(size=(2, 6)), rng.normal(size=2)))
    return builder.build()


def square(network: Network, seed: int = 0, size: float = 1.0) -> PolygonRegion:
    rng = np.random.default_rng(seed)
    origin, u, v = rng.normal(size=(3, network.input_size))
    return PolygonRegion(origin, u, v, SQUARE * size)


@pytest.mark.parametrize("network", [dense(0), convolutional(0)], ids=["dense", "conv"])
def test_an_unpatched_frozen_network_is_the_network(network: Network) -> None:
    x = np.random.default_rng(1).normal(size=(20, network.input_size))
    frozen = FrozenNetwork(network)
    assert np.allclose(frozen.forward(x), network.forward(x), atol=1e-12)
    assert np.allclose(frozen.gradient(x, 1), network.gradient(x, 1), atol=1e-12)
    assert np.array_equal(frozen.fold().forward(x), network.forward(x))
    assert np.allclose(pickle.loads(pickle.dumps(frozen)).forward(x), network.forward(x), atol=1e-12)


@pytest.mark.parametrize("network", [dense(2), convolutional(2)], ids=["dense", "conv"])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_rows_are_affine_in_the_parameters_of_each_layer(network: Network, which: int) -> None:
    layer = repairable_layers(network)[which]
    specification = Specification((Requirement(square(network), output_class(3, 1)),))
    points, frozen = key_points(network, specification), FrozenNetwork(network)
    rows = layer_rows(frozen, points, layer)
    assert np.allclose(rows.slack, points.slack(frozen), atol=1e-10)
    delta = np.random.default_rng(5).normal(size=rows.size) * 0.2
    after = points.slack(frozen.patched(layer, delta))
    scale = 1 + np.abs(after).max()
    assert np.allclose(rows.slack - rows.change(delta), after, atol=1e-10 * scale)
    some = np.arange(0, len(rows.slack), 3)
    assert np.allclose(rows.coefficients(some) @ delta, rows.change(delta)[some], atol=1e-10 * scale)
    chosen = np.arange(0, rows.size, 5)
    assert np.allclose(rows.columns(chosen).T[some], rows.coefficients(some)[:, chosen], atol=1e-12 * scale)


def test_a_patch_of_the_last_layer_folds_and_others_say_which_unit_is_in_the_way() -> None:
    network = dense(3)
    first, _, last = repairable_layers(network)
    x = np.random.default_rng(0).normal(size=(9, 3))
    frozen = FrozenNetwork(network)
    patched = frozen.patched(last, np.random.default_rng(1).normal(size=27))
    assert np.allclose(patched.fold().forward(x), patched.forward(x), atol=1e-12)
    with pytest.raises(NetworkError, match="node 'relu_1'"):
        frozen.patched(first, np.ones(32)).fold()
    with pytest.raises(InputError, match="3 changes for the 27"):
        frozen.patched(last, np.ones(3))


@settings(max_examples=25)
@given(st.integers(0, 1_000_000))
def test_the_sweep_finds_the_best_change_of_a_single_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = feedforward([rng.integers(-2, 3, (3, 2)), rng.integers(-2, 3, (2, 3))], [np.ones(3), np.zeros(2)])
    targets = rng.integers(0, 2, 9)
    spec = Specification(
        tuple(
            Requirement(PointRegion(p), output_class(2, int(t)))
            for p, t in zip(rng.integers(-2, 3, (9, 2)), targets, strict=True)
        )
    )
    points, frozen = key_points(network, spec), FrozenNetwork(network)
    for layer in repairable_layers(network):
        rows = layer_rows(frozen, points, layer)
        met, delta = best_deltas(rows, points.row_start)
        for p in range(rows.size):
            column = rows.columns(np.array([p]))[0]
            crossings = [s / c for s, c in zip(rows.slack, column, strict=True) if c != 0] or [0.0]
            tries = np.unique([0.0, *crossings, *(np.diff(np.sort(crossings)) / 2 + np.sort(crossings)[:-1])])
            tries = np.concatenate([tries, [tries.min() - 1, tries.max() + 1]])
            slack = rows.slack - np.outer(tries, column)
            counts = np.logical_and.reduceat(slack >= -1e-12, points.row_start[:-1], axis=1).sum(axis=1)
            truth = int(counts.max())
            assert met[p] == truth
            best = min(abs(d) for d, ok in zip(tries, counts, strict=True) if ok == truth)
            assert abs(delta[p]) <= best + 1e-7
            unit = np.zeros(rows.size)
            unit[p] = delta[p]
            assert points.met(points.slack(frozen.patched(layer, unit))).sum() == truth


def test_greedy_is_monotone_and_stops_when_all_is_met() -> None:
    network = dense(4)
    spec = Specification((Requirement(square(network, 1, 0.5), output_class(3, 2)),))
    result = repair(network, spec, method="greedy", steps=6)
    counts = [result.met_before, *(s.met for s in result.steps)]
    assert counts == sorted(counts)
    assert len(set(counts)) == len(counts)
    assert result.met_after == counts[-1] == result.check.met
    assert result.status == ("repaired" if result.met_after == result.total else "improved")
    assert len(result.changes) <= len(result.steps)


@pytest.mark.parametrize("norm", ["l1", "linf", "mixed"])
def test_the_linear_program_repairs_a_region_and_the_repair_is_proved_exactly(norm: str) -> None:
    network = dense(5, (2, 6, 6, 3))
    spec = Specification(
        (
            Requirement(square(network, 2, 0.5), output_class(3, 0, margin=0.125), "square"),
            Requirement(LineRegion([0.0, 1.0], [1.0, 0.0]), output_class(3, 0), "line"),
            Requirement(PointRegion([2.0, 2.0]), output_class(3, 1), "point"),
        )
    )
    assert not check(FrozenNetwork(network), spec).proved
    result = repair(network, spec, norm=norm)
    assert result.status == "repaired"
    assert result.check.proved
    exact = check_exactly(result.frozen, spec)
    assert exact.exact
    assert exact.proved
    assert exact.worst >= 0
    inside = square(network, 2, 0.5)
    x = inside.embed(np.random.default_rng(0).uniform(-0.5, 0.5, (500, 2)))
    assert (result.frozen.fold().forward(x).argmax(axis=1) == 0).all()


def test_the_linear_program_is_optimal_in_the_norm() -> None:
    # y = w·x at x = 2, w = 1: y <= 1 needs w <= 0.5 or b <= -1; the L1-cheapest change is w - 0.5
    network = feedforward([[[1.0]]], [[0.0]])
    polytope = OutputPolytope([[1.0]], [1.0], "small")
    spec = Specification((Requirement(PointRegion([2.0]), polytope),))
    points = key_points(network, spec)
    rows = layer_rows(FrozenNetwork(network), points, repairable_layers(network)[0])
    assert np.allclose(solve_layer(rows, norm="l1").delta, [-0.5, 0.0], atol=1e-5)
    assert np.allclose(solve_layer(rows, norm="linf").delta, [-1 / 3, -1 / 3], atol=1e-5)


def test_infeasible_is_an_answer_that_names_the_conflict() -> None:
    network = dense(6, (2, 4, 2))
    spec = Specification(
        (
            Requirement(PointRegion([0.5, 0.5]), output_class(2, 0, margin=0.1), "must be 0"),
            Requirement(PointRegion([3.0, 1.0]), output_class(2, 1), "unrelated"),
            Requirement(PointRegion([0.5, 0.5]), output_class(2, 1, margin=0.1), "must be 1"),
        )
    )
    result = repair(network, spec, layers=repairable_layers(network))
    assert result.status == "infeasible"
    for names in result.conflicts.values():
        assert set(names) == {"must be 0", "must be 1"}
    soft = repair(network, spec, soft=100.0)
    assert soft.met_after == 2
    assert soft.status in ("improved", "unchanged")


def test_z3_and_the_sweep_agree_on_one_weight() -> None:
    network = dense(7, (2, 5, 2))
    rng = np.random.default_rng(0)
    spec = Specification(
        tuple(Requirement(PointRegion(p), output_class(2, int(k))) for p, k in zip(rng.normal(size=(8, 2)), [0, 1] * 4))
    )
    points, frozen = key_points(network, spec), FrozenNetwork(network)
    layer = repairable_layers(network)[-1]
    best = best_change(frozen, points, [layer])
    assert best is not None
    rows = layer_rows(frozen, points, layer)
    exact = max(solve_max_smt(rows, points.row_start, np.array([p]))[1] for p in range(rows.size))
    assert best.met == exact
    delta, met = solve_max_smt(rows, points.row_start, np.arange(rows.size))
    assert met >= exact
    assert points.met(points.slack(frozen.patched(layer, delta))).sum() >= met


def test_the_exact_check_sees_what_rounding_hides() -> None:
    # the output is 0.1 + 0.2 at the only vertex that matters; as exact binary numbers that exceeds 0.3
    network = feedforward([[[1.0, 1.0]]], [[0.0]])
    polytope = OutputPolytope([[1.0]], [0.3], "at most 0.3")
    spec = Specification((Requirement(PointRegion([0.1, 0.2]), polytope),))
    assert not check_exactly(FrozenNetwork(network), spec).proved
    assert check(FrozenNetwork(network), spec).proved


def test_exact_and_float_subdivision_count_the_same_key_points() -> None:
    for seed in range(6):
        network = dense(seed, (2, 5, 4, 2))
        spec = Specification((Requirement(square(network, seed), output_class(2, 0)),))
        exact, floating = check_exactly(FrozenNetwork(network), spec), check(FrozenNetwork(network), spec)
        assert exact.worst == pytest.approx(floating.worst, rel=1e-9)
        assert exact.met == floating.met
        assert exact.total == floating.total


def test_pieces_that_are_not_linear_are_found_out() -> None:
    network = dense(8, (2, 6, 2))
    honest = PiecesRegion(np.zeros(2), np.eye(2)[0], np.eye(2)[1], SQUARE, np.array([0, 4]))
    spec = Specification((Requirement(honest, output_class(2, 0)),))
    found = check(FrozenNetwork(network), spec)
    assert found.misplaced > 0
    assert not found.proved


def test_drawdown_counts_changed_labels() -> None:
    network = feedforward([[[1.0], [-1.0]]], [[0.0, 0.0]])
    frozen = FrozenNetwork(network).patched(repairable_layers(network)[0], np.array([0.0, 0.0, -1.0, 0.0]))
    x = np.array([[-1.0], [0.25], [1.0]])
    result = drawdown(frozen, x, [1, 0, 0])
    assert (result.total, result.changed, result.right_before, result.right_after) == (3, 1, 3, 2)
    assert result.drawdown == pytest.approx(1 / 3)


def test_specifications_from_json() -> None:
    network = dense(0)
    text = json.dumps(
        {
            "requirements": [
                {
                    "name": "pocket",
                    "region": {"origin": [0, 0, 0], "u": [1, 0, 0], "v": [0, 1, 0], "polygon": SQUARE.tolist()},
                    "class": 2,
                },
                {"region": {"line": [[0, 0, 0], [1, 1, 1]]}, "output": {"rows": [[1, 0, 0]], "bound": [4]}},
                {"region": {"point": [0, 0, 1]}, "class": 0, "smallest": True, "margin": 0.5},
            ]
        }
    )
    spec = specification_from_dict(json.loads(text), network)
    assert [type(r.region).__name__ for r in spec.requirements] == ["PolygonRegion", "LineRegion", "PointRegion"]
    assert spec.requirements[2].output.rows.tolist() == [[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]
    assert spec.label(1) == "requirement 1"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"region": {"point": [0, 0, 0]}}, "requirement 0: the key 'output' is missing"),
        ({"name": "pocket", "region": {"point": [0, 0, 0]}, "class": 3}, "pocket: class 3 does not exist"),
        ({"region": {"circle": 1}, "class": 0}, 'requirement 0: a region has "polygon"'),
        ({"region": {"point": [0, "a", 0]}, "class": 0}, "requirement 0: cannot be read"),
        (7, "requirement 0: a requirement is an object"),
    ],
)
def test_bad_files_name_the_requirement(item: object, message: str) -> None:
    with pytest.raises(PropertyError, match=message):
        specification_from_dict({"requirements": [item]}, dense(0))


def test_bad_specifications_name_the_requirement() -> None:
    network = dense(0)
    empty = OutputPolytope([[1.0, 0, 0], [-1.0, 0, 0]], [0.0, -1.0], "nothing")
    unit = (np.zeros(3), np.ones(3))
    cases = [
        (Specification((Requirement(PointRegion([0.0, 0, 0]), empty, "hole"),)), "hole: the output polytope 'nothing'"),
        (Specification((Requirement(PointRegion([0.0, 0]), output_class(3, 0)),)), "2 inputs for a network with 3"),
        (Specification((Requirement(PointRegion([np.nan] * 3), output_class(3, 0)),)), "NaN"),
        (Specification((Requirement(PointRegion([0.0] * 3), output_class(4, 0)),)), "4 outputs"),
        (Specification((Requirement(PointRegion([0.0, 2, 0]), output_class(3, 0)),), unit), "outside the network's"),
    ]
    for specification, message in cases:
        with pytest.raises(PropertyError, match=message):
            repair(network, specification)
    good = Specification((Requirement(PointRegion([0.0] * 3), output_class(3, 0)),))
    with pytest.raises(InputError, match="layer 'nope' cannot be repaired"):
        repair(network, good, layers=["nope"])
    with pytest.raises(InputError, match="method 'magic'"):
        repair(network, good, method="magic")
    with pytest.raises(PropertyError, match="at least 3 vertices"):
        PolygonRegion(np.zeros(3), np.ones(3), np.ones(3), [[0, 0], [1, 1]])


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("network", [dense(9), convolutional(9), leaky_clip()], ids=["dense", "conv", "leaky"])
def test_a_frozen_network_runs_in_onnxruntime(network: Network, which: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = repairable_layers(network)[which]
    rng = np.random.default_rng(0)
    frozen = FrozenNetwork(network)
    size = parameters(frozen.operator(network[layer])).size
    patched = frozen.patched(layer, rng.normal(size=size) * 0.3)
    session = onnxruntime.InferenceSession(frozen_to_onnx(patched).SerializeToString())
    x = rng.normal(size=(50, *network.input_shape)).astype(np.float32)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    expected = patched.forward(x)
    assert np.allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(y, network.forward(x), rtol=1e-2, atol=1e-2)
