"""Builds what the traversal kernels work on from a network in ReLU normal form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.attention.traversal.kernels import Expected, Net, State
from verifier.attention.traversal.layers import LayeredForm
from verifier.network.operators import Array
from verifier.properties.sets import Box


@dataclass(frozen=True, eq=False)
class TraversalNet:
    """The kernels' arrays, and how they relate to the normal form.

    Attributes:
        net: the arrays; parameters are scaled to t in [0, 1].
        scan: ``(k, 2)`` neuron ranges that hold every neuron which may change sign over the box.
        position: for each layer of the form (but the input), the neuron number of each of its neurons.
        width: of the box.
    """

    net: Net
    scan: npt.NDArray[np.int64]
    position: tuple[npt.NDArray[np.int64], ...]
    width: Array

    @property
    def neurons(self) -> int:
        """Number of neurons of all layers but the input."""
        return len(self.net.layer)


def traversal_net(
    form: LayeredForm, box: Box, pixels: int, seeds: Array, rows: sp.csr_array, *, seed: int = 0
) -> TraversalNet:
    """Flat arrays for a network over a box of parameters.

    Args:
        form: the network; layer 0 is the parameters.
        box: of the parameters.
        pixels: the linear layer with respect to which gradients are taken.
        seeds: ``(C, outputs)``: the output combinations whose gradients are taken.
        rows: ``(R, pixels)``: the linear functions of such a gradient that are kept (the filtered map).
    """
    layers = form.layers[1:]
    draws = np.random.default_rng(seed).integers(1, 2**64 - 1, size=sum(k.size for k in layers), dtype=np.uint64)
    lower, upper = neuron_bounds(form, box)
    slack = 1e-9
    order, scan, starts = [], [], [0]
    for k, layer in enumerate(layers, start=1):
        stable = (lower[k] > slack) | (upper[k] < -slack) if layer.is_relu else np.ones(layer.size, dtype=bool)
        order.append(np.argsort(stable, kind="stable"))
        if not stable.all():
            scan.append((starts[-1], starts[-1] + int((~stable).sum())))
        starts.append(starts[-1] + layer.size)
    start, neurons = np.array(starts), starts[-1]
    position = []
    for k, permutation in enumerate(order):
        place = np.empty(len(permutation), dtype=np.int64)
        place[permutation] = start[k] + np.arange(len(permutation))
        position.append(place)
    width = box.width
    base = np.zeros((len(width) + 1, neurons))
    noise = np.zeros(neurons)
    hashes = np.zeros(neurons, dtype=np.uint64)  # a neuron's own, wherever it is put, so that tiles agree on keys
    forward: list[tuple[Array, Array, Array]] = []
    backward: list[tuple[Array, Array, Array]] = []
    for k, layer in enumerate(layers, start=1):
        here = position[k - 1]
        base[0, here] = layer.bias
        hashes[here] = draws[start[k - 1] : start[k]]
        noise[here] = np.abs(layer.bias)
        for source, block in layer.blocks.items():
            noise[here] += np.asarray(abs(block).sum(axis=1)).reshape(-1)
            if source == 0:
                base[0, here] += block @ box.lower
                base[1:, here] += (block.toarray() * width).T
                continue
            coo = block.tocoo()
            sources, targets = position[source - 1][coo.col], here[coo.row]
            forward.append((sources, targets, coo.data))
            if source == pixels:
                to_rows = sp.csr_array(block @ rows.T).tocoo()
                backward.append((here[to_rows.row], neurons + to_rows.col, to_rows.data))
            elif source > pixels:
                backward.append((targets, sources, coo.data))
    f_pointer, f_index, f_value = _grouped(forward, neurons)
    b_pointer, b_index, b_value = _grouped(backward, neurons)
    sizes = [layer.size for layer in layers]
    layer_of = np.repeat(np.arange(len(layers)), sizes)
    group_of = np.concatenate([layer_of, np.full(rows.shape[0], len(layers))])  # the map's rows come after the neurons
    work, fresh = _work(form, pixels, len(width) + 1, len(seeds), len(b_index))
    arranged_seeds = np.zeros((len(seeds), layers[-1].size))
    arranged_seeds[:, position[-1] - start[-2]] = seeds
    net = Net(
        start=start,
        relu=np.array([layer.is_relu for layer in layers]),
        layer=layer_of,
        f_pointer=f_pointer,
        f_index=f_index,
        f_value=f_value,
        f_dense=_first_if_consecutive(f_pointer, f_index, group_of),
        b_pointer=b_pointer,
        b_index=b_index,
        b_value=b_value,
        b_dense=_first_if_consecutive(b_pointer, b_index, group_of),
        base=base,
        noise=4e-15 * (1.0 + noise),
        hash=hashes,
        work=np.repeat(work[1:], sizes),
        seeds=arranged_seeds,
        lowest=pixels,
        fresh_work=fresh,
    )
    ranges = np.array(scan, dtype=np.int64).reshape(-1, 2)
    return TraversalNet(net, ranges, tuple(position), width)


def new_state(net: Net, expected: Expected) -> State:
    """Room for the state of one region (to be filled by `start_region`)."""
    d, neurons = net.base.shape[0] - 1, len(net.layer)
    rows, classes = expected.base.shape
    return State(
        Z=np.zeros((d + 1, neurons)),
        dZ=np.zeros((d + 1, neurons)),
        bits=np.zeros(neurons, dtype=np.uint8),
        G=np.zeros((neurons + rows, classes)),
        dG=np.zeros((neurons + rows, classes)),
        queue=np.zeros(neurons, dtype=np.int64),
        queued=np.zeros(neurons, dtype=np.uint8),
        length=np.zeros(len(net.relu), dtype=np.int64),
        g_queue=np.zeros(neurons + rows, dtype=np.int64),
        g_queued=np.zeros(neurons + rows, dtype=np.uint8),
        g_length=np.zeros(len(net.relu), dtype=np.int64),
        changed=np.zeros(neurons, dtype=np.int64),
        is_changed=np.zeros(neurons, dtype=np.uint8),
        key=np.zeros(1, dtype=np.uint64),
        E=np.zeros((rows, classes)),
        dE=np.zeros((d, rows, classes)),
        square=np.zeros(classes),
        inner=np.zeros((d, classes)),
        gram=np.zeros((d, d, classes)),
    )


def neuron_bounds(form: LayeredForm, box: Box) -> tuple[list[Array], list[Array]]:
    """Bounds on z of every layer over a box: linear relaxations pushed forward, and intervals, intersected."""
    identity = np.eye(box.size)
    low_a, low_b, high_a, high_b = [identity], [np.zeros(box.size)], [identity], [np.zeros(box.size)]
    lowers, uppers = [box.lower], [box.upper]
    h_low, h_high = [box.lower], [box.upper]
    center, radius = box.center, box.width / 2
    for layer in form.layers[1:]:
        al, ah = np.zeros((layer.size, box.size)), np.zeros((layer.size, box.size))
        bl, bh, il, ih = (layer.bias.copy() for _ in range(4))
        for source, block in layer.blocks.items():
            plus, minus = block.maximum(0), block.minimum(0)
            al += plus @ low_a[source] + minus @ high_a[source]
            ah += plus @ high_a[source] + minus @ low_a[source]
            bl += plus @ low_b[source] + minus @ high_b[source]
            bh += plus @ high_b[source] + minus @ low_b[source]
            il += plus @ h_low[source] + minus @ h_high[source]
            ih += plus @ h_high[source] + minus @ h_low[source]
        lower = np.maximum(bl + al @ center - np.abs(al) @ radius, il)
        upper = np.minimum(bh + ah @ center + np.abs(ah) @ radius, ih)
        lower = np.minimum(lower, upper)
        lowers.append(lower)
        uppers.append(upper)
        if layer.is_relu:
            slope = np.where(lower >= 0, 1.0, np.where(upper <= 0, 0.0, upper / np.maximum(upper - lower, 1e-300)))
            shift = np.where((lower < 0) & (upper > 0), -slope * lower, 0.0)
            keep = np.where((lower >= 0) | ((upper > 0) & (upper > -lower)), 1.0, 0.0)
            al, bl, ah, bh = al * keep[:, None], bl * keep, ah * slope[:, None], bh * slope + shift
            lower, upper = np.maximum(lower, 0.0), np.maximum(upper, 0.0)
        low_a.append(al)
        low_b.append(bl)
        high_a.append(ah)
        high_b.append(bh)
        h_low.append(lower)
        h_high.append(upper)
    return lowers, uppers


def _grouped(edges: list[tuple[Array, Array, Array]], count: int) -> tuple[Array, Array, Array]:
    """Edges (from, to, weight) as pointer, targets and weights, grouped by "from", targets increasing."""
    if not edges:
        return np.zeros(count + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    source, target, value = (np.concatenate(part) for part in zip(*edges, strict=True))
    order = np.lexsort((target, source))
    pointer = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(source, minlength=count), out=pointer[1:])
    return pointer, target[order].astype(np.int64), value[order].astype(np.float64)


def _first_if_consecutive(pointer: Array, index: Array, layer: Array) -> Array:
    """For each group, its first target if the targets are consecutive numbers of one layer, else -1.

    With skip connections they may be consecutive over a layer's end: the kernels mark them as changed layer by layer.
    """
    result = np.full(len(pointer) - 1, -1, dtype=np.int64)
    filled = np.flatnonzero(pointer[1:] > pointer[:-1])
    first, last = index[pointer[filled]], index[pointer[filled + 1] - 1]
    consecutive = last - first == pointer[filled + 1] - pointer[filled] - 1
    consecutive &= layer[first] == layer[last]
    result[filled[consecutive]] = first[consecutive]
    return result


def _work(form: LayeredForm, pixels: int, width: int, classes: int, backward_edges: int) -> tuple[Array, float]:
    """Estimated multiplications for switching one unit of each layer, and for starting a region afresh.

    A change spreads to the neurons that it reaches, of which about half are active.
    """
    layers = form.layers
    work = np.zeros(len(layers))
    total = sum(b.nnz for layer in layers for s, b in layer.blocks.items() if s > 0)
    for k in range(1, len(layers)):
        reached = np.zeros(len(layers))
        reached[k] = 1.0
        for target in range(k + 1, len(layers)):
            for source, block in layers[target].blocks.items():
                if reached[source]:
                    share = 1.0 if source == k else 0.5
                    edges = share * reached[source] * block.nnz / layers[source].size
                    work[k] += width * edges
                    reached[target] = min(reached[target] + edges, layers[target].size)
        if k > pixels:
            reached[:] = 0.0
            reached[k] = 1.0
            for layer in range(k, pixels, -1):
                for source, block in layers[layer].blocks.items():
                    if source >= pixels and reached[layer]:
                        edges = (1.0 if layer == k else 0.5) * reached[layer] * block.nnz / layers[layer].size
                        work[k] += classes * edges
                        reached[source] = min(reached[source] + edges, layers[source].size)
    return work, 0.5 * (width * total + classes * backward_edges)
