"""The search for counterexamples of networks with jumps: projected gradient steps along a surrogate slope.

The true gradient is zero nearly everywhere; `verifier.network.steps.Jumping.vjp` has a direction instead. Each point climbs
the margin of the disjunct that it is nearest to. What helps on binarised networks: jumps that no point of the box reaches, by
interval bounds, have no slope (in a small box most signs are fixed, and directions that would move them mislead); signs of
the accumulated direction as steps, half of the inputs left out at random in every other step, and new starts that are the
best point so far with a few inputs moved to an end (most inputs of a good point are at one).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from verifier.bounds.interval import interval_bounds
from verifier.errors import InputError
from verifier.falsify.attack import Margins
from verifier.falsify.search import Search
from verifier.network.operators import Array
from verifier.network.steps import Jumping
from verifier.properties.query import Query


@dataclass(frozen=True, kw_only=True)
class JumpSettings:
    """How points climb where the network jumps.

    Attributes:
        steps: of a climb.
        first, last: sizes of the first and the last step, in widths of the box.
        memory: share of the direction that is kept from step to step.
        flipped: share of the inputs that a new start moves to an end.
    """

    steps: int = 40
    first: float = 0.5
    last: float = 0.05
    memory: float = 0.75
    flipped: float = 0.02


@dataclass(frozen=True, eq=False)
class InBox(Jumping):
    """A function with jumps, some of which entries cannot reach.

    Attributes:
        reached: for each breakpoint, of the argument's shape: whether the entry may reach it.
    """

    reached: tuple[npt.NDArray[np.bool_], ...] = ()

    def vjp(self, grad: Array, x: Array) -> Array:
        return self.surrogate(grad, x, self.reached)


def in_box(query: Query) -> Query:
    """The query with a network whose jumps have slopes only where points of the box may reach them; otherwise the same."""
    network = query.network
    try:
        bounds = interval_bounds(network, query.box)
    except InputError:  # intervals leave the domain of a function
        return query
    nodes = list(network.nodes)
    for k, node in enumerate(nodes):
        jumping = node.operator
        if isinstance(jumping, Jumping):
            low, high = (
                end.reshape(node.shape) for end in (bounds[node.inputs[0]].lower, bounds[node.inputs[0]].upper)
            )
            reached = tuple((low <= b) & (b <= high) for b in jumping.breaks)
            fields = (jumping.breaks, jumping.slopes, jumping.intercepts, jumping.values, jumping.label)
            nodes[k] = replace(node, operator=InBox(*fields, reached))
    return replace(query, network=replace(network, nodes=tuple(nodes)))


def climbs(
    query: Query, count: int, rng: np.random.Generator, settings: JumpSettings = JumpSettings()
) -> Iterator[tuple[Array, Array]]:
    """Batches of points with their margins, ``(count, n)`` and ``(count,)``, without end.

    Args:
        count: points at once.
        rng: of everything random.
        settings: how they climb.

    Source:
        straight-through estimates of a jump's gradient: Bengio, Léonard, Courville, 2013.
    """
    query, s = in_box(query), settings
    box, margins = query.box, Margins.of(query)
    best, best_margin = box.clip(query.start), -np.inf
    turn = 0
    while True:
        x = box.sample(count, rng)
        if turn == 0:
            x[0] = best
        elif turn % 2:
            moved = rng.random(x.shape) < s.flipped * (1 + turn % 5)
            ends = np.where(rng.random(x.shape) < 0.5, box.lower, box.upper)
            x = box.clip(np.where(moved, ends, best))
        direction = np.zeros_like(x)
        for step in range(s.steps):
            y = query.network.forward(x).reshape(len(x), -1)
            disjuncts = margins.at(x, y).argmax(axis=1)
            margin, slope = margins.ascent(x, disjuncts)
            yield x, margin
            top = int(margin.argmax())
            if margin[top] > best_margin:
                best, best_margin = x[top].copy(), float(margin[top])
            size = np.abs(slope).mean(axis=1, keepdims=True)
            direction = s.memory * direction + slope / np.maximum(size, 1e-300)
            kept = 1.0 if step % 2 else rng.random(x.shape) < 0.5
            rate = s.first * (s.last / s.first) ** (step / s.steps)
            x = box.clip(x + rate * box.width * np.sign(direction) * kept)
        turn += 1


class ClimbJumps:
    """The search that networks with jumps get, until the time is over; for others it has nothing to do."""

    done = False

    def __init__(self, settings: JumpSettings = JumpSettings()) -> None:
        self.settings = settings

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`."""
        if not any(isinstance(node.operator, Jumping) for node in search.query.network.activations):
            self.done = True
            return None
        for x, margin in climbs(search.query, min(4, search.batch), search.rng, self.settings):
            search.points += len(x)
            found = search.check(x[margin >= 0])
            if found is not None or search.deadline.passed or not search.query.box.width.any():
                return found
        return None
