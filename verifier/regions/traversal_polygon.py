"""Compiled geometry of the walk over two parameters: its memory, and the polygon of the present region."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

Array = Any

ON_LINE = 1e-12
"""A vertex this close to a line (the square has side 1) counts as on it."""
SAME_LINE = 1e-11
"""A unit whose zero set is this close to both ends of an edge has its zero set along the edge."""
SHORT = 1e-10
"""Edges shorter than this are not crossed."""
MOST_VERTICES = 1024
ZERO = 16.0
"""An affine map below this many times its rounding level is zero: its unit has no zero set of its own."""

DONE, FULL, GROW, REHASH = 0, 1, 2, 3
ROBUST, NEVER, MIXED = 0, 1, 2
(DEPTH, EDGES, FLIPS, JUMPS, PENDING, VISITED, ALIASES, STEPS, STARTS, SLIVERS, CORNERS, SWITCHED, ZEROS) = range(13)
REFRESH = 20_000
"""Steps after which the state is computed afresh, so that rounding does not pile up."""


class Walk(NamedTuple):
    """What the walk remembers between calls: its stack, the crossings put aside, the regions seen."""

    counters: Array
    frames: Array
    edges: Array
    edge_keys: Array
    edge_flips: Array
    flips: Array
    jumps: Array
    jump_keys: Array
    pending: Array
    pending_flag: Array
    seen: Array
    aliases: Array
    polygon: Array
    labels: Array
    scratch: Array
    scratch_labels: Array
    near: Array
    toggles: Array
    scan: Array
    zero: Array
    zeros: Array


class Cells(NamedTuple):
    """Output: one entry per region, and one per vertex of a region (polygons counter-clockwise)."""

    counts: Array
    keys: Array
    offsets: Array
    vertices: Array
    neighbours: Array
    areas: Array
    low: Array
    high: Array
    attention: Array
    label: Array
    label_area: Array
    winner: Array


@nb.njit(cache=True)
def rehash(walk, old):  # type: ignore[no-untyped-def]
    """Put all keys of an old table into ``walk.seen``."""
    for key in old:
        if key != 0:
            mark_seen(walk.seen, key)


@nb.njit(cache=True)
def is_seen(seen, key):  # type: ignore[no-untyped-def]
    """Whether a region's key is in the set of those seen."""
    mask = np.uint64(len(seen) - 1)
    slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
    while seen[slot] != 0:
        if seen[slot] == key:
            return True
        slot = (slot + np.uint64(1)) & mask
    return False


@nb.njit(cache=True)
def mark_seen(seen, key):  # type: ignore[no-untyped-def]
    """Put a region's key into the set."""
    mask = np.uint64(len(seen) - 1)
    slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
    while seen[slot] != 0:
        slot = (slot + np.uint64(1)) & mask
    seen[slot] = key


@nb.njit(cache=True)
def clip(polygon, labels, n, a, b, c, label, out, out_labels):  # type: ignore[no-untyped-def]
    """Keep what of a convex polygon satisfies a + b x + c y >= 0 (normalised); returns its size, -1: all of it."""
    worst = 0.0
    for i in range(n):
        worst = min(worst, a + b * polygon[i, 0] + c * polygon[i, 1])
    if worst >= -ON_LINE:
        return -1
    m = 0
    for i in range(n):
        k = i + 1 if i + 1 < n else 0
        here = a + b * polygon[i, 0] + c * polygon[i, 1]
        there = a + b * polygon[k, 0] + c * polygon[k, 1]
        if here >= -ON_LINE:
            out[m, 0], out[m, 1] = polygon[i, 0], polygon[i, 1]
            out_labels[m] = label if here <= ON_LINE and there < -ON_LINE else labels[i]
            m += 1
        if (here > ON_LINE and there < -ON_LINE) or (here < -ON_LINE and there > ON_LINE):
            s = here / (here - there)
            out[m, 0] = polygon[i, 0] + s * (polygon[k, 0] - polygon[i, 0])
            out[m, 1] = polygon[i, 1] + s * (polygon[k, 1] - polygon[i, 1])
            out_labels[m] = label if here > 0 else labels[i]
            m += 1
    if m < 3:
        return 0
    for i in range(m):
        polygon[i, 0], polygon[i, 1], labels[i] = out[i, 0], out[i, 1], out_labels[i]
    return m


@nb.njit(cache=True)
def _clip_unit(Z, bits, noise, polygon, labels, n, u, work, work_labels):  # type: ignore[no-untyped-def]
    """Clip the present polygon by a unit's half-plane; its size, 0 if nothing is left."""
    a, b, c = Z[0, u], Z[1, u], Z[2, u]
    size = np.sqrt(b * b + c * c)
    if size <= ZERO * noise[u]:
        return n
    sign = 1.0 / size if bits[u] else -1.0 / size
    m = clip(polygon, labels, n, a * sign, b * sign, c * sign, u, work, work_labels)
    return n if m < 0 else m


@nb.njit(cache=True)
def circle(polygon, n):  # type: ignore[no-untyped-def]
    x = y = r = 0.0
    for i in range(n):
        x += polygon[i, 0] / n
        y += polygon[i, 1] / n
    for i in range(n):
        r = max(r, (polygon[i, 0] - x) ** 2 + (polygon[i, 1] - y) ** 2)
    return x, y, r


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _any_near(Z, first, last, x, y, r):  # type: ignore[no-untyped-def]
    """Whether a unit in the range may vanish within the circle (compiled to vector instructions)."""
    found = 0
    for u in range(first, last):
        b, c = Z[1, u], Z[2, u]
        value = Z[0, u] + b * x + c * y
        found |= value * value <= (b * b + c * c) * r + 1e-22
    return found != 0


@nb.njit(cache=True)
def region_polygon(net, state, walk, old_n):  # type: ignore[no-untyped-def]
    """The present region as ``walk.polygon``; units that come near it in ``walk.near``. Sizes of both.

    ``walk.zero`` flags the units whose affine map is zero in the region; they are listed in ``walk.zeros``.
    """
    polygon, labels, near, scan = walk.polygon, walk.labels, walk.near, walk.scan
    work, work_labels, Z, bits, noise = walk.scratch, walk.scratch_labels, state.Z, state.bits, net.noise
    zeros = walk.zeros
    for k in range(walk.counters[ZEROS]):
        walk.zero[zeros[k]] = 0
    walk.counters[ZEROS] = 0
    seeds = 0
    for i in range(old_n):
        if labels[i] >= 0:
            near[seeds] = labels[i]
            seeds += 1
    polygon[0, 0], polygon[0, 1], polygon[1, 0], polygon[1, 1] = 0.0, 0.0, 1.0, 0.0
    polygon[2, 0], polygon[2, 1], polygon[3, 0], polygon[3, 1] = 1.0, 1.0, 0.0, 1.0
    for i in range(4):
        labels[i] = -1 - i
    n = 4
    for k in range(seeds):
        n = _clip_unit(Z, bits, noise, polygon, labels, n, near[k], work, work_labels)
        if n == 0:
            return 0, 0
    x, y, r = circle(polygon, n)
    r = r * 1.000001 + 1e-20
    found = 0
    for s in range(len(scan)):
        for first in range(scan[s, 0], scan[s, 1], 64):
            last = min(first + 64, scan[s, 1])
            if not _any_near(Z, first, last, x, y, r):
                continue
            for u in range(first, last):
                b, c = Z[1, u], Z[2, u]
                size = b * b + c * c
                value = Z[0, u] + b * x + c * y
                if np.sqrt(size) + abs(Z[0, u]) <= ZERO * noise[u]:
                    walk.zero[u] = 1
                    zeros[walk.counters[ZEROS]] = u
                    walk.counters[ZEROS] += 1
                    continue
                if value * value > size * r:
                    continue
                near[found] = u
                found += 1
                m = _clip_unit(Z, bits, noise, polygon, labels, n, u, work, work_labels)
                if m == 0:
                    return 0, 0
                n = m
                x, y, r = circle(polygon, n)
                r = r * 1.000001 + 1e-20
    return n, found


@nb.njit(cache=True)
def area(polygon, n):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(1, n - 1):
        ax, ay = polygon[i, 0] - polygon[0, 0], polygon[i, 1] - polygon[0, 1]
        bx, by = polygon[i + 1, 0] - polygon[0, 0], polygon[i + 1, 1] - polygon[0, 1]
        total += ax * by - ay * bx
    return total / 2.0
