"""Compiled kernels that carry the state of one linear region and change it a few neurons at a time.

The state of a region is the affine map z_u(t) = Z[0, u] + Σ_i Z[i + 1, u] t_i of every neuron of the ReLU
normal form, which neurons are active, and the gradients of some outputs with respect to every neuron above the
pixels. Crossing into a neighbouring region changes a few bits; what follows from it downstream (affine
maps) and upstream (gradients) is propagated sparsely, so that a step costs what it changes.

A region is given by a point ``at`` on its border (or inside) and a direction ``into`` that points into it:
the bit of a neuron is the sign of z at the point or, where z vanishes there, of its slope along the direction
(`is_active`). Units whose affine map is zero are inactive, by the gradient convention.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

Array = Any  # numba reads these as arrays; annotations here are for people

COINCIDENT = 1e-11
"""A neuron's zero set this close to a point (in units of the parameter box's width) passes through it."""
NO_NEURON = 0xA0761D6478BD642F
"""Key of the region in which no neuron is active: never 0, which says "no region" wherever keys are kept."""


class Net(NamedTuple):
    """The ReLU normal form in flat arrays; neurons of all layers but the input are numbered through.

    ``start (L + 1,)`` neurons of each layer, ``relu (L,)``, ``layer (U,)``; forward edges of neuron u
    ``f_index/f_value[f_pointer[u]:f_pointer[u+1]]``, ``f_dense (U,)`` the first target if they are consecutive,
    else -1; backward edges likewise, where a target U + r is row r of the saliency map; ``base (d + 1, U)`` what
    the parameters give directly; ``noise (U,)`` rounding level of z; ``hash (U,)``; ``work (U,)`` estimated
    cost of switching a neuron; ``seeds (C, outputs)``; ``lowest`` first layer that has a gradient.
    """

    start: Array
    relu: Array
    layer: Array
    f_pointer: Array
    f_index: Array
    f_value: Array
    f_dense: Array
    b_pointer: Array
    b_index: Array
    b_value: Array
    b_dense: Array
    base: Array
    noise: Array
    hash: Array
    work: Array
    seeds: Array
    lowest: int
    fresh_work: float


class Expected(NamedTuple):
    """The expected saliency map E(t) = base + Σ_i t_i moves[i] + Σ_k [hinge k active] (t_{axis k} - offset k) bends[k].

    ``base (R, C)``, ``moves (d, R, C)``, ``bends (K, R, C)``, ``neurons (K,)`` the hinges' neurons, ``axes (K,)``,
    ``offsets (K,)``; ``moving`` whether it depends on t at all; ``norm`` 1 or 2; ``absolute`` the |·| filter.
    """

    base: Array
    moves: Array
    bends: Array
    neurons: Array
    axes: Array
    offsets: Array
    moving: bool
    norm: int
    absolute: bool


class State(NamedTuple):
    """The region's state and its work space (see the module's text); ``G`` holds gradients, then map rows."""

    Z: Array
    dZ: Array
    bits: Array
    G: Array
    dG: Array
    queue: Array
    queued: Array
    length: Array
    g_queue: Array
    g_queued: Array
    g_length: Array
    changed: Array
    is_changed: Array
    key: Array
    E: Array
    dE: Array
    square: Array
    inner: Array
    gram: Array


@nb.njit(cache=True, inline="always")
def is_active(Z, u, at, into, noise):  # type: ignore[no-untyped-def]
    """The bit of neuron u in the region at ``at`` towards ``into``."""
    value, slope, size = Z[0, u], 0.0, 0.0
    for i in range(len(at)):
        b = Z[i + 1, u]
        value += b * at[i]
        slope += b * into[i]
        size += abs(b)
    if abs(value) > COINCIDENT * size + noise[u]:
        return value > 0
    return slope > COINCIDENT * size + noise[u]


# Arrays are taken out of the tuples before the loops below, and inner loops call no function with a tuple:
# every such call would count references to all its arrays, which costs more than the arithmetic.


@nb.njit(cache=True)
def expected_now(net, expected, state):  # type: ignore[no-untyped-def]
    """The affine form E + Σ t_i dE[i] of the expected map under the present hinge bits."""
    rows, classes = state.E.shape
    for r in range(rows):
        for c in range(classes):
            state.E[r, c] = expected.base[r, c]
            for i in range(len(state.dE)):
                state.dE[i, r, c] = expected.moves[i, r, c]
    for k in range(len(expected.neurons)):
        if state.bits[expected.neurons[k]]:
            axis, offset = expected.axes[k], expected.offsets[k]
            for r in range(rows):
                for c in range(classes):
                    state.E[r, c] -= offset * expected.bends[k, r, c]
                    state.dE[axis, r, c] += expected.bends[k, r, c]


@nb.njit(cache=True)
def sums_now(net, expected, state):  # type: ignore[no-untyped-def]
    """The sums that the inconsistency is made of, from scratch (per class; see `inconsistency`)."""
    neurons = len(net.layer)
    rows, classes = state.E.shape
    for c in range(classes):
        state.square[c] = 0.0
        for i in range(len(state.inner)):
            state.inner[i, c] = 0.0
            for k in range(len(state.inner)):
                state.gram[i, k, c] = 0.0
    moving = len(state.dE) if expected.moving else 0
    for r in range(rows):
        for c in range(classes):
            g = state.G[neurons + r, c]
            e = (abs(g) if expected.absolute else g) - state.E[r, c]
            state.square[c] += e * e if expected.norm == 2 else abs(e)
            for i in range(moving):
                state.inner[i, c] += e * state.dE[i, r, c]
                for k in range(moving):
                    state.gram[i, k, c] += state.dE[i, r, c] * state.dE[k, r, c]


@nb.njit(cache=True)
def inconsistency(net, expected, state, t, slope):  # type: ignore[no-untyped-def]
    """Σ_j dist(map_j, E_j(t)) at a point of the region, and (a sub-) gradient by t in ``slope``."""
    classes = len(state.square)
    d, total = len(t), 0.0
    for i in range(d):
        slope[i] = 0.0
    if not expected.moving:
        for c in range(classes):
            total += np.sqrt(max(state.square[c], 0.0)) if expected.norm == 2 else state.square[c]
        return total
    if expected.norm == 2:
        for c in range(classes):
            q = state.square[c]
            for i in range(d):
                q -= 2.0 * t[i] * state.inner[i, c]
                for k in range(d):
                    q += t[i] * t[k] * state.gram[i, k, c]
            root = np.sqrt(max(q, 0.0))
            total += root
            if root > 1e-12:
                for i in range(d):
                    s = -state.inner[i, c]
                    for k in range(d):
                        s += t[k] * state.gram[i, k, c]
                    slope[i] += s / root
        return total
    neurons = len(net.layer)
    rows = len(state.E)
    for r in range(rows):
        for c in range(classes):
            g = state.G[neurons + r, c]
            e = (abs(g) if expected.absolute else g) - state.E[r, c]
            for i in range(d):
                e -= t[i] * state.dE[i, r, c]
            total += abs(e)
            for i in range(d):
                slope[i] -= np.sign(e) * state.dE[i, r, c]
    return total


@nb.njit(cache=True, nogil=True)
def start_region(net, expected, state, at, into, keep_bits):  # type: ignore[no-untyped-def]
    """The state of the region at ``at`` towards ``into``, from scratch; with ``keep_bits`` of the present bits."""
    neurons, classes = len(net.layer), len(net.seeds)
    layers = len(net.relu)
    d = len(at)
    for i in range(d + 1):
        for u in range(neurons):
            state.Z[i, u] = net.base[i, u]
    key = np.uint64(NO_NEURON)
    change = np.empty(d + 1)
    for layer in range(layers):
        for u in range(net.start[layer], net.start[layer + 1]):
            active = True
            if net.relu[layer]:
                active = state.bits[u] == 1 if keep_bits else is_active(state.Z, u, at, into, net.noise)
                state.bits[u] = active
                if active:
                    key ^= net.hash[u]
            else:
                state.bits[u] = 1
            if active:
                for i in range(d + 1):
                    change[i] = state.Z[i, u]
                    if change[i] != 0.0:
                        row = state.Z[i]
                        for k in range(net.f_pointer[u], net.f_pointer[u + 1]):
                            row[net.f_index[k]] += change[i] * net.f_value[k]
    state.key[0] = key
    for u in range(len(state.G)):
        for c in range(classes):
            state.G[u, c] = 0.0
    first_output = net.start[layers - 1]
    for c in range(classes):
        for k in range(net.seeds.shape[1]):
            state.G[first_output + k, c] = net.seeds[c, k]
    for layer in range(layers - 1, net.lowest - 1, -1):
        for v in range(net.start[layer], net.start[layer + 1]):
            if state.bits[v]:
                upstream = state.G[v]
                for k in range(net.b_pointer[v], net.b_pointer[v + 1]):
                    target, w = state.G[net.b_index[k]], net.b_value[k]
                    for c in range(classes):
                        target[c] += w * upstream[c]
    expected_now(net, expected, state)
    sums_now(net, expected, state)


@nb.njit(cache=True)
def step_region(net, expected, state, toggles, toggle_count, at, into):  # type: ignore[no-untyped-def]
    """From the present region to the one at ``at`` towards ``into``.

    Args:
        toggles: neurons (the first ``toggle_count``) that may differ, apart from what follows from them.

    Returns:
        how many neurons differ; they are listed in ``state.changed``.
    """
    count = _step_values(net, state, toggles, toggle_count, at, into)
    _step_gradient(net, expected, state, count)
    hinge_moved = False
    for k in range(count):
        u = state.changed[k]
        state.is_changed[u] = 0
        if net.layer[u] < net.lowest:
            for h in range(len(expected.neurons)):
                hinge_moved = hinge_moved or expected.neurons[h] == u
    if hinge_moved:
        expected_now(net, expected, state)
        sums_now(net, expected, state)
    return count


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _step_values(net, state, toggles, toggle_count, at, into):  # type: ignore[no-untyped-def]
    """Propagate the toggles through bits and affine maps, layer by layer; how many bits changed."""
    Z, dZ, bits, queue, queued, length = state.Z, state.dZ, state.bits, state.queue, state.queued, state.length
    start, layer_of, pointer, index, value = net.start, net.layer, net.f_pointer, net.f_index, net.f_value
    dense_from, noise, relu = net.f_dense, net.noise, net.relu
    changed, is_changed = state.changed, state.is_changed
    width, count = len(Z), 0
    change = np.empty(width)
    for k in range(toggle_count):
        u = toggles[k]
        if not queued[u]:
            queued[u] = 1
            layer = layer_of[u]
            queue[start[layer] + length[layer]] = u
            length[layer] += 1
    for layer in range(len(relu)):
        for q in range(length[layer]):
            u = queue[start[layer] + q]
            queued[u] = 0
            before = bits[u]
            for i in range(width):
                change[i] = -Z[i, u] if before else 0.0
                Z[i, u] += dZ[i, u]
                dZ[i, u] = 0.0
            after = before
            if relu[layer]:
                after = np.uint8(is_active(Z, u, at, into, noise))
            if after != before:
                bits[u] = after
                changed[count] = u
                is_changed[u] = 1
                count += 1
                state.key[0] ^= net.hash[u]
            if not (before or after):
                continue
            if after:
                for i in range(width):
                    change[i] += Z[i, u]
            first, last, dense = pointer[u], pointer[u + 1], dense_from[u]
            if dense >= 0:
                for i in range(width):
                    c = change[i]
                    if c != 0.0:
                        for k in range(last - first):
                            dZ[i, dense + k] += c * value[first + k]
                target = layer_of[dense]
                if length[target] == start[target + 1] - start[target]:
                    continue
            else:
                for k in range(first, last):
                    for i in range(width):
                        dZ[i, index[k]] += change[i] * value[k]
            for k in range(first, last):
                v = index[k]
                if not queued[v]:
                    queued[v] = 1
                    target = layer_of[v]
                    queue[start[target] + length[target]] = v
                    length[target] += 1
        length[layer] = 0
    return count


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _step_gradient(net, expected, state, count):  # type: ignore[no-untyped-def]
    """Propagate the ``count`` changed bits into the gradients, the map's rows and their sums."""
    G, dG, queue, queued, length = state.G, state.dG, state.g_queue, state.g_queued, state.g_length
    start, layer_of, pointer, index, value = net.start, net.layer, net.b_pointer, net.b_index, net.b_value
    dense_from, bits, is_changed = net.b_dense, state.bits, state.is_changed
    neurons, classes, all_rows = len(layer_of), len(net.seeds), len(state.E)
    change = np.empty(classes)
    row_count = 0
    for k in range(count):
        u = state.changed[k]
        layer = layer_of[u]
        if layer >= net.lowest:
            queued[u] = 1
            queue[start[layer] + length[layer]] = u
            length[layer] += 1
    for layer in range(len(net.relu) - 1, net.lowest - 1, -1):
        for q in range(length[layer]):
            v = queue[start[layer] + q]
            queued[v] = 0
            after = bits[v]
            before = after ^ is_changed[v]
            for c in range(classes):
                old = G[v, c]
                new = old + dG[v, c]
                G[v, c] = new
                dG[v, c] = 0.0
                change[c] = (new if after else 0.0) - (old if before else 0.0)
            if not (before or after):
                continue
            first, last, dense = pointer[v], pointer[v + 1], dense_from[v]
            for k in range(first, last):
                w, u = value[k], index[k]
                for c in range(0, classes, 4):
                    a0, a1, a2, a3 = change[c], change[c + 1], change[c + 2], change[c + 3]
                    b0, b1, b2, b3 = dG[u, c], dG[u, c + 1], dG[u, c + 2], dG[u, c + 3]
                    b0, b1, b2, b3 = b0 + w * a0, b1 + w * a1, b2 + w * a2, b3 + w * a3
                    dG[u, c], dG[u, c + 1], dG[u, c + 2], dG[u, c + 3] = b0, b1, b2, b3
            if dense >= neurons:
                if row_count == all_rows:
                    continue
            elif dense >= 0:
                target = layer_of[dense]
                if length[target] == start[target + 1] - start[target]:
                    continue
            for k in range(first, last):
                u = index[k]
                if not queued[u]:
                    queued[u] = 1
                    if u >= neurons:
                        queue[neurons + row_count] = u
                        row_count += 1
                    else:
                        target = layer_of[u]
                        queue[start[target] + length[target]] = u
                        length[target] += 1
        length[layer] = 0
    E, dE, square, inner = state.E, state.dE, state.square, state.inner
    moving = len(dE) if expected.moving else 0
    euclidean, absolute = expected.norm == 2, expected.absolute
    for k in range(row_count):
        u = queue[neurons + k]
        r = u - neurons
        queued[u] = 0
        for c in range(classes):
            old = G[u, c]
            new = old + dG[u, c]
            G[u, c] = new
            dG[u, c] = 0.0
            if absolute:
                old, new = abs(old), abs(new)
            e = E[r, c]
            if euclidean:
                square[c] += (new - old) * (new + old - 2.0 * e)
            else:
                square[c] += abs(new - e) - abs(old - e)
            for i in range(moving):
                inner[i, c] += (new - old) * dE[i, r, c]
