"""Attention maps against definitions, torch, plane restrictions, linear programs, and truths in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from verifier.attention import Answer, Inconsistency, RegionMap, attention_map
from verifier.attention.maps_lp import lp_map
from verifier.attention.problem import problem
from verifier.attention.run import MapRun
from verifier.attention.traversal.cells import PolygonExplorer, exit_point
from verifier.attention.traversal.programs import LPExplorer
from verifier.encodings.perturbations import (
    Brightness,
    Linear,
    Patch,
    Perturbation,
    Rotation,
    Translation,
    perturbed,
)
from verifier.errors import InputError
from verifier.events import Event, Progress, ignore
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, leaky_relu, relu
from verifier.regions import line, plane

SIZE = 6
BRIGHT, PATCH = Brightness(low=-0.5, high=0.5), Patch(top=1, left=2, height=3, width=2, low=-0.6, high=1.0)
SHIFT = Translation(low=-1.5, high=1.0)


def dense(rng: np.random.Generator) -> Network:
    widths = (SIZE * SIZE, 12, 8, 3)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
    return feedforward(weights, [rng.normal(size=b) * 0.3 for b in widths[1:]])


def convolutional(rng: np.random.Generator, pool: bool = False, leaky: bool = False) -> Network:
    builder = NetworkBuilder((1, SIZE, SIZE))
    builder.add(Conv(rng.normal(size=(3, 1, 3, 3)) * 0.5, rng.normal(size=3) * 0.2))
    last = builder.add(leaky_relu(0.1) if leaky else relu())
    if pool:
        last = builder.add(MaxPool((2, 2), (2, 2)))
    size = int(np.prod(builder.shape(last)))
    builder.add(Reshape((size,)))
    builder.add(Dense(rng.normal(size=(7, size)) * np.sqrt(2 / size), rng.normal(size=7) * 0.2))
    first = builder.add(relu())
    builder.add(Dense(rng.normal(size=(7, 7)) * 0.5, rng.normal(size=7) * 0.2), first)
    second = builder.add(relu())
    builder.add(Sum((1, 1)), first, second)
    builder.add(Dense(rng.normal(size=(3, 7)), rng.normal(size=3) * 0.2))
    return builder.build()


def image_of(rng: np.random.Generator, network: Network) -> np.ndarray:
    levels = np.round(rng.random((SIZE, SIZE)) * 4) / 4  # equal and extreme pixels, as in real images
    return levels if len(network.input_shape) == 1 else levels[None]


CASES: list[tuple[str, Sequence[Perturbation], dict[str, Any]]] = [
    ("dense", [BRIGHT, PATCH], {}),
    ("dense", [SHIFT, BRIGHT], {}),
    ("dense", [SHIFT, Rotation(low=-20, high=20, poses=4)], {"norm": 1}),
    ("dense", [PATCH, SHIFT], {"filter": "mean3"}),
    ("dense", [BRIGHT], {"classes": "label"}),
    ("dense", [SHIFT], {}),
    ("convolutional", [SHIFT, PATCH], {}),
    ("convolutional", [BRIGHT, PATCH], {"filter": "absolute"}),
    ("convolutional", [SHIFT, BRIGHT], {"filter": "absolute", "norm": 1, "classes": "label"}),
    ("pool", [SHIFT, BRIGHT], {}),
    ("leaky", [BRIGHT, PATCH], {"filter": "mean3", "norm": 1}),
]


def build(kind: str, rng: np.random.Generator) -> Network:
    return dense(rng) if kind == "dense" else convolutional(rng, pool=kind == "pool", leaky=kind == "leaky")


def interior(m: RegionMap, region: int, rng: np.random.Generator) -> np.ndarray:
    """A random point well inside a region (of one or two parameters)."""
    assert m.table is not None
    polygon = m.table.polygon(region)
    weights = rng.dirichlet(np.ones(len(polygon))) * 0.9 + 0.1 / len(polygon)
    return np.asarray(weights @ polygon)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_region_tells_the_truth_at_random_points(case: int) -> None:
    kind, perturbations, options = CASES[case]
    rng = np.random.default_rng(case)
    network = build(kind, rng)
    settings = Inconsistency(**options)
    probe = perturbed(network, image_of(rng, network), perturbations)
    typical = settings(probe, probe.box.sample(50, rng), 0)
    delta = 0.01 + 1.001 * float(np.median(typical))  # not the very value of a region
    m = attention_map(network, probe.image, perturbations, delta, settings=settings)
    t = m.table
    assert t is not None
    assert m.complete, m.reason
    assert t.volumes.sum() == pytest.approx(np.prod(probe.box.width), rel=1e-9)
    assert sum(m.summary.volumes[k] for k in ("AR", "IR", "AB")) == pytest.approx(1.0, rel=1e-9)
    big = np.flatnonzero(t.volumes > 1e-9)
    points = np.stack([interior(m, i, rng) for i in big])
    values = settings(probe, points, m.label)
    outputs = probe.network.forward(points)
    tolerance = 1e-7 * max(1.0, values.max())
    assert (values <= t.high[big] + tolerance).all()
    assert (values >= t.low[big] - tolerance).all()
    assert (values[t.attention[big] == 0] <= delta + tolerance).all()
    assert (values[t.attention[big] == 1] > delta - tolerance).all()
    margin = outputs[:, m.label] - np.delete(outputs, m.label, axis=1).max(axis=1)
    assert (margin[t.label[big] == 0] > -1e-9).all()
    assert (margin[t.label[big] == 1] < 1e-9).all()
    grid = probe.box.sample(4000, rng)
    share = (np.argmax(probe.network.forward(grid), axis=1) == m.label).mean()
    assert abs(share - m.summary.label_share) < 0.04
    consistent = (settings(probe, grid[:1500], m.label) <= delta).mean()
    assert m.summary.volumes["AR"] - 0.06 < consistent < m.summary.volumes["AR"] + m.summary.volumes["AB"] + 0.06


def test_against_torch_autograd() -> None:
    torch = pytest.importorskip("torch")
    import verifier

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 6), torch.nn.ReLU(),
        torch.nn.Linear(6, 3),
    ).double()  # fmt: skip
    rng = np.random.default_rng(1)
    image = rng.random((1, SIZE, SIZE))
    m = attention_map(verifier.load(net, input_shape=(1, SIZE, SIZE)), image, [SHIFT, BRIGHT], 1.0)
    assert m.table is not None

    def saliency(x: Any) -> Any:
        x = x.detach().requires_grad_(True)
        return torch.stack([torch.autograd.grad(net(x)[0, j], x)[0] for j in range(3)])

    def moved(x: Any, theta: float) -> Any:
        whole = int(np.floor(theta))

        def roll(k: int) -> Any:
            y = torch.zeros_like(x)
            if k >= 0:
                y[..., k:] = x[..., : SIZE - k]
            else:
                y[..., :k] = x[..., -k:]
            return y

        return (1 - (theta - whole)) * roll(whole) + (theta - whole) * roll(whole + 1)

    x = torch.tensor(image)[None]
    start = saliency(x)
    for i in np.flatnonzero(m.table.volumes > 1e-9):
        theta = interior(m, i, rng)
        y = torch.clamp(moved(x, theta[0]) + theta[1], 0, 1)
        value = float((saliency(y) - moved(start, theta[0])).flatten(1).norm(dim=1).sum())
        assert m.table.low[i] - 1e-8 <= value <= m.table.high[i] + 1e-8
        margin = net(y)[0] - net(y)[0, m.label]
        assert m.table.label[i] == 2 or bool((margin <= 0).all()) == bool(m.table.label[i] == 0)


@pytest.mark.parametrize("case", [0, 1, 3, 6, 9])
def test_regions_are_those_of_the_plane_restriction(case: int) -> None:
    kind, perturbations, options = CASES[case]
    rng = np.random.default_rng(100 + case)
    network = build(kind, rng)
    m = attention_map(network, image_of(rng, network), perturbations, 1.0, settings=Inconsistency(**options))
    assert m.table is not None
    box = m.perturbed.box
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
    u, v = np.eye(2) * box.width
    restriction = plane(m.perturbed.network, box.lower, u, v, corners)
    ours = np.sort(m.table.volumes[m.table.volumes > 1e-10])
    scale = float(np.prod(box.width))
    theirs = np.sort(restriction.areas * scale)
    theirs = theirs[theirs > 1e-10]
    if kind == "pool":
        # a maximum written with ReLUs also tells the losers apart: our regions are pieces of theirs
        assert len(ours) >= len(theirs)
        assert ours.sum() == pytest.approx(theirs.sum(), rel=1e-9)
    else:
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_one_parameter_is_the_line_restriction() -> None:
    rng = np.random.default_rng(7)
    network = dense(rng)
    m = attention_map(network, image_of(rng, network), [SHIFT], 1.0)
    assert m.table is not None
    ends = np.unique(np.round(m.table.polygon(0), 12))
    ends = np.unique(np.round(np.concatenate([m.table.polygon(i)[:, 0] for i in range(len(m.table))]), 9))
    found = line(m.perturbed.network, m.perturbed.box.lower, m.perturbed.box.upper)
    np.testing.assert_allclose(ends, m.perturbed.box.lower + found.breakpoints * m.perturbed.box.width, atol=1e-8)


@pytest.mark.parametrize("case", [0, 1, 6, 9])
def test_linear_programs_give_the_same_regions(case: int) -> None:
    kind, perturbations, options = CASES[case]
    rng = np.random.default_rng(200 + case)
    network = build(kind, rng)
    settings = Inconsistency(**options)
    small = [p.__class__(**{**vars(p), "low": p.low / 3, "high": p.high / 3}) for p in perturbations]
    layer = perturbed(network, image_of(rng, network), small)
    delta = 0.01 + 1.001 * float(np.median(settings(layer, layer.box.sample(50, rng), 0)))
    walked = attention_map(network, layer.image, small, delta, settings=settings, label=0)
    run = MapRun(layer, settings, delta, 0, 10**6, 0.0, None, ignore)
    programmed = lp_map(run, LPExplorer)
    assert programmed.complete, programmed.reason
    a, b = walked.table, programmed.table
    assert a is not None
    assert b is not None
    big_a, big_b = np.flatnonzero(a.volumes > 1e-7), np.flatnonzero(b.volumes > 1e-7)
    order_a, order_b = (np.lexsort(np.round([t.high[k], t.volumes[k]], 7)) for t, k in ((a, big_a), (b, big_b)))
    for name in ("volumes", "high", "label_volumes"):
        np.testing.assert_allclose(
            np.sort(getattr(a, name)[big_a]), np.sort(getattr(b, name)[big_b]), rtol=1e-6, atol=1e-7
        )
    assert len(order_a) == len(order_b)
    for kind_of in ("attention", "label"):
        assert np.bincount(getattr(a, kind_of)[big_a], minlength=3).tolist() == (
            np.bincount(getattr(b, kind_of)[big_b], minlength=3).tolist()
        )


@pytest.mark.parametrize("seed", range(6))
def test_boundary_search_agrees_with_the_whole_map(seed: int) -> None:
    kind, perturbations, options = CASES[(0, 1, 2, 6, 9, 10)[seed]]
    rng = np.random.default_rng(300 + seed)
    network = build(kind, rng)
    settings = Inconsistency(**options)
    layer = perturbed(network, image_of(rng, network), perturbations)
    for quantile in (0.3, 0.7):
        delta = 0.01 + 1.001 * float(np.quantile(settings(layer, layer.box.sample(50, rng), 0), quantile))
        whole = attention_map(network, layer.image, perturbations, delta, settings=settings)
        for aspect in ("attention", "label"):
            found = attention_map(
                network, layer.image, perturbations, delta, settings=settings, method="gbs", aspect=aspect
            )
            assert found.complete
            assert found.table is not None
            assert whole.table is not None
            expected = whole.table.centers[whole.outside(aspect)]
            actual = found.table.centers[found.outside(aspect)]
            np.testing.assert_allclose(
                actual[np.lexsort(np.round(actual, 7).T)], expected[np.lexsort(np.round(expected, 7).T)], atol=1e-7
            )
            far_whole, far_found = whole.farthest(aspect), found.farthest(aspect)
            assert (far_whole is None) == (far_found is None)
            if far_whole is not None and far_found is not None:
                assert far_found[1] == pytest.approx(far_whole[1], abs=1e-9)


def island_network(radius: float) -> Network:
    """Over pixels (x, y): label 0 loses to 1 in the diamond |x−.4| + |y−.4| < radius and to 2 where x + y > 1.6."""
    weight = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    bias = np.array([-0.4, 0.4, -0.4, 0.4])
    builder = NetworkBuilder((1, 1, 2))
    flat = builder.add(Reshape((2,)))
    builder.add(Dense(weight, bias), flat)
    distance = builder.add(relu())
    diamond = builder.add(Dense(np.array([[0.0] * 4, [-1.0] * 4, [0.0] * 4]), np.array([0, radius, -1.6])), distance)
    outer = builder.add(Dense(np.array([[0.0, 0], [0, 0], [1, 1]]), np.zeros(3)), flat)
    return builder.build(builder.add(Sum((1, 1)), diamond, outer))


def test_an_island_with_everything_known() -> None:
    """An enclave inside the robust part, built by hand, with every area in closed form."""
    radius = 0.1
    unit = [Linear(direction=[1.0, 0], low=0.0, high=1.0), Linear(direction=[0, 1.0], low=0.0, high=1.0)]
    image = np.zeros((1, 1, 2))
    m = attention_map(island_network(radius), image, unit, 1.0, clip=False)
    assert m.summary.regions == 4
    assert m.summary.label_share == pytest.approx(1 - 2 * radius**2 - 0.4**2 / 2, abs=1e-12)
    assert m.summary.counts == {"CR": 0, "MR": 0, "CB": 4, "AR": 1, "IR": 3, "AB": 0}
    # a grid of bends that does not change the function makes the island's surroundings visible
    rng = np.random.default_rng(0)
    net = island_network(radius)
    nodes = NetworkBuilder((1, 1, 2))
    names = {net.input: "input"}
    for node in net.nodes[1:]:
        names[node.name] = nodes.add(node.operator, *(names[i] for i in node.inputs))
    flat = nodes.add(Reshape((2,)), "input")
    cuts = np.concatenate([np.repeat(np.eye(2), 12, axis=0), rng.normal(size=(6, 2))])
    at = np.concatenate([np.linspace(0.04, 0.97, 12), np.linspace(0.03, 0.96, 12), rng.normal(size=6) * 0.3])
    nodes.add(Dense(cuts, -at), flat)
    bends = nodes.add(relu())
    nothing = nodes.add(Dense(np.full((3, len(at)), 1e-12), np.zeros(3)), bends)
    network = nodes.build(nodes.add(Sum((1, 1)), names[net.output], nothing))
    whole = attention_map(network, image, unit, 1.0, clip=False)
    assert whole.summary.label_share == pytest.approx(1 - 2 * radius**2 - 0.4**2 / 2, abs=1e-8)
    assert whole.enclaves("label") == 1
    assert whole.table is not None
    outer = whole.table.centers[whole.outermost("label")]
    assert (outer.sum(axis=1) > 1.3).all()
    found = attention_map(network, image, unit, 1.0, clip=False, method="gbs", aspect="label")
    assert found.table is not None
    same = found.table.centers[found.outermost("label")]
    np.testing.assert_allclose(
        same[np.lexsort(np.round(same, 7).T)], outer[np.lexsort(np.round(outer, 7).T)], atol=1e-7
    )
    assert found.summary.regions < whole.summary.regions
    assert {a.answer for a in whole.answers.values()} == {Answer.NOT_ROBUST}


def test_three_parameters_fill_the_box() -> None:
    rng = np.random.default_rng(11)
    network = dense(rng)
    perturbations = [
        Brightness(high=0.15), Patch(top=1, left=2, height=3, width=2, high=0.3), Translation(low=-0.2, high=0.3)
    ]  # fmt: skip
    image = image_of(rng, network)
    m = attention_map(network, image, perturbations, 3.0)
    assert m.complete, m.reason
    assert m.table is not None
    assert m.table.volumes.sum() == pytest.approx(np.prod(m.perturbed.box.width), rel=1e-6)
    big = np.flatnonzero(m.table.volumes > 1e-6)
    value = m.settings(m.perturbed, m.table.centers[big], m.label)
    assert (value <= m.table.high[big] + 1e-7).all()
    assert (value >= m.table.low[big] - 1e-7).all()
    # the face of the box at brightness 0 is a map of two parameters
    flat = attention_map(network, image, perturbations[1:], 3.0)
    assert flat.summary.regions <= m.summary.regions
    found = attention_map(network, image, perturbations, 3.0, method="gbs")
    a = m.table.centers[m.outside("attention")]
    assert found.table is not None
    b = found.table.centers[found.outside("attention")]
    assert {tuple(p) for p in np.round(b, 6)} == {tuple(p) for p in np.round(a, 6)}


def test_exact_minimum_of_a_moving_expectation() -> None:
    rng = np.random.default_rng(12)
    network = convolutional(rng)
    for options in ({}, {"norm": 1}):
        m = attention_map(network, image_of(rng, network), [SHIFT, BRIGHT], 1.0, settings=Inconsistency(**options))
        assert m.table is not None
        for i in np.argsort(-m.table.volumes)[:4]:
            where, least = m.minimum(int(i))
            points = np.stack([interior(m, int(i), rng) for _ in range(300)])
            values = m.settings(m.perturbed, points, m.label)
            assert m.table.low[i] - 1e-7 <= least <= values.min() + 1e-7
            near = where + 1e-6 * (m.table.centers[i] - where)  # the minimum may be on the region's border
            assert least == pytest.approx(float(m.settings(m.perturbed, near[None], m.label)[0]), rel=1e-4)


def test_streamed_map_has_the_same_totals_and_says_what_it_holds() -> None:
    rng = np.random.default_rng(13)
    network = dense(rng)
    image = image_of(rng, network)
    heard: list[Event] = []
    kept = attention_map(network, image, [SHIFT, BRIGHT], 2.0, listener=heard.append)
    streamed = attention_map(network, image, [SHIFT, BRIGHT], 2.0, keep=10)
    assert vars(streamed.summary) == vars(kept.summary)
    assert streamed.table is None
    assert streamed.raster is not None
    assert any(isinstance(e, Progress) and e.unit == "regions" for e in heard)
    with pytest.raises(InputError, match="does not hold its regions in memory"):
        streamed.component("label")


def test_a_map_stopped_by_the_clock_is_not_complete() -> None:
    rng = np.random.default_rng(14)
    network = dense(rng)
    wide = [Brightness(high=0.15), PATCH, SHIFT]
    m = attention_map(network, image_of(rng, network), wide, 2.0, timeout=1e-6)
    assert not m.complete
    assert "stopped" in m.reason
    assert Answer.ROBUST not in {a.answer for a in m.answers.values()}


def test_the_way_out_of_a_region() -> None:
    rng = np.random.default_rng(15)
    network = dense(rng)
    layer = perturbed(network, image_of(rng, network), [SHIFT, BRIGHT])
    prepared = problem(layer, Inconsistency(), 0)
    opens = PolygonExplorer(prepared.tnet, prepared.expected, 1.0, 0)
    direction = prepared.into
    cell = opens.open(prepared.origin, direction)
    assert not isinstance(cell, int)
    assert cell is not None
    out = exit_point(prepared.tnet, opens.state, prepared.origin, direction)
    nearest = min(abs(float(np.dot(f.into, out - f.at))) for f in cell.faces)
    assert nearest < 1e-9


def test_bad_arguments_are_named() -> None:
    rng = np.random.default_rng(16)
    network, image = dense(rng), rng.random((SIZE, SIZE))
    with pytest.raises(InputError, match="delta"):
        attention_map(network, image, [BRIGHT], -1.0)
    with pytest.raises(InputError, match="method 'fast'"):
        attention_map(network, image, [BRIGHT], method="fast")
    with pytest.raises(InputError, match="label 7 does not exist"):
        attention_map(network, image, [BRIGHT], label=7)
    with pytest.raises(InputError, match="filter"):
        Inconsistency(filter="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="norm"):
        Inconsistency(norm=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="classes"):
        Inconsistency(classes="some")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="followed the boundary of attention only"):
        attention_map(network, image, [BRIGHT], method="gbs").outermost("label")


def test_lemma_1_by_its_example() -> None:
    """Appendix I.7: the gradient by the pixels is constant on a region of θ. x₀ = (1, 0.5, 0.1), θ in [0, 1]."""
    builder = NetworkBuilder((1, 1, 3))
    flat = builder.add(Reshape((3,)))
    builder.add(Dense(np.array([[1.0, 1, 0], [1, 0, 1]]), np.zeros(2)), flat)
    builder.add(relu())
    darker = Linear(direction=[-1.0, -1.0, -1.0], low=0.0, high=1.0, name="darker")
    m = attention_map(builder.build(), np.array([[[1.0, 0.5, 0.1]]]), [darker], 0.0, label=0)
    t = m.table
    assert t is not None
    ends = np.unique(np.round([t.polygon(i)[:, 0] for i in range(len(t))], 12))
    np.testing.assert_allclose(ends, [0.0, 0.1, 0.5, 1.0], atol=1e-12)  # where a pixel reaches 0
    last = int(np.argmax(t.centers[:, 0]))
    np.testing.assert_allclose(t.polygon(last)[:, 0], [0.5, 1.0], atol=1e-12)
    rng = np.random.default_rng(0)
    for region in range(len(t)):
        low, high = t.polygon(region)[:, 0]
        thetas = low + (high - low) * rng.uniform(0.01, 0.99, size=(20, 1))
        maps = m.settings.maps(m.perturbed, thetas, 0)
        assert (maps == maps[0]).all()
    np.testing.assert_array_equal(m.settings.maps(m.perturbed, [[0.6]], 0)[0, :, 0, 0], [[1, 1, 0], [1, 0, 1]])


def test_the_paper_s_band_opens_more_and_finds_the_same_boundary() -> None:
    rng = np.random.default_rng(17)
    network = dense(rng)
    image = image_of(rng, network)
    whole = attention_map(network, image, [BRIGHT, PATCH], 2.0)
    assert whole.table is not None
    for aspect in ("attention", "label", "both"):
        plain, wide = (
            attention_map(network, image, [BRIGHT, PATCH], 2.0, method="gbs", aspect=aspect, band=band)  # type: ignore[arg-type]
            for band in (0.0, 0.5)
        )
        assert plain.table is not None
        assert wide.table is not None
        assert plain.summary.regions <= wide.summary.regions <= whole.summary.regions
        expected = {tuple(p) for p in np.round(whole.table.centers[whole.outside(aspect)], 7)}  # type: ignore[arg-type]
        for found in (plain, wide):
            assert found.table is not None
            assert {tuple(p) for p in np.round(found.table.centers[found.outside(aspect)], 7)} == expected  # type: ignore[arg-type]
        assert wide.answers[aspect].answer is whole.answers[aspect].answer  # type: ignore[index]
    with pytest.raises(InputError, match="band"):
        attention_map(network, image, [BRIGHT], method="gbs", band=-0.1)
