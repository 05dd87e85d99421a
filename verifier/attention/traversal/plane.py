"""Compiled walk over all linear regions of a network with two parameters, each in [0, 1].

`walk_plane` visits region after region by crossing edges, depth first, and keeps one `State`
(`verifier.attention.traversal.kernels`) up to date. A crossing that would change too much (a neuron high up in
the network) is put aside and later begun afresh from the point where the edge was met. Regions are known
by a 64-bit hash of their active neurons. No linear program is needed: a region is the polygon that its
neurons' half-planes leave of the square.

The walk can be interrupted at any time: it returns when its output is full, and goes on when called again.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from verifier.attention.traversal.kernels import inconsistency, start_region, step_region
from verifier.attention.traversal.polygon import (
    ALIASES,
    CORNERS,
    DEPTH,
    DONE,
    EDGES,
    FLIPS,
    FULL,
    GROW,
    JUMPS,
    MIXED,
    MOST_VERTICES,
    NEVER,
    PENDING,
    REFRESH,
    REHASH,
    ROBUST,
    SAME_LINE,
    SHORT,
    SLIVERS,
    STARTS,
    STEPS,
    SWITCHED,
    TIED,
    VISITED,
    ZEROS,
    area,
    circle,
    clip,
    is_seen,
    mark_seen,
    meets,
    region_polygon,
)


@nb.njit(cache=True)
def _grade(net, expected, state, walk, n, delta, cells, k):  # type: ignore[no-untyped-def]
    """Inconsistency of region k: bounds on its range, and whether it is <= delta everywhere, nowhere, or mixed."""
    t, slope = np.empty(2), np.empty(2)
    if not expected.moving:
        value = inconsistency(net, expected, state, t, slope)
        cells.low[k] = cells.high[k] = value
        cells.attention[k] = ROBUST if value <= delta else NEVER
        return
    polygon = walk.polygon
    high, best = 0.0, np.inf
    for i in range(n):
        t[0], t[1] = polygon[i, 0], polygon[i, 1]
        value = inconsistency(net, expected, state, t, slope)
        high, best = max(high, value), min(best, value)
    t[0], t[1], _ = circle(polygon, n)
    value = inconsistency(net, expected, state, t, slope)
    best = min(best, value)
    low = np.inf
    for i in range(n):
        low = min(low, value + slope[0] * (polygon[i, 0] - t[0]) + slope[1] * (polygon[i, 1] - t[1]))
    cells.low[k], cells.high[k] = max(low, 0.0), high
    if high <= delta:
        cells.attention[k] = ROBUST
    elif low > delta:
        cells.attention[k] = NEVER
    elif best <= delta:
        cells.attention[k] = MIXED
    else:
        cells.attention[k] = MIXED if below_somewhere(net, expected, state, walk, n, delta) else NEVER


@nb.njit(cache=True)
def below_somewhere(net, expected, state, walk, n, delta):  # type: ignore[no-untyped-def]
    """Whether the (convex) inconsistency is <= delta somewhere in the region.

    Centers of gravity: where it is above delta at the center, the half-plane in which the subgradient
    allows <= delta is kept; nothing left proves "nowhere". Ends with "somewhere" when what is left is a speck.
    """
    work, work_labels = np.empty((n + 64, 2)), np.empty(n + 64, np.int64)
    body, body_labels = np.empty((n + 64, 2)), np.empty(n + 64, np.int64)
    for i in range(n):
        body[i, 0], body[i, 1], body_labels[i] = walk.polygon[i, 0], walk.polygon[i, 1], 0
    t, slope = np.empty(2), np.empty(2)
    for _ in range(60):
        t[0], t[1], r = circle(body, n)
        if r < 1e-20:
            return True
        value = inconsistency(net, expected, state, t, slope)
        if value <= delta:
            return True
        size = np.sqrt(slope[0] ** 2 + slope[1] ** 2)
        if size == 0.0:
            return False
        a = (delta - value + slope[0] * t[0] + slope[1] * t[1]) / size
        m = clip(body, body_labels, n, a, -slope[0] / size, -slope[1] / size, 0, work, work_labels)
        if m == 0:
            return False
        if m > 0:
            n = m
    return True


@nb.njit(cache=True)
def _label(net, state, walk, n, label, cells, k):  # type: ignore[no-untyped-def]
    """Where in region k output ``label`` is above all others; the winner at its center.

    ``cells.tied`` says what hangs on rounding: 1 an output meets the label's at the region's edge, 2 all over it.
    """
    first = net.start[len(net.relu) - 1]
    outputs = net.start[len(net.relu)] - first
    polygon = walk.polygon
    x, y, _ = circle(polygon, n)
    winner, top = 0, -np.inf
    for j in range(outputs):
        value = state.Z[0, first + j] + state.Z[1, first + j] * x + state.Z[2, first + j] * y
        if value > top:
            winner, top = j, value
    cells.winner[k] = winner
    body, labels = np.empty((n + outputs + 4, 2)), np.empty(n + outputs + 4, np.int64)
    work, work_labels = np.empty((n + outputs + 4, 2)), np.empty(n + outputs + 4, np.int64)
    for i in range(n):
        body[i, 0], body[i, 1] = polygon[i, 0], polygon[i, 1]
    least, size = np.inf, n
    cells.tied[k] = 0
    for j in range(outputs):
        if j == label:
            continue
        a = state.Z[0, first + label] - state.Z[0, first + j]
        b = state.Z[1, first + label] - state.Z[1, first + j]
        c = state.Z[2, first + label] - state.Z[2, first + j]
        reach = 0.0
        for i in range(3):
            reach += abs(state.Z[i, first + label]) + abs(state.Z[i, first + j])
        rounding = TIED * reach
        farthest = 0.0
        for i in range(n):
            margin = a + b * polygon[i, 0] + c * polygon[i, 1]
            least, farthest = min(least, margin), max(farthest, abs(margin))
        if least <= rounding:
            cells.tied[k] = max(cells.tied[k], 1 if least >= -rounding else 0)
        if farthest <= rounding:
            # the two outputs are equal all over the region, as far as rounding tells: the label is not above
            cells.tied[k], least, size = 2, min(least, 0.0), 0
        if size == 0:
            continue
        scale = np.sqrt(b * b + c * c)
        if scale <= rounding:
            if a <= 0:
                size = 0
            continue
        m = clip(body, labels, size, a / scale, b / scale, c / scale, 0, work, work_labels)
        if m >= 0:
            size = m
    if least > 0:
        cells.label[k], cells.label_area[k] = ROBUST, cells.areas[k]
    else:
        cells.label_area[k] = area(body, size)
        cells.label[k] = NEVER if size == 0 else MIXED


@nb.njit(cache=True)
def truly_zero(net, bits, u):  # type: ignore[no-untyped-def]
    """Whether a neuron's affine map is zero because nothing comes in, and not only as far as rounding tells."""
    for i in range(len(net.base)):
        if net.base[i, u] != 0.0:
            return False
    for k in range(net.b_pointer[u], net.b_pointer[u + 1]):
        source = net.b_index[k]
        if source >= len(net.layer) or bits[source]:
            return False
    return True


@nb.njit(cache=True)
def wakes_zero(net, bits, zero, flips, begin, end):  # type: ignore[no-untyped-def]
    """Whether switching some neurons may give a neuron with a zero map a map of its own.

    Such a neuron's bit across the edge cannot be foreseen (it is the sign of what becomes of its map), and so
    neither can the neighbour's key: the edge gets a key of its own instead.
    """
    for f in range(begin, end):
        u = flips[f]
        for k in range(net.f_pointer[u], net.f_pointer[u + 1]):
            v = net.f_index[k]
            if zero[v]:
                return True
            if bits[v]:
                for q in range(net.f_pointer[v], net.f_pointer[v + 1]):
                    if zero[net.f_index[q]]:
                        return True
    return False


@nb.njit(cache=True, nogil=True)
def visit(net, expected, state, walk, old_n, delta, label, cells):  # type: ignore[no-untyped-def]
    """Record the present region and open a frame for its edges on the stack; returns the polygon's size.

    Edges that do not meet ``walk.slab`` are not crossed.
    """
    counters, polygon = walk.counters, walk.polygon
    n, near = region_polygon(net, state, walk, old_n)
    top = counters[DEPTH]
    walk.frames[top, 0], walk.frames[top, 1] = counters[EDGES], counters[FLIPS]
    counters[DEPTH] = top + 1
    if n == 0:
        counters[SLIVERS] += 1
        return 0
    k, first = cells.counts[0], cells.counts[1]
    cells.keys[k] = state.key[0]
    cells.areas[k] = area(polygon, n)
    cells.doubtful[k] = 0
    for q in range(counters[ZEROS]):
        u = walk.zeros[q]
        if net.layer[u] >= net.lowest and not truly_zero(net, state.bits, u):
            cells.doubtful[k] = 1
    costs = np.empty(n)
    begin = counters[EDGES]
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        cells.vertices[first + i, 0], cells.vertices[first + i, 1] = polygon[i, 0], polygon[i, 1]
        cells.neighbours[first + i] = 0
        if walk.labels[i] < 0:
            continue
        dx, dy = polygon[j, 0] - polygon[i, 0], polygon[j, 1] - polygon[i, 1]
        length = np.sqrt(dx * dx + dy * dy)
        if length < SHORT:
            continue
        key, cost, flips = state.key[0], 0.0, counters[FLIPS]
        for q in range(near):
            u = walk.near[q]
            a, b, c = state.Z[0, u], state.Z[1, u], state.Z[2, u]
            reach = SAME_LINE * np.sqrt(b * b + c * c) + net.noise[u]
            if (
                abs(a + b * polygon[i, 0] + c * polygon[i, 1]) <= reach
                and abs(a + b * polygon[j, 0] + c * polygon[j, 1]) <= reach
            ):
                walk.flips[flips] = u
                flips += 1
                key ^= net.hash[u]
                cost += net.work[u]
        if counters[ZEROS] and wakes_zero(net, state.bits, walk.zero, walk.flips, counters[FLIPS], flips):
            key = (state.key[0] + np.uint64(i + 1)) * np.uint64(0xD6E8FEB86659FD93)
        cells.neighbours[first + i] = key
        if is_seen(walk.seen, key) or flips == counters[FLIPS] or not meets(walk.slab, polygon, i, j):
            continue
        if cost > net.fresh_work:
            q = counters[JUMPS]
            walk.jumps[q, 0] = polygon[i, 0] + dx / 2
            walk.jumps[q, 1] = polygon[i, 1] + dy / 2
            walk.jumps[q, 2], walk.jumps[q, 3] = dy / length, -dx / length
            walk.jump_keys[q] = key
            counters[JUMPS] = q + 1
            continue
        e = counters[EDGES]
        while e > begin and costs[e - 1 - begin] < cost:
            walk.edges[e] = walk.edges[e - 1]
            walk.edge_keys[e] = walk.edge_keys[e - 1]
            walk.edge_flips[e] = walk.edge_flips[e - 1]
            costs[e - begin] = costs[e - 1 - begin]
            e -= 1
        walk.edges[e, 0], walk.edges[e, 1] = polygon[i, 0] + dx / 2, polygon[i, 1] + dy / 2
        walk.edges[e, 2], walk.edges[e, 3] = dy / length, -dx / length
        walk.edge_keys[e] = key
        walk.edge_flips[e, 0], walk.edge_flips[e, 1] = counters[FLIPS], flips
        costs[e - begin] = cost
        counters[EDGES] += 1
        counters[FLIPS] = flips
    _grade(net, expected, state, walk, n, delta, cells, k)
    _label(net, state, walk, n, label, cells, k)
    cells.counts[0], cells.counts[1] = k + 1, first + n
    cells.offsets[k + 1] = first + n
    return n


@nb.njit(cache=True)
def _toggle(walk, u):  # type: ignore[no-untyped-def]
    """Change the parity of neuron u among the changes still to be made."""
    flag = walk.pending_flag[u]
    if flag & 2 == 0:
        walk.pending[walk.counters[PENDING]] = u
        walk.counters[PENDING] += 1
    walk.pending_flag[u] = (flag ^ 1) | 2


@nb.njit(cache=True)
def _forget(walk):  # type: ignore[no-untyped-def]
    for q in range(walk.counters[PENDING]):
        walk.pending_flag[walk.pending[q]] = 0
    walk.counters[PENDING] = 0


@nb.njit(cache=True, nogil=True)
def walk_plane(net, expected, state, walk, cells, delta, label):  # type: ignore[no-untyped-def]
    """Go on with the walk until it is DONE, the output is FULL, or a buffer must GROW (or be REHASHed)."""
    counters = walk.counters
    at, into = np.empty(2), np.empty(2)
    while True:
        if cells.counts[0] >= len(cells.areas) or cells.counts[1] + MOST_VERTICES > len(cells.vertices):
            return FULL
        free = min(len(walk.edges) - counters[EDGES], len(walk.jumps) - counters[JUMPS]) - MOST_VERTICES
        free = min(free, len(walk.frames) - counters[DEPTH] - 2, len(walk.aliases) - counters[ALIASES] - 2)
        if free < 0 or counters[FLIPS] + 4 * len(net.layer) > len(walk.flips):
            return GROW
        if 2 * counters[VISITED] > len(walk.seen):
            return REHASH
        top = counters[DEPTH] - 1
        if top < 0:
            if counters[JUMPS] == 0:
                return DONE
            counters[JUMPS] -= 1
            q = counters[JUMPS]
            predicted = walk.jump_keys[q]
            if is_seen(walk.seen, predicted):
                continue
            at[0], at[1], into[0], into[1] = walk.jumps[q, 0], walk.jumps[q, 1], walk.jumps[q, 2], walk.jumps[q, 3]
            _forget(walk)
            counters[EDGES] = counters[FLIPS] = 0
            start_region(net, expected, state, at, into, False)
            counters[STARTS] += 1
        else:
            if counters[EDGES] == walk.frames[top, 0]:
                for f in range(walk.frames[top, 2], walk.frames[top, 3]):
                    _toggle(walk, walk.flips[f])
                counters[FLIPS] = walk.frames[top, 1]
                counters[DEPTH] = top
                continue
            counters[EDGES] -= 1
            e = counters[EDGES]
            predicted = walk.edge_keys[e]
            if is_seen(walk.seen, predicted):
                continue
            count = 0
            for q in range(counters[PENDING]):
                if walk.pending_flag[walk.pending[q]] & 1:
                    walk.toggles[count] = walk.pending[q]
                    count += 1
            for f in range(walk.edge_flips[e, 0], walk.edge_flips[e, 1]):
                walk.toggles[count] = walk.flips[f]
                count += 1
            at[0], at[1], into[0], into[1] = walk.edges[e, 0], walk.edges[e, 1], walk.edges[e, 2], walk.edges[e, 3]
            changed = step_region(net, expected, state, walk.toggles, count, at, into)
            for q in range(changed):
                _toggle(walk, state.changed[q])
            counters[STEPS] += 1
            counters[SWITCHED] += changed
            if counters[STEPS] % REFRESH == 0:
                start_region(net, expected, state, at, into, True)
        key = state.key[0]
        if key != predicted:
            walk.aliases[counters[ALIASES], 0] = predicted
            walk.aliases[counters[ALIASES], 1] = key
            counters[ALIASES] += 1
            if is_seen(walk.seen, key):
                continue
        mark_seen(walk.seen, key)
        counters[VISITED] += 1
        begin = counters[FLIPS]
        for q in range(counters[PENDING]):
            u = walk.pending[q]
            if walk.pending_flag[u] & 1:
                walk.flips[counters[FLIPS]] = u
                counters[FLIPS] += 1
        end = counters[FLIPS]
        _forget(walk)
        counters[CORNERS] = visit(net, expected, state, walk, counters[CORNERS], delta, label, cells)
        top = counters[DEPTH] - 1
        walk.frames[top, 1], walk.frames[top, 2], walk.frames[top, 3] = begin, begin, end
