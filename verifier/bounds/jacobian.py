"""Bounds on the gradient of an output with respect to every node: linear bound propagation on the Jacobian.

The gradient is itself a network, run from the output to the input: ``g_v = Wᵀ g_w`` behind an affine node w, and
``g_v = s · g_w`` behind an activation w, with a slope s among those that bounds on its preactivation leave
possible (`verifier.bounds.phases`). For a row ``a`` over g_v, the product ``a s g`` is bounded from below by
``min(a s₁ g, a s₂ g)``, concave in g, hence by its chord over the known ``[l, u] ∋ g``, the tightest linear bound
there is (so there are no slopes to optimise; Zhang et al., *RecurJac*, AAAI 2019; Shi et al., *Efficiently
Computing Local Lipschitz Constants via Bound Propagation*, NeurIPS 2022, Section 3). With
``p = u / (u - l)``, ``q = 1 - p`` (p = 1 if l >= 0, p = 0 if u <= 0), ``r = max(0, -l u / (u - l))``:

    a s g  >=  (a (s₁ + s₂) / 2 - |a| (s₂ - s₁) (p - q) / 2) g  -  |a| (s₂ - s₁) r

and the upper bound has both signs of |a| turned. A pooling window passes g to one of its possible winners, so with
m, M the smallest and largest of their coefficients the chord is ``(m p + M q) g - (M - m) r``.

Rows therefore travel through the network *forwards*, by each operator's linear part. Every result is
intersected with interval arithmetic, node by node.

**Rounding.** Let ``M_v`` be the gradient's magnitude without cancellation: ``|c|`` at the output,
``|W|ᵀ M_w`` behind an affine node, ``max|s| M_w + (s₂ - s₁) r`` behind an activation. Every monomial of the computed
bound of a unit row has gone through at most K roundings, K the sum over all nodes of the number of terms summed
plus 8 (coefficients, chord, intercept, running sum), so the computed bound is wrong by at most ``γ_K M_v``
(Higham, *Accuracy and Stability*, section 3.1); ``2 K u M_v`` is taken off, plus 1e-250 for underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.interval import add, backward, batch_size
from verifier.bounds.phases import Pair, Phases, phases
from verifier.bounds.relaxation import Slopes, Winners
from verifier.limits import poll
from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Concat, Dense, Reshape, Scale, Select, Sum
from verifier.rounding import SPACING

CHUNK = 1 << 21
"""Numbers in one working array: rows are taken in chunks so that none grows beyond this."""

CONSTANT, INDEPENDENT, GENERAL = 0, 1, 2
"""What the entries of a node's gradient depend on: nothing; each on a phase of its own; anything."""


def jacobian_bounds(
    network: Network, output: int | Array, values: NetworkBounds, *, everything: bool = True
) -> NetworkBounds:
    """CROWN bounds on the gradient of an output with respect to every node's value; see the module.

    Shapes: output ``(outputs,)``, if it is no index.

    Args:
        output: index into the flattened output, or one coefficient per flattened output.
        values: bounds on every node's value that hold on the input set, from any method.
        everything: as for `jacobian`.

    Source:
        RecurJac: Zhang et al., AAAI 2019; Shi et al., NeurIPS 2022, Section 3 (equation in the module).
    """
    pairs = {name: (bound.lower[None], bound.upper[None]) for name, bound in values.items()}
    weights = network.output_weights(output)[None]
    found = jacobian(network, weights, phases(network, pairs), everything=everything)
    return NetworkBounds({name: Bound(low[0], high[0]) for name, (low, high) in found.items()}, "crown")


def jacobian(network: Network, weights: Array, possible: Phases, *, everything: bool = True) -> dict[str, Pair]:
    """CROWN bounds on every node's gradient for a batch of boxes, given the phases possible on each.

    Args:
        weights: ``(batch, outputs)`` or ``(1, outputs)``: coefficients of the output whose gradient it is.
        possible: the possible phases; entries fixed by branching need no new values.
        everything: False leaves interval bounds (of tightened bounds) where linear ones would not improve the
            input's gradient: faster where hidden layers are wide.

    Returns:
        ``{node name: (lower, upper)}``, each ``(batch, *shape)``.

    Source:
        Shi et al., NeurIPS 2022, Section 3 (equation in the module).
    """
    return Jacobian(network, weights, possible, everything=everything).gradients


@dataclass(frozen=True, eq=False)
class _Chord:
    """The linear bounds of one activation's products, for rows ``(b, sides, S, *shape)``.

    Attributes:
        middle: ``(s₁ + s₂) / 2``, ``(batch, *shape)``.
        half: ``(s₂ - s₁) (p - q) / 2``, ``(batch, *shape)``.
        intercept: ``(s₂ - s₁) r``, ``(batch, size)``.
        loose: flat indices of the neurons with two slopes on some box.
    """

    middle: Array
    half: Array
    intercept: Array
    loose: npt.NDArray[np.intp]

    def apply(self, rows: Array) -> tuple[Array, Array | float]:
        """The rows over the activation's own gradient, and what is added to the bounds ``(b, 2, S)``."""
        linear = rows * self.middle[:, None, None]
        if not self.loose.size:
            return linear, 0.0
        batch, _, count = linear.shape[:3]
        both = np.repeat(linear, 2, axis=1) if linear.shape[1] == 1 else linear
        size = np.abs(rows.reshape(*rows.shape[:3], -1)[..., self.loose])
        part = size * self.half.reshape(len(self.half), 1, 1, -1)[..., self.loose]
        flat = both.reshape(batch, 2, count, -1)
        flat[:, 0, :, self.loose] -= np.moveaxis(part[:, 0], -1, 0)
        flat[:, 1, :, self.loose] += np.moveaxis(part[:, -1], -1, 0)
        shift = (size @ self.intercept[:, None, self.loose, None])[..., 0]
        return both, shift * _SIGNS


@dataclass(frozen=True, eq=False)
class _PoolChord:
    """The same for a pooling operator: ``p`` and ``r`` are ``(batch, outputs)``, in the output's ``shape``."""

    winners: Winners
    p: Array
    r: Array
    shape: tuple[int, ...]

    def apply(self, rows: Array) -> tuple[Array, Array | float]:
        """As `_Chord.apply`."""
        flat = rows.reshape(*rows.shape[:3], -1)
        candidates = flat[..., np.maximum(self.winners.windows, 0)]
        possible = self.winners.possible[:, None, None]
        smallest = np.where(possible, candidates, np.inf).min(axis=-1)
        largest = np.where(possible, candidates, -np.inf).max(axis=-1)
        p, r = self.p[:, None, None], self.r[:, None, :, None]
        spread = largest - smallest
        low, high = largest[:, :1] - spread[:, :1] * p, smallest[:, -1:] + spread[:, -1:] * p
        shift = (spread @ r)[..., 0] * _SIGNS
        both = np.concatenate(np.broadcast_arrays(low, high), axis=1)
        return both.reshape(*both.shape[:3], *self.shape), shift


_SIGNS = np.array([[[-1.0], [1.0]]])
"""For the lower and the upper side, in the shape of ``(b, 2, S)``."""


class Jacobian:
    """`jacobian`, and bounds on combinations of the gradient's entries afterwards.

    Attributes:
        gradients: what `jacobian` returns.
    """

    def __init__(self, network: Network, weights: Array, possible: Phases, *, everything: bool = True) -> None:
        self.network, self.weights, self.possible = network, weights, possible
        self.batch = batch_size(weights, possible)
        shape = (self.batch, *network.output_shape)
        seed = np.broadcast_to(weights, (self.batch, network.output_size)).reshape(shape)
        self.gradients: dict[str, Pair] = {network.output: (seed, seed)}
        self.magnitudes: dict[str, Array] = {network.output: np.abs(seed)}
        self.kinds: dict[str, list[tuple[int, bool]]] = {network.output: [(CONSTANT, False)]}
        self.chords: dict[str, _Chord | _PoolChord] = {}
        self.roundings = network.output_size + 16
        self.row_cost = 1
        self.last_use = {i: k for k, node in enumerate(network.nodes) for i in node.inputs}
        for index in range(len(network.nodes) - 1, -1, -1):  # later nodes are done first
            self._visit(index, everything)

    def combined(self, rows: Array) -> Pair:
        """Bounds on rows ``(batch or 1, S, n)`` over the gradient by the input, ``(batch, S)`` each.

        What their entries have in common cancels here, unlike in a sum of the entries' own bounds.
        """
        shaped = rows.reshape(len(rows), 1, rows.shape[1], *self.network.input_shape)
        size = np.abs(rows) @ self.magnitudes[self.network.input].reshape(self.batch, -1, 1)
        slack = (self.roundings + rows.shape[2] + 8) * SPACING * size[..., 0] + 1e-250
        found = self._through(0, shaped)
        return found[:, 0] - slack, found[:, 1] + slack

    def _visit(self, index: int, everything: bool) -> None:
        """Finish one node's bounds and pass them on to its inputs."""
        node = self.network.nodes[index]
        if node.name not in self.gradients:
            zero = np.zeros((self.batch, *node.shape))
            self.gradients[node.name] = (zero, zero)
            self.magnitudes[node.name] = zero
        sources = self.kinds.get(node.name, [])
        kind = max((k for k, _ in sources), default=CONSTANT)
        worth = any(mixes for _, mixes in sources) or (len(sources) > 1 and kind != CONSTANT)
        if worth:
            neurons = np.arange(node.size) if everything or index == 0 else self._decisive(node)
            self._tighten(index, neurons)
            kind = GENERAL
        self._pass_on(node, kind)

    def _decisive(self, node: Node) -> npt.NDArray[np.intp]:
        """Units whose chord can still improve: the sign of the gradient is open, and so is the phase."""
        low, high = self.gradients[node.name]
        useful = (low < 0) & (high > 0)
        phase = self.possible.get(node.name)
        if isinstance(phase, Slopes):
            useful &= ~phase.fixed
        return np.flatnonzero(useful.any(axis=0))

    def _pass_on(self, node: Node, kind: int) -> None:
        gradient, magnitude = self.gradients[node.name], self.magnitudes[node.name]
        phase = self.possible.get(node.name)
        if phase is not None:
            low, high = gradient
            width = np.where(high > low, high - low, 1.0)
            p = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / width))
            r = np.where((low < 0) & (high > 0), -low * (high / width), 0.0)
            if isinstance(phase, Slopes):
                gap = phase.largest - phase.smallest
                middle = phase.smallest + gap / 2
                loose = np.flatnonzero((gap > 0).any(axis=0))
                intercept = (gap * r).reshape(len(r), -1)
                self.chords[node.name] = _Chord(middle, gap / 2 * (2 * p - 1), intercept, loose)
                steepest = np.maximum(np.abs(phase.smallest), np.abs(phase.largest))
                spread = [steepest * magnitude + gap * r]
            else:
                flat = (r.reshape(len(r), -1), p.reshape(len(p), -1))
                self.chords[node.name] = _PoolChord(phase, flat[1], flat[0], node.shape)
                magnitude = magnitude + 2 * r
                spread = [p[1] for p in self._parts(node, (-magnitude, magnitude))]
        else:
            spread = [p[1] for p in self._parts(node, (-magnitude, magnitude))]
        operator, shapes = node.operator, [self.network[i].shape for i in node.inputs]
        size = operator.terms(False, *shapes) if isinstance(operator, AffineOperator) else 2
        self.roundings += size + 8
        columns = node.size // len(operator.weight) * size if isinstance(operator, Conv) else 0
        self.row_cost = max(self.row_cost, node.size, columns)
        source = _passed_on(node, kind, phase)
        for name, part, extra in zip(node.inputs, self._parts(node, gradient), spread, strict=True):
            self.kinds.setdefault(name, []).append(source)
            known = name in self.gradients
            self.gradients[name] = add(self.gradients[name], part) if known else part
            self.magnitudes[name] = self.magnitudes[name] + extra if known else extra

    def _parts(self, node: Node, gradient: Pair) -> list[Pair]:
        shapes = [self.network[i].shape for i in node.inputs]
        return backward(node, gradient, shapes, self.possible.get(node.name))

    def _tighten(self, index: int, neurons: npt.NDArray[np.intp]) -> None:
        """Intersect the bounds of these neurons (flat indices) of a node with linear ones."""
        node = self.network.nodes[index]
        if not neurons.size:
            return
        low, high = (end.reshape(self.batch, -1).copy() for end in self.gradients[node.name])
        slack = self.roundings * SPACING * self.magnitudes[node.name].reshape(self.batch, -1) + 1e-250
        step = max(1, CHUNK // (2 * self.batch * max(self.row_cost, node.size)))
        for start in range(0, len(neurons), step):
            chunk = neurons[start : start + step]
            found = self._rows(index, chunk)
            low[:, chunk] = np.maximum(low[:, chunk], found[:, 0] - slack[:, chunk])
            high[:, chunk] = np.minimum(high[:, chunk], found[:, 1] + slack[:, chunk])
        shape = (self.batch, *node.shape)
        self.gradients[node.name] = (np.minimum(low, high).reshape(shape), np.maximum(low, high).reshape(shape))

    def _rows(self, index: int, neurons: npt.NDArray[np.intp]) -> Array:
        """Linear bounds of these neurons' gradients, without slack: ``(batch, 2, neurons)``."""
        node = self.network.nodes[index]
        first = np.zeros((len(neurons), node.size))
        first[np.arange(len(neurons)), neurons] = 1.0
        return self._through(index, first.reshape(1, 1, len(neurons), *node.shape), neurons)

    def _through(self, index: int, first: Array, neurons: npt.NDArray[np.intp] | None = None) -> Array:
        """Linear bounds of rows ``(b, 1, S, *shape)`` over a node's gradient, without slack, ``(batch, 2, S)``.

        Args:
            neurons: if the rows are unit rows, their places.
        """
        nodes = self.network.nodes
        rows = {nodes[index].name: first}
        total: Array = np.zeros((self.batch, 2, first.shape[2]))
        for k in range(index, len(nodes)):
            node = nodes[k]
            poll(f"while gradients went through node {node.name!r}")
            if k > index:
                if not any(i in rows for i in node.inputs):
                    continue
                chord = self.chords.get(node.name)
                if chord is not None:
                    rows[node.name], shift = chord.apply(rows[node.inputs[0]])
                    total = total + shift
                elif (
                    neurons is not None
                    and isinstance(node.operator, Dense)
                    and node.inputs[0] == nodes[index].name
                    and _is_plain(node)
                ):
                    rows[node.name] = node.operator.weight.T[neurons][None, None]
                else:
                    rows[node.name] = self._linear(node, rows)
                for name in set(node.inputs):
                    if self.last_use[name] == k:
                        rows.pop(name, None)
            if node.name == self.network.output:
                flat = rows[node.name].reshape(*rows[node.name].shape[:3], -1)
                total = total + (flat @ self.weights[:, None, :, None])[..., 0]
        return total

    def _linear(self, node: Node, rows: dict[str, Array]) -> Array:
        """An affine node's linear part on rows; inputs without rows count as zero."""
        assert isinstance(node.operator, AffineOperator)
        given = [rows.get(i) for i in node.inputs]
        lead = np.broadcast_shapes(*(g.shape[:3] for g in given if g is not None))
        inputs = []
        for name, part in zip(node.inputs, given, strict=True):
            shape = self.network[name].shape
            full = np.zeros((*lead, *shape)) if part is None else np.broadcast_to(part, (*lead, *shape))
            inputs.append(full.reshape(prod(lead), *shape))
        return node.operator.linear(*inputs).reshape(*lead, *node.shape)


def _is_plain(node: Node) -> bool:
    """Whether a dense layer's linear part is its weight matrix, held as an array."""
    return isinstance(node.operator, Dense) and len(node.shape) == 1 and node.operator.sparse_weight is None


def _passed_on(node: Node, kind: int, phase: Slopes | Winners | None) -> tuple[int, bool]:
    """The kind of what a node passes back, and whether interval arithmetic loses correlations there."""
    operator = node.operator
    if isinstance(phase, Slopes):
        if phase.fixed.all():
            return kind, False
        return (INDEPENDENT if kind == CONSTANT else GENERAL), False
    if isinstance(phase, Winners):
        return GENERAL, phase.overlaps > 1 and kind == GENERAL
    if isinstance(operator, (Reshape, Concat, Scale, Sum)):
        return kind, False
    if isinstance(operator, Select) and operator.terms(True) == 1:
        return kind, False
    return (CONSTANT if kind == CONSTANT else GENERAL), kind == GENERAL
