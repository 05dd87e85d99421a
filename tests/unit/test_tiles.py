"""Planes past a memory limit: tiles that fit, cover the polygon and give the same answers; deadlines."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from verifier.errors import InputError, MemoryLimitError, TimeLimitError
from verifier.network.graph import feedforward
from verifier.regions import in_tiles, line, lines, plane, plane_tiles

PENTAGON = 2 * np.array([[0.0, -1.0], [1.0, -0.2], [0.6, 1.0], [-0.7, 0.9], [-1.0, -0.3]])


def mlp(sizes, seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(o, i)) * np.sqrt(2 / i) for i, o in itertools.pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=o) * 0.1 for o in sizes[1:]])


def test_tiles_cover_the_polygon_and_agree_with_the_whole():
    network, frame = mlp([4, 40, 40, 3]), np.random.default_rng(1).normal(size=(3, 4))
    whole = plane(network, *frame, PENTAGON)
    tiles, parts = zip(*plane_tiles(network, *frame, PENTAGON, memory=2e-4), strict=True)
    assert len(parts) > 8
    assert all(len(part) < len(whole) for part in parts)
    np.testing.assert_allclose(sum(t.share for t in tiles), 1, rtol=1e-12)
    np.testing.assert_allclose([t.share for t in tiles], [p.areas.sum() / whole.areas.sum() for p in parts], rtol=1e-9)
    np.testing.assert_allclose(sum(p.areas.sum() for p in parts), whole.areas.sum(), rtol=1e-12)
    areas = sum(p.classes().areas for p in parts)
    np.testing.assert_allclose(areas, whole.classes().areas, rtol=1e-9, atol=1e-12)

    def patterns(restriction):
        return {row.tobytes() for row in np.concatenate(list(restriction.pattern().values()), axis=1)}

    assert set().union(*(patterns(p) for p in parts)) == patterns(whole)
    ((tile, only),) = plane_tiles(network, *frame, PENTAGON, memory=1.0)
    assert tile.share == 1
    np.testing.assert_array_equal(only.vertices, whole.vertices)


def resident(key):
    """A figure of this process's memory in bytes; VmHWM is the largest so far."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return 1024 * int(line.split()[1])


def test_the_memory_limit_holds():
    """The compiled kernels' memory is seen by the system only."""
    network, frame = mlp([4, 300, 300, 3]), np.random.default_rng(2).normal(size=(3, 4))
    plane(network, *frame, PENTAGON * 0.05)  # compiled kernels and plans are not what is measured
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far is forgotten
    before = resident("VmRSS")
    parts = plane_tiles(network, *frame, memory=0.1)
    tile, part = next(parts)
    assert len(part) > 1000
    assert tile.share < 1
    assert resident("VmHWM") - before < 0.1 * 2**30


def test_in_tiles_halves_what_is_too_large():
    seen = []

    def work(tile):
        if tile.share > 0.3:
            raise MemoryLimitError("too large")
        seen.append(tile)
        return len(seen)

    found = list(in_tiles(np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0], [0.0, 1.0]]), work))
    assert [result for _, result in found] == [1, 2, 3, 4]
    assert sum(tile.share for tile, _ in found) == 1
    boxes = {(*t.corners.min(axis=0).tolist(), *t.corners.max(axis=0).tolist()) for t, _ in found}
    assert boxes == {(0, 0, 2, 0.5), (0, 0.5, 2, 1), (2, 0, 4, 0.5), (2, 0.5, 4, 1)}


def test_a_limit_that_nothing_meets_is_an_error():
    network, frame = mlp([4, 40, 3]), np.random.default_rng(1).normal(size=(3, 4))
    with pytest.raises(MemoryLimitError, match="GiB"):
        next(plane_tiles(network, *frame, memory=1e-9))
    with pytest.raises(MemoryLimitError, match="node 'relu"):
        plane(network, *frame, memory=1e-4)
    with pytest.raises(InputError, match="positive"):
        plane(network, *frame, memory=0)
    with pytest.raises(InputError, match="not convex"):
        plane_tiles(network, *frame, [[0, 0], [2, 0], [1, 0.5], [2, 2], [0, 2]])


def test_deadlines():
    network, rng = mlp([4, 40, 40, 3]), np.random.default_rng(1)
    with pytest.raises(TimeLimitError, match="time was over"):
        plane(network, *rng.normal(size=(3, 4)), deadline=time.monotonic())


def test_deadlines_stop_lines_of_all_kinds():
    rng = np.random.default_rng(2)
    small, wide = mlp([4, 40, 3]), mlp([4, 900, 900, 3])
    starts, ends = rng.normal(size=(2, 500, 4))
    for exact in (False, True):
        with pytest.raises(TimeLimitError, match="time was over"):
            line(small, starts[0], ends[0], exact=exact, deadline=time.monotonic())
    assert len(line(small, starts[0], ends[0], deadline=time.monotonic() + 60)) > 1
    began = time.monotonic()
    with pytest.raises(TimeLimitError, match="vertices"):
        lines(wide, starts[:60], ends[:60], deadline=began + 0.1)  # takes seconds
    found = lines(wide, starts[:1], ends[:1], deadline=time.monotonic() + 60)
    np.testing.assert_allclose(found.breakpoints, line(wide, starts[0], ends[0]).breakpoints, atol=1e-12)
