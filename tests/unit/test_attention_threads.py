"""Walks in slabs and in waves: the map of a walk in one go, and bit for bit the same for any number of threads."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verifier.attention import Inconsistency, RegionMap, WalkSettings, attention_map
from verifier.encodings.perturbations import Brightness, Patch, Perturbation, Translation
from verifier.network.graph import Network, feedforward

SIZE = 6
PLANE: list[Perturbation] = [Translation(low=-1.5, high=1.0), Brightness(low=-0.5, high=0.5)]
SPACE: list[Perturbation] = [
    Brightness(high=0.1), Patch(top=1, left=2, height=3, width=2, high=0.2), Translation(low=-0.1, high=0.2)
]  # fmt: skip
SMALL: dict[str, Any] = {"probe": 60, "large": 100, "slab": 40}
"""So that maps of some hundred regions are large."""


def problem(seed: int) -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = (SIZE * SIZE, 12, 8, 3)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
    network = feedforward(weights, [rng.normal(size=b) * 0.3 for b in widths[1:]])
    return network, np.round(rng.random((SIZE, SIZE)) * 4) / 4


def same_bits(a: RegionMap, b: RegionMap) -> None:
    assert a.table is not None
    assert b.table is not None
    for field in fields(a.table):
        ours, theirs = getattr(a.table, field.name), getattr(b.table, field.name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes(), field.name
    assert vars(a.summary) == vars(b.summary)
    assert a.statistics == b.statistics
    assert a.origin == b.origin
    for aspect, answer in a.answers.items():
        other = b.answers[aspect]
        assert (answer.answer, answer.reason) == (other.answer, other.reason)
        assert np.array_equal(answer.theta, other.theta) if answer.theta is not None else other.theta is None
    assert {k: [m.tobytes() for m in v] for k, v in a.boundary.items()} == {
        k: [m.tobytes() for m in v] for k, v in b.boundary.items()
    }


def delta_of(network: Network, image: np.ndarray, perturbations: list[Perturbation], settings: Inconsistency) -> float:
    probe = attention_map(network, image, perturbations, 0.0, settings=settings)
    assert probe.table is not None
    return 0.01 + 1.001 * float(np.median(probe.table.high))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("perturbations", [PLANE, PLANE[1:], PLANE[::-1]])
def test_slabs_hold_the_map_of_one_walk(seed: int, perturbations: list[Perturbation]) -> None:
    network, image = problem(seed)
    settings = Inconsistency(norm=1 if seed == 3 else 2)
    delta = delta_of(network, image, perturbations, settings)
    whole = attention_map(network, image, perturbations, delta, settings=settings)
    small = SMALL if len(perturbations) == 2 else {"probe": 3, "large": 1, "slab": 2}
    one, *others = (
        attention_map(network, image, perturbations, delta, settings=settings, how=WalkSettings(threads=n, **small))
        for n in (1, 2, 5)
    )
    for other in others:
        same_bits(one, other)
    assert whole.table is not None
    assert one.table is not None
    assert one.complete, one.reason
    assert one.table.keys is not None
    assert whole.table.keys is not None
    assert len(set(one.table.keys.tolist())) == len(one.table) == len(whole.table)
    if len(perturbations) == 2:
        assert one.table.keys.tolist() != whole.table.keys.tolist(), "no slabs were walked"
    assert one.table.keys[one.origin] == whole.table.keys[whole.origin]
    order, other = np.argsort(one.table.keys), np.argsort(whole.table.keys)
    np.testing.assert_array_equal(one.table.keys[order], whole.table.keys[other])
    for name in ("volumes", "label_volumes", "high"):
        tolerance = 1e-7 if name == "high" else 1e-9  # a root of what rounding leaves of zero
        np.testing.assert_allclose(getattr(one.table, name)[order], getattr(whole.table, name)[other], atol=tolerance)
    big = one.table.volumes[order] > 1e-7
    for name in ("attention", "label", "touches_border"):
        assert (getattr(one.table, name)[order] == getattr(whole.table, name)[other])[big].all()
    pairs = [{frozenset(pair) for pair in m.table.keys[m.table.edges].tolist()} for m in (one, whole)]  # type: ignore[union-attr,index]
    assert pairs[0] == pairs[1]
    for aspect in ("attention", "label"):
        for question in (RegionMap.component, RegionMap.outside, RegionMap.outermost):
            chosen = [set(m.table.keys[question(m, aspect)].tolist()) for m in (one, whole)]  # type: ignore[union-attr,index,arg-type]
            assert chosen[0] == chosen[1]
    assert {k: a.answer for k, a in one.answers.items()} == {k: a.answer for k, a in whole.answers.items()}


def test_neighbours_that_are_not_foreseen_are_found_in_slabs() -> None:
    """Neurons without an affine map of their own: keys across edges turn out to be others."""
    rng = np.random.default_rng(3)
    dead = feedforward(
        [rng.normal(size=(10, 36)), rng.normal(size=(10, 10)), rng.normal(size=(8, 10)), rng.normal(size=(3, 8))],
        [rng.normal(size=10) * 0.3, np.zeros(10), np.zeros(8), np.zeros(3)],
    )
    image = np.round(rng.random((SIZE, SIZE)) * 4) / 4
    pair: list[Perturbation] = [Translation(low=-1.5, high=1.0), Brightness(low=-2.0, high=2.0)]
    whole = attention_map(dead, image, pair, 1.0)
    assert whole.statistics["aliases"] > 0
    found = attention_map(dead, image, pair, 1.0, how=WalkSettings(threads=2, **SMALL))
    assert found.complete, found.reason
    pairs = [{frozenset(pair) for pair in m.table.keys[m.table.edges].tolist()} for m in (found, whole)]  # type: ignore[union-attr,index]
    assert pairs[0] == pairs[1]


def test_waves_of_three_parameters() -> None:
    network, image = problem(5)
    one, two, four = (attention_map(network, image, SPACE, 2.0, how=WalkSettings(threads=n)) for n in (1, 2, 4))
    same_bits(one, two)
    same_bits(one, four)
    alone = attention_map(network, image, SPACE, 2.0, how=WalkSettings(wave=1))
    assert alone.table is not None
    assert one.table is not None
    assert set(alone.table.keys.tolist()) == set(one.table.keys.tolist())  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(3))
def test_guided_search_by_threads(seed: int) -> None:
    network, image = problem(seed)
    delta = delta_of(network, image, PLANE, Inconsistency())
    one, three = (
        attention_map(network, image, PLANE, delta, method="gbs", band=0.1, how=WalkSettings(threads=n)) for n in (1, 3)
    )
    assert one.method == "gbs"
    same_bits(one, three)


def test_streamed_and_summed_maps_by_threads(tmp_path: Path) -> None:
    network, image = problem(1)
    whole = attention_map(network, image, PLANE, 1.0)
    keep = whole.summary.regions // 2
    maps = [
        attention_map(network, image, PLANE, 1.0, keep=keep, how=WalkSettings(threads=n, **SMALL), **more)
        for n in (1, 2)
        for more in ({}, {"stream": tmp_path / str(n)})
    ]
    for a, b in (maps[::2], maps[1::2]):
        assert a.table is None
        assert vars(a.summary) == vars(b.summary)
        assert a.raster is not None
        assert b.raster is not None
        assert a.raster.tobytes() == b.raster.tobytes()
    assert maps[0].summary.regions == whole.summary.regions
    for name in sorted(path.name for path in (tmp_path / "1").glob("*.npz")):
        with np.load(tmp_path / "1" / name) as ours, np.load(tmp_path / "2" / name) as theirs:
            assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours.files)


def test_a_walk_by_threads_ends_in_time() -> None:
    network, image = problem(2)
    for method in ("exhaustive", "gbs"):
        for perturbations in (PLANE, SPACE):
            m = attention_map(
                network, image, perturbations, 1.0, method=method, timeout=1e-9, how=WalkSettings(threads=2, **SMALL)
            )
            assert not m.complete
            assert "stopped after" in m.reason
            assert m.summary.covered < 1
