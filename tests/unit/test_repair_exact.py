"""Repair to the last bit: certificates for the rows as asked, closed regions, exact satisfaction; strict input."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from verifier.errors import InputError, PropertyError
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, relu
from verifier.network.rationals import dyadic
from verifier.regions import plane
from verifier.repair import (
    FrozenNetwork,
    LineRegion,
    OutputPolytope,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    RepairStatus,
    Requirement,
    Specification,
    check,
    check_exactly,
    output_class,
    repair,
    repairable_layers,
    specification_from_dict,
    specification_from_json,
)
from verifier.repair.effort import Effort
from verifier.repair.filtered import exact_patterns, exact_slacks, pattern_at, slack_of
from verifier.repair.keypoints import key_points
from verifier.repair.schema import schema
from verifier.repair.search import Outcome
from verifier.repair.settings import SearchSettings

CORNERS = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]


def dense(seed: int, sizes: tuple[int, ...]) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def convolutional(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 4, 4))
    builder.add(Conv(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2), padding=(1, 1, 1, 1)))
    builder.add(relu())
    builder.add(MaxPool((2, 2), (2, 2)))
    builder.add(Reshape((8,)))
    builder.add(Dense(rng.normal(size=(3, 8)), rng.normal(size=3)))
    return builder.build()


def at_least(value: float) -> OutputPolytope:
    return OutputPolytope(np.array([[-1.0]]), np.array([-value]), f"at least {value}")


def test_a_repair_by_ties_alone_is_found() -> None:
    """y = (x, 0), class 0 at ±1 and class 1 at 0: only y0 = y1 everywhere does it, one weight less by 1."""
    network = feedforward([[[1.0], [0.0]]], [[0.0, 0.0]])
    ends = Requirement(PointRegion(np.array([[-1.0], [1.0]])), output_class(2, 0))
    result = repair(network, Specification((ends, Requirement(PointRegion([0.0]), output_class(2, 1)))))
    assert result.status is RepairStatus.REPAIRED
    assert result.norms["l1"] == 1.0
    assert check_exactly(result.frozen, Specification((ends,))).proved


def test_a_closed_region_counts_its_kinks() -> None:
    """y = relu(x), y >= 1 on [0, 1]: at 0 the neuron is inactive, so the layer before it cannot help."""
    network = feedforward([[[1.0]], [[1.0]]], [[0.0], [0.0]])
    specification = Specification((Requirement(LineRegion([0.0], [1.0]), at_least(1.0)),))
    first, last = repairable_layers(network)
    before = repair(network, specification, layers=[first], reach=10.0)
    assert before.status is RepairStatus.INFEASIBLE
    assert before.attempts[first].least == np.inf
    after = repair(network, specification, layers=[last], reach=10.0)
    assert after.status is RepairStatus.REPAIRED
    assert dict(after.changes) == {f"{last} bias[0]": 1.0}
    jumping = FrozenNetwork(network).patched(first, np.array([0.0, 1.0]))  # x + 1 for x > 0, but 0 at 0
    assert jumping.forward([0.0]) == 0.0
    assert not check_exactly(jumping, specification).proved


def test_the_edge_of_a_polygon_on_a_kink_counts_too() -> None:
    network = feedforward([[[1.0, 0.0]], [[1.0]]], [[0.0], [0.0]])
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    square = PolygonRegion(np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]), corners)
    specification = Specification((Requirement(square, at_least(1.0)),))
    first, _ = repairable_layers(network)
    assert repair(network, specification, layers=[first], reach=10.0).status is RepairStatus.INFEASIBLE
    beside = PolygonRegion(np.array([0.25, 0.0]), square.u, square.v, corners)
    moved = repair(network, Specification((Requirement(beside, at_least(1.0)),)), layers=[first], reach=10.0)
    assert moved.status is RepairStatus.REPAIRED
    assert moved.norms["l1"] == pytest.approx(0.75, rel=1e-8)


def test_a_kink_that_no_float_can_name() -> None:
    """The kink at x = 1/3: both sides are demanded there, and the exact place is no float64."""
    network = feedforward([[[3.0]], [[1.0]]], [[-1.0], [0.0]])
    specification = Specification((Requirement(LineRegion([0.0], [1.0]), at_least(0.5)),))
    first, last = repairable_layers(network)
    assert repair(network, specification, layers=[first], reach=100.0).status is RepairStatus.INFEASIBLE
    assert repair(network, specification, layers=[last], reach=100.0).status is RepairStatus.REPAIRED


@pytest.mark.parametrize("seed", range(12))
def test_repaired_means_exactly(seed: int) -> None:
    network = dense(seed, (2, 5, 5, 3))
    rng = np.random.default_rng(seed)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    region = PolygonRegion(rng.normal(size=2), np.array([0.5, 0.0]), np.array([0.0, 0.5]), corners)
    specification = Specification((Requirement(region, output_class(3, int(rng.integers(3)))),))
    result = repair(network, specification, layers=repairable_layers(network))
    assert result.status is RepairStatus.REPAIRED
    assert result.check.exact
    exact = check_exactly(result.frozen, specification)
    assert exact.proved
    assert exact.worst >= 0
    attempt = result.attempts[result.layer]
    assert attempt.least <= attempt.norm <= attempt.least * (1 + 1e-6) + 1e-12


def test_a_proof_of_infeasibility_is_for_the_rows_as_asked() -> None:
    """y = b for one bias: y <= 1/4 and y >= 1/4 hold together by a tie; a margin of any size would exclude it."""
    network = feedforward([[[0.0]]], [[1.0]])
    below = OutputPolytope(np.array([[1.0]]), np.array([0.25]), "below")
    points = PointRegion(np.array([[0.0]]))
    both = Specification((Requirement(points, below, "below"), Requirement(points, at_least(0.25), "above")))
    result = repair(network, both)
    assert result.status is RepairStatus.REPAIRED
    assert dict(result.changes) == {"dense_1 bias[0]": -0.75}
    apart = Specification(
        (Requirement(points, below, "below"), Requirement(points, at_least(np.nextafter(0.25, 1.0)), "above"))
    )
    assert repair(network, apart).status in (RepairStatus.INFEASIBLE, RepairStatus.ROUNDED)
    assert not repair(network, apart).check.proved or not repair(network, apart).check.exact


@pytest.mark.parametrize("which", [0, 1])
def test_a_convolution_is_repaired_and_checked_exactly_through_max_pooling(which: int) -> None:
    network = convolutional(0)
    layer = repairable_layers(network)[which]
    x = np.random.default_rng(3).normal(size=(2, 16))
    wrong = int(np.argmin(network.forward(x[0])))
    requirements = (
        Requirement(PointRegion(x[0]), output_class(3, wrong, margin=0.125)),
        Requirement(LineRegion(x[0], (x[0] + x[1]) / 2), output_class(3, wrong)),
    )
    result = repair(network, Specification(requirements), layers=[layer], reach=1000.0)
    assert result.status is RepairStatus.REPAIRED
    assert result.check.exact
    assert network.forward(x[0]).argmax() != wrong
    assert result.frozen.forward(x[0]).argmax() == wrong


def test_soft_always_answers() -> None:
    network = dense(6, (2, 4, 2))
    spec = Specification(
        (
            Requirement(PointRegion([0.5, 0.5]), output_class(2, 0, margin=0.1), "must be 0"),
            Requirement(PointRegion([0.5, 0.5]), output_class(2, 1, margin=0.1), "must be 1"),
            Requirement(PointRegion([3.0, 1.0]), output_class(2, int(network.forward([3.0, 1.0]).argmin())), "far"),
        )
    )
    for reach in (None, 1e-3, 1e-9):
        for norm in ("l1", "linf", "mixed"):
            result = repair(network, spec, soft=100.0, reach=reach, norm=norm)
            assert result.status in (RepairStatus.IMPROVED, RepairStatus.UNCHANGED)
            (attempt,) = result.attempts.values()
            assert attempt.outcome is Outcome.PARTIAL
            assert attempt.norm <= (np.inf if reach is None else reach * (1 + 1e-9))
    assert repair(network, spec, soft=100.0).met_after == 2
    feasible = Specification(spec.requirements[1:])
    assert repair(network, feasible, soft=1e4).status is RepairStatus.REPAIRED
    assert repair(network, spec, soft=100.0, timeout=1e-9).status in (RepairStatus.IMPROVED, RepairStatus.UNCHANGED)


def test_what_is_too_large_for_the_exact_check_says_so() -> None:
    network = dense(1, (2, 5, 5, 3))
    label = int(network.forward([0.0, 0.0]).argmin())
    specification = Specification((Requirement(LineRegion([0.0, 0.0], [0.3, 0.1]), output_class(3, label)),))
    for method in ("lp", "greedy"):
        large = repair(network, specification, method=method, steps=20, search=SearchSettings(effort=10.0))
        assert large.status is RepairStatus.ROUNDED
        assert "too large for the exact check" in large.reason
        assert not large.check.exact
    assert repair(network, specification, exact=True).status is RepairStatus.REPAIRED
    assert SearchSettings().effort > 1e6
    with pytest.raises(Exception, match="too large"):
        check_exactly(FrozenNetwork(network), specification, Effort(10.0))


def test_the_float_check_does_without_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` and `check_exactly` work where everything that the search is made of is broken."""
    network = dense(2, (2, 4, 2))
    specification = Specification((Requirement(LineRegion([0.0, 0.0], [1.0, 1.0]), output_class(2, 0)),))
    expected = check(FrozenNetwork(network), specification)

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("the check used the search's key points")

    for name in ("key_points", "_pieces", "KeyPoints"):
        monkeypatch.setattr(f"verifier.repair.keypoints.{name}", broken)
    assert check(FrozenNetwork(network), specification) == expected
    assert check_exactly(FrozenNetwork(network), specification).met == expected.met


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft": 0.0}, "soft must be positive"),
        ({"soft": -1.0}, "soft must be positive"),
        ({"soft": float("nan")}, "soft must be positive and finite"),
        ({"soft": "cheap"}, "soft must be a number"),
        ({"soft": True}, "soft must be a number"),
        ({"reach": -1}, "reach must be positive"),
        ({"reach": float("inf")}, "reach must be positive and finite"),
        ({"reach": [1.0]}, "reach must be a number"),
        ({"timeout": 0}, "timeout must be positive"),
        ({"timeout": "1"}, "timeout must be a number"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"norm": "l2"}, "norm 'l2' is not known"),
        ({"layers": "dense_1"}, "layers must be a sequence"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    network = dense(0, (2, 3, 2))
    specification = Specification((Requirement(PointRegion([0.0, 0.0]), output_class(2, 0)),))
    with pytest.raises((InputError, TypeError), match=message):
        repair(network, specification, **options)


@pytest.mark.parametrize(
    "domain",
    [
        (np.zeros(3), np.ones(3)),
        (np.ones(2), np.zeros(2)),
        (np.array([0.0, np.nan]), np.ones(2)),
        (np.zeros(2), np.ones(3)),
        -1,
        ("a", "b"),
    ],
    ids=["length", "inverted", "NaN", "unequal", "number", "text"],
)
def test_a_domain_that_is_none_is_refused(domain: Any) -> None:
    requirement = Requirement(PointRegion([0.5, 0.5]), output_class(2, 0))
    with pytest.raises(PropertyError, match="domain"):
        repair(dense(0, (2, 3, 2)), Specification((requirement,), domain))


POINT = {"region": {"point": [0, 0]}, "class": 0}
MAP = {"map": {"origin": [0, 0], "u": [1, 0], "v": [0, 1], "polygon": [[0, 0], [1, 0], [0, 1]]}, "relabel": []}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"requirements": [POINT | {"margn": 1}]}, "requirement 0: the key 'margn' is not known .did you mean 'margin'"),
        ({"requirements": [POINT | {"best": "min"}]}, "requirement 0: the key 'best' is not known .known here: .*smallest"),
        ({"requirements": [{"region": {"point": [0, 0]}, "clas": 0}]}, "did you mean 'class'"),
        ({"requirements": [POINT | {"smallest": 1}]}, "requirement 0: cannot be read: smallest: 1 is not a boolean"),
        ({"requirements": [POINT | {"class": True}]}, "class: true is not a whole number"),
        ({"requirements": [POINT | {"name": "p", "margin": "0.1"}]}, 'p: cannot be read: margin: "0.1" is not a number'),
        ({"requirements": [{"region": {"point": [0, None]}, "class": 0}]}, r"region.point\[1\]: null is not a number"),
        ({"requirements": [{"region": {"line": [[0, 0]]}, "class": 0}]}, "region.line: 1 entries where 2 belong"),
        ({"requirements": [{"region": {"point": [0, 0], "u": [1]}, "class": 0}]}, "region: the key 'u' is not known"),
        ({"requirements": []}, "requirements: 0 entries"),
        ({"requirements": [POINT], "domian": {}}, "the key 'domian' is not known .did you mean 'domain'"),
        ({"requirements": [POINT], "domain": {"lower": [0, 0]}}, "domain: the key 'upper' is missing"),
        ({"requirements": [POINT], "domain": {"lower": [0], "upper": [1]}}, "domain: 1 ends for a network with 2"),
        (MAP | {"best": "min"}, "the key 'best' is not known"),
        (MAP | {"keep": "yes"}, 'keep: "yes" is not a boolean'),
        (MAP | {"relabel": [{"area": {"component": [0, 0]}, "class": 1, "olt": 0}]}, "relabelling 0: .*did you mean 'old'"),
        (MAP | {"relabel": [{"area": {"component": [0, 0]}, "class": 1, "old": 7}]}, "relabelling 0: class 7"),
        ([], "a specification is an object"),
    ],
)  # fmt: skip
def test_files_are_read_strictly(data: object, message: str) -> None:
    network = dense(0, (2, 3, 2))
    with pytest.raises(PropertyError, match=message):
        key_points(network, specification_from_dict(data, network))


@pytest.mark.parametrize(
    "text", ['{"requirements": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "{'a': 1}", '{"requirements": [1e999]}']
)
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(PropertyError):
        specification_from_json(text, dense(0, (2, 3, 2)))


def test_the_published_schema_takes_the_example() -> None:
    from verifier.commands.repair import EXAMPLE
    from verifier.repair.schema import validate

    validate(json.loads(json.dumps(EXAMPLE)))
    assert schema()["$defs"]["classRequirement"]["properties"]["smallest"]["type"] == "boolean"


def test_the_exact_check_is_right_on_a_kink_of_thirds() -> None:
    network = feedforward([[[3.0]], [[1.0]]], [[-1.0], [0.0]])
    specification = Specification((Requirement(LineRegion([0.0], [1.0]), at_least(0.0)),))
    broken = FrozenNetwork(network).patched(repairable_layers(network)[0], np.array([0.0, -(2.0**-60) - 2.0**-52]))
    found = check_exactly(broken, specification)
    assert not found.proved
    assert found.failures[0].point.fractions() == [Fraction(1, 3)]


def test_many_points_are_judged_exactly_though_mostly_in_extended_precision() -> None:
    """Inputs on kinks up to rounding: the pattern and the verdict of each are those of rational arithmetic."""
    network = dense(3, (2, 6, 5, 2))
    kinks = plane(network, np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]), 2.0 * np.array(CORNERS))
    points = kinks.embed(kinks.vertices)
    patterns = exact_patterns(network, points)
    exact = ExactNetwork(network)
    layer = repairable_layers(network)[0]
    frozen = FrozenNetwork(network).patched(layer, 0.1 * np.ones(18))
    y = frozen.forward(points, patterns)
    tie = OutputPolytope(np.array([[1.0, -1.0]]), np.array([float(np.median(y[:, 0] - y[:, 1]))]), "tie")
    slacks = exact_slacks(frozen, points, patterns, tie)
    value = ExactNetwork(frozen.value_network)
    for k, x in enumerate(points):
        own = pattern_at(exact, dyadic(x[None]))
        assert all(np.array_equal(own[n][0], patterns[n][k]) for n in own)
        true = slack_of(tie, value.values(x, own)[network.output]).fractions()[0]
        assert slacks.met[k] == (true >= 0)
    assert 0 < slacks.met.sum() < len(points)


def test_opposite_rows_with_room_between_them_are_no_tie() -> None:
    """0.74 <= y <= 1.2 at one place: a repair by margins, as small as the least."""
    network = feedforward([[[1.0], [-0.3]], [[0.4, 0.7]]], [[0.1, 0.0], [0.0]])
    below = OutputPolytope(np.array([[1.0]]), np.array([1.2]), "below")
    line = LineRegion([0.0], [1.0])
    specification = Specification((Requirement(line, below), Requirement(line, at_least(0.74))))
    result = repair(network, specification)
    assert result.status is RepairStatus.REPAIRED
    (attempt,) = result.attempts.values()
    assert attempt.norm <= attempt.least * (1 + 1e-6)


def test_the_layers_own_norm_is_within_reach() -> None:
    """The least change takes all weights to zero: as large as the layer itself, which rounding must not deny."""
    weights = np.array([[0.1, 0.2], [0.3, -0.7]])
    network = feedforward([weights], [np.array([0.1, -0.1])])
    zero = OutputPolytope(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), np.zeros(4), "zero")
    points = PointRegion(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    result = repair(network, Specification((Requirement(points, zero),)))
    assert result.status is RepairStatus.REPAIRED
    assert result.norms["weights"] == 6


def test_a_repair_by_ties_with_short_numbers_is_the_least_one() -> None:
    """At (0, 1.5) both classes are demanded: only a tie there, which the solver's last bits would miss."""
    network = feedforward([[[1.0, -0.5], [-1.0, 1.5]]], [[-1.5, 1.0]])
    requirements = (
        Requirement(LineRegion([-0.5, -1.0], [0.0, 1.0]), OutputPolytope(np.array([[-1.0, 1.0]]), np.zeros(1))),
        Requirement(LineRegion([0.0, 1.5], [0.5, 0.5]), OutputPolytope(np.array([[1.0, -1.0]]), np.zeros(1))),
        Requirement(PointRegion([0.0, 1.5]), OutputPolytope(np.array([[-1.0, 1.0]]), np.zeros(1))),
    )
    result = repair(network, Specification(requirements), norm="linf", reach=100.0)
    assert result.status is RepairStatus.REPAIRED
    assert result.norms["linf"] == 1.25


def test_polygons_over_several_linear_regions_are_no_proof() -> None:
    """y = |x0| is 1 at the corners of the square and 0 on its middle line: at least 1/2 at the corners says nothing."""
    network = feedforward([[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])
    plane_of = np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    square = PiecesRegion(*plane_of, np.array(CORNERS), np.array([0, 4]))
    specification = Specification((Requirement(square, at_least(0.5), "square"),))
    for checked in (check(FrozenNetwork(network), specification), check_exactly(FrozenNetwork(network), specification)):
        assert checked.misplaced > 0
        assert not checked.proved
    with pytest.raises(PropertyError, match="square: 4 corners of its polygons lie outside"):
        repair(network, specification)
