"""Rigorous bounds on the attention inconsistency over a tile of Θ.

The saliency map is a mean of gradients of the original network at affine copies ``scale · x + shift`` of the perturbed
image x (`Inconsistency.copies`): one copy, the image itself, for the plain gradient; noisy copies for SmoothGrad; points
between a baseline and the image for Integrated Gradients, times (x − baseline). On a tile each copy's preactivations
are bounded, then the gradient over the phases that they leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from verifier.attention.condensed_tiles import slopes_of
from verifier.attention.inconsistency import Inconsistency
from verifier.bounds.condensed import Signs
from verifier.bounds.forward import Forward
from verifier.bounds.interval import interval_gradients
from verifier.bounds.jacobian import jacobian
from verifier.bounds.jacobian_symbols import gradient_symbols
from verifier.bounds.phases import Pair, phases
from verifier.bounds.relaxation import Slopes
from verifier.bounds.zonotope import Zonotope
from verifier.encodings.perturbations import Perturbed, box_mean
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Scale
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import WITHOUT_POOLS
from verifier.rounding import SPACING, TINY

PREFIX = "net/"
"""In front of the names of the original network's nodes in the perturbed one."""
SLACK = 1e-11
"""What the expected map is off by at most, and sums over classes, relative to the sum of all entries' sizes."""


SYMBOLS = 512
"""Of more there is nothing to be told that would be worth its time."""


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
        self._network = reduce(perturbed.original, WITHOUT_POOLS).network
        self._by_rows = perturbed.original.input_size * perturbed.original.neurons <= rows
        self._weights = np.eye(self._network.output_size)[list(settings.outputs(perturbed, label))]
        self._start = settings.reference(perturbed, label)
        free = np.arange(perturbed.dimension)
        whole = reduce(perturbed.network, WITHOUT_POOLS).network
        networks = [_copied(whole, perturbed, scale, shift) for scale, shift in settings.copies(perturbed.image)]
        self._copies = [(Forward(n, free), "copy" if "copy" in n else perturbed.pixels) for n in networks]
        self._needed = tuple(dict.fromkeys(n.inputs[0] for n in self._network.activations))
        self._shape = perturbed.image.shape

    def inconsistency(self, low: Array, high: Array, signs: Mapping[str, Signs] | None = None) -> tuple[float, float]:
        """The least and the greatest inconsistency over the tile ``low <= θ <= high``, outwards.

        Shapes: low, high ``(d,)``; signs ``(size,)`` each.

        Args:
            signs: what is known of the perturbed network's ReLUs on the tile, if anything (`known_signs`).
        """
        copies = [self._gradients(forward, entry, low, high, signs) for forward, entry in self._copies]
        least = greatest = 0.0
        expected_low, expected_high = self._expected(low, high)
        for k in range(len(self._weights)):
            poll("while the norm of a saliency map was bounded")
            found = self._mean([next(copy) for copy in copies], low, high)
            moved = self._filtered(found).plus(Zonotope.between(-expected_high[k : k + 1], -expected_low[k : k + 1]))
            below, above = moved.norms(self.settings.norm)
            slack = SLACK * float(moved.reach().sum() + np.abs(expected_high[k]).sum())
            least, greatest = least + max(0.0, float(below[0]) - slack), greatest + float(above[0]) + slack
        return least, greatest

    def _mean(self, copies: list[Zonotope], low: Array, high: Array) -> Zonotope:
        """One class's unfiltered map by its gradient at the copies: ``(1, channels, H, W)``."""
        if self.settings.map == "gradient":
            return copies[0]
        total = copies[0]
        for copy in copies[1:]:
            total = total.beside(copy)
        count = np.full(total.error.shape, 1 / len(copies))
        mean = total.times(np.nextafter(count, 0.0), np.nextafter(count, 1.0))
        if self.settings.map != "integrated":
            return mean
        forward, pixels = self._copies[0][0], self.perturbed.pixels
        symbolic, boxes = forward.values(low[None], high[None], (pixels,))
        x_low, x_high = (
            end.reshape(1, *self._shape) - self.settings.baseline for end in forward.ranges(symbolic[pixels], boxes)
        )
        return mean.times(np.nextafter(x_low, -np.inf), np.nextafter(x_high, np.inf))

    def _gradients(
        self, forward: Forward, entry: str, low: Array, high: Array, signs: Mapping[str, Signs] | None
    ) -> Iterator[Zonotope]:
        """The gradients of one class after the other in one copy, ``(1, channels, H, W)`` each."""
        plain = signs is not None and self.settings.map == "gradient"
        known = slopes_of(self._network, signs, PREFIX) if plain else None  # type: ignore[arg-type]
        possible = self._possible(forward, entry, low, high) if known is None else known
        rest: list[Zonotope] | None = None
        found: Zonotope | None
        for k in range(len(self._weights)):
            weights = self._weights[k : k + 1]
            found = gradient_symbols(self._network, weights, possible, at_most=SYMBOLS) if rest is None else None
            if found is None:
                rest = self._by_intervals(possible) if rest is None else rest
                found = rest[k]
            yield Zonotope(found.terms.reshape(-1, 1, *self._shape), found.error.reshape(1, *self._shape))

    def _by_intervals(self, possible: Mapping[str, Slopes]) -> list[Zonotope]:
        """The same for all classes where there are too many symbols."""
        classes = len(self._weights)
        bounding = jacobian if self._by_rows else interval_gradients
        each = {name: _repeated(phase, classes) for name, phase in possible.items()}
        low, high = bounding(self._network, self._weights, each)[self._network.input]
        return [Zonotope.between(low[k : k + 1], high[k : k + 1]) for k in range(classes)]

    def _possible(self, forward: Forward, entry: str, low: Array, high: Array) -> dict[str, Slopes]:
        """The slopes that forward bounds leave possible in one copy."""
        name = {n: PREFIX + n if n != self._network.input else entry for n in self._needed}
        symbolic, boxes = forward.values(low[None], high[None], tuple(name.values()))
        pairs = {}
        for n in self._needed:
            least, greatest = forward.ranges(symbolic[name[n]], boxes)
            shape = (1, *self._network[n].shape)
            pairs[n] = (least.reshape(shape), greatest.reshape(shape))
        found = phases(self._network, pairs)
        return {name: p for name, p in found.items() if isinstance(p, Slopes)}  # all of them: there are no pools

    def _filtered(self, found: Zonotope) -> Zonotope:
        """The filter applied; an average of nine rounds by less than ten units in the last place of their sizes."""
        if self.settings.filter == "mean3":
            rounded = 10 * SPACING * box_mean(found.reach(), 3)
            return Zonotope(box_mean(found.terms, 3), (box_mean(found.error, 3) + rounded) * (1 + 10 * SPACING) + TINY)
        if self.settings.filter == "absolute":
            low, high = found.ends()
            smallest = np.maximum(np.maximum(low, -high), 0.0)
            return Zonotope.between(smallest, np.maximum(np.abs(low), np.abs(high)))
        return found

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


def _repeated(phase: Slopes, count: int) -> Slopes:
    """The phases of one box, once for each class."""
    return Slopes(np.repeat(phase.smallest, count, axis=0), np.repeat(phase.largest, count, axis=0))


def _copied(network: Network, perturbed: Perturbed, scale: float, shift: Array) -> Network:
    """The perturbed network with ``scale · x + shift`` of the perturbed image x going into the original network."""
    if scale == 1.0 and not np.any(shift):
        return network
    nodes = []
    shape = perturbed.original.input_shape
    for node in network.nodes:
        inputs = tuple("copy" if i == perturbed.pixels else i for i in node.inputs)
        nodes.append(Node(node.name, node.operator, inputs, node.shape))
        if node.name == perturbed.pixels:
            factor = np.full(shape, scale)
            nodes.append(Node("copy", Scale(factor, np.asarray(shift).reshape(shape)), (node.name,), shape))
    return Network(tuple(nodes), network.output, network.source)
