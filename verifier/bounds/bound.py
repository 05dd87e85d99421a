"""One type for bounds, whatever method they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.operators import Array
from verifier.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class Bound(Shown):
    """``lower <= value <= upper``, elementwise, in the shape of the node it bounds.

    Raises:
        InputError: if the ends differ in shape, are NaN, or cross.
    """

    lower: Array
    upper: Array

    def _facts(self) -> tuple[str, dict[str, str]]:
        shown = " ".join(f"[{a:.6g}, {b:.6g}]" for a, b in zip(self.lower.flat[:4], self.upper.flat[:4], strict=True))
        return "Bound", {"entries": f"{self.lower.size:,}", "ends": shown + " …" * (self.lower.size > 4)}

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise InputError(f"bounds of shapes {self.lower.shape} and {self.upper.shape}")
        if not (self.lower <= self.upper).all():
            raise InputError("a lower bound is above its upper bound, or NaN")

    @property
    def width(self) -> Array:
        """``upper - lower``."""
        return self.upper - self.lower

    def intersect(self, other: Bound) -> Bound:
        """The tighter end of each; where two sound bounds cross by rounding, the outer pair is kept."""
        lower, upper = np.maximum(self.lower, other.lower), np.minimum(self.upper, other.upper)
        crossed = lower > upper
        return Bound(np.where(crossed, upper, lower), np.where(crossed, lower, upper))

    def contains(self, value: Array, tolerance: float = 0.0) -> npt.NDArray[np.bool_]:
        """Whether each value of a batch ``(batch, *shape)`` lies inside, with an absolute tolerance."""
        inside = (value >= self.lower - tolerance) & (value <= self.upper + tolerance)
        return np.asarray(inside.reshape(len(value), -1).all(axis=1))


@dataclass(frozen=True, eq=False, repr=False)
class NetworkBounds(Shown, Mapping[str, Bound]):
    """Bounds by node name.

    Attributes:
        by_node: ``{node name: Bound in the node's shape}``.
        method: "interval", "crown", "alpha-crown" …
    """

    by_node: Mapping[str, Bound]
    method: str

    def _facts(self) -> tuple[str, dict[str, str]]:
        last = list(self.by_node)[-1:]
        facts = {"method": self.method, "nodes": f"{len(self)}"}
        return "NetworkBounds", {**facts, **{f"of {name!r}": repr(self.by_node[name]) for name in last}}

    def __getitem__(self, name: str) -> Bound:
        return self.by_node[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_node)

    def __len__(self) -> int:
        return len(self.by_node)

    def intersect(self, other: NetworkBounds) -> NetworkBounds:
        """The tighter of both, for every node that either knows."""
        merged = dict(self.by_node)
        for name, bound in other.items():
            merged[name] = merged[name].intersect(bound) if name in merged else bound
        return NetworkBounds(merged, f"{self.method}+{other.method}")
