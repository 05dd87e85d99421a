"""Compiled kernels for meshes of convex polygons: cut, simplified, merged (rules: `verifier.regions.kernels`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verifier.regions.kernels import ONE, ZERO, grown, grown1, sign_bits, trailing_zeros


@njit(cache=True)
def _slot(keys: Any, key: int) -> int:
    """Where the key is, or belongs, in an open-addressing table."""
    mask = keys.shape[0] - 1
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    i = np.int64(h >> np.uint64(20)) & mask
    while keys[i] != -1 and keys[i] != key:
        i = (i + 1) & mask
    return i


@njit(cache=True)
def _wider(keys: Any, items: Any) -> tuple[Any, Any]:
    """The table with four times the room."""
    new_keys, new_items = np.full(4 * keys.shape[0], -1, np.int64), np.empty(4 * keys.shape[0], np.int64)
    for i in range(keys.shape[0]):
        if keys[i] != -1:
            s = _slot(new_keys, keys[i])
            new_keys[s], new_items[s] = keys[i], items[i]
    return new_keys, new_items


@njit(cache=True)
def _first_cut(loop: Any, positive: Any, negative: Any, side: Any) -> int:
    """The lowest-numbered function that has both signs on a polygon, -1 for none: then ``side`` has the signs of all."""
    for w in range(side.shape[0]):
        p = ZERO
        q = ZERO
        for i in range(loop.shape[0]):
            p |= positive[loop[i], w]
            q |= negative[loop[i], w]
        side[w] = p
        if p & q != ZERO:
            return w * 64 + trailing_zeros(p & q)
    return -1


@njit(cache=True)
def _negative_part(loop: Any, cut: int, values: Any, positive: Any, negative: Any) -> tuple[int, int]:
    """The first and the last vertex of a polygon where a function is negative, seen from where it is highest."""
    size, word, bit = loop.shape[0], cut >> 6, np.uint64(cut & 63)
    highest = -1
    for i in range(size):
        if (positive[loop[i], word] >> bit) & ONE == ZERO:
            continue
        if highest < 0 or values[loop[i], cut] > values[loop[highest], cut]:
            highest = i
    f = highest
    while (negative[loop[f], word] >> bit) & ONE == ZERO:
        f = (f + 1) % size
    b = highest
    while (negative[loop[b], word] >> bit) & ONE == ZERO:
        b = (b + size - 1) % size
    return f, b


@njit(cache=True)
def _push_parts(
    stack: Any, starts: Any, depth: int, top: int, loop: Any, f: int, b: int, ends: Any, created: Any
) -> tuple[int, int]:
    """The two parts of a polygon on the stack: the negative one below, the positive one on top.

    Args:
        f, b: see `_negative_part`; ends: the vertices at which it is cut; created: whether they are new.

    Returns:
        the new depth and top of the stack.
    """
    size = loop.shape[0]
    starts[depth] = top
    stack[top] = ends[0]
    top += 1
    i = f
    while True:
        stack[top] = loop[i]
        top += 1
        if i == b:
            break
        i = (i + 1) % size
    stack[top] = ends[1]
    top += 1
    starts[depth + 1] = top
    if created[1]:
        stack[top] = ends[1]
        top += 1
    i = (b + 1) % size
    while i != f:
        stack[top] = loop[i]
        top += 1
        i = (i + 1) % size
    if created[0]:
        stack[top] = ends[0]
        top += 1
    return depth + 2, top


@njit(cache=True)
def cut_polygons(
    offsets: Any,
    loops: Any,
    place: Any,
    values: Any,
    scale: Any,
    weight: Any,
    offset: Any,
    positive: Any,
    negative: Any,
    most: int,
) -> tuple[Any, ...]:
    """Cut convex polygons where functions cross zero; neighbours go on sharing their vertices.

    Every polygon is cut by the lowest-numbered function that crosses it, and its two parts in turn. The first
    function to cut an edge is then the same in both polygons beside it, so a table from edges to the vertex made
    on them keeps the mesh conforming.

    Args:
        offsets, loops: polygon c is ``loops[offsets[c]:offsets[c + 1]]``.
        place: ``(V, 2)`` plane coordinates.
        values: ``(V, n)``; scale ``(V,)``; weight, offset ``(n,)``.
        positive, negative: ``(V, words)`` sign bits.
        most: the work stops, unfinished, once there are more vertices than this.

    Returns:
        ``(offsets, loops, parents, sides, start, end, alpha, place, values, scale)`` as for `cut_segments`.
    """
    count, n = values.shape
    words = positive.shape[1]
    cells = offsets.shape[0] - 1
    capacity = count + count // 2 + 64
    new_values = np.empty((capacity, n))
    new_values[:count] = values
    new_positive = np.empty((capacity, words), np.uint64)
    new_positive[:count] = positive
    new_negative = np.empty((capacity, words), np.uint64)
    new_negative[:count] = negative
    new_scale = np.empty(capacity)
    new_scale[:count] = scale
    new_place = np.empty((capacity, 2))
    new_place[:count] = place
    start = np.empty(capacity, np.int64)
    end = np.empty(capacity, np.int64)
    alpha = np.empty(capacity)
    out = np.empty(loops.shape[0] * 2 + 64, np.int64)
    out_offsets = np.empty(cells * 2 + 64, np.int64)
    parents = np.empty(cells * 2 + 64, np.int64)
    sides = np.empty((cells * 2 + 64, words), np.uint64)
    keys = np.full(1 << 10, -1, np.int64)
    items = np.empty(1 << 10, np.int64)
    stack = np.empty(256, np.int64)
    starts = np.empty(64, np.int64)
    side = np.empty(words, np.uint64)
    used, made, out_used = count, 0, 0
    out_offsets[0] = 0
    for c in range(cells):
        size = offsets[c + 1] - offsets[c]
        while stack.shape[0] < size:
            stack = grown1(stack, 0)
        for i in range(size):
            stack[i] = loops[offsets[c] + i]
        starts[0] = 0
        depth, top = 1, size
        if used > most:
            break
        while depth > 0 and used <= most:
            depth -= 1
            begin = starts[depth]
            size = top - begin
            cut = _first_cut(stack[begin:top], new_positive, new_negative, side)
            if cut < 0:
                if made + 2 > parents.shape[0]:
                    parents = grown1(parents, made)
                    sides = grown(sides, made)
                    out_offsets = grown1(out_offsets, made + 1)
                while out_used + size > out.shape[0]:
                    out = grown1(out, out_used)
                out[out_used : out_used + size] = stack[begin:top]
                out_used += size
                parents[made] = c
                sides[made] = side
                made += 1
                out_offsets[made] = out_used
                top = begin
                continue
            loop = stack[begin:top].copy()
            word, bit = cut >> 6, np.uint64(cut & 63)
            f, b = _negative_part(loop, cut, new_values, new_positive, new_negative)
            ends = np.empty(2, np.int64)
            created = np.zeros(2, np.bool_)
            for k in range(2):
                inner = (f + size - 1) % size if k == 0 else (b + 1) % size
                u = loop[inner]
                if (new_positive[u, word] >> bit) & ONE == ZERO:
                    ends[k] = u
                    continue
                created[k] = True
                v = loop[f] if k == 0 else loop[b]
                low, high = min(u, v), max(u, v)
                key = (low << 32) | high
                slot = _slot(keys, key)
                if keys[slot] == key:
                    ends[k] = items[slot]
                    continue
                if used == capacity:
                    new_values = grown(new_values, used)
                    new_positive = grown(new_positive, used)
                    new_negative = grown(new_negative, used)
                    new_place = grown(new_place, used)
                    new_scale = grown1(new_scale, used)
                    start = grown1(start, used - count)
                    end = grown1(end, used - count)
                    alpha = grown1(alpha, used - count)
                    capacity = new_scale.shape[0]
                x = new_values[low, cut] / (new_values[low, cut] - new_values[high, cut])
                y = 1.0 - x
                for j in range(n):
                    new_values[used, j] = y * new_values[low, j] + x * new_values[high, j]
                new_values[used, cut] = 0.0
                new_place[used, 0] = y * new_place[low, 0] + x * new_place[high, 0]
                new_place[used, 1] = y * new_place[low, 1] + x * new_place[high, 1]
                new_scale[used] = max(new_scale[low], new_scale[high])
                sign_bits(new_values, used, used + 1, weight, offset, new_scale, new_positive, new_negative)
                start[used - count], end[used - count], alpha[used - count] = low, high, x
                keys[slot] = key
                items[slot] = used
                ends[k] = used
                used += 1
                if 3 * (used - count) > keys.shape[0]:
                    keys, items = _wider(keys, items)
            while begin + 2 * size + 8 > stack.shape[0]:
                stack = grown1(stack, begin)
            if depth + 2 > starts.shape[0]:
                starts = grown1(starts, depth)
            depth, top = _push_parts(stack, starts, depth, begin, loop, f, b, ends, created)
    new = used - count
    return (
        out_offsets[: made + 1].copy(),
        out[:out_used].copy(),
        parents[:made].copy(),
        sides[:made].copy(),
        start[:new].copy(),
        end[:new].copy(),
        alpha[:new].copy(),
        new_place[:used],
        new_values[:used],
        new_scale[:used],
    )


@njit(cache=True)
def drop_straight(offsets: Any, loops: Any, vertices: int, corners: int) -> tuple[Any, Any]:
    """Polygons without the vertices that are no polygon's corner: those with two edges only.

    Args:
        corners: vertices below this index are corners of the whole area and stay.
    """
    cells = offsets.shape[0] - 1
    before = np.full(vertices, -1, np.int64)
    after = np.full(vertices, -1, np.int64)
    needed = np.zeros(vertices, np.int64)
    for c in range(cells):
        first, last = offsets[c], offsets[c + 1]
        for i in range(first, last):
            v = loops[i]
            p = loops[i - 1] if i > first else loops[last - 1]
            n = loops[i + 1] if i + 1 < last else loops[first]
            if needed[v] == 0:
                before[v], after[v], needed[v] = p, n, 1
            elif needed[v] == 1 and before[v] == n and after[v] == p:
                needed[v] = 2
            else:
                needed[v] = 3
    # needed: 1 once (on the outer boundary), 2 between two polygons that run along it, 3 a corner
    out = np.empty(loops.shape[0], np.int64)
    out_offsets = np.zeros(cells + 1, np.int64)
    used = 0
    for c in range(cells):
        for i in range(offsets[c], offsets[c + 1]):
            if needed[loops[i]] == 3 or loops[i] < corners:
                out[used] = loops[i]
                used += 1
        out_offsets[c + 1] = used
    return out_offsets, out[:used].copy()


@njit(cache=True)
def _components(tails: Any, heads: Any, owners: Any, count: int) -> Any:
    """Which polygons of a group hang together along edges: for each the smallest number of its component."""
    edges = {(np.int64(-1), np.int64(-1)): np.int64(-1)}
    for i in range(tails.shape[0]):
        edges[(tails[i], heads[i])] = owners[i]
    label = np.arange(count)
    changed = True
    while changed:
        changed = False
        for i in range(tails.shape[0]):
            back = (heads[i], tails[i])
            if back in edges:
                a, b = label[owners[i]], label[edges[back]]
                if a != b:
                    label[owners[i]] = label[edges[back]] = min(a, b)
                    changed = True
    return label


@njit(cache=True)
def _outline(tails: Any, heads: Any, out: Any, used: int) -> int:
    """Write the boundary of a union: the edges that occur in one direction only.

    Returns:
        the new number of entries of ``out``; -1 if the boundary is no simple loop.
    """
    inner = {(np.int64(-1), np.int64(-1)): True}
    for i in range(tails.shape[0]):
        inner[(tails[i], heads[i])] = True
    boundary = {np.int64(-1): np.int64(-1)}
    start = np.int64(-1)
    count = 0
    for i in range(tails.shape[0]):
        if (heads[i], tails[i]) in inner:
            continue
        if tails[i] in boundary:
            return -1
        boundary[tails[i]] = heads[i]
        start = tails[i]
        count += 1
    v = start
    for i in range(count):
        if v not in boundary or (i > 0 and v == start):
            return -1
        out[used + i] = v
        v = boundary[v]
    return used + count if count > 0 and v == start else -1


@njit(cache=True)
def merge_polygons(offsets: Any, loops: Any, groups: Any) -> tuple[Any, ...]:
    """Unite neighbouring polygons of one group; group numbers do not decrease, and every union is convex.

    Polygons of a group that do not hang together, or whose union is no simple polygon, because slivers of the size of
    rounding errors lie between them, stay apart.

    Returns:
        ``(offsets, loops, first)`` with the first old polygon of each new one.
    """
    cells = offsets.shape[0] - 1
    out = np.empty(loops.shape[0], np.int64)
    out_offsets = np.zeros(cells + 1, np.int64)
    first = np.empty(cells, np.int64)
    made, used, c = 0, 0, 0
    while c < cells:
        d = c
        while d < cells and groups[d] == groups[c]:
            d += 1
        total = offsets[d] - offsets[c]
        tails, heads, owners = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64)
        k = 0
        for e in range(c, d):
            size = offsets[e + 1] - offsets[e]
            for i in range(size):
                tails[k] = loops[offsets[e] + i]
                heads[k] = loops[offsets[e] + (i + 1) % size]
                owners[k] = e - c
                k += 1
        label = np.zeros(1, np.int64) if d == c + 1 else _components(tails, heads, owners, d - c)
        for e in range(d - c):
            if label[e] != e:
                continue
            after = -1
            if (label == e).sum() > 1:
                mine = label[owners] == e
                after = _outline(tails[mine], heads[mine], out, used)
            if after >= 0:
                used = after
                first[made] = c + e
                made += 1
                out_offsets[made] = used
                continue
            for f in range(e, d - c):
                if label[f] != e:
                    continue
                for i in range(offsets[c + f], offsets[c + f + 1]):
                    out[used] = loops[i]
                    used += 1
                first[made] = c + f
                made += 1
                out_offsets[made] = used
        c = d
    return out_offsets[: made + 1].copy(), out[:used].copy(), first[:made].copy()
