"""Attention maps at their edges: dead regions, ties, skip connections, closed boundaries, bounds met exactly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from verifier.attention import Answer, Inconsistency, RegionMap, attention_map
from verifier.attention.replay import Replay, roots_exceed
from verifier.encodings.perturbations import Blend, Brightness, Linear, Patch, Perturbation, perturbed
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, relu

PLANE: list[Perturbation] = [
    Linear(direction=[1.0, 0.0], low=-1.0, high=1.0), Linear(direction=[0.0, 1.0], low=-1.0, high=1.0)
]  # fmt: skip
DOT = np.zeros((1, 1, 2))


def over_two_pixels(*layers: tuple[np.ndarray, np.ndarray]) -> Network:
    """Dense layers over two pixels, ReLU between them."""
    builder = NetworkBuilder((1, 1, 2))
    builder.add(Reshape((2,)))
    for k, (weight, bias) in enumerate(layers):
        if k:
            builder.add(relu())
        builder.add(Dense(np.asarray(weight, dtype=np.float64), np.asarray(bias, dtype=np.float64)))
    return builder.build()


def test_the_region_without_active_units_is_counted_once() -> None:
    """Its hash of active units was 0, which says "no region" in the table of those seen."""
    network = over_two_pixels(([[1.0, 0.0], [0.0, 1.0]], [-0.5, -0.5]), ([[1.0, 0.0], [0.0, 1.0]], [0.0, -0.1]))
    m = attention_map(network, DOT, PLANE, 1.0, label=0, clip=False)
    assert m.table is not None
    assert m.summary.regions == 4
    assert m.summary.covered == pytest.approx(1.0, abs=1e-12)
    assert len(np.unique(m.table.keys)) == 4  # type: ignore[type-var]
    assert 0 not in m.table.keys  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(40))
def test_skip_connections_do_not_make_regions_overlap(seed: int) -> None:
    """Targets of a unit that were consecutive numbers over a layer's end were taken for one layer's."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((1, 2, 2))
    builder.add(MaxPool((2, 2), (1, 1)))
    builder.add(Reshape((1,)))
    builder.add(Dense(rng.normal(size=(3, 1)), rng.normal(size=3) * 0.3))
    builder.add(relu())
    builder.add(Dense(rng.normal(size=(3, 3)), rng.normal(size=3)))
    image = rng.integers(0, 5, size=(1, 2, 2)) / 4
    pair = [Blend(mask=np.ones((2, 2)), low=-0.75, high=0.75), Brightness(low=-0.75, high=1.0)]
    m = attention_map(builder.build(), image, pair, 1.0)
    assert m.complete, m.reason
    assert m.summary.covered == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("keep", [3_000_000, 12])
def test_equal_outputs_are_no_classification(keep: int, tmp_path: Path) -> None:
    """Two outputs that are equal by the mathematics and not by the floats: 0.1 · 3 against 0.3."""
    network = over_two_pixels(
        ([[0.1, 0.1], [0.3, -0.7], [-0.2, 0.1]], [0.1, 0.2, 0.3]),
        ([[0.3, 0.7, 0.1], [0.3, 0.7, 0.1], [0.0, 0.0, 0.0]], [0.1, 0.1, 0.0]),
    )
    stream = None if keep > 100 else tmp_path
    m = attention_map(network, DOT, PLANE, 1.0, label=0, keep=keep, stream=stream)
    assert m.summary.label_share == 0.0
    assert m.summary.counts["MR"] == m.summary.regions
    answer = m.answers["label"]
    assert answer.answer is Answer.NOT_ROBUST
    assert answer.theta is not None
    assert Replay(m.perturbed, m.settings, 0).margin(answer.theta) == 0


def ring(radius: Fraction, width: Fraction) -> Network:
    """Label 0 loses to 1 where | |x| + |y| − radius | < width; the distance is bent elsewhere too."""
    distance = np.ones((1, 4))
    return over_two_pixels(
        ([[1, 0], [-1, 0], [0, 1], [0, -1]], np.zeros(4)),
        (np.concatenate([distance, -distance, distance, distance]), [-float(radius), float(radius), -0.3, -0.7]),
        ([[0, 0, 0, 0], [-1, -1, 0, 0]], [0, float(width)]),
    )


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert {tuple(p) for p in np.round(a, 7)} == {tuple(p) for p in np.round(b, 7)}


def test_a_robust_part_that_is_closed_in_has_its_outermost_boundary() -> None:
    """The not robust ring around it does not reach the border of Θ; what lies outside the component does."""
    network = ring(Fraction(1, 2), Fraction(1, 10))
    whole = attention_map(network, DOT, PLANE, 1.0, label=0, clip=False)
    found = attention_map(network, DOT, PLANE, 1.0, label=0, clip=False, method="gbs", aspect="label")
    assert whole.table is not None
    assert found.table is not None
    outer = whole.table.centers[whole.outermost("label")]
    assert len(outer) >= 4
    assert (np.abs(outer).sum(axis=1) < 0.6).all()
    same(found.table.centers[found.outermost("label")], outer)
    assert whole.enclaves("label") == 0
    far = whole.farthest("label")
    assert far is not None
    assert far[1] == pytest.approx(0.3, abs=1e-9)  # ‖θ‖₂ of the last bend before the ring, not widths of Θ


def test_an_enclave_that_meets_the_outside_in_a_vertex_is_no_enclave() -> None:
    """Two squares where the label fails, one at the border of Θ, that share a corner: nothing is surrounded."""
    weight, bias = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), np.zeros(4)
    network = over_two_pixels((weight, bias), ([[0, 0, 0, 0], [1, -1, 1, -1]], [0.0, 0.0]))
    whole = attention_map(network, DOT, PLANE, 1.0, label=0, clip=False)
    found = attention_map(network, DOT, PLANE, 1.0, label=0, clip=False, method="gbs", aspect="label")
    assert whole.table is not None
    assert found.table is not None
    assert whole.enclaves("label") == 0
    same(found.table.centers[found.outside("label")], whole.table.centers[whole.outside("label")])


def test_an_inconsistency_that_meets_delta_exactly_is_consistent() -> None:
    """δ = 0 and a map that floats compute only nearly: the same map is 0 away, not 1e-17."""
    network = over_two_pixels(([[0.1, 0.7], [0.3, -0.2]], [0.1, 0.2]), ([[0.3, 0.1], [0.7, 0.6]], [0, 0]))
    for norm in (1, 2):
        settings = Inconsistency(norm=norm)  # type: ignore[arg-type]
        m = attention_map(network, np.full((1, 1, 2), 0.5), [Brightness(high=0.4)], 0.0, settings=settings)
        assert m.summary.counts["AR"] == m.summary.regions
        assert m.answers["attention"].answer is Answer.ROBUST


def test_square_roots_against_a_bound() -> None:
    assert roots_exceed([Fraction(9, 4), Fraction(4)], Fraction(7, 2)) is False
    assert roots_exceed([Fraction(9, 4), Fraction(4)], Fraction(7, 2) - Fraction(1, 10**30)) is True
    assert roots_exceed([Fraction(2)], Fraction(2)) is False
    assert roots_exceed([Fraction(2), Fraction(3)], Fraction(314626436994, 10**11)) is True
    assert roots_exceed([Fraction(2), Fraction(3)], Fraction(314626436995, 10**11)) is False
    assert roots_exceed([], Fraction(0)) is False


def test_more_regions_in_a_point_than_a_tile_may_hold(tmp_path: Path) -> None:
    """Every tile around the point has them all; it was split for ever."""
    angles = np.linspace(0.1, np.pi, 7, endpoint=False)
    weight = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    network = over_two_pixels((weight, np.zeros(7)), (np.ones((2, 7)) * [[1.0], [0.5]], [0.1, 0.0]))
    m = attention_map(network, DOT, PLANE, 1.0, clip=False, keep=4, stream=tmp_path, timeout=60)
    assert m.complete, m.reason
    assert m.summary.covered == pytest.approx(1.0, abs=1e-9)


def residual_pool() -> RegionMap:
    builder = NetworkBuilder((1, 2, 2))
    flat = builder.add(Reshape((4,)))
    builder.add(Dense(np.eye(4) - 0.5, np.full(4, 0.25)), flat)
    active = builder.add(relu())
    total = builder.add(Sum((1, 1)), flat, active)
    builder.add(Reshape((1, 2, 2)), total)
    builder.add(MaxPool((2, 2), (1, 1)))
    builder.add(Reshape((1,)))
    builder.add(Dense(np.array([[1.0], [-1.0]]), np.array([0.0, 0.5])))
    image = np.array([[[0.5, 0.5], [0.25, 0.0]]])
    pair = [Patch(top=0, left=0, height=1, width=2, low=-0.5, high=0.5), Brightness(low=-0.5, high=0.5)]
    return attention_map(builder.build(), image, pair, 1.0)


def test_maxima_that_tie_over_whole_regions() -> None:
    m = residual_pool()
    assert m.summary.covered == pytest.approx(1.0, abs=1e-9)
    exact = Replay(m.perturbed, m.settings, m.label)
    assert m.table is not None
    for i in np.flatnonzero(m.table.volumes > 1e-9):
        center = m.table.polygon(int(i)).mean(axis=0)
        assert (exact.margin(center) > 0) == (m.table.label[i] == 0) or m.table.label[i] == 2


def test_perturbed_pixels_are_exact() -> None:
    layer = perturbed(over_two_pixels((np.eye(2), np.zeros(2))), np.full((1, 1, 2), 0.1), [Brightness(high=0.5)])
    found = Replay(layer, Inconsistency(), 0).pixels([Fraction(1, 3)]).fractions()
    assert found == [Fraction(0.1) + Fraction(1, 3)] * 2
