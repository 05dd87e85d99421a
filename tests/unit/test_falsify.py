"""The counterexample search: slopes, lines against sampling, witnesses that are known to exist, honest "none"."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import verifier.network.loading as loading
from verifier.falsify.attack import Margins, ascend, diversify, pgd, polish, sharpest_corners, starts
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.lines import along_lines
from verifier.falsify.replay import confirm, holds_in_runtime, nearest, replay
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, leaky_relu
from verifier.network.runtime import RuntimeModel
from verifier.properties.builders import robustness, saliency_robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box

SOON = Deadline(None)


def dense_network(rng: np.random.Generator, inputs: int = 3, outputs: int = 3) -> Network:
    sizes = [inputs, 8, 8, outputs]
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) for w in weights])


def conv_network(rng: np.random.Generator) -> Network:
    builder = NetworkBuilder((1, 4, 4))
    builder.add(Conv(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2)))
    builder.add(leaky_relu(0.1))
    builder.add(MaxPool((2, 2), (1, 1)))
    builder.add(Reshape((8,)))
    builder.add(Dense(rng.normal(size=(3, 8)), rng.normal(size=3)))
    return builder.build()


def mixed_query(rng: np.random.Generator, network: Network) -> Query:
    """Two disjuncts and a common part, with rows over inputs and outputs together."""
    n, m = network.input_size, network.output_size

    def part(rows: int) -> Conjunction:
        return Conjunction(
            x_rows=rng.normal(size=(rows, n)), y_rows=rng.normal(size=(rows, m)), bound=rng.normal(size=rows)
        )

    return Query(network=network, box=Box(-np.ones(n), np.ones(n)), disjuncts=(part(2), part(3)), common=part(1))


# -- attacks ---------------------------------------------------------------------------------------------
@given(st.integers(0, 10**6), st.booleans())
def test_the_ascent_direction_is_the_slope_of_the_margin(seed, convolutional):
    rng = np.random.default_rng(seed)
    network = conv_network(rng) if convolutional else dense_network(rng)
    query = mixed_query(rng, network)
    margins = Margins.of(query)
    x = query.box.sample(6, rng)
    disjuncts = np.arange(6) % 2
    margin, slope = margins.ascent(x, disjuncts)

    def value(points):
        found = margins.at(points, network.forward(points).reshape(len(points), -1))
        return found[np.arange(6), disjuncts]

    np.testing.assert_allclose(margin, value(x), rtol=1e-12, atol=1e-12)
    step = 1e-7 * rng.normal(size=x.shape)
    there, back = value(x + step), value(x - step)
    smooth = (np.abs(there + back - 2 * margin) < 1e-12) & (np.abs(there - back) > 1e-12)  # no kink, not flat
    expected = (slope * step).sum(axis=1)
    np.testing.assert_allclose(((there - back) / 2)[smooth], expected[smooth], rtol=1e-4, atol=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_attacks_stay_in_the_box_and_climb(seed):
    rng = np.random.default_rng(seed)
    network = dense_network(rng)
    query = mixed_query(rng, network)
    x = starts(query, 20, rng)
    assert len(x) == 20
    corners = sharpest_corners(query, x[:2])
    assert query.box.contains(np.concatenate([x, corners, diversify(query, x, rng)])).all()
    seen = [(points, margin) for points, margin in pgd(query, x, np.zeros(20, np.int64), deadline=SOON)]
    assert all(query.box.contains(points).all() for points, _ in seen)
    best = np.max([margin for _, margin in seen], axis=0)
    assert (best >= seen[0][1]).all()
    assert best.mean() > seen[0][1].mean()


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_polishing_only_ever_improves(seed):
    rng = np.random.default_rng(seed)
    query = mixed_query(rng, dense_network(rng))
    margins = Margins.of(query)
    x = query.box.sample(1, rng)[0]

    def margin(point):
        return margins.at(point[None], query.network.forward(point[None]))[0, 1]

    last = margin(x)
    for point in polish(query, x, 1, SOON):
        assert query.box.contains(point)
        assert margin(point) > last
        last = margin(point)


def test_ascending_gives_more_room():
    rng = np.random.default_rng(2)
    query = mixed_query(rng, dense_network(rng))
    margins = Margins.of(query)
    x = query.box.sample(1, rng)[0]
    before = margins.at(x[None], query.network.forward(x[None])).max()
    points = np.array(list(ascend(query, x)))
    assert query.box.contains(points).all()
    assert margins.at(points, query.network.forward(points)).max() > before


# -- lines -----------------------------------------------------------------------------------------------
@given(st.integers(0, 10**6), st.booleans())
def test_lines_find_whatever_sampling_the_line_finds(seed, with_gradient):
    rng = np.random.default_rng(seed)
    network = dense_network(rng)
    query = mixed_query(rng, network)
    if with_gradient:
        reference = network.gradient(query.box.sample(1, rng)[0], 0).reshape(-1)
        box = GradientBox(output=network.output_weights(0), lower=reference - 0.5, upper=reference + 0.5)
        query = Query(network=network, box=query.box, disjuncts=query.disjuncts, common=query.common, gradient=box)
    starts_, ends = query.box.sample(4, rng), query.box.sample(4, rng)
    hits = along_lines(query, starts_, ends)
    t = np.linspace(0, 1, 401)[:, None]
    dense = np.concatenate([(1 - t) * a + t * b for a, b in zip(starts_, ends, strict=True)])
    found = dense[query.margins(dense) > 1e-9]
    assume(len(found))
    assert len(hits.candidates), "a sampled point of a line is a witness and the line search missed it"
    assert (query.margins(hits.candidates) >= -1e-9).all()
    assert query.box.contains(query.box.clip(hits.candidates)).all()
    if len(hits.near):
        assert (hits.margins < 0).all()


# -- Falsifier ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_a_planted_saliency_witness_is_found_and_stands_the_replay(seed):
    """The query is made around a point, so that it has a witness; strict rows and a narrow gradient box."""
    rng = np.random.default_rng(seed)
    network = dense_network(rng, inputs=4)
    x = rng.random(4)
    g = network.gradient(x, 0).reshape(-1)
    y = network.forward(x)
    query = Query(
        network=network,
        box=Box(np.zeros(4), np.ones(4)),
        disjuncts=(Conjunction(y_rows=np.eye(3)[:2], bound=y[:2] + 0.1, strict=np.array([True, False])),),
        gradient=GradientBox(output=network.output_weights(0), lower=g - 1e-6, upper=g + 1e-6),
    )
    found = Falsifier(FalsifierSettings(most=10.0)).run(query, SOON, seed=seed)
    assert found is not None
    assert replay(query, found).exact


def test_none_where_there_is_none_and_in_time():
    rng = np.random.default_rng(1)
    network = dense_network(rng)
    values = np.abs(network.forward(rng.uniform(-1, 1, size=(1000, 3)))).max()
    query = Query(
        network=network,
        box=Box(-np.ones(3), np.ones(3)),
        disjuncts=(Conjunction(y_rows=np.eye(3)[:1], bound=np.array([-1000 * values])),),
    )
    events = []
    start = time.monotonic()
    assert Falsifier().run(query, Deadline.after(4.0), listener=events.append) is None
    assert time.monotonic() - start < 3.0
    assert events


def test_a_witness_at_a_corner_and_a_box_of_one_point():
    network = feedforward([np.ones((1, 12)), [[1.0]]], [[-11.9], [0.0]])
    query = Query(
        network=network,
        box=Box(np.zeros(12), np.ones(12)),
        disjuncts=(Conjunction(y_rows=-np.ones((1, 1)), bound=np.array([-0.09])),),
    )
    found = Falsifier().run(query, SOON)
    assert found is not None
    assert replay(query, found).exact
    single = Query(network=network, box=Box(np.ones(12), np.ones(12)), disjuncts=query.disjuncts)
    assert (Falsifier().run(single, SOON) == 1).all()


def test_convolution_and_maxpool():
    rng = np.random.default_rng(4)
    network = conv_network(rng)
    x = rng.random(16)
    label = int(np.argmax(network.forward(x)))
    assert (network.forward(rng.random((20000, 16))).argmax(axis=1) != label).any(), "there are witnesses"
    for query in (robustness(network, x, 1.0), saliency_robustness(network, x, epsilon=1.0, delta=100.0, label=label)):
        found = Falsifier(FalsifierSettings(most=3.0)).run(query, SOON)
        assert found is not None
        assert replay(query, found).exact


def test_the_search_on_dense_networks_imports_neither_torch_nor_onnxruntime():
    code = """
import sys, numpy as np
from verifier.network.graph import feedforward
from verifier.properties.builders import robustness
from verifier.limits import Deadline
from verifier.falsify.falsifier import Falsifier
n = feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])
assert Falsifier().run(robustness(n, [0.6, 0.4], 0.5), Deadline(None)) is not None
assert not {"torch", "onnxruntime", "onnx"} & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- replay ----------------------------------------------------------------------------------------------
def identity_model(tmp_path: Path) -> Network:
    """One input, one output, y = x, as a float32 ONNX file."""
    write_onnx(feedforward([[[1.0]]], [[0.0]]), tmp_path / "identity.onnx")
    return loading.load(tmp_path / "identity.onnx")


def interval_query(network: Network, box: tuple[float, float], low: float, high: float) -> Query:
    rows = np.array([[-1.0], [1.0]])
    return Query(
        network=network,
        box=Box(np.array([box[0]]), np.array([box[1]])),
        disjuncts=(Conjunction(y_rows=rows, bound=np.array([-low, high])),),
    )


def test_a_witness_moves_to_where_float32_agrees(tmp_path: Path):
    query = interval_query(identity_model(tmp_path), (0.0, 1.0), 0.7, 1.0)
    assert float(np.float32(0.7)) < 0.7, "the float32 nearest to 0.7 does not meet the condition"
    witness = confirm(query, np.array([0.7]))
    assert witness.exact
    assert witness.onnxruntime
    assert witness.input[0] == np.float32(witness.input[0]) >= 0.7
    assert any("moved" in remark for remark in witness.remarks)
    assert witness.runtime_output[0] >= 0.7


def test_where_float32_cannot_agree_the_witness_stays_and_says_so(tmp_path: Path):
    query = interval_query(identity_model(tmp_path), (0.1, 0.1), 0.1, 0.1)
    witness = confirm(query, np.array([0.1]))
    assert witness.exact
    assert witness.onnxruntime is False
    assert witness.input[0] == 0.1
    assert any("onnxruntime" in remark for remark in witness.remarks)
    assert any("no float32 point" in remark and "outside" in remark for remark in witness.remarks)


def test_what_is_no_witness_is_not_sent_to_the_runtime(tmp_path: Path):
    query = interval_query(identity_model(tmp_path), (0.0, 1.0), 0.5, 0.6)
    witness = confirm(query, np.array([0.2]))
    assert not witness.exact
    assert witness.onnxruntime is None


def test_replay_is_strict_at_a_tie_and_without_tolerance():
    network = feedforward([[[1.0, -1.0]]], [[0.0]])
    closed = Conjunction(y_rows=np.ones((1, 1)), bound=np.zeros(1))
    strict = Conjunction(y_rows=np.ones((1, 1)), bound=np.zeros(1), strict=np.array([True]))
    box = Box(np.zeros(2), np.ones(2))
    point = np.array([0.3, 0.3])
    assert replay(Query(network=network, box=box, disjuncts=(closed,)), point).exact
    assert not replay(Query(network=network, box=box, disjuncts=(strict,)), point).exact
    above = np.array([np.nextafter(0.3, 1), 0.3])
    assert not replay(Query(network=network, box=box, disjuncts=(closed,)), above).exact


def test_replay_of_a_gradient_follows_the_strict_convention_at_a_kink():
    """At the kink of a ReLU the gradient is 0: a box that wants 1 is not met there, whatever a solver says."""
    network = feedforward([[[1.0]], [[1.0]]], [[0.0], [0.0]])
    query = Query(
        network=network,
        box=Box(np.array([-1.0]), np.array([1.0])),
        disjuncts=(Conjunction(y_rows=np.ones((1, 1)), bound=np.zeros(1)),),
        gradient=GradientBox(output=np.ones(1), lower=np.ones(1), upper=np.ones(1)),
    )
    assert not replay(query, np.zeros(1)).exact
    assert Falsifier(FalsifierSettings(most=0.3)).run(query, SOON) is None
    assert not holds_in_runtime(query, np.zeros(1), RuntimeModel(network))


@given(st.lists(st.floats(-1, 1, width=64), min_size=1, max_size=6), st.floats(0, 1e-6))
def test_the_nearest_float32_point_never_leaves_the_box(numbers, radius):
    x = np.array(numbers)
    box = Box(x - radius, x + radius / 3)
    near = nearest(x, box, np.dtype(np.float32))
    assert box.contains(near)
    assert ((near == near.astype(np.float32)) | (near == x)).all()


SATISFIABLE = [
    ("acasxu", "onnx/ACASXU_run2a_1_2_batch_2000.onnx", "vnnlib/prop_2.vnnlib"),
    ("mnist_fc", "onnx/mnist-net_256x2.onnx", "vnnlib/prop_2_0.03.vnnlib"),
    ("reach_prob_density", "onnx/robot.onnx", "vnnlib/robot_11.vnnlib"),
]


@pytest.mark.parametrize(("category", "model", "property_file"), SATISFIABLE)
def test_known_counterexamples_are_found_and_agree_with_onnxruntime(
    shared_data: Path, category: str, model: str, property_file: str
):
    from verifier.properties.vnnlib import read_vnnlib

    def there(name: str) -> Path:
        path = shared_data / "vnncomp" / category / name
        return path if path.exists() else path.with_name(path.name + ".gz")

    network = loading.load(there(model))
    query = read_vnnlib(there(property_file), network)
    found = Falsifier(FalsifierSettings(most=30.0)).run(query, SOON)
    assert found is not None
    witness = confirm(query, found)
    assert witness.exact
    assert witness.onnxruntime
    assert query.box.contains(witness.input)
