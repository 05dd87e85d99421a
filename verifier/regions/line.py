"""Line restrictions: what a network does on every point of a segment (Sotoudeh & Thakur, ExactLine, NeurIPS 2019).

**What counts as a breakpoint.** The network's gradient is constant between two neighbouring breakpoints (the
paper's stricter definition, Theorem 4). A neuron that touches its kink without crossing it, or stays on it, makes no
breakpoint. Crossings that the arithmetic cannot tell apart are one breakpoint. A segment whose two ends are equal
has the single piece [0, 1], on which everything is constant. Where a line runs along a kink, so that a preactivation
is zero but for rounding errors, the side is decided by an exact look (`verifier.regions.look`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.limits import Deadline, MemoryBudget
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.cells import Index
from verifier.regions.classes import ClassBands, class_bands, exact_class_bands
from verifier.regions.exact import ExactWalk
from verifier.regions.feed_forward import FeedForwardLevels, feed_forward
from verifier.regions.long_lines import walk_lines
from verifier.regions.patterns import Patterns
from verifier.regions.piece_values import Pair
from verifier.regions.settings import LineSettings
from verifier.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class LineRestriction(Shown):
    """A network on the segment from ``start`` (t = 0) to ``end`` (t = 1).

    Attributes:
        network: the network.
        start, end: the segment's ends, flattened, ``(n,)``.
        breakpoints: ``(p + 1,)`` values of t, increasing, the first 0 and the last 1.
        values: ``(p + 1, m)`` the flattened output at the breakpoints.
        tolerance: ``(p + 1,)`` how large a difference of outputs must be to exceed rounding errors.
        patterns: the activation patterns of all pieces of the batch that this line was computed in.
        first: index of this line's first piece in the batch.
        exact_breakpoints: the breakpoints as rationals, if they were computed exactly.
        exact_output: constants and slopes in t of the outputs on each piece, if they were computed exactly.
        by_rounding: how often, in the batch that this line was computed in, floats alone decided on which side of its
            kink a neuron is that is within rounding errors of it all over a piece (see `verifier.regions.look`).

    Raises:
        InputError: by its methods, for a parameter t outside [0, 1].

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Definition 1.
    """

    network: Network
    start: Array
    end: Array
    breakpoints: Array
    values: Array
    tolerance: Array
    patterns: Patterns
    first: int = 0
    exact_breakpoints: tuple[Fraction, ...] | None = None
    exact_output: Pair | None = None
    by_rounding: int = 0

    _drawn_by = "verifier.report.regions:line_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        classes = self.classes().labels if self.values.shape[1] > 1 else ()
        facts = {"pieces": f"{len(self):,}", "length": f"{float(np.linalg.norm(self.end - self.start)):.6g}"}
        if len(classes):
            facts["classes"] = " ".join(map(str, classes[:12])) + (" …" if len(classes) > 12 else "")
        return "LineRestriction", {**facts, "of": repr(self.network)}

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.breakpoints) - 1

    @cached_property
    def points(self) -> Array:
        """The inputs at the breakpoints, ``(p + 1, n)``."""
        return self.at(self.breakpoints)

    @cached_property
    def lengths(self) -> Array:
        """Length of every piece in t, ``(p,)``."""
        return np.diff(self.breakpoints)

    @cached_property
    def middles(self) -> Array:
        """t of every piece's midpoint, ``(p,)``."""
        result: Array = self.breakpoints[:-1] + self.lengths / 2
        return result

    @cached_property
    def midpoints(self) -> Array:
        """The inputs at the pieces' midpoints, ``(p, n)``."""
        return self.at(self.middles)

    def at(self, t: npt.ArrayLike) -> Array:
        """The inputs at parameters t: ``(…, n)``; exact at 0 and 1."""
        t = np.asarray(t, dtype=np.float64)[..., None]
        return (1.0 - t) * self.start + t * self.end

    def evaluate(self, t: npt.ArrayLike) -> Array:
        """The flattened output at parameters t, interpolated between the breakpoints: ``(…, m)``."""
        t = np.asarray(t, dtype=np.float64)
        if ((t < 0) | (t > 1)).any() or np.isnan(t).any():
            raise InputError("a parameter t is outside [0, 1]")
        piece = np.clip(np.searchsorted(self.breakpoints, t, side="right") - 1, 0, len(self) - 1)
        length = self.lengths[piece]  # 0 only at the end, where exact breakpoints may coincide as floats
        share = np.divide(t - self.breakpoints[piece], length, out=np.ones(t.shape), where=length > 0)[..., None]
        result: Array = (1.0 - share) * self.values[piece] + share * self.values[piece + 1]
        return result

    def classes(self, *, best: str = "max") -> ClassBands:
        """Where the class (the largest output, or the smallest for ``best="min"``) changes along the line."""
        if self.exact_output is not None and self.exact_breakpoints is not None:
            return exact_class_bands(self.exact_breakpoints, self.exact_output, best)
        return class_bands(self.breakpoints, self.values, self.tolerance, best)

    def layer(self, name: str) -> Array:
        """The flattened value of a named node at the breakpoints, ``(p + 1, size)``."""
        return self.network.values(self.points, [name])[name].reshape(len(self) + 1, -1)

    def pattern(self, pieces: npt.ArrayLike | None = None) -> dict[str, npt.NDArray[np.int16]]:
        """Activation pattern of each piece (all, or those named): see `Patterns.pattern`."""
        return self.patterns.pattern(self._cells(pieces))

    def gradient(self, output: int | Sequence[float] | Array, pieces: npt.ArrayLike | None = None) -> Array:
        """Gradient of an output (or combination) with respect to the input on each piece, ``(p, n)``."""
        return self.patterns.gradient(output, self._cells(pieces))

    def affine(self, pieces: npt.ArrayLike | None = None) -> tuple[Array, Array]:
        """The affine map of each piece: ``(p, m, n)`` matrices and ``(p, m)`` constants, ``y = A x + b``."""
        chosen = self._pieces(pieces)
        matrices = np.stack([self.gradient(k, chosen) for k in range(self.network.output_size)], axis=1)
        middle = (self.values[chosen] + self.values[chosen + 1]) / 2
        return matrices, middle - np.einsum("pmn,pn->pm", matrices, self.midpoints[chosen])

    def _pieces(self, pieces: npt.ArrayLike | None) -> Index:
        return np.arange(len(self)) if pieces is None else np.arange(len(self))[np.atleast_1d(pieces)]

    def _cells(self, pieces: npt.ArrayLike | None) -> Index:
        return self.first + self._pieces(pieces)


@dataclass(frozen=True, eq=False, repr=False)
class LineRestrictions(Shown, Sequence[LineRestriction]):
    """Restrictions to many lines in flat arrays; ``restrictions[k]`` is line k.

    Attributes:
        starts, ends: ``(lines, n)``.
        breakpoints: all lines' breakpoints, one line after the other.
        values: ``(len(breakpoints), m)``.
        tolerance: ``(len(breakpoints),)`` see `LineRestriction`.
        offsets: ``(lines + 1,)``; line k has the breakpoints ``offsets[k]`` to ``offsets[k + 1] - 1``.
        by_rounding: see `LineRestriction`.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Definition 1.
    """

    network: Network
    starts: Array
    ends: Array
    breakpoints: Array
    values: Array
    tolerance: Array
    offsets: Index
    patterns: Patterns
    by_rounding: int = 0

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"lines": f"{len(self):,}", "pieces": f"{self.pieces:,}", "of": repr(self.network)}
        return "LineRestrictions", facts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def pieces(self) -> int:
        """Number of pieces of all lines."""
        return len(self.breakpoints) - len(self)

    @overload
    def __getitem__(self, index: int) -> LineRestriction: ...
    @overload
    def __getitem__(self, index: slice) -> list[LineRestriction]: ...
    def __getitem__(self, index: int | slice) -> LineRestriction | list[LineRestriction]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        part = slice(self.offsets[k], self.offsets[k + 1])
        return LineRestriction(
            self.network,
            self.starts[k],
            self.ends[k],
            self.breakpoints[part],
            self.values[part],
            self.tolerance[part],
            self.patterns,
            int(self.offsets[k]) - k,
            by_rounding=self.by_rounding,
        )

    def __iter__(self) -> Iterator[LineRestriction]:
        return (self[k] for k in range(len(self)))


@checked
def line(
    network: Network,
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    *,
    exact: bool = False,
    memory: float | None = None,
    deadline: float | None = None,
    threads: int = 1,
    settings: LineSettings = LineSettings(),
    listener: Listener = ignore,
) -> LineRestriction:
    """Restrict a network to the segment from ``start`` to ``end``.

    Args:
        start, end: one input each, flattened or in the network's input shape.
        exact: compute the breakpoints in rational arithmetic (for up to a few hundred neurons).
        memory: GiB that the work may use; None for a share of the machine's. What needs more is walked in parts.
        deadline: ``time.monotonic`` seconds at which the work stops.
        threads: stretches walked at once, except in fully connected networks; the same line up to rounding errors.
        settings: what the walk decides by numbers.
        listener: is told how many pieces there are after each layer.

    Raises:
        InputError: if a shape does not fit, an end contains NaN or infinity, or values overflow float64.
        TimeLimitError, MemoryLimitError: if a limit does not suffice.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> restriction = line(network, [0, 1], [1, 0])
        >>> restriction.breakpoints
        array([0. , 0.5, 1. ])
    """
    a, b = _end(network, start, "start"), _end(network, end, "end")
    if len(a) != 1 or len(b) != 1:
        raise InputError("line takes one start and one end", fix="use lines for many")
    if exact:
        return _exact(network, a[0], b[0], Deadline(deadline), listener)
    return _restrict(network, a, b, Deadline(deadline), MemoryBudget.of(memory), listener, settings, threads)[0]


@checked
def lines(
    network: Network,
    starts: npt.ArrayLike,
    ends: npt.ArrayLike,
    *,
    memory: float | None = None,
    deadline: float | None = None,
    threads: int = 1,
    settings: LineSettings = LineSettings(),
    listener: Listener = ignore,
) -> LineRestrictions:
    """Restrict a network to many segments at once.

    Args:
        starts, ends: ``(lines, n)`` or ``(lines, *input_shape)``; a single start or end serves all lines.
        memory: GiB that the work may use; None for a share of the machine's. What needs more is walked in parts.
        deadline: ``time.monotonic`` seconds at which the work stops.
        threads: how many groups of lines are walked at the same time.
        settings: what the walk decides by numbers.
        listener: is told how many pieces there are after each layer.

    Raises:
        InputError: if shapes do not fit, an end contains NaN or infinity, or values overflow float64.
        TimeLimitError, MemoryLimitError: if a limit does not suffice.

    Source:
        Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Theorems 1 to 3.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> [len(one) for one in verifier.lines(network, [[0, 1], [0, 0.5]], [1, 0])]
        [2, 2]
    """
    a, b = _end(network, starts, "starts"), _end(network, ends, "ends")
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise InputError(f"{len(a)} starts and {len(b)} ends", fix="give one end for each start")
    count = max(len(a), len(b)) if len(a) and len(b) else 0
    a, b = np.broadcast_to(a, (count, a.shape[1])), np.broadcast_to(b, (count, b.shape[1]))
    return _restrict(network, a, b, Deadline(deadline), MemoryBudget.of(memory), listener, settings, threads)


def _end(network: Network, x: npt.ArrayLike, name: str) -> Array:
    batch, _ = network.batch(x)
    if not np.isfinite(batch).all():
        raise InputError(f"{name} contains infinity")
    return batch.reshape(len(batch), network.input_size)


def _exact(network: Network, start: Array, end: Array, deadline: Deadline, listener: Listener) -> LineRestriction:
    """The restriction in rational arithmetic; floats are rounded, and breakpoints that round to one float are kept."""
    walk = ExactWalk(network, start[None], end[None]).finish(deadline, listener)
    t = np.array([float(x) for x in walk.breaks])
    patterns = Patterns(network, walk.levels, len(t) - 1)
    return LineRestriction(
        network,
        start,
        end,
        t,
        walk.outputs(),
        np.zeros(len(t)),
        patterns,
        exact_breakpoints=tuple(walk.breaks),
        exact_output=walk.output,
    )


def _restrict(
    network: Network,
    starts: Array,
    ends: Array,
    deadline: Deadline,
    memory: MemoryBudget,
    listener: Listener,
    settings: LineSettings,
    threads: int,
) -> LineRestrictions:
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    count = len(starts)
    if not count:
        nothing, output = np.empty(0), np.empty((0, network.output_size))
        patterns = Patterns(network, (), 0)
        return LineRestrictions(network, starts, ends, nothing, output, nothing, np.zeros(1, np.int64), patterns)
    found = _compiled(network, starts, ends, deadline, settings, threads)
    found = found or _general(network, starts, ends, deadline, memory, listener, settings, threads)
    if not np.isfinite(found.values).all():
        raise InputError(
            "the network's values on the line overflow float64", fix="use exact=True, or ends nearer to zero"
        )
    return found


def _compiled(
    network: Network, starts: Array, ends: Array, deadline: Deadline, settings: LineSettings, threads: int
) -> LineRestrictions | None:
    """The restrictions by the compiled walk; None if it does not suffice: other networks, lines along kinks."""
    dense, count = feed_forward(network), len(starts)
    if dense is None or (deadline.at is not None and count * dense.work > settings.uninterrupted):
        return None
    deadline.check("before the first layer")
    trace = dense.trace(starts, ends, threads)
    if trace is None:
        return None
    tolerance = 2 * (dense.output[0] * trace.scale + dense.output[1])
    patterns = Patterns(network, FeedForwardLevels(dense, trace), len(trace.t) - count)
    return LineRestrictions(network, starts, ends, trace.t, trace.values, tolerance, trace.offsets, patterns)


def _general(
    network: Network,
    starts: Array,
    ends: Array,
    deadline: Deadline,
    memory: MemoryBudget,
    listener: Listener,
    settings: LineSettings,
    threads: int,
) -> LineRestrictions:
    """The restrictions by the walk that takes every network."""
    walked = walk_lines(network, starts, ends, deadline, memory, listener, settings, threads)
    # every piece's start, and the end of every line's last piece
    at = np.flatnonzero(walked.places[:, 1] == 1.0) + 1
    return LineRestrictions(
        network,
        starts,
        ends,
        np.insert(walked.places[:, 0], at, walked.places[at - 1, 1]),
        np.insert(walked.values[:, 0], at, walked.values[at - 1, 1], axis=0),
        np.insert(walked.tolerance[:, 0], at, walked.tolerance[at - 1, 1]),
        np.concatenate([[0], at + np.arange(1, len(starts) + 1)]),
        Patterns(network, walked.levels, len(walked.places)),
        walked.by_rounding,
    )
