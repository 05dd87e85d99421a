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
def trailing_zeros(word: Any) -> int:
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def grown(array: Any, used: int) -> Any:
    """A copy of a two-dimensional array with twice the rows."""
    new = np.empty((2 * array.shape[0] + 16, array.shape[1]), array.dtype)
    new[:used] = array[:used]
    return new


@njit(cache=True, nogil=True)
def grown1(array: Any, used: int) -> Any:
    """A copy of a one-dimensional array of twice the length."""
    new = np.empty(2 * array.shape[0] + 16, array.dtype)
    new[:used] = array[:used]
    return new


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


def unpack(bits: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.bool_]:
    """Bit sets ``(rows, words)`` as booleans ``(rows, count)``."""
    flat = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=1, bitorder="little", count=count)
    return flat.astype(np.bool_)


@njit(cache=True, nogil=True)
def extend_maximum(scale: Any, count: int, start: Any, end: Any) -> None:
    """Fill ``scale[count:]`` with the larger scale of the two vertices each new vertex was made of."""
    for i in range(start.shape[0]):
        scale[count + i] = max(scale[start[i]], scale[end[i]])
