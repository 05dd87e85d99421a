"""Counterexamples while boxes are split: hill climbing from many random points at once, for inputs of low dimension.

Where a condition compares outputs that are close to each other nearly everywhere, gradients mislead and box bounds say
little for long, but small steps in some of the inputs climb well: each point keeps the best of its children, with
steps that shrink from round to round (a (1, λ) evolution strategy for each point); then it begins anew.
"""

from __future__ import annotations

import numpy as np

from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.search.attack import batch_size
from verifier.search.replay import first_confirmed

CLIMBERS, CHILDREN, FRESH = 500, 10, 40
"""Points that climb; children of each in a round; random points among which each of them is the best."""
ROUNDS = 10
FIRST_STEP, SHRINK = 0.1, 0.7
"""Standard deviation of the first steps as a share of the box's width, and its factor from round to round."""
MOVED = 0.6
"""Share of the inputs that a step moves."""
HIT, TRIES = 1e-9, 8
"""Points whose rows are all below `HIT` are replayed exactly, at most `TRIES` at once."""


class BoxFalsifier:
    """One search; `step` does a round of it."""

    def __init__(self, query: Query, conditions: Conditions, seed: int) -> None:
        self.query, self.conditions = query, conditions
        self.rng = np.random.default_rng(seed)
        self.count = min(CLIMBERS, batch_size(query.network))
        self.round = 0
        self.evaluated = 0
        """Points evaluated so far."""
        self.points, self.margins = np.zeros((0, query.box.size)), np.zeros(0)

    def step(self) -> Array | None:
        """One round; a confirmed witness if it met one."""
        box = self.query.box
        if self.round == 0:
            points = box.sample(FRESH * self.count, self.rng)
            margins = self._margins(points)
            best = np.argsort(margins)[: self.count]
            self.points, self.margins = points[best], margins[best]
        else:
            size = FIRST_STEP * SHRINK ** (self.round - 1)
            parents = np.repeat(self.points, CHILDREN, axis=0)
            moves = self.rng.normal(size=parents.shape) * (self.rng.random(parents.shape) < MOVED)
            children = box.clip(parents + size * box.width * moves)
            margins = np.column_stack([self.margins, self._margins(children).reshape(-1, CHILDREN)])
            points = np.concatenate([self.points[:, None], children.reshape(-1, CHILDREN, box.size)], axis=1)
            rows, best = np.arange(len(points)), margins.argmin(axis=1)
            self.points, self.margins = points[rows, best], margins[rows, best]
        self.round = (self.round + 1) % (ROUNDS + 1)
        order = np.argsort(self.margins)[:TRIES]
        hits = self.points[order[self.margins[order] <= HIT]]
        witness = first_confirmed(self.query, hits) if len(hits) else None
        return witness

    def _margins(self, points: Array) -> Array:
        size = max(1, self.count)
        self.evaluated += len(points)
        parts = [points[k : k + size] for k in range(0, len(points), size)]
        forward = self.query.network.forward
        return np.concatenate([self.conditions.margins(p, forward(p).reshape(len(p), -1)) for p in parts])
