"""Saliency maps and similarities: values, exact replays, and bounds that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import verifier
from verifier.attribution import IntegratedGradients
from verifier.engines.base import Answer
from verifier.engines.maps import MapsEngine
from verifier.engines.maps.enclosure import Enclosures
from verifier.errors import EngineError, PropertyError
from verifier.explain.extremes import maps_on_box
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import relu
from verifier.options import Options
from verifier.properties.grad_cam import grad_cam
from verifier.properties.maps import integrated_gradients, smooth_gradient
from verifier.properties.named_maps import NAMES, named_map
from verifier.properties.similarity import NAMES as SIMILARITIES


def network(seed: int, n: int = 3) -> Network:
    """Its first ReLUs make two feature maps of 1 × 3."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(6, n)), rng.normal(size=(4, 6)), rng.normal(size=(3, 4))]
    first, second, third = (Dense(w, rng.normal(size=len(w)) * 0.3) for w in weights)
    builder = NetworkBuilder((n,))
    builder.add(first)
    builder.add(Reshape((2, 1, 3)))
    builder.add(relu(), name="features")
    for operator in (Reshape((6,)), second, relu(), third):
        builder.add(operator)
    return builder.build()


def query_for(seed: int, name: str, similarity: str, share: float = 0.4) -> verifier.Query:
    """A query on a small random network; δ a share of the largest distance seen in a sample."""
    rng = np.random.default_rng(seed)
    net, x = network(seed), rng.normal(size=3)
    how = {"map": named_map(name, 3, steps=3, samples=3, sigma=0.2, seed=seed), "similarity": similarity}
    how |= {"top_k": 1 if similarity == "top-k" else 0, "domain": None}
    loose = verifier.saliency_robustness(net, x, epsilon=0.5, delta=1e6, **how)  # type: ignore[arg-type]
    from verifier.properties.builders import condition_at

    condition = condition_at(net, x, map=how["map"], similarity=similarity, top_k=how["top_k"])  # type: ignore[arg-type]
    points = loose.box.sample(100, rng)
    far = float(condition.distance(condition.map.values(net, condition.output, points)).max())
    return verifier.saliency_robustness(net, x, epsilon=0.5, delta=max(far, 0.0) * share, **how)  # type: ignore[arg-type]


def test_maps_are_what_their_definitions_say() -> None:
    net, x = network(1), np.random.default_rng(1).normal(size=(4, 3))
    output = net.output_weights(2)
    base, noise = np.full(3, 0.25), np.random.default_rng(2).normal(size=(5, 3))
    g = net.gradient(x, 2)
    assert np.allclose(named_map("absolute", 3).values(net, output, x), np.abs(g))
    assert np.allclose(named_map("gradient-input", 3).values(net, output, x), x * g)
    mean = np.mean([net.gradient(x + v, 2) for v in noise], axis=0)
    assert np.allclose(smooth_gradient(noise).values(net, output, x), mean)
    own = IntegratedGradients(net)
    for steps, method in ((7, "midpoint"), (None, "exact")):
        expected = own.attribute(x, base[None], 2, method=method, n_steps=7)
        assert np.allclose(integrated_gradients(base, steps).values(net, output, x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_exact_maps_equal_the_floating_ones(name: str) -> None:
    query = query_for(3, name, "l1")
    condition = query.condition
    assert condition is not None
    x = query.box.sample(3, np.random.default_rng(0))
    for point, values in zip(x, condition.map.values(condition.network, condition.output, x), strict=True):
        assert np.allclose([float(v) for v in condition.exact_map(point)], values, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))  # most boxes have nothing that is open
@given(st.integers(0, 10_000), st.sampled_from(NAMES), st.sampled_from(SIMILARITIES))
def test_bounds_lose_no_similar_point(seed: int, name: str, similarity: str) -> None:
    """Points of a box have their gradient in its enclosure; a similar one is in no part that is cut or excluded."""
    query = query_for(seed, name, similarity)
    condition = query.condition
    assume(condition is not None)  # None: a plain gradient box
    assert condition is not None
    rng = np.random.default_rng(seed + 1)
    ends = np.sort(query.box.sample(2, rng), axis=0)
    enclosures = Enclosures(query)
    found = enclosures.of(ends[:1], ends[1:], np.zeros((1, enclosures.neurons), dtype=np.int8))
    points = rng.uniform(ends[0], ends[1], size=(60, 3))
    if not found.open[0]:
        assert not any(disjunct.holds(points, query.network.forward(points)).any() for disjunct in query.disjuncts)
    assume(found.open[0])
    measured = condition.map.values if name == "grad-cam" else condition.map.gradient
    g = measured(condition.network, condition.output, points)
    room = 1e-9
    assert ((g >= found.g_lower[0] - room) & (g <= found.g_upper[0] + room)).all()
    similar = points[condition.margin(points) > room]
    assume(len(similar))
    assert not condition.excludes(ends[:1], ends[1:], found.g_lower, found.g_upper)[0]
    low, high = condition.contract(ends[:1], ends[1:], found.g_lower, found.g_upper)
    assert ((similar >= low - room) & (similar <= high + room)).all()
    inside = measured(condition.network, condition.output, similar)
    box = condition.gradient_box(ends[0], ends[1])
    assert ((inside >= box[0] - room) & (inside <= box[1] + room)).all()
    for other in g[:10]:
        rows, bounds = condition.cuts(other)
        assert (rows @ inside.T <= bounds[:, None] + room).all()


def test_grad_cam_is_what_its_definition_says() -> None:
    net, x = network(2), np.random.default_rng(3).normal(size=(5, 3))
    y, step = net.output_weights(1), 1e-6
    found = grad_cam().values(net, y, x)
    for point, values in zip(x, found, strict=True):
        features = net.values(point)["features"][0]
        rest = net.values(point)
        slopes = np.zeros(6)
        for k in range(6):  # by differences: what follows the layer, at feature maps that are moved a little
            moved = []
            for sign in (-1, 1):
                a = features.reshape(-1).copy()
                a[k] += sign * step
                second, third = (
                    n.operator for n in net.nodes if isinstance(n.operator, Dense) and n.name != net.nodes[1].name
                )
                hidden = np.maximum(second.weight @ a + second.bias, 0.0)
                moved.append((third.weight @ hidden + third.bias)[1])
            slopes[k] = (moved[1] - moved[0]) / (2 * step)
        alpha = slopes.reshape(2, 3).mean(axis=1)
        expected = np.maximum((alpha[:, None, None] * features).sum(axis=0), 0.0).reshape(-1)
        assert np.allclose(values, expected, atol=1e-6)
        assert rest["features"].shape == (1, 2, 1, 3)
    assert grad_cam().shape(net) == (1, 1, 3)
    for wrong, message in ((grad_cam("nothing"), "no layer 'nothing'"), (grad_cam(net.output), "no feature maps")):
        with pytest.raises(PropertyError, match=message):
            verifier.saliency_robustness(net, x[0], epsilon=0.1, delta=0.1, domain=None, map=wrong)
    flat = feedforward([np.eye(3)], [np.zeros(3)])
    with pytest.raises(PropertyError, match="no activation of the network makes any"):
        verifier.saliency_robustness(flat, x[0], epsilon=0.1, delta=0.1, domain=None, map="grad-cam")
    query = verifier.saliency_robustness(net, x[0], epsilon=0.1, delta=0.1, domain=None, map="grad-cam")
    assert verifier.verify(query, timeout=20).status in (verifier.Status.HOLDS, verifier.Status.VIOLATED)
    with pytest.raises(EngineError, match="grad-cam"):
        verifier.verify(query, engine="saliency")
    with pytest.raises(PropertyError, match="extremes"):
        maps_on_box(net, x[0], 0.1, domain=None, map="grad-cam")


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_exact_integrated_gradients_agree_with_samples(similarity: str) -> None:
    answers = set()
    for seed in range(4):
        query = query_for(seed, "integrated-exact", similarity, share=(0.1, 0.9)[seed % 2])
        result = MapsEngine().solve(query, Options(), Deadline.after(3))
        answers.add(result.answer)
        points = query.box.sample(500, np.random.default_rng(seed))
        if result.answer is Answer.UNSAT:
            assert not any(replay(query, x).exact for x in points[query.holds(points)][:3])
        elif result.answer is Answer.SAT:
            assert result.x is not None
            assert replay(query, result.x).exact
    assert Answer.UNSAT in answers


def test_wrong_choices_are_errors() -> None:
    net, x = network(0), np.zeros(3)
    for wrong in (
        {"map": "lime"},
        {"similarity": "cosine"},
        {"similarity": "top-k"},
        {"similarity": "top-k", "top_k": 3},
    ):
        with pytest.raises(PropertyError):
            verifier.saliency_robustness(net, x, epsilon=0.1, delta=0.1, **wrong)  # type: ignore[arg-type]
    query = verifier.saliency_robustness(net, x, epsilon=0.1, delta=0.1, domain=None, map="integrated-exact")
    with pytest.raises(EngineError, match="integrated-exact"):
        verifier.verify(query, engine="highs")


def test_a_witness_shows_its_map() -> None:
    net = feedforward([np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0]])], [np.ones(2), np.zeros(2)])
    query = verifier.saliency_robustness(net, np.array([0.5, 0.25]), epsilon=0.5, delta=0.5, map="gradient-input")
    witness = verifier.verify(query, timeout=20).witness
    assert witness is not None
    assert witness.map is not None
    assert np.array_equal(witness.map, [witness.input[0], 0.0])
    assert witness.output.shape == (2,)


def test_further_outputs_of_the_query_stay_inside() -> None:
    """SmoothGrad's network has one output more; the witness and onnxruntime see the original network."""
    net = feedforward([np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0]])], [np.ones(2), np.zeros(2)])
    query = verifier.saliency_robustness(net, np.array([0.5, 0.25]), epsilon=0.5, delta=0.5, map="smooth")
    assert query.network.output_size == 3
    witness = verifier.verify(query, timeout=20).witness
    assert witness is not None
    assert witness.output.shape == (2,)
    assert witness.onnxruntime
