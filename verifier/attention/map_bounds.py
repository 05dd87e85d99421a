"""Rigorous bounds on the attention inconsistency over a tile of Θ.

The saliency map is a mean of gradients of the original network at affine copies ``scale · x + shift`` of the perturbed
image x (`Inconsistency.copies`): one copy, the image itself, for the plain gradient; noisy copies for SmoothGrad; points
between a baseline and the image for Integrated Gradients, times (x − baseline). On a tile each copy's preactivations
are bounded, then the gradient over the phases that they leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from verifier.attention.condensed_tiles import slopes_of
from verifier.attention.inconsistency import Inconsistency
from verifier.bounds.condensed import Signs
from verifier.bounds.forward import Forward
from verifier.bounds.interval import interval_gradients, multiply
from verifier.bounds.jacobian import jacobian
from verifier.bounds.jacobian_symbols import symbolic_gradients
from verifier.bounds.phases import Pair, Phases, phases
from verifier.bounds.relaxation import Slopes, Winners
from verifier.encodings.perturbations import Perturbed, box_mean
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Scale

PREFIX = "net/"
"""In front of the names of the original network's nodes in the perturbed one."""
SLACK = 1e-11
"""What sums over a map's entries are widened by, relative to the sum of all entries' sizes: far above their rounding,
which is at most 2⁻⁵³ times the number of entries."""


class MapBounder:
    """Bounds for one image.

    Args:
        perturbed: network, image and perturbations.
        settings: how inconsistency is measured.
        label: the label, for ``classes="label"``.
        rows: where pixels times neurons are more than this, bounds on gradients go by symbols for unstable ReLUs, or
            by intervals: rows over all pixels would take minutes for each tile.
    """

    def __init__(self, perturbed: Perturbed, settings: Inconsistency, label: int, rows: float = np.inf) -> None:
        self.perturbed, self.settings = perturbed, settings
        self._network = perturbed.original
        self._by_rows = perturbed.original.input_size * perturbed.original.neurons <= rows
        self._weights = np.eye(self._network.output_size)[list(settings.outputs(perturbed, label))]
        self._start = settings.reference(perturbed, label)
        free = np.arange(perturbed.dimension)
        networks = [_copied(perturbed, scale, shift) for scale, shift in settings.copies(perturbed.image)]
        self._copies = [(Forward(n, free), "copy" if "copy" in n else perturbed.pixels) for n in networks]
        self._needed = tuple(dict.fromkeys(n.inputs[0] for n in self._network.activations))
        self._shape = perturbed.image.shape

    def inconsistency(self, low: Array, high: Array, signs: Mapping[str, Signs] | None = None) -> tuple[float, float]:
        """The least and the greatest inconsistency over the tile ``low <= θ <= high``, outwards.

        Args:
            signs: what is known of the perturbed network's ReLUs on the tile, if anything (`known_signs`).
        """
        least, greatest = self._map(low, high, signs)
        below, above = self._filtered((least, greatest))
        expected_low, expected_high = self._expected(low, high)
        farthest = np.maximum(np.abs(above - expected_low), np.abs(expected_high - below))
        nearest = np.maximum(np.maximum(below - expected_high, expected_low - above), 0.0)
        size = np.maximum(np.abs(below), np.abs(above)) + np.maximum(np.abs(expected_low), np.abs(expected_high))
        slack = SLACK * float(size.sum())
        return max(0.0, self._sum(nearest) - slack), self._sum(farthest) + slack

    def _sum(self, entries: Array) -> float:
        flat = entries.reshape(len(entries), -1)
        return float(flat.sum() if self.settings.norm == 1 else np.sqrt((flat**2).sum(axis=1)).sum())

    def _map(self, low: Array, high: Array, signs: Mapping[str, Signs] | None) -> Pair:
        """Bounds on the unfiltered map: ``(classes, channels, H, W)`` each."""
        classes = len(self._weights)
        total: Pair | None = None
        for forward, entry in self._copies:
            plain = signs is not None and self.settings.map == "gradient"
            known = slopes_of(self._network, signs, PREFIX) if plain else None  # type: ignore[arg-type]
            possible = self._possible(forward, entry, low, high) if known is None else known
            if known is not None and not self._by_rows:
                ends = symbolic_gradients(self._network, self._weights, known)
                if ends is not None:
                    return ends[0].reshape(classes, *self._shape), ends[1].reshape(classes, *self._shape)
            unstable = not all(bool(p.fixed.all()) for p in possible.values())
            bounding = jacobian if unstable and self._by_rows else interval_gradients
            each = {name: _repeated(phase, classes) for name, phase in possible.items()}
            found = bounding(self._network, self._weights, each)[self._network.input]
            here = tuple(end.reshape(classes, *self._shape) for end in found)
            total = here if total is None else (total[0] + here[0], total[1] + here[1])  # type: ignore[assignment]
        assert total is not None
        count = len(self._copies)
        mean = (total[0] / count, total[1] / count)
        if self.settings.map != "integrated":
            return mean
        forward, pixels = self._copies[0][0], self.perturbed.pixels
        symbolic, boxes = forward.values(low[None], high[None], (pixels,))
        x_low, x_high = (
            end.reshape(1, *self._shape) - self.settings.baseline for end in forward.ranges(symbolic[pixels], boxes)
        )
        return multiply(mean, (x_low, x_high))

    def _possible(self, forward: Forward, entry: str, low: Array, high: Array) -> Phases:
        """The phases that forward bounds leave possible in one copy."""
        name = {n: PREFIX + n if n != self._network.input else entry for n in self._needed}
        symbolic, boxes = forward.values(low[None], high[None], tuple(name.values()))
        pairs = {}
        for n in self._needed:
            least, greatest = forward.ranges(symbolic[name[n]], boxes)
            shape = (1, *self._network[n].shape)
            pairs[n] = (least.reshape(shape), greatest.reshape(shape))
        return phases(self._network, pairs)

    def _filtered(self, pair: Pair) -> Pair:
        low, high = pair
        if self.settings.filter == "mean3":
            return box_mean(low, 3), box_mean(high, 3)
        if self.settings.filter == "absolute":
            both = np.maximum(np.abs(low), np.abs(high))
            return np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high))), both
        return low, high

    def _expected(self, low: Array, high: Array) -> Pair:
        """The range of every entry of the expected map: each parameter's path is piecewise linear on its own."""
        below, above = self._start.copy(), self._start.copy()
        for i, (perturbation, image_path) in enumerate(
            zip(self.perturbed.perturbations, self.perturbed.paths, strict=True)
        ):
            path = perturbation.map_path(self._start)
            if path is None:
                continue
            breaks = image_path.breaks
            points = np.concatenate([[low[i]], breaks[(breaks > low[i]) & (breaks < high[i])], [high[i]]])
            moved = path(points)
            below, above = below + moved.min(axis=0), above + moved.max(axis=0)
        return below, above


def _repeated(phase: Slopes | Winners, count: int) -> Slopes | Winners:
    """The phases of one box, once for each class."""
    if isinstance(phase, Winners):
        return Winners(phase.windows, np.repeat(phase.possible, count, axis=0))
    return Slopes(np.repeat(phase.smallest, count, axis=0), np.repeat(phase.largest, count, axis=0))


def _copied(perturbed: Perturbed, scale: float, shift: Array) -> Network:
    """The perturbed network with ``scale · x + shift`` of the perturbed image x going into the original network."""
    if scale == 1.0 and not np.any(shift):
        return perturbed.network
    nodes = []
    shape = perturbed.original.input_shape
    for node in perturbed.network.nodes:
        inputs = tuple("copy" if i == perturbed.pixels else i for i in node.inputs)
        nodes.append(Node(node.name, node.operator, inputs, node.shape))
        if node.name == perturbed.pixels:
            factor = np.full(shape, scale)
            nodes.append(Node("copy", Scale(factor, np.asarray(shift).reshape(shape)), (node.name,), shape))
    return Network(tuple(nodes), perturbed.network.output, perturbed.network.source)
