"""The search tree: how the input set was divided, in a form that can be written out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array


@dataclass(eq=False)
class SearchTree:
    """The nodes of a search in blocks, in the order in which they were bounded; node 0 is the root box.

    Each block has ``parent`` (number of the parent, -1 for the root), ``low`` and ``high`` (the box, after cuts
    that CROWN's linear functions justify), ``units`` and ``phases`` (the ReLUs that were split on the way to this
    node and their signs; unit -1: none). Nodes that are nobody's parent are leaves: there every case is
    refuted by CROWN's rows and the multipliers of the linear program of `verifier.engines.native.decide`.
    """

    parent: list[npt.NDArray[np.int64]] = field(default_factory=list)
    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)
    units: list[npt.NDArray[np.int64]] = field(default_factory=list)
    phases: list[npt.NDArray[np.int8]] = field(default_factory=list)
    count: int = 0

    def add(self, block: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
        """Record bounded nodes; returns their numbers."""
        for name in ("parent", "low", "high", "units", "phases"):
            getattr(self, name).append(block[name].copy())
        numbers = np.arange(self.count, self.count + len(block["parent"]))
        self.count += len(numbers)
        return numbers

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All nodes as one array per field, for `numpy.savez`."""
        names = ("parent", "low", "high", "units", "phases")
        return {name: np.concatenate(getattr(self, name)) for name in names if self.count}
