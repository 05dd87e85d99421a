"""Repairs with known answers, certificates of infeasibility, and re-verification that does not take things on trust."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
from scipy.optimize import linprog

import verifier.regions
import verifier.repair.search
from verifier.errors import PropertyError
from verifier.limits import Deadline
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Sum
from verifier.network.piecewise import relu
from verifier.regions import plane
from verifier.repair import (
    FrozenNetwork,
    OutputPolytope,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    Requirement,
    Specification,
    check,
    check_exactly,
    output_class,
    repair,
    repairable_layers,
    specification_from_dict,
)
from verifier.repair.export import frozen_to_onnx
from verifier.repair.frozen import parameters
from verifier.repair.keypoints import key_points
from verifier.repair.linear import Answer, LinearRepair, solve_layer
from verifier.repair.program import Program
from verifier.repair.rows import layer_rows
from verifier.repair.slices import (
    Component,
    HalfPlanes,
    Relabel,
    frozen_restriction,
    specification_of_map,
    specification_of_vertices,
)

PLANE = np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0])
SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def running_example() -> tuple[Network, Specification]:
    """The running example of the patching paper (Sotoudeh & Thakur 2019, Figure 3).

    Network and areas as in the authors' script experiments/toy_examples.py (95616ARG/SyReNN, `patchable_network` and
    `analyze_patching`): h = relu(-x + y - 0.5, x, y), outputs h1 + h2 + h3 and 1 - h2 - h3; on [-3, 3]² the area P1
    should have the second class, P2 to P4 the first.
    """
    network = feedforward(
        [[[-1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0, 1.0], [0.0, -1.0, -1.0]]], [[-0.5, 0.0, 0.0], [0.0, 1.0]]
    )
    areas = [
        ([[-3, -3], [0.5, -3], [0.5, 0], [0, 0.5], [-3, 0.5]], 1),
        ([[-3, 0.5], [3, 0.5], [3, 3], [-3, 3]], 0),
        ([[0, 0.5], [0.5, 0], [3, 0], [3, 0.5]], 0),
        ([[0.5, -3], [3, -3], [3, 0], [0.5, 0]], 0),
    ]
    return network, Specification(
        tuple(
            Requirement(PolygonRegion(*PLANE, np.array(corners)), output_class(2, label), f"P{k}")
            for k, (corners, label) in enumerate(areas, start=1)
        )
    )


def test_the_papers_running_example_is_patched_by_one_weight() -> None:
    """The known answer: the weight -1 from x to the first unit becomes 0 in the value channel.

    It is the only value. At (-3, 0.5), with the first unit on, h = ((-1 + δ)(-3) + 0.5 - 0.5, 0, 0.5) = (3 - 3δ, 0, 0.5).
    P1 asks for 1 - h2 - h3 >= h1 + h2 + h3, so 3 - 3δ <= 0; P2 for the opposite, so 3 - 3δ >= 0: δ = 1.
    """
    network, specification = running_example()
    first, _ = repairable_layers(network)
    before = check_exactly(FrozenNetwork(network), specification)
    assert before.violated == ("P1",)
    result = repair(network, specification, method="greedy", layers=[first])
    assert result.status == "repaired"
    (step,) = result.steps
    assert step.parameter == "weight[0, 0]"
    assert step.delta == pytest.approx(1.0, abs=1e-12)
    exact = FrozenNetwork(network).patched(first, np.eye(1, 9).reshape(-1))
    assert np.array_equal(parameters(exact.operator(network[first]))[:6], [0, 1, 1, 0, 0, 1])
    assert check_exactly(exact, specification).proved
    for wrong in (1 - 1e-9, 1 + 1e-9):
        assert not check_exactly(FrozenNetwork(network).patched(first, wrong * np.eye(1, 9)[0]), specification).proved


def test_the_running_example_by_linear_programming_costs_no_more() -> None:
    network, specification = running_example()
    result = repair(network, specification, layers=repairable_layers(network))
    assert result.status == "repaired"
    assert result.norms["l1"] == pytest.approx(1.0, abs=1e-6)
    assert result.attempts[result.layer].norm == min(a.norm for a in result.attempts.values() if a.frozen)


def test_a_corrupted_repair_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network, specification = running_example()
    first = repairable_layers(network)[0]
    good = FrozenNetwork(network).patched(first, np.eye(1, 9)[0])
    assert check(good, specification).proved
    for k in range(8):
        bad = good.patched(first, 1e-3 * np.eye(9)[k])
        refused, exactly = check(bad, specification), check_exactly(bad, specification)
        assert refused.proved == exactly.proved
        assert refused.violated == exactly.violated
    assert not check(good.patched(first, 1e-3 * np.eye(9)[0]), specification).proved

    def lie(rows: object, **options: object) -> LinearRepair:
        return LinearRepair(answer=Answer.FEASIBLE, delta=0.9 * np.eye(1, 9)[0], objective=0.9)

    monkeypatch.setattr(verifier.repair.search, "solve_layer", lie)
    result = repair(network, specification, layers=[first])
    assert result.status != "repaired"
    assert result.check.violated


def test_the_check_does_not_trust_the_subdivision(monkeypatch: pytest.MonkeyPatch) -> None:
    network, specification = running_example()
    good = FrozenNetwork(network).patched(repairable_layers(network)[0], np.eye(1, 9)[0])
    monkeypatch.setattr(verifier.regions, "plane", lambda *a: without_a_piece(plane(*a)))
    lost = check(good, specification)
    assert lost.met == lost.total
    assert lost.uncovered > 0.01
    assert not lost.proved
    # one piece over several linear regions
    whole = PiecesRegion(*PLANE, SQUARE, np.array([0, 4]))
    assert check(good, Specification((Requirement(whole, output_class(2, 1)),))).misplaced > 0


def without_a_piece(restriction: verifier.regions.PlaneRestriction) -> verifier.regions.PlaneRestriction:
    from dataclasses import replace

    if len(restriction) == 1:
        return restriction
    return replace(
        restriction,
        offsets=restriction.offsets[:-1],
        indices=restriction.indices[: restriction.offsets[-2]],
    )


def test_a_huge_change_buys_no_tolerance() -> None:
    # y0 = w x and y1 = w x + 0.001: class 0 is wrong by 0.001 whatever w is, and rounding hides it for w = 1e13
    network = feedforward([[[1.0], [1.0]]], [[0.0, 0.001]])
    specification = Specification((Requirement(PointRegion(np.array([[1.0], [2.0]])), output_class(2, 0)),))
    for w in (1.0, 1e6, 1e13, 1e16):
        frozen = FrozenNetwork(network).patched(repairable_layers(network)[0], np.array([w, w, 0.0, 0.0]))
        assert not check(frozen, specification).proved
        assert not check_exactly(frozen, specification).proved


def test_infeasible_within_a_reach_and_feasible_beyond_it() -> None:
    """y = w x + b from w = b = 0; y <= 1/4 at 1, y >= 3/4 at 1 + 2^-20: w >= 2^19 and b <= 1/4 - w, an L1 norm of 2^20."""
    network = feedforward([[[0.0]]], [[0.0]])
    below = OutputPolytope(np.array([[1.0]]), np.array([0.25]), "below")
    above = OutputPolytope(np.array([[-1.0]]), np.array([-0.75]), "above")
    specification = Specification(
        (
            Requirement(PointRegion(np.array([1.0])), below, "at 1"),
            Requirement(PointRegion(np.array([1 + 2.0**-20])), above, "beside 1"),
        )
    )
    near = repair(network, specification, reach=1000.0)
    assert near.status == "infeasible"
    (attempt,) = near.attempts.values()
    assert 1000.0 < attempt.least <= 2.0**20
    assert set(near.conflicts[repairable_layers(network)[-1]]) == {"at 1", "beside 1"}
    far = repair(network, specification, reach=1e7)
    assert far.status == "repaired"
    assert far.norms["l1"] == pytest.approx(2.0**20, rel=1e-6)
    assert check_exactly(far.frozen, specification).proved


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", ["l1", "linf", "mixed"])
def test_certificates_hold_for_every_change(seed: int, norm: str) -> None:
    """The multipliers of an infeasible program prove its bound by plain arithmetic on the rows."""
    rng = np.random.default_rng(seed)
    network = feedforward([rng.normal(size=(3, 2))], [np.zeros(3)])
    points, labels = rng.normal(size=(40, 2)), rng.integers(0, 3, 40)
    requirements = [Requirement(PointRegion(p), output_class(3, int(k), margin=1.0)) for p, k in zip(points, labels)]
    found = key_points(network, Specification(tuple(requirements)))
    rows = layer_rows(FrozenNetwork(network), found, repairable_layers(network)[0])
    answer = solve_layer(rows, norm=norm)
    assert answer.answer is Answer.INFEASIBLE
    index = np.array(list(answer.multipliers))
    weight = np.array(list(answer.multipliers.values()))
    assert (weight >= 0).all()
    combined, right = weight @ rows.coefficients(index), float(weight @ rows.slack[index])
    assert right < 0
    # how much a change of norm 1 can do: a small linear program over (Δ⁺, Δ⁻, radius)
    n, wide = len(combined), float(np.sqrt(len(combined)))
    l1, linf = {"l1": (1.0, 0.0), "linf": (0.0, 1.0), "mixed": (1.0, wide)}[norm]
    eye = np.eye(n)
    radius = np.hstack([eye, eye, -np.ones((n, 1))])
    size = np.concatenate([np.full(2 * n, l1), [linf]])
    most = linprog(
        -np.concatenate([combined, -combined, [0.0]]), np.vstack([radius, size]), np.concatenate([np.zeros(n), [1.0]])
    )
    assert -right >= 0.999 * min(answer.beyond, 1e9) * -most.fun - 1e-9
    assert answer.beyond > answer.reach


def two_classes() -> Network:
    """One unit; class 1 where x > 0.25 (inside a linear region), and everywhere affine in y."""
    return feedforward([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.1], [1.0, 0.1]]], [[0.0, 2.0], [0.0, -0.25]])


def test_borders_inside_a_linear_region_become_equations() -> None:
    network = two_classes()
    restriction = plane(network, *PLANE, SQUARE)
    # the border at x = 0.25 has to move to x = 0.5, exactly
    area = HalfPlanes.box((0.25, 0.5), (-np.inf, np.inf))
    specification = specification_of_map(restriction, [Relabel(area, 0, 1)])
    total = sum(
        float(abs(np.cross(np.roll(p, -1, axis=0) - p[0], p - p[0])).sum() / 2)
        for r in specification.requirements
        if isinstance(r.region, PiecesRegion)
        for p in np.split(r.region.vertices, r.region.offsets[1:-1])
    )
    assert total == pytest.approx(4.0)
    last = repairable_layers(network)[-1]
    points = key_points(network, specification)
    opposites = points.opposites(FrozenNetwork(network), last)
    tied = np.flatnonzero(opposites >= 0)
    assert len(tied)
    assert np.allclose(points.points[points.row_point[tied], 0], 0.5)
    assert np.allclose(points.rows[tied], -points.rows[opposites[tied]])
    result = repair(network, specification)
    assert result.status == "repaired"
    y = result.frozen.forward(np.array([[0.5, -0.7], [0.5, 0.0], [0.5, 1.0]]))
    assert np.abs(y[:, 0] - y[:, 1]).max() < 1e-12
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 5)), axis=-1).reshape(-1, 2)
    grid = grid[np.abs(grid[:, 0] - 0.5) > 1e-6]
    assert np.array_equal(result.frozen.forward(grid).argmax(axis=1), (grid[:, 0] > 0.5).astype(int))


def test_the_papers_encoding_takes_each_vertex_once() -> None:
    network, _ = running_example()
    restriction = plane(network, *PLANE, 3 * SQUARE)
    specification = specification_of_vertices(restriction, [Relabel(HalfPlanes.box((-9, 9), (-9, 0.25)), 1)])
    points = key_points(network, specification)
    assert len(points) == len(restriction.vertices)
    below = points.points[:, 1] < 0.25
    wanted = np.array([int(specification.requirements[k].output.name.split()[-1]) for k in points.requirement])
    assert (wanted[below] == 1).all()
    own = network.forward(points.points).argmax(axis=1)
    assert np.array_equal(wanted[~below], own[~below])
    with pytest.raises(PropertyError, match="component"):
        specification_of_vertices(restriction, [Relabel(Component((0.0, 0.0)), 1)])


def test_class_maps_with_relabelled_areas_from_json() -> None:
    network = two_classes()
    where = {"origin": [0, 0], "u": [1, 0], "v": [0, 1], "polygon": SQUARE.tolist()}
    areas = (
        {"polygon": [[0.25, -1], [0.5, -1], [0.5, 1], [0.25, 1]]},
        {"normals": [[1, 0]], "bounds": [0.5]},
        {"component": [0.9, 0.0]},
    )
    for area in areas:
        data = {"map": where, "relabel": [{"area": area, "class": 0, "old": 1}]}
        specification = specification_from_dict(data, network)
        moved = {r.name: r.region for r in specification.requirements}["changed to class 0"]
        assert isinstance(moved, PiecesRegion)
        assert moved.vertices[:, 0].min() == pytest.approx(0.25)
        assert moved.vertices[:, 0].max() == pytest.approx(1.0 if "component" in area else 0.5)
    bad = (
        ({"map": where, "relabel": [{"area": areas[0]}]}, "relabelling 0: the key 'class'"),
        (
            {"map": where, "relabel": [{"area": {"normals": [[1]], "bounds": [0]}, "class": 0}]},
            "relabelling 0: half-pl",
        ),
        ({"map": {**where, "polygon": [[0, 0]]}, "relabel": []}, "map: a polygon needs"),
        ({"map": where, "relabel": [{"area": areas[0], "class": 5}]}, "class 5 does not exist"),
        ({"map": where}, "map: the key 'relabel'"),
    )
    for wrong, message in bad:
        with pytest.raises(PropertyError, match=message):
            specification_from_dict(wrong, network)


def residual() -> Network:
    rng = np.random.default_rng(4)
    builder = NetworkBuilder((3,))
    start = builder.add(Dense(rng.normal(size=(5, 3)), rng.normal(size=5)))
    builder.add(relu())
    branch = builder.add(Dense(rng.normal(size=(5, 5)), rng.normal(size=5)))
    builder.add(Sum((1, 1)), start, branch)
    builder.add(relu())
    builder.add(Dense(rng.normal(size=(2, 5)), rng.normal(size=2)))
    return builder.build()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_residual_networks_are_patched_on_their_own_regions(which: int) -> None:
    network = residual()
    layer = repairable_layers(network)[which]
    rng = np.random.default_rng(which)
    region = PolygonRegion(rng.normal(size=3), rng.normal(size=3), rng.normal(size=3), SQUARE)
    points = key_points(network, Specification((Requirement(region, output_class(2, 1)),)))
    frozen = FrozenNetwork(network)
    rows = layer_rows(frozen, points, layer)
    delta = rng.normal(size=rows.size)
    patched = frozen.patched(layer, delta)
    assert np.allclose(rows.slack - rows.change(delta), points.slack(patched), atol=1e-9)
    # every linear region stays where it was: the patched network is affine on each
    before = plane(network, region.origin, region.u, region.v, region.polygon)
    after = frozen_restriction(patched, before)
    assert np.array_equal(after.offsets, before.offsets)
    middles = np.stack([p.mean(axis=0) for p in after.polygons])
    means = np.stack([v.mean(axis=0) for v in np.split(after.values[after.indices], after.offsets[1:-1])])
    assert np.allclose(patched.forward(before.embed(middles)), means, atol=1e-9)
    x = rng.normal(size=(30, 3))
    for name, pattern in patched.pattern(x).items():
        assert np.array_equal(pattern, network.pattern(x)[name])
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(frozen_to_onnx(patched, "float64").SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.allclose(y, patched.forward(x), atol=1e-10)


def test_polygons_that_are_none_are_named() -> None:
    network = two_classes()
    dented = PolygonRegion(*PLANE, np.array([[0, 0], [2, 0], [0.5, 0.5], [0, 2]]))
    flat = PolygonRegion(*PLANE, np.array([[0, 0], [1, 1], [2, 2]]))
    parallel = PolygonRegion(PLANE[0], PLANE[1], 2 * PLANE[1], SQUARE)
    for region, message in ((dented, "dent: .*not convex"), (flat, "dent: .*no area"), (parallel, "dent: u and v")):
        with pytest.raises(PropertyError, match=message):
            repair(network, Specification((Requirement(region, output_class(2, 0), "dent"),)))
    with pytest.raises(PropertyError, match="one input"):
        PointRegion(np.zeros((2, 2, 2)))


def test_an_interrupt_ends_a_running_program() -> None:
    rng = np.random.default_rng(0)
    program = Program(1500, (1.0, 0.0), None, 1e9)
    program.add(rng.normal(size=(900, 1500)), -np.abs(rng.normal(size=900)), equal=True)
    others = set(threading.enumerate())
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            program.solve(Deadline.after(60.0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert set(threading.enumerate()) <= others
