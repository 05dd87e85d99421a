"""Counterexamples while boxes are split: hill climbing from many random points at once, for inputs of low dimension.

Where a condition compares outputs that are close to each other nearly everywhere, gradients mislead and box bounds say
little for long, but small steps in some of the inputs climb well: each point keeps the best of its children, with
steps that shrink from round to round (a (1, λ) evolution strategy for each point); then it begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.falsify.falsifier import Falsifier
from verifier.falsify.search import Search
from verifier.limits import NEVER
from verifier.network.operators import Array
from verifier.properties.query import Query
from verifier.properties.rows import Conditions


@dataclass(frozen=True, kw_only=True)
class ClimbSettings:
    """How points climb.

    Attributes:
        climbers, children, fresh: points that climb; children of each in a round; random points among which each of them
            is the best.
        rounds: of a climb, before it begins anew.
        first_step, shrink: standard deviation of the first steps as a share of the box's width, and its factor from round
            to round.
        moved: share of the inputs that a step moves.
        hit, tries: points whose rows are all below ``hit`` are replayed exactly, at most ``tries`` at once.
    """

    climbers: int = 500
    children: int = 10
    fresh: int = 40
    rounds: int = 10
    first_step: float = 0.1
    shrink: float = 0.7
    moved: float = 0.6
    hit: float = 1e-9
    tries: int = 8


class Climb:
    """The part of a `Falsifier` that climbs.

    Attributes:
        points, margins: ``(k, n)``, ``(k,)`` where it is, and the greatest row of each point's best disjunct.

    Source:
        hill climbing with random restarts; coordinates and steps as in pattern search: Hooke, Jeeves, JACM
        1961.
    """

    done = False

    def __init__(self, query: Query, conditions: Conditions, settings: ClimbSettings = ClimbSettings()) -> None:
        self.conditions, self.settings = conditions, settings
        self.points, self.margins = np.zeros((0, query.box.size)), np.zeros(0)
        self._round = 0

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`: one round."""
        box, s = search.query.box, self.settings
        count = min(s.climbers, search.batch)
        if self._round == 0:
            points = box.sample(s.fresh * count, search.rng)
            margins = self._margins(search, points)
            best = np.argsort(margins)[:count]
            self.points, self.margins = points[best], margins[best]
        else:
            size = s.first_step * s.shrink ** (self._round - 1)
            parents = np.repeat(self.points, s.children, axis=0)
            moves = search.rng.normal(size=parents.shape) * (search.rng.random(parents.shape) < s.moved)
            children = box.clip(parents + size * box.width * moves)
            margins = np.column_stack([self.margins, self._margins(search, children).reshape(-1, s.children)])
            points = np.concatenate([self.points[:, None], children.reshape(-1, s.children, box.size)], axis=1)
            rows, best = np.arange(len(points)), margins.argmin(axis=1)
            self.points, self.margins = points[rows, best], margins[rows, best]
        self._round = (self._round + 1) % (s.rounds + 1)
        order = np.argsort(self.margins)[: s.tries]
        return search.check(self.points[order[self.margins[order] <= s.hit]])

    def _margins(self, search: Search, points: Array) -> Array:
        size = max(1, min(self.settings.climbers, search.batch))
        search.points += len(points)
        some = [points[k : k + size] for k in range(0, len(points), size)]
        forward = search.query.network.forward
        return np.concatenate([self.conditions.margins(p, forward(p).reshape(len(p), -1)) for p in some])


def climbing(query: Query, conditions: Conditions, seed: int) -> Search:
    """A search that climbs, one round a step, for who has other work between the rounds."""
    return Falsifier(parts=lambda: (Climb(query, conditions),)).begin(query, NEVER, seed=seed)
