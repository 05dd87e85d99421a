"""Boxes on which hardly a ReLU is undecided, settled in rational arithmetic instead of being split for ever.

Bounds in floats cannot tell a tie from a violation: where a row is met with equality, or where rounding is larger
than what is left, the box stays open however small it gets. Such boxes have no or few undecided ReLUs long before
they are small, and ordinary ones are decided before that.
"""

from __future__ import annotations

import numpy as np

from verifier.engines.base import EngineResult
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.native.bounding import ActivationColumns, Block, BoxBounds
from verifier.engines.native.settings import ExactSettings
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.properties.numbers import Point
from verifier.properties.query import Query


class ExactLeaves:
    """Settles boxes of one search.

    Args:
        whole: a search of the whole query region by region, to go on beside; None for none.

    Attributes:
        unsettled: why boxes that were looked at allow no proof, "" if all do.
        settled: boxes settled.
    """

    def __init__(
        self, query: Query, bounds: BoxBounds, settings: ExactSettings, whole: RegionSearch | None = None
    ) -> None:
        self.query, self.columns, self.settings, self.whole = query, bounds.columns, settings, whole
        self.unsettled = ""
        self.settled = 0
        self._exact = ExactNetwork(query.network)
        self._credit = 0.0

    def beside(self, boxes: int, deadline: Deadline) -> EngineResult | None:
        """Go on with the search of the whole query; what it says once it has finished.

        Args:
            boxes: how many were examined since the last call.
        """
        self._credit += self.settings.earned * boxes
        if self.whole is None or not self.whole.run(self.settings.beside * boxes, deadline):
            return None
        return self.whole.result()

    def settle(self, block: Block, deadline: Deadline) -> Point | None:
        """Close the boxes of a block that can be settled; a witness if there is one.

        Args:
            block: ``open`` is changed in place.
        """
        if self.columns is None:
            return None
        undecided = self.columns.undecided(block["pre_low"], block["pre_high"])
        for k in np.flatnonzero(block["open"].any(axis=1) & (undecided <= self.settings.few)):
            if self._credit < 0 or deadline.passed:
                return None
            search = self._search(block, int(k), self.columns)
            search.run(self.settings.per_box, deadline)
            if search.witness is not None:
                return search.witness
            if not search.finished:
                self._credit -= search.work
                continue
            self.settled += 1
            self.unsettled = self.unsettled or search.unsettled
            block["open"][k] = False
        return None

    def _search(self, block: Block, k: int, columns: ActivationColumns) -> RegionSearch:
        count = block["space_count"][k]
        split, phases = block["units"][k, :count], block["phases"][k, :count]
        assumed: dict[str, Array] = {}
        known: dict[str, Array] = {}
        for name, part in columns.relus:
            low, high = block["pre_low"][k, part], block["pre_high"][k, part]
            proved = (low >= 0).astype(np.int8) - ((high <= 0) & (low < 0)).astype(np.int8)
            taken = np.zeros(len(proved), dtype=np.int8)
            here = (split >= part.start) & (split < part.stop)
            taken[split[here] - part.start] = phases[here]
            assumed[name], known[name] = taken, np.where(taken == 0, proved, 0)
        return RegionSearch(
            self.query,
            block["low"][k],
            block["high"][k],
            disjuncts=np.flatnonzero(block["open"][k]).tolist(),
            assumed=assumed,
            known=known,
            exact=self._exact,
        )
