"""What an abductive explanation is about: an input, its label, the features and how far they may move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.explain.features import Features, columns
from verifier.falsify.replay import replay
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.builders import Domain, network_domain, robustness
from verifier.properties.query import Query
from verifier.properties.sets import Box, Ends

CLEARLY = 1e-9
"""A label is taken for wrong in float64 if the margin exceeds this share of the outputs: the exact replay will agree."""


@dataclass(eq=False)
class Explained:
    """One input, its label, and the region in which features may move.

    Args:
        epsilon, domain, label, features: as for `verifier.explain.explain`.

    Raises:
        InputError, PropertyError: as `verifier.explain.explain`.
    """

    network: Network
    given: npt.ArrayLike
    epsilon: float | None
    domain: Domain = "network"
    wanted: int | None = None
    chosen: Features | None = None
    x: Array = field(init=False)
    """``(n,)`` the input."""
    label: int = field(init=False)
    features: Features = field(init=False)
    query: Query = field(init=False)
    """The whole region: every feature is free."""

    def __post_init__(self) -> None:
        self.features = self.chosen or columns(self.network)
        if self.features.size != self.network.input_size:
            raise InputError(
                f"features of {self.features.size} inputs for a network with {self.network.input_size}",
                place=self.network.source,
            )
        self._ends: Ends | None = network_domain(self.network, self.domain)
        if self._ends is None and self.epsilon is None:
            raise InputError("neither epsilon nor a domain says how far free inputs may move", fix="give one of them")
        # it also checks x, label and epsilon
        self.query = robustness(self.network, self.given, self._radius, label=self.wanted, domain=self._ends)
        assert self.query.anchor is not None
        self.x = self.query.anchor
        self.label = int(np.argmax(self.network.forward(self.x))) if self.wanted is None else self.wanted
        self._exact = ExactNetwork(self.network)
        if self.refuted_by(self.x):
            raise InputError(
                f"label {self.label} is not the network's own at the input (or ties there): there is nothing to explain"
            )
        self.low, self.high = self.query.box.inside
        """``(n,)`` the least and the largest float64 numbers of the region."""

    @property
    def _radius(self) -> float:
        if self.epsilon is not None:
            return self.epsilon
        assert self._ends is not None
        return float(np.max(np.asarray(self._ends[1]) - np.asarray(self._ends[0])))

    @property
    def margins(self) -> Array:
        """Rows ``y_label - y_j`` over the outputs, ``(m - 1, m)``."""
        rows = -np.eye(self.network.output_size)
        rows[:, self.label] += 1.0
        return np.delete(rows, self.label, axis=0)

    def box(self, free: Iterable[int]) -> Box:
        """The region in which only some features move."""
        mask = self.features.mask(free)
        ends = self._ends or (-np.inf, np.inf)
        low, high = (np.broadcast_to(np.asarray(e, dtype=np.float64), self.x.shape) for e in ends)
        return Box.around(self.x, self._radius, (np.where(mask, low, self.x), np.where(mask, high, self.x)))

    def changed(self, point: Array) -> frozenset[int]:
        """The features in which an input differs from x.

        Shapes: point ``(n,)``.
        """
        return self.features.changed(self.x, point)

    def clearly_wrong(self, y: Array) -> npt.NDArray[np.bool_]:
        """``(…)``: whether outputs ``(…, m)`` in float64 give another label, by more than their rounding errors."""
        margin = np.delete(y, self.label, axis=-1).max(axis=-1) - y[..., self.label]
        return np.asarray(margin > CLEARLY * np.maximum(np.abs(y).max(axis=-1), 1.0))

    def refuted_by(self, point: Array) -> bool:
        """Whether the label at a point of the region is another one or ties, in exact arithmetic.

        Shapes: point ``(n,)``.
        """
        if self.network.is_curved or self.network.integer_inputs:
            return replay(self.query, point, self._exact).exact
        if not self.query.box.contains(point):
            return False
        y = self._exact.output(point)
        return any(v >= y[self.label] for j, v in enumerate(y) if j != self.label)
