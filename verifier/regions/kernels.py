"""Compiled kernels that cut cells (segments or convex polygons) where functions change their sign.

A *cell* is a segment (two vertices) or a convex polygon (a loop of vertices, counter-clockwise). On a cell all
functions are affine, so they are given by their values at the vertices. A function's sign at a vertex is taken
only where its value exceeds the rounding tolerance ``weight[j] * scale[v] + offset[j]`` (see
`verifier.regions.rounding`); otherwise the vertex lies *on* the function's zero set. A cell is cut by a function
only if it has a vertex of either strict sign, so a function that touches zero, is zero throughout, or crosses
where another one has just been found to cross makes no further cell.

New vertices are appended after the old ones, each as ``(1 - alpha) * from + alpha * to`` of two earlier vertices;
signs are kept as bit sets, 64 functions a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

ONE = np.uint64(1)
ZERO = np.uint64(0)


@njit(cache=True, inline="always")
def _trailing_zeros(word: Any) -> int:
    """Index of the lowest set bit of a non-zero word."""
    n = 0
    if word & np.uint64(0xFFFFFFFF) == ZERO:
        n += 32
        word >>= np.uint64(32)
    if word & np.uint64(0xFFFF) == ZERO:
        n += 16
        word >>= np.uint64(16)
    if word & np.uint64(0xFF) == ZERO:
        n += 8
        word >>= np.uint64(8)
    while word & ONE == ZERO:
        n += 1
        word >>= ONE
    return n


@njit(cache=True)
def sign_bits(
    values: Any, first: int, last: int, weight: Any, offset: Any, scale: Any, positive: Any, negative: Any
) -> None:
    """Write the bit sets of strictly positive and strictly negative functions of vertices first to last - 1."""
    n = values.shape[1]
    words = positive.shape[1]
    for v in range(first, last):
        s = scale[v]
        for w in range(words):
            p = ZERO
            q = ZERO
            for k in range(w * 64, min(n, w * 64 + 64)):
                tolerance = weight[k] * s + offset[k]
                x = values[v, k]
                bit = np.uint64(k & 63)
                p |= np.uint64(x > tolerance) << bit
                q |= np.uint64(x < -tolerance) << bit
            positive[v, w] = p
            negative[v, w] = q


@njit(cache=True)
def _grown(array: Any, used: int) -> Any:
    """A copy of a two-dimensional array with twice the rows."""
    new = np.empty((2 * array.shape[0] + 16, array.shape[1]), array.dtype)
    new[:used] = array[:used]
    return new


@njit(cache=True)
def _grown1(array: Any, used: int) -> Any:
    """A copy of a one-dimensional array of twice the length."""
    new = np.empty(2 * array.shape[0] + 16, array.dtype)
    new[:used] = array[:used]
    return new


@njit(cache=True)
def cell_bits(offsets: Any, loops: Any, bits: Any) -> Any:
    """For each cell the union of its vertices' bit sets, ``(cells, words)``."""
    count = offsets.shape[0] - 1
    words = bits.shape[1]
    result = np.zeros((count, words), np.uint64)
    for c in range(count):
        for i in range(offsets[c], offsets[c + 1]):
            v = loops[i]
            for w in range(words):
                result[c, w] |= bits[v, w]
    return result


@njit(cache=True)
def _order(where: Any) -> Any:
    """Indices in increasing order, stable; few values are sorted by insertion."""
    m = where.shape[0]
    if m > 40:
        return np.argsort(where, kind="mergesort")
    order = np.empty(m, np.int64)
    for i in range(m):
        k = i
        while k > 0 and where[order[k - 1]] > where[i]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = i
    return order


@njit(cache=True)
def place_crossings(
    found: Any, where: Any, start: Any, end: Any, scale: float, weight: Any, offset: Any, anchor: Any
) -> int:
    """Decide where on a segment vertices are made for the functions that cross on it.

    Of crossings that rounding errors cannot tell apart the best-conditioned one (whose place is the least
    uncertain) decides, and the others are moved to it.

    Args:
        found: ``(m,)`` the functions that cross.
        where: ``(m,)`` their places in (0, 1); overwritten with the places decided.
        start, end: ``(n,)`` all functions' values at the segment's ends.
        scale: the larger tolerance scale of the two ends.
        anchor: is filled with one index into ``where`` for every vertex, in increasing order of place.

    Returns:
        the number of vertices.
    """
    m = found.shape[0]
    if m == 0:
        return 0
    order = _order(where)
    blur = np.empty(m)
    for k in range(m):
        j = found[k]
        blur[k] = (weight[j] * scale + offset[j]) / abs(end[j] - start[j])
    count = 0
    i = 0
    while i < m:
        last = i + 1
        reach = where[order[i]] + blur[order[i]]
        while last < m and where[order[last]] - blur[order[last]] <= reach:
            reach = max(reach, where[order[last]] + blur[order[last]])
            last += 1
        if last == i + 1:
            anchor[count] = order[i]
            count += 1
        else:
            group = order[i:last]
            sharpest = _order(blur[group])
            chosen = np.empty(len(group), np.int64)
            size = 0
            for s in sharpest:
                k = group[s]
                nearest = -1
                for c in range(size):
                    gap = abs(where[chosen[c]] - where[k])
                    if gap <= blur[k] and (nearest < 0 or gap < abs(where[nearest] - where[k])):
                        nearest = chosen[c]
                if nearest < 0:
                    chosen[size] = k
                    size += 1
                else:
                    where[k] = where[nearest]
            for c in _order(where[chosen[:size]]):
                anchor[count] = chosen[c]
                count += 1
        i = last
    return count


@njit(cache=True)
def cut_segments(
    cells: Any, place: Any, values: Any, scale: Any, weight: Any, offset: Any, positive: Any, negative: Any
) -> tuple[Any, ...]:
    """Cut segments where functions cross zero.

    Crossings of several functions at one place, up to rounding, become one vertex. A crossing so near an end that
    no float lies between is not made.

    Args:
        cells: ``(P, 2)`` vertex indices, start and end.
        place: ``(V,)`` parameter t of each vertex.
        values: ``(V, n)``; scale ``(V,)``; weight, offset ``(n,)``.
        positive, negative: ``(V, words)`` sign bits.

    Returns:
        ``(cells, parents, sides, start, end, alpha, place, values, scale)``: the new cells, the old cell each came
        from, the positive functions of each, how the new vertices were made, and the extended arrays.
    """
    count, n = values.shape
    words = positive.shape[1]
    crossings = 0
    for c in range(cells.shape[0]):
        a, b = cells[c, 0], cells[c, 1]
        for w in range(words):
            x = (positive[a, w] & negative[b, w]) | (negative[a, w] & positive[b, w])
            while x != ZERO:
                x &= x - ONE
                crossings += 1
    capacity = count + crossings
    new_values = np.empty((capacity, n))
    new_values[:count] = values
    new_scale = np.empty(capacity)
    new_scale[:count] = scale
    new_place = np.empty(capacity)
    new_place[:count] = place
    start = np.empty(crossings, np.int64)
    end = np.empty(crossings, np.int64)
    alpha = np.empty(crossings)
    out = np.empty((cells.shape[0] + crossings, 2), np.int64)
    parents = np.empty(out.shape[0], np.int64)
    sides = np.zeros((out.shape[0], words), np.uint64)
    found = np.empty(n, np.int64)
    where = np.empty(n)
    anchor = np.empty(n, np.int64)
    bits_p = np.empty((1, words), np.uint64)
    bits_q = np.empty((1, words), np.uint64)
    used, made = count, 0
    for c in range(cells.shape[0]):
        a, b = cells[c, 0], cells[c, 1]
        m = 0
        for w in range(words):
            x = (positive[a, w] & negative[b, w]) | (negative[a, w] & positive[b, w])
            while x != ZERO:
                j = w * 64 + _trailing_zeros(x)
                x &= x - ONE
                found[m] = j
                where[m] = values[a, j] / (values[a, j] - values[b, j])
                m += 1
        wide = max(scale[a], scale[b])
        places = place_crossings(found[:m], where[:m], values[a], values[b], wide, weight, offset, anchor)
        previous = a
        bits_p[0] = positive[a]
        bits_q[0] = negative[a]
        for i in range(places):
            x0 = where[anchor[i]]
            t = place[a] + x0 * (place[b] - place[a])
            if not (new_place[previous] < t < place[b]):
                continue
            v = used
            new_place[v] = t
            new_scale[v] = wide
            for j in range(n):
                new_values[v, j] = (1.0 - x0) * values[a, j] + x0 * values[b, j]
            for k in range(m):
                if where[k] == x0:
                    new_values[v, found[k]] = 0.0
            start[used - count], end[used - count], alpha[used - count] = a, b, x0
            used += 1
            out[made, 0], out[made, 1], parents[made] = previous, v, c
            for w in range(words):
                sides[made, w] = bits_p[0, w]
            sign_bits(new_values[v : v + 1], 0, 1, weight, offset, new_scale[v : v + 1], bits_p, bits_q)
            for w in range(words):
                sides[made, w] |= bits_p[0, w]
            made += 1
            previous = v
        out[made, 0], out[made, 1], parents[made] = previous, b, c
        for w in range(words):
            sides[made, w] = bits_p[0, w] | positive[b, w]
        made += 1
    new = used - count
    return (
        out[:made],
        parents[:made],
        sides[:made],
        start[:new],
        end[:new],
        alpha[:new],
        new_place[:used],
        new_values[:used],
        new_scale[:used],
    )


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
            stack = _grown1(stack, 0)
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
            cut = -1
            for w in range(words):
                p = ZERO
                q = ZERO
                for i in range(begin, top):
                    p |= new_positive[stack[i], w]
                    q |= new_negative[stack[i], w]
                side[w] = p
                if p & q != ZERO:
                    cut = w * 64 + _trailing_zeros(p & q)
                    break
            if cut < 0:
                if made + 2 > parents.shape[0]:
                    parents = _grown1(parents, made)
                    sides = _grown(sides, made)
                    out_offsets = _grown1(out_offsets, made + 1)
                while out_used + size > out.shape[0]:
                    out = _grown1(out, out_used)
                out[out_used : out_used + size] = stack[begin:top]
                out_used += size
                parents[made] = c
                sides[made] = side
                made += 1
                out_offsets[made] = out_used
                top = begin
                continue
            # the two places where the loop changes from positive to negative, seen from its highest vertex
            loop = stack[begin:top].copy()
            word, bit = cut >> 6, np.uint64(cut & 63)
            highest = 0
            for i in range(1, size):
                if new_values[loop[i], cut] > new_values[loop[highest], cut]:
                    highest = i
            f = highest
            while (new_negative[loop[f], word] >> bit) & ONE == ZERO:
                f = (f + 1) % size
            b = highest
            while (new_negative[loop[b], word] >> bit) & ONE == ZERO:
                b = (b + size - 1) % size
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
                    new_values = _grown(new_values, used)
                    new_positive = _grown(new_positive, used)
                    new_negative = _grown(new_negative, used)
                    new_place = _grown(new_place, used)
                    new_scale = _grown1(new_scale, used)
                    start = _grown1(start, used - count)
                    end = _grown1(end, used - count)
                    alpha = _grown1(alpha, used - count)
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
                    old_keys, old_items = keys, items
                    keys = np.full(4 * old_keys.shape[0], -1, np.int64)
                    items = np.empty(4 * old_keys.shape[0], np.int64)
                    for i in range(old_keys.shape[0]):
                        if old_keys[i] != -1:
                            s = _slot(keys, old_keys[i])
                            keys[s] = old_keys[i]
                            items[s] = old_items[i]
            while begin + 2 * size + 8 > stack.shape[0]:
                stack = _grown1(stack, begin)
            if depth + 2 > starts.shape[0]:
                starts = _grown1(starts, depth)
            # the negative part below, the positive part on top
            top = begin
            starts[depth] = top
            depth += 1
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
            starts[depth] = top
            depth += 1
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
def interpolate(rows: Any, start: Any, end: Any, alpha: Any) -> Any:
    """``rows (V, n)`` with the new vertices' rows appended, in the order in which the vertices were made."""
    count, n = rows.shape
    result = np.empty((count + start.shape[0], n))
    result[:count] = rows
    for i in range(start.shape[0]):
        x = alpha[i]
        y = 1.0 - x
        a, b = start[i], end[i]
        for j in range(n):
            result[count + i, j] = y * result[a, j] + x * result[b, j]
    return result


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


def unpack(bits: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.bool_]:
    """Bit sets ``(rows, words)`` as booleans ``(rows, count)``."""
    flat = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=1, bitorder="little", count=count)
    return flat.astype(np.bool_)


@njit(cache=True)
def extend_maximum(scale: Any, count: int, start: Any, end: Any) -> None:
    """Fill ``scale[count:]`` with the larger scale of the two vertices each new vertex was made of."""
    for i in range(start.shape[0]):
        scale[count + i] = max(scale[start[i]], scale[end[i]])


@njit(cache=True)
def merge_polygons(offsets: Any, loops: Any, groups: Any) -> tuple[Any, ...]:
    """Unite neighbouring polygons of one group; group numbers do not decrease, and every union is convex.

    The boundary of a union is made of the edges that occur in one direction only.

    Returns:
        ``(offsets, loops, first)`` with the first old polygon of each group.
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
        first[made] = c
        if d == c + 1:
            for i in range(offsets[c], offsets[d]):
                out[used] = loops[i]
                used += 1
        else:
            total = offsets[d] - offsets[c]
            tails = np.empty(total, np.int64)
            heads = np.empty(total, np.int64)
            k = 0
            for e in range(c, d):
                size = offsets[e + 1] - offsets[e]
                for i in range(size):
                    tails[k] = loops[offsets[e] + i]
                    heads[k] = loops[offsets[e] + (i + 1) % size]
                    k += 1
            boundary = {(np.int64(-1)): np.int64(-1)}
            inner = {(np.int64(-1), np.int64(-1)): True}
            for i in range(total):
                inner[(tails[i], heads[i])] = True
            start = np.int64(-1)
            for i in range(total):
                if (heads[i], tails[i]) not in inner:
                    boundary[tails[i]] = heads[i]
                    start = tails[i]
            v = start
            while True:
                out[used] = v
                used += 1
                v = boundary[v]
                if v == start:
                    break
        made += 1
        out_offsets[made] = used
        c = d
    return out_offsets[: made + 1].copy(), out[:used].copy(), first[:made].copy()
