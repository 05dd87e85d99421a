"""Stability of an explanation: the largest ε-box on which a map's top K, signs or ranking cannot change.

Each is a function of the map that is positive where it changes (`Objective`), for every map of `verifier.properties.maps`;
a box on which branch and bound proves that it is never positive is certified, and a point at which it is positive, in
exact arithmetic, is the pair of inputs (with x) that shows the change. Ties count as no change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.explain.extreme_search import DEFAULT, ExtremeSettings, Objective
from verifier.explain.extremes import Extreme, largest, maps_on_box
from verifier.explain.radius import Radius, largest_radius
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.builders import Domain
from verifier.properties.maps import SaliencyMap
from verifier.rounding import float_below

What = Literal["top-k", "signs", "ranking"]


@dataclass(frozen=True)
class Overtakes:
    """By how much an entry overtakes one that was above it: the largest ``map[after] - map[before]`` of some pairs.

    Attributes:
        before, after: entries; every one of ``after`` was at most every one of ``before`` for "top-k" (all pairs), or
            the one at the same place (``paired``).
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    paired: bool

    symbolic = ""

    def above(self, lower: Array, upper: Array) -> Array:
        """See `Objective.above`."""
        high, low = upper[:, list(self.after)], lower[:, list(self.before)]
        found = self._largest(high, low)
        above = np.nextafter(found, np.inf)
        return np.where(found > 0, above, np.minimum(above, 0.0))  # a difference's sign is never rounded away

    def linear(self, lower: Array, upper: Array) -> None:
        """See `Objective.linear`."""

    def values(self, maps: Array) -> Array:
        """See `Objective.values`."""
        return self._largest(maps[:, list(self.after)], maps[:, list(self.before)])

    def _largest(self, after: Array, before: Array) -> Array:
        return np.asarray((after - before).max(axis=1) if self.paired else after.max(axis=1) - before.min(axis=1))

    def exact(self, found: Sequence[Fraction]) -> float:
        """See `Objective.exact`."""
        if self.paired:
            return float_below(max(found[a] - found[b] for a, b in zip(self.after, self.before, strict=True)))
        return float_below(max(found[a] for a in self.after) - min(found[b] for b in self.before))


@dataclass(frozen=True)
class ChangesSign:
    """How far an entry comes to the other side of zero: the largest ``-sign · map`` of the entries that have a sign at x."""

    entries: tuple[int, ...]
    signs: tuple[int, ...]

    symbolic = ""

    def above(self, lower: Array, upper: Array) -> Array:
        """See `Objective.above`."""
        chosen, positive = list(self.entries), np.array(self.signs) > 0
        return np.asarray(np.where(positive, -lower[:, chosen], upper[:, chosen]).max(axis=1))

    def linear(self, lower: Array, upper: Array) -> None:
        """See `Objective.linear`."""

    def values(self, maps: Array) -> Array:
        """See `Objective.values`."""
        return np.asarray((-np.array(self.signs) * maps[:, list(self.entries)]).max(axis=1))

    def exact(self, found: Sequence[Fraction]) -> float:
        """See `Objective.exact`."""
        return float_below(max(-s * found[k] for k, s in zip(self.entries, self.signs, strict=True)))


@checked
def stable_radius(
    network: Network,
    x: npt.ArrayLike,
    what: What = "top-k",
    *,
    top_k: int = 0,
    map: str | SaliencyMap = "absolute",
    label: int | None = None,
    domain: Domain = "network",
    most: float = 1.0,
    tolerance: float = 1e-3,
    timeout: float | None = 60.0,
    settings: ExtremeSettings = DEFAULT,
) -> Radius:
    """The largest ε for which the map's top K, signs or ranking is the same on the whole ε-box around x.

    Shapes: x ``(n,)`` or of the network's input shape.

    Args:
        what: "top-k": the same K entries are the largest; "ranking": all entries keep their order (with ``top_k``, the
            first K do, among themselves and before all others); "signs": no entry that has a sign at x takes the other.
        top_k: how many entries.
        map: as for `verifier.saliency_robustness`; by default the gradient's absolute values (with "signs" take
            "gradient", "gradient-input", "integrated" or "smooth").
        label: the output that the map explains; the network's label at x by default.
        most: no larger radius is asked.
        tolerance: the search ends when the bracket is narrower than this.
        timeout: seconds for everything.

    Raises:
        InputError: there is no such ``what``; a ``top_k`` that is not between 1 and n - 1 where it is needed; a map
            without a sign anywhere; ``most`` or ``tolerance`` not positive.
        PropertyError: as `verifier.saliency_robustness`.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import stable_radius
        >>> network = verifier.feedforward([[[2, 1], [0, 3]], [[1, 1], [0, 0]]], [np.array([0, -1.5]), np.zeros(2)])
        >>> found = stable_radius(network, [0.9, 0.1], "top-k", top_k=1, tolerance=1e-4)  # 3 x1 > 1.5 lets x1 lead
        >>> found.lower < 0.4 <= found.upper < 0.41
        True
    """
    first = maps_on_box(network, x, 0.0, label=label, domain=domain, map=map)
    assert first.condition is not None
    assert first.anchor is not None
    point = first.anchor
    c = first.condition
    reference = c.map.exact(ExactNetwork(network), c.output, [Fraction(v) for v in point.tolist()])
    objective = _objective(what, reference, top_k)

    def ask(epsilon: float, deadline: Deadline) -> Extreme:
        query = maps_on_box(network, x, epsilon, label=label, domain=domain, map=map)
        return largest(query, objective, target=0.0, deadline=deadline, settings=settings)

    return largest_radius(ask, point, most, tolerance, Deadline.after(timeout))


def _objective(what: str, reference: Sequence[Fraction], top_k: int) -> Objective:
    """What must not become positive."""
    n = len(reference)
    order = sorted(range(n), key=lambda k: -reference[k])
    if what == "signs":
        entries = tuple(k for k in range(n) if reference[k] != 0)
        if not entries:
            raise InputError("the map is zero everywhere at the input: it has no signs")
        return ChangesSign(entries, tuple(1 if reference[k] > 0 else -1 for k in entries))
    if what not in ("top-k", "ranking"):
        raise InputError(f"there is no stability of {what!r}", fix='one of "top-k", "signs", "ranking"')
    if (what == "top-k" or top_k) and not 1 <= top_k < n:
        raise InputError(f"top_k must be between 1 and {n - 1}, got {top_k}")
    if what == "top-k":
        return Overtakes(tuple(order[:top_k]), tuple(order[top_k:]), paired=False)
    if not top_k:
        return Overtakes(tuple(order[:-1]), tuple(order[1:]), paired=True)
    before = order[: top_k - 1] + [order[top_k - 1]] * (n - top_k)
    return Overtakes(tuple(before), tuple(order[1:]), paired=True)
