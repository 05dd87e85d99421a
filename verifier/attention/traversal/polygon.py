"""Compiled geometry of the walk over two parameters: its memory, and the polygon of the present region."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

Array = Any

ON_LINE = 1e-12
"""A vertex this close to a line (the square has side 1) counts as on it."""
SAME_LINE = 1e-11
"""A neuron whose zero set is this close to both ends of an edge has its zero set along the edge."""
NEAR = 1e-10
"""A neuron whose zero set is this close to a region's bounding box is looked at more closely."""
SHORT = 1e-10
"""Edges shorter than this are not crossed."""
MOST_VERTICES = 1024
BLOCK = 1024
"""Units that are looked at before the polygon's bounding box is drawn anew."""
ZERO = 16.0
"""An affine map below this many times its rounding level is zero: its neuron has no zero set of its own."""
TIED = 1e-12
"""Outputs closer than this, relative to the sizes of their affine maps, are equal as far as rounding tells."""

DONE, FULL, GROW, REHASH = 0, 1, 2, 3
ROBUST, NEVER, MIXED = 0, 1, 2
(DEPTH, EDGES, FLIPS, JUMPS, PENDING, VISITED, ALIASES, STEPS, STARTS, SLIVERS, CORNERS, SWITCHED, ZEROS) = range(13)
REFRESH = 20_000
"""Steps after which the state is computed afresh, so that rounding does not pile up."""


class Walk(NamedTuple):
    """What the walk remembers between calls: its stack, the crossings put aside, the regions seen.

    ``slab (3,)``: an axis and the ends of a range along it; only edges that meet it are crossed.
    """

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
    box: Array
    candidates: Array
    slab: Array


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
    tied: Array
    doubtful: Array


@nb.njit(cache=True)
def meets(slab, polygon, i, j):  # type: ignore[no-untyped-def]
    """Whether the edge from vertex i to vertex j meets a slab (`Walk`)."""
    axis = int(slab[0])
    low, high = min(polygon[i, axis], polygon[j, axis]), max(polygon[i, axis], polygon[j, axis])
    return low <= slab[2] and high >= slab[1]


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
    """Clip the present polygon by a neuron's half-plane; its size, 0 if nothing is left, -1 if it stays as it is."""
    a, b, c = Z[0, u], Z[1, u], Z[2, u]
    size = np.sqrt(b * b + c * c)
    if size <= ZERO * noise[u]:
        return -1
    sign = 1.0 / size if bits[u] else -1.0 / size
    return clip(polygon, labels, n, a * sign, b * sign, c * sign, u, work, work_labels)


@nb.njit(cache=True)
def circle(polygon, n):  # type: ignore[no-untyped-def]
    x = y = r = 0.0
    for i in range(n):
        x += polygon[i, 0] / n
        y += polygon[i, 1] / n
    for i in range(n):
        r = max(r, (polygon[i, 0] - x) ** 2 + (polygon[i, 1] - y) ** 2)
    return x, y, r


@nb.njit(cache=True)
def bounding_box(polygon, n, box):  # type: ignore[no-untyped-def]
    """A rectangle around the polygon, along its longest edge: ``box`` gets its center and both half axes."""
    ux, uy, longest = 1.0, 0.0, 0.0
    for i in range(n):
        k = i + 1 if i + 1 < n else 0
        dx, dy = polygon[k, 0] - polygon[i, 0], polygon[k, 1] - polygon[i, 1]
        length = dx * dx + dy * dy
        if length > longest:
            longest, ux, uy = length, dx, dy
    if longest > 0.0:
        root = np.sqrt(longest)
        ux, uy = ux / root, uy / root
    along_low = across_low = np.inf
    along_high = across_high = -np.inf
    for i in range(n):
        along, across = ux * polygon[i, 0] + uy * polygon[i, 1], ux * polygon[i, 1] - uy * polygon[i, 0]
        along_low, along_high = min(along_low, along), max(along_high, along)
        across_low, across_high = min(across_low, across), max(across_high, across)
    along, across = (along_low + along_high) / 2.0, (across_low + across_high) / 2.0
    reach, depth = (along_high - along_low) / 2.0, (across_high - across_low) / 2.0
    box[0], box[1] = along * ux - across * uy, along * uy + across * ux
    box[2], box[3], box[4], box[5] = reach * ux, reach * uy, -depth * uy, depth * ux


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _near_neurons(Z, first, last, box, found):  # type: ignore[no-untyped-def]
    """The neurons of a range that may vanish within a `bounding_box`: how many; they are written to ``found``.

    Most blocks of neurons have none, which vector instructions tell at once.
    """
    x, y, ux, uy, vx, vy = box[0], box[1], box[2], box[3], box[4], box[5]
    count = 0
    for block in range(first, last, 64):
        end = min(block + 64, last)
        hit = 0
        for u in range(block, end):
            b, c = Z[1, u], Z[2, u]
            reach = abs(b * ux + c * uy) + abs(b * vx + c * vy) + NEAR * (1.0 + abs(b) + abs(c))
            hit |= abs(Z[0, u] + b * x + c * y) <= reach
        if hit:
            for u in range(block, end):
                b, c = Z[1, u], Z[2, u]
                reach = abs(b * ux + c * uy) + abs(b * vx + c * vy) + NEAR * (1.0 + abs(b) + abs(c))
                if abs(Z[0, u] + b * x + c * y) <= reach:
                    found[count] = u
                    count += 1
    return count


@nb.njit(cache=True)
def region_polygon(net, state, walk, old_n):  # type: ignore[no-untyped-def]
    """The present region as ``walk.polygon``; neurons that come near it in ``walk.near``. Sizes of both.

    ``walk.zero`` flags the neurons whose affine map is zero in the region; they are listed in ``walk.zeros``.
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
        m = _clip_unit(Z, bits, noise, polygon, labels, n, near[k], work, work_labels)
        if m == 0:
            return 0, 0
        n = n if m < 0 else m
    box = walk.box
    bounding_box(polygon, n, box)
    found = 0
    for s in range(len(scan)):
        for first in range(scan[s, 0], scan[s, 1], BLOCK):
            last = min(first + BLOCK, scan[s, 1])
            for k in range(_near_neurons(Z, first, last, box, walk.candidates)):
                u = walk.candidates[k]
                b, c = Z[1, u], Z[2, u]
                size = b * b + c * c
                if np.sqrt(size) + abs(Z[0, u]) <= ZERO * noise[u]:
                    walk.zero[u] = 1
                    zeros[walk.counters[ZEROS]] = u
                    walk.counters[ZEROS] += 1
                    continue
                # within the box, but neither cutting the polygon nor touching it
                sign, least = 1.0 if bits[u] else -1.0, np.inf
                for i in range(n):
                    least = min(least, sign * (Z[0, u] + b * polygon[i, 0] + c * polygon[i, 1]))
                if least > 0 and least * least > 2.0 * (SAME_LINE * SAME_LINE * size + noise[u] * noise[u]):
                    continue
                near[found] = u
                found += 1
                m = _clip_unit(Z, bits, noise, polygon, labels, n, u, work, work_labels)
                if m == 0:
                    return 0, 0
                n = n if m < 0 else m
            bounding_box(polygon, n, box)
    return n, found


@nb.njit(cache=True)
def area(polygon, n):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(1, n - 1):
        ax, ay = polygon[i, 0] - polygon[0, 0], polygon[i, 1] - polygon[0, 1]
        bx, by = polygon[i + 1, 0] - polygon[0, 0], polygon[i + 1, 1] - polygon[0, 1]
        total += ax * by - ay * bx
    return total / 2.0
