"""Bounds for batches of boxes: of the rows that would change the label, and of the gradient behind the map.

The gradient of F is that of one output of the query's network (`verifier.properties.maps`), bounded by CROWN on the
Jacobian. The integral of a path map is bounded by the mean over segments of the path: on each, by the Jacobian's
bounds on the box that the segment sweeps. Grad-CAM is bounded by the product of bounds on a layer's feature maps and on
the gradient with respect to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from verifier.bounds.crown import Crown
from verifier.bounds.crown_rounding import Intervals
from verifier.bounds.jacobian import Jacobian
from verifier.bounds.phases import phases
from verifier.bounds.relaxation import Slopes, Winners
from verifier.errors import UnsupportedOperatorError
from verifier.network.affine import dense
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.network.relu_form import INPUT, relu_form
from verifier.properties.grad_cam import GradCam
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.rounding import SPACING


@dataclass(frozen=True, kw_only=True)
class EnclosureSettings:
    """How finely a path map is bounded.

    Attributes:
        segments, most_segments: of the path of integrated gradients: for the root, and for the smallest boxes.
    """

    segments: int = 16
    most_segments: int = 256


@dataclass(frozen=True, eq=False)
class Enclosure:
    """What holds on each of B boxes.

    Attributes:
        open: ``(B,)`` whether some disjunct of the query is not refuted.
        corners: ``(B, n)`` where the row that is nearest to a change of label is smallest, as far as bounds tell.
        influence: ``(B, n)`` how much each input can matter, for the choice of a split.
        neurons: ``(B, neurons)`` how far each unstable ReLU can move ∇F; 0 for those with a known phase.
        g_lower, g_upper: ``(B, n)`` bounds on ∇F (of Grad-CAM on the map itself, ``(B, h w)``); of boxes that are not
            open, without meaning.
        above: ``(B,)`` upper bounds of the linear functions of ∇F that were asked for; infinite where there are none.
    """

    open: npt.NDArray[np.bool_]
    corners: Array
    influence: Array
    neurons: Array
    g_lower: Array
    g_upper: Array
    above: Array


Above = Callable[[Array, Array], tuple[Array, Array]]
"""From bounds on ∇F ``(B, n)`` to linear functions of it: coefficients ``(B, n)`` and constants ``(B,)``."""


class Enclosures:
    """Bounds on sub-boxes of a query's box.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; Shi et al., NeurIPS 2022, Section 3; the path of
        integrated gradients: Sundararajan, Taly, Yan, ICML 2017.
    """

    def __init__(self, query: Query, settings: EnclosureSettings = EnclosureSettings()) -> None:
        condition = query.condition
        assert condition is not None
        self.query, self.condition, self.network = query, condition, query.network
        self.settings = settings
        self.crown = Crown(query.network, query.box)
        self._rows, self._bound, self._disjunct = _output_rows(query)
        self.relus = {} if condition.map.path else _relus(query.network)
        self.neurons = sum(query.network[name].size for name in self.relus)
        """Number of ReLUs whose phase can be given; none for path maps."""
        self._first = _first_layers(condition.network if condition.map.path else query.network)
        self._cam = condition.map if isinstance(condition.map, GradCam) else None
        self._layer = query.network.input if self._cam is None else self._cam.node(query.network)
        self._path: Crown | None = None
        if condition.map.path:
            assert condition.map.baseline is not None
            ends = np.stack([query.box.lower, query.box.upper, condition.map.baseline])
            self._path = Crown(condition.network, Box(ends.min(axis=0), ends.max(axis=0)))

    def of(self, low: Array, high: Array, phase: npt.NDArray[np.int8], combine: Above | None = None) -> Enclosure:
        """Bounds on a batch of boxes ``(B, n)``, cut by phases ``(B, neurons)``: 1 for ``z >= 0`` active, -1 for
        ``z <= 0`` inactive, 0 where nothing is assumed.

        Args:
            combine: a linear function of ∇F that is bounded as such, which is tighter than by its entries' bounds.
        """
        count, n = low.shape
        known = {self.network[name].inputs[0]: phase[:, part] for name, part in self.relus.items()}
        layers = () if self._cam is None else (self._layer,)
        found = self.crown.relax(low, high, parents=self.crown.root_bounds, phases=known, nodes=layers)
        still, corners, slopes = self._labels(low, high, found.intervals, found.relaxations)
        still &= ~found.empty
        size = len(self.condition.reference)
        g_lower, g_upper = np.zeros((count, size)), np.zeros((count, size))
        influence, neurons, above = np.abs(slopes), np.zeros((count, self.neurons)), np.full(count, np.inf)
        index = np.flatnonzero(still)
        if len(index):
            if self._path is None:
                intervals = {name: (a[index], b[index]) for name, (a, b) in found.intervals.items()}
                fixed = {name: phase[index, part] for name, part in self.relus.items()}
                output = self.condition.output if self.query.gradient is None else self.query.gradient.output
                lower, upper, effect, above[index] = _gradients(
                    self.network, intervals, output, fixed, self._layer, combine
                )
                if self._cam is not None:
                    features = intervals[self._layer]
                    lower, upper = self._cam.bounds(self.network[self._layer].shape, features, (lower, upper))
                for name, part in self.relus.items():
                    neurons[index, part] = effect[name]
            else:
                lower, upper, effect = self._along_path(self._path, low[index], high[index])
            g_lower[index], g_upper[index] = lower, upper
            spread = sum((effect[k] @ w for k, w in self._first.items() if k in effect), np.zeros((len(index), n)))
            influence[index] = _share(influence[index]) + _share(spread)
        return Enclosure(still, corners, influence, neurons, g_lower, g_upper, above)

    def _labels(
        self, low: Array, high: Array, intervals: Intervals, relaxations: object
    ) -> tuple[npt.NDArray[np.bool_], Array, Array]:
        """Which boxes can change the label, and where and along which inputs that is nearest."""
        count, rows = len(low), len(self._rows)
        if not rows:
            return np.ones(count, dtype=bool), low + (high - low) / 2, np.zeros_like(low)
        box_of = np.repeat(np.arange(count), rows)
        tiled = np.tile(self._rows, (count, 1))
        found = self.crown.lower(self.network.output, tiled, box_of, relaxations, low, high)  # type: ignore[arg-type]
        margin = (found.lower.reshape(count, rows) - self._bound).astype(np.float64)
        still = np.zeros(count, dtype=bool)
        for disjunct in range(len(self.query.disjuncts)):
            mine = self._disjunct == disjunct
            still |= ~(margin[:, mine] > 0).any(axis=1)
        nearest = margin.argmin(axis=1)
        slopes = found.slopes.reshape(count, rows, -1)[np.arange(count), nearest]
        return still, np.where(slopes > 0, low, high), slopes

    def _along_path(self, crown: Crown, low: Array, high: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Bounds on the mean gradient between the baseline and the boxes, and the neurons open at the boxes."""
        condition = self.condition
        assert condition.map.baseline is not None
        base, root = condition.map.baseline, crown.root
        widths = np.divide(high - low, self.query.box.width, out=np.zeros_like(low), where=self.query.box.width > 0)
        least, most = self.settings.segments, self.settings.most_segments
        segments = int(np.clip(least / max(float(widths.max(initial=0.0)), 1e-9), least, most))
        t = np.arange(segments + 1) / segments
        lows, highs = [], []
        for t0, t1 in pairwise(t):
            ends = np.stack([base + s * (end - base) for s in (t0, t1) for end in (low, high)])
            wide = 4 * SPACING * (np.abs(base) + np.abs(ends).max(axis=0))
            lows.append(np.clip(ends.min(axis=0) - wide, root.lower, root.upper))
            highs.append(np.clip(ends.max(axis=0) + wide, root.lower, root.upper))
        count = len(low)
        boxes = np.concatenate(lows), np.concatenate(highs)
        relaxed = crown.relax(*boxes, parents=crown.root_bounds)
        lower, upper, effect, _ = _gradients(
            condition.network, relaxed.intervals, condition.output, {}, condition.network.input
        )
        lower, upper = (end.reshape(segments, count, -1) for end in (lower, upper))
        slack = (segments + 4) * SPACING
        a = lower.mean(axis=0) - slack * np.abs(lower).mean(axis=0)
        b = upper.mean(axis=0) + slack * np.abs(upper).mean(axis=0)
        return a, b, {name: u.reshape(segments, count, -1).mean(axis=0) for name, u in effect.items()}


def _gradients(
    network: Network,
    intervals: Intervals,
    output: Array,
    fixed: dict[str, npt.NDArray[np.int8]],
    at: str,
    combine: Above | None = None,
) -> tuple[Array, Array, dict[str, Array], Array]:
    """Bounds on a node's gradient, ``(B, n)``, by activation how far the slope of each neuron can move the input's, and
    `Enclosure.above`.

    Args:
        fixed: given phases of ReLUs by activation, ``(B, size)``.
        at: the node.
    """
    possible = possible_phases(network, intervals, fixed)
    work = Jacobian(network, output[None], possible, everything=False)
    found = work.gradients
    low, high = found[at]
    count = len(next(iter(intervals.values()))[0]) if intervals else len(low)
    low, high = (np.broadcast_to(end, (count, *network[at].shape)).reshape(count, -1) for end in (low, high))
    effect = {}
    for name, known in possible.items():
        a, b = found[name]
        size = np.maximum(np.abs(a), np.abs(b)).reshape(len(a), -1)
        effect[name] = ~known.fixed.reshape(count, -1) * size
    above = np.full(count, np.inf)
    if combine is not None:
        coefficients, constants = combine(low, high)
        found_above = work.combined(coefficients[:, None])[1][:, 0] + constants
        above = np.nextafter(found_above, np.inf)
        above = np.where(np.isnan(above), np.inf, above)
    return low, high, effect, above


def possible_phases(
    network: Network, intervals: Intervals, fixed: Mapping[str, npt.NDArray[np.int8]]
) -> dict[str, Slopes | Winners]:
    """What bounds on the preactivations leave possible, where some ReLUs' phases are given.

    Args:
        intervals: of every preactivation, ``(B, size)`` each end.
        fixed: by activation, ``(B, size)``: 1 active, -1 inactive, 0 not given.
    """
    shaped = {
        name: (a.reshape(-1, *network[name].shape), b.reshape(-1, *network[name].shape))
        for name, (a, b) in intervals.items()
    }
    possible = phases(network, shaped)
    for name, phase in fixed.items():
        slopes = possible[name]
        assert isinstance(slopes, Slopes)
        given = phase.reshape(slopes.smallest.shape)
        slope = (given > 0).astype(np.float64)
        possible[name] = Slopes(
            np.where(given != 0, slope, slopes.smallest), np.where(given != 0, slope, slopes.largest)
        )
    return possible


def _relus(network: Network) -> dict[str, slice]:
    """The ReLU nodes, each with its place among all their neurons."""
    found, end = {}, 0
    for node in network.activations:
        if isinstance(node.operator, PiecewiseLinear) and node.operator.is_relu:
            found[node.name] = slice(end, end + node.size)
            end += node.size
    return found


def _output_rows(query: Query) -> tuple[Array, Array, npt.NDArray[np.intp]]:
    """Rows over the outputs alone that a witness meets, ``rows @ y <= bound``, and the disjunct of each."""
    rows, bounds, owners = [np.zeros((0, query.network.output_size))], [np.zeros(0)], [np.zeros(0, dtype=np.intp)]
    common = () if query.common is None else (query.common,)
    for k, disjunct in enumerate(query.disjuncts):
        for part in (disjunct, *common):
            if part.y_rows is None or part.x_rows is not None or part.g_rows is not None:
                continue
            dense = part.y_rows if isinstance(part.y_rows, np.ndarray) else part.y_rows.toarray()
            rows.append(dense)
            bounds.append(part.bound)
            owners.append(np.full(len(part), k, dtype=np.intp))
    return np.concatenate(rows), np.concatenate(bounds), np.concatenate(owners)


def _first_layers(network: Network) -> dict[str, Array]:
    """For every activation whose preactivation is affine in the input: the absolute values of its weights."""
    try:
        form = relu_form(network)
    except UnsupportedOperatorError:
        return {}
    return {
        name: np.abs(dense(layer.matrices[INPUT]))
        for name, layer in zip(form.nodes, form.layers, strict=True)
        if name and INPUT in layer.matrices
    }


def _share(values: Array) -> Array:
    total = values.sum(axis=1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=(total > 0) & np.isfinite(total))
