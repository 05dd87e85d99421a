"""Sign of influence: where is ∂y_j/∂x_i ≥ 0 (or ≤ 0) on a whole box, proved, and how large may the box be?

Both signs at samples, replayed exactly, settle "neither". Otherwise the sign that no sample contradicts is a bound on one
entry of the gradient, proved by branch and bound (`verifier.explain.extremes`). A kink's gradient is any between those of
its sides for the proof, so an influence proved increasing makes y_j a non-decreasing function of x_i on the box.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.events import Listener, Progress, ignore
from verifier.explain.extreme_search import DEFAULT, ExtremeSettings
from verifier.explain.extremes import Extreme, largest, maps_on_box
from verifier.explain.radius import Radius, largest_radius
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.builders import Domain
from verifier.properties.query import Query
from verifier.rounding import float_below
from verifier.shown import Shown


class Influence(enum.StrEnum):
    """How an output depends on an input on a box."""

    INCREASING = "increasing"
    """Proved: the output never falls when the input grows."""
    DECREASING = "decreasing"
    CONSTANT = "constant"
    """Proved: both."""
    NEITHER = "neither"
    """Two inputs with gradients of opposite signs, replayed exactly."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Entry:
    """``sign`` times one entry of the map."""

    index: int
    sign: float

    symbolic = ""

    def above(self, lower: Array, upper: Array) -> Array:
        """See `Objective.above`."""
        return upper[:, self.index] if self.sign > 0 else -lower[:, self.index]

    def linear(self, lower: Array, upper: Array) -> None:
        """See `Objective.linear`."""

    def values(self, maps: Array) -> Array:
        """See `Objective.values`."""
        return np.asarray(self.sign * maps[:, self.index])

    def exact(self, found: Sequence[Fraction]) -> float:
        """See `Objective.exact`."""
        return float_below(found[self.index] if self.sign > 0 else -found[self.index])


@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceCell:
    """What is known of one output and one input.

    Attributes:
        influence: see `Influence`.
        lower, upper: between what the gradient's entry is proved to be.
        rising, falling: for NEITHER: inputs ``(n,)`` at which the entry is positive, and negative.
    """

    influence: Influence
    lower: float
    upper: float
    rising: Array | None = None
    falling: Array | None = None


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class InfluenceTable(Shown):
    """All influences on a box.

    Attributes:
        outputs, inputs: indices of the rows and the columns.
        names: of the inputs.
        cells: ``cells[row][column]``.
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[InfluenceCell, ...], ...]

    def _facts(self) -> tuple[str, dict[str, str]]:
        every = [cell.influence for row in self.cells for cell in row]
        counts = ", ".join(f"{every.count(kind)} {kind}" for kind in Influence if kind in every)
        return "InfluenceTable", {"outputs": str(len(self.outputs)), "inputs": str(len(self.inputs)), "found": counts}

    def table(self) -> str:
        """As a table in Markdown."""
        head = "| input | " + " | ".join(f"output {k}" for k in self.outputs) + " |\n"
        rows = [
            f"| {name} | " + " | ".join(str(self.cells[r][c].influence) for r in range(len(self.outputs))) + " |\n"
            for c, name in enumerate(self.names)
        ]
        return head + "|" + "---|" * (len(self.outputs) + 1) + "\n" + "".join(rows)


@checked
def influences(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    *,
    domain: Domain = "network",
    outputs: Sequence[int] | None = None,
    inputs: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    each: float = 10.0,
    timeout: float | None = None,
    settings: ExtremeSettings = DEFAULT,
    listener: Listener = ignore,
) -> InfluenceTable:
    """For every output and input: increasing, decreasing, constant, neither (with two inputs as witnesses), or unknown.

    Shapes: x ``(n,)`` or of the network's input shape.

    Args:
        x, epsilon, domain: the box, as for `verifier.robustness`.
        outputs, inputs: which; all by default.
        names: of the network's inputs, one each.
        each: seconds for one influence.
        timeout: seconds for all; what is not decided then is unknown.

    Raises:
        InputError: an output or input that does not exist; names that are not one for each input.
        PropertyError: as `verifier.robustness`.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import influences
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], [[1.0, 0.0]]], [np.zeros(2), np.zeros(1)])
        >>> [str(cell.influence) for cell in influences(network, [0.5, 0.5], 0.5).cells[0]]
        ['increasing', 'decreasing']
    """
    n, m = network.input_size, network.output_size
    chosen = tuple(range(m)) if outputs is None else tuple(outputs)
    columns = tuple(range(n)) if inputs is None else tuple(inputs)
    for what, given, count in (("output", chosen, m), ("input", columns, n)):
        for k in given:
            if not 0 <= k < count:
                raise InputError(f"{what} {k} does not exist", fix=f"{what}s are 0 to {count - 1}")
    if names is not None and len(names) != n:
        raise InputError(f"{len(names)} names for {n} inputs", fix="name every column, in the network's order")
    deadline, rows = Deadline.after(timeout), []
    for r, output in enumerate(chosen):
        query = maps_on_box(network, x, epsilon, label=output, domain=domain)
        points = query.box.sample(settings.samples, np.random.default_rng(settings.seed))
        gradients = network.gradient(points, output).reshape(len(points), n)
        row = []
        for c, k in enumerate(columns):
            seen = points[gradients[:, k].argmax()], points[gradients[:, k].argmin()]
            row.append(_cell(query, k, seen, deadline.sooner(each), settings))
            done = r * len(columns) + c + 1
            left = len(chosen) * len(columns) - done
            listener(Progress(seconds=0.0, stage="explain", done=done, unit="influences", left=left, bound=0.0))
        rows.append(tuple(row))
    named = tuple(names[k] for k in columns) if names is not None else tuple(f"x{k}" for k in columns)
    return InfluenceTable(outputs=chosen, inputs=columns, names=named, cells=tuple(rows))


def _cell(
    query: Query, index: int, seen: tuple[Array, Array], deadline: Deadline, settings: ExtremeSettings
) -> InfluenceCell:
    """One influence."""
    ends: list[Extreme] = []
    for sign, start in ((1.0, seen[0]), (-1.0, seen[1])):
        found = largest(query, Entry(index, sign), target=0.0, deadline=deadline, starts=start[None], settings=settings)
        ends.append(found)
    rises, falls = (end.lower > 0 for end in ends)
    never_rises, never_falls = (end.upper <= 0 for end in ends)
    if rises and falls:
        influence = Influence.NEITHER
    elif never_rises and never_falls:
        influence = Influence.CONSTANT
    elif never_falls:
        influence = Influence.INCREASING
    elif never_rises:
        influence = Influence.DECREASING
    else:
        influence = Influence.UNKNOWN
    neither = influence is Influence.NEITHER
    return InfluenceCell(
        influence=influence,
        lower=-ends[1].upper,
        upper=ends[0].upper,
        rising=ends[0].input if neither else None,
        falling=ends[1].input if neither else None,
    )


@checked
def monotone_radius(
    network: Network,
    x: npt.ArrayLike,
    *,
    input: int,
    output: int,
    domain: Domain = "network",
    most: float = 1.0,
    tolerance: float = 1e-3,
    timeout: float | None = 60.0,
    settings: ExtremeSettings = DEFAULT,
) -> Radius:
    """The largest ε-box around x on which the influence of an input on an output keeps the sign that it has at x.

    Shapes: x ``(n,)`` or of the network's input shape.

    Args:
        most: no larger radius is asked.
        tolerance: the search ends when the bracket is narrower than this.
        timeout: seconds for everything.

    Raises:
        InputError: no such input or output; the influence at x is zero; ``most`` or ``tolerance`` not positive.
        PropertyError: as `verifier.robustness`.

    Example:
        >>> import verifier
        >>> network = verifier.feedforward([[[1.0], [-1.0]], [[1.0, 2.0]]], [[0.0, 0.0], [0.0]])  # relu(x) + 2 relu(-x)
        >>> found = verifier.monotone_radius(network, [0.3], input=0, output=0, domain=None)
        >>> 0.298 < found.lower < 0.3 < found.upper < 0.302
        True
    """
    if not 0 <= input < network.input_size:
        raise InputError(f"input {input} does not exist", fix=f"inputs are 0 to {network.input_size - 1}")
    if not 0 <= output < network.output_size:
        raise InputError(f"output {output} does not exist", fix=f"outputs are 0 to {network.output_size - 1}")
    g = float(network.gradient(np.asarray(x, dtype=np.float64).reshape(-1), output).reshape(-1)[input])
    if g == 0:
        raise InputError(f"the influence of input {input} on output {output} is zero at the input: it has no sign")
    objective = Entry(input, -float(np.sign(g)))

    def ask(epsilon: float, deadline: Deadline) -> Extreme:
        query = maps_on_box(network, x, epsilon, label=output, domain=domain)
        return largest(query, objective, target=0.0, deadline=deadline, settings=settings)

    return largest_radius(ask, np.asarray(x, dtype=np.float64).reshape(-1), most, tolerance, Deadline.after(timeout))
