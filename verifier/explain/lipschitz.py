"""Exact local Lipschitz constants of outputs and margins: over a box by branch and bound on the Jacobian, along a line exactly.

A piecewise-linear function f has on a convex region the Lipschitz constant sup ‖∇f‖ over its linear regions there, in the
norm that is dual to the inputs': L1 for inputs measured by L∞, L2 by L2, L∞ by L1 (Jordan and Dimakis, *Exactly
Computing the Local Lipschitz Constant of ReLU Networks*, NeurIPS 2020, Theorem 1). At a kink the gradients of both
sides count for the bound; what is reported as reached is one that the network has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.explain.extreme_search import DEFAULT, ExtremeSettings
from verifier.explain.extremes import Extreme, largest, maps_on_box
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.builders import Domain
from verifier.properties.maps import gradient_map, logit_difference
from verifier.regions import line
from verifier.rounding import float_below, gamma

Norm = Literal["linf", "l1", "l2"]
DUAL: dict[str, str] = {"linf": "l1", "l1": "linf", "l2": "l2"}


@dataclass(frozen=True)
class NormOf:
    """A norm of the map, or of its difference from a reference.

    Attributes:
        norm: "l1", "l2" or "linf".
        reference: ``(n,)`` exact numbers; None for zeros.
    """

    norm: str
    reference: tuple[Fraction, ...] | None = None

    @property
    def symbolic(self) -> str:
        """See `Objective.symbolic`."""
        return self.norm if self.norm != "linf" and self.reference is None else ""

    def above(self, lower: Array, upper: Array) -> Array:
        """See `Objective.above`."""
        if self.reference is not None:
            at = np.array([float(v) for v in self.reference])
            lower, upper = np.nextafter(lower - at, -np.inf), np.nextafter(upper - at, np.inf)
            wide = np.spacing(np.abs(at))  # the reference was rounded
            lower, upper = lower - wide, upper + wide
        size = np.maximum(np.abs(lower), np.abs(upper))
        if self.norm == "linf":
            return np.asarray(size.max(axis=1))
        total = size.sum(axis=1) if self.norm == "l1" else np.sqrt((size**2).sum(axis=1))
        return np.asarray(total * (1 + 2 * gamma(size.shape[1] + 4)))

    def linear(self, lower: Array, upper: Array) -> tuple[Array, Array] | None:
        """See `Objective.linear`: of the L1 norm, each entry's size below its chord."""
        if self.norm != "l1" or self.reference is not None:
            return None
        width = np.where(upper > lower, upper - lower, 1.0)
        chord = np.clip((upper + lower) / width, -1.0, 1.0)
        slope = np.where(lower >= 0, 1.0, np.where(upper <= 0, -1.0, chord))
        # |g| - slope g is convex: the larger end counts, whatever the slope
        left, right = np.abs(lower) - slope * lower, np.abs(upper) - slope * upper
        reserve = 2 * gamma(lower.shape[1] + 8) * (np.abs(lower) + np.abs(upper)).sum(axis=1)
        return slope, np.maximum(left, right).sum(axis=1) + reserve

    def values(self, maps: Array) -> Array:
        """See `Objective.values`."""
        if self.reference is not None:
            maps = maps - np.array([float(v) for v in self.reference])
        return np.asarray(np.linalg.norm(maps, ord={"l1": 1, "l2": 2, "linf": np.inf}[self.norm], axis=1))

    def exact(self, found: Sequence[Fraction]) -> float:
        """See `Objective.exact`."""
        if self.reference is not None:
            found = [v - r for v, r in zip(found, self.reference, strict=True)]
        if self.norm == "linf":
            return float_below(max(abs(v) for v in found))
        if self.norm == "l1":
            return float_below(sum((abs(v) for v in found), Fraction(0)))
        square = sum((v * v for v in found), Fraction(0))
        root = math.sqrt(float_below(square))
        while Fraction(root) ** 2 > square:
            root = math.nextafter(root, 0.0)
        return root


@checked
def lipschitz(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    *,
    output: int | None = None,
    minus: int | None = None,
    norm: Norm = "linf",
    domain: Domain = "network",
    gap: float = 0.01,
    timeout: float | None = 60.0,
    threads: int = 1,
    settings: ExtremeSettings = DEFAULT,
    listener: Listener = ignore,
) -> Extreme:
    """The Lipschitz constant of an output, or of the margin between two, on the ε-box around x.

    Args:
        x, epsilon, domain: the box, as for `verifier.robustness`.
        output: the output; the network's label at x by default.
        minus: another output: then the constant is that of ``y_output - y_minus``.
        norm: of the inputs.
        gap: the search ends when the proved upper end is at most ``(1 + gap)`` times what is reached; 0: exactly.
        timeout: seconds; both ends hold at any time.

    Returns:
        ``lower`` is reached at ``input`` (in exact arithmetic, with the gradient ``map`` there), ``upper`` is proved.

    Raises:
        InputError: a norm that is not one of these; a gap below 0.
        PropertyError: as `verifier.robustness`; no such output.

    Source:
        the largest dual norm of a Jacobian: Jordan, Dimakis, NeurIPS 2020; the search is this package's own.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import lipschitz
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> found = lipschitz(network, [0.6, 0.4], 0.3, output=0)
        >>> round(found.lower, 9), round(found.upper, 9)
        (2.0, 2.0)
    """
    if norm not in DUAL:
        raise InputError(f"there is no norm {norm!r}", fix=f"one of {', '.join(DUAL)}")
    if gap < 0:
        raise InputError(f"the gap must be at least 0, got {gap}")
    if minus is not None and output is None:
        output = int(np.argmax(network.forward(np.asarray(x, dtype=np.float64).reshape(-1))))
    explained = gradient_map() if minus is None else logit_difference(minus)
    query = maps_on_box(network, x, epsilon, label=output, domain=domain, map=explained)
    deadline = Deadline.after(timeout)
    objective = NormOf(DUAL[norm])
    return largest(query, objective, gap=gap, deadline=deadline, threads=threads, settings=settings, listener=listener)


def lipschitz_on_line(
    network: Network, start: npt.ArrayLike, end: npt.ArrayLike, *, output: int, norm: Norm = "linf"
) -> float:
    """How fast an output changes at most between two inputs: the largest |Δy| / ‖Δx‖ of the linear pieces between them.

    Shapes: start, end ``(n,)`` or of the network's input shape.

    Computed from the exact restriction to the line (`verifier.line`), up to float64 rounding.

    Args:
        start, end: the two inputs.
        output: the output.
        norm: in which the distance of inputs is measured.

    Raises:
        InputError: inputs that are equal; a norm that is not one of these; no such output.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import lipschitz_on_line
        >>> network = verifier.feedforward([[[1.0], [-1.0]], [[1.0, 3.0]]], [np.zeros(2), np.zeros(1)])
        >>> round(lipschitz_on_line(network, [-1.0], [1.0], output=0), 12)
        3.0
    """
    if norm not in DUAL:
        raise InputError(f"there is no norm {norm!r}", fix=f"one of {', '.join(DUAL)}")
    if not 0 <= output < network.output_size:
        raise InputError(f"output {output} does not exist", fix=f"outputs are 0 to {network.output_size - 1}")
    a, b = (np.asarray(p, dtype=np.float64).reshape(-1) for p in (start, end))
    length = float(np.linalg.norm(b - a, ord={"l1": 1, "l2": 2, "linf": np.inf}[norm]))
    if length == 0:
        raise InputError("the two inputs are equal: there is no line between them")
    found = line(network, a, b)
    t = found.breakpoints
    y = np.asarray(found.evaluate(t)).reshape(len(t), -1)[:, output]
    return float(np.max(np.abs(np.diff(y)) / np.diff(t)) / length)
