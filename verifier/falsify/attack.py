"""Gradient attacks on any query: projected gradient ascent on the margins, batched, in numpy.

The *margin* of a disjunct at a point is the smallest slack of its rows over inputs and outputs; a point with all
margins >= 0 meets the condition on values. Where a query also speaks of the network's gradient, which is
constant on each linear region, there is no slope to follow: there the attack finds points that meet the rest,
and `verifier.falsify.lines` looks for the right gradient from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query

Disjuncts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Margins:
    """What the attack ascends: margins of disjuncts and their gradients.

    Attributes:
        query: the query.
        parts: for each disjunct its rows together with the common ones.

    Source:
        the margin loss of Carlini, Wagner, IEEE S&P 2017, for any rows.
    """

    query: Query
    parts: tuple[tuple[Conjunction, ...], ...]

    @staticmethod
    def of(query: Query) -> Margins:
        """The margins of a query."""
        common = () if query.common is None or not len(query.common) else (query.common,)
        return Margins(query, tuple((*common, disjunct) for disjunct in query.disjuncts))

    def slack(self, disjunct: int, x: Array, y: Array) -> Array:
        """Slack of every row that does not speak of the gradient: ``(batch, rows)``."""
        found = [_values_only(part, x, y) for part in self.parts[disjunct]]
        return np.concatenate(found, axis=1) if found else np.zeros((len(x), 0))

    def at(self, x: Array, y: Array) -> Array:
        """The margin of every disjunct: ``(batch, disjuncts)``."""
        result = np.full((len(x), len(self.parts)), np.inf)
        for disjunct in range(len(self.parts)):
            slack = self.slack(disjunct, x, y)
            if slack.shape[1]:
                result[:, disjunct] = slack.min(axis=1)
        return result

    def ascent(self, x: Array, disjuncts: Disjuncts, softness: float = 0.0) -> tuple[Array, Array]:
        """Margin of each point's own disjunct, and the direction in which it grows fastest: ``(batch,)``, ``(batch, n)``.

        Where the margin is locally constant (all neurons on the way are off), a direction that may wake it up.

        Args:
            disjuncts: index of the disjunct of each point.
            softness: 0 follows the worst row alone; above 0, every row counts with weight
                ``exp(-(slack - worst) / (softness * spread))``, so that rows do not take turns.
        """
        network = self.query.network
        values = network.values(x)
        y = values[network.output].reshape(len(x), -1)
        margin = np.full(len(x), np.inf)
        seed, direct = np.zeros_like(y), np.zeros_like(x)
        for disjunct in np.unique(disjuncts):
            chosen = np.flatnonzero(disjuncts == disjunct)
            slack = self.slack(int(disjunct), x[chosen], y[chosen])
            if not slack.shape[1]:
                continue
            worst = slack.min(axis=1, keepdims=True)
            margin[chosen] = worst[:, 0]
            if softness > 0:
                # rows that speak of the gradient have an infinite slack here, and no share
                least = np.where(np.isfinite(worst), worst, 0.0)
                spread = np.maximum(np.abs(least), 1e-12) * softness
                share = np.exp(-np.minimum((slack - least) / spread, 50.0)) * np.isfinite(slack)
            else:
                share = np.zeros_like(slack)
                share[np.arange(len(chosen)), slack.argmin(axis=1)] = 1.0
            start = 0
            for part in self.parts[int(disjunct)]:
                weight = share[:, start : start + len(part)]
                start += len(part)
                if part.y_rows is not None:
                    seed[chosen] -= (part.y_rows.T @ weight.T).T
                if part.x_rows is not None:
                    direct[chosen] -= (part.x_rows.T @ weight.T).T
        slope = direct + network.backward(values, seed)[network.input].reshape(len(x), -1)
        stuck = ~slope.any(axis=1) & seed.any(axis=1)
        if stuck.any():
            # every path is switched off here: point to where the network with all its neurons on would climb
            awake = {name: np.abs(value[stuck]) for name, value in values.items()}
            slope[stuck] = network.backward(awake, seed[stuck])[network.input].reshape(int(stuck.sum()), -1)
        return margin, np.where(np.isfinite(slope), slope, 0.0)  # values may overflow; points may not


def _values_only(part: Conjunction, x: Array, y: Array) -> Array:
    """Slack of a part's rows; rows that speak of the gradient count as met here."""
    total = np.broadcast_to(part.bound, (len(x), len(part))).copy()
    for rows, value in ((part.x_rows, x), (part.y_rows, y)):
        if rows is not None:
            total -= (rows @ value.T).T
    if part.g_rows is not None:
        speaks = np.asarray(abs(part.g_rows).sum(axis=1)).reshape(-1) > 0
        total[:, speaks] = np.inf
    return total


def batch_size(network: Network, budget: float = 2e7) -> int:
    """How many points to evaluate at once: so that about ``budget`` multiplications are in flight, 1 to 512."""
    work = 1.0
    for node in network:
        if isinstance(node.operator, Conv):
            work += node.size * node.operator.weight[0].size
        else:
            sparse = getattr(node.operator, "sparse_weight", None)
            weight = getattr(node.operator, "weight_shape", (0, 0))
            work += node.size + (sparse.nnz if sparse is not None else weight[0] * weight[1])
    return int(np.clip(budget / work, 1, 512))


def starts(query: Query, count: int, rng: np.random.Generator) -> Array:
    """Where attacks begin: the anchor, the centre, corners (all, if they are few), random points: ``(count, n)``."""
    box = query.box
    free = np.flatnonzero(box.width > 0)
    found = [query.box.clip(query.start)[None], box.center[None]]
    if len(free) <= 6:
        corners = np.repeat(box.lower[None], 2 ** len(free), axis=0)
        choice = np.array(list(product((False, True), repeat=len(free))), dtype=bool).reshape(len(corners), len(free))
        corners[:, free] = np.where(choice, box.upper[free], box.lower[free])
    else:
        corners = np.where(rng.random((count // 4 + 1, box.size)) < 0.5, box.lower, box.upper)
    found.append(corners[: max(1, count // 2)])
    have = sum(len(f) for f in found)
    if count > have:
        found.append(box.sample(count - have, rng))
    return np.concatenate(found)[:count]


def sharpest_corners(query: Query, x: Array) -> Array:
    """FGSM: for each point and disjunct the corner of the box that the margin's slope points to: ``(batch · disjuncts, n)``.

    Source:
        FGSM: Goodfellow, Shlens, Szegedy, ICLR 2015.
    """
    margins = Margins.of(query)
    found = []
    for disjunct in range(len(query.disjuncts)):
        _, slope = margins.ascent(x, np.full(len(x), disjunct))
        found.append(np.where(slope > 0, query.box.upper, np.where(slope < 0, query.box.lower, x)))
    return np.concatenate(found)


def diversify(query: Query, x: Array, rng: np.random.Generator, steps: int = 5) -> Array:
    """Spread points over what the outputs can do: each climbs a random combination of outputs for a few steps.

    Shapes: x ``(batch, n)``.

    Points that start far apart in the input often climb to the same optimum; points whose outputs differ do not
    (output diversified initialisation: Tashiro, Song, Ermon, *Diversity can be Transferred*, NeurIPS 2020).

    Source:
        output diversified initialization: Tashiro, Song, Ermon, NeurIPS 2020.
    """
    network, box = query.network, query.box
    weights = rng.uniform(-1.0, 1.0, (len(x), network.output_size))
    for _ in range(steps):
        slope = network.backward(network.values(x), weights)[network.input].reshape(len(x), -1)
        x = box.clip(x + 0.5 * box.width * np.sign(slope))
    return x


def polish(query: Query, x: Array, disjunct: int, deadline: Deadline, steps: int = 25) -> Iterator[Array]:
    """Climb the worst row's margin from one point by linear programs in a shrinking box around it.

    Shapes: x ``(n,)``.

    Where several rows compete, or the box's faces do, gradient steps stall short of the best point; the linear
    program weighs all rows at once. For networks of few inputs and outputs. Yields each better point.

    Source:
        sequential linear programming in a trust region: Griffith, Stewart, Management Science 1961.
    """
    from verifier.lp.program import LinearProgram

    network, box, margins = query.network, query.box, Margins.of(query)
    free = box.width > 0
    radius = 0.1
    y = network.forward(x[None]).reshape(1, -1)
    best = margins.slack(disjunct, x[None], y)[0].min(initial=np.inf)
    for _ in range(steps):
        if deadline.passed or radius < 1e-7 or not np.isfinite(best):
            return
        slack = margins.slack(disjunct, x[None], y)[0]
        slopes = _row_slopes(margins, disjunct, _jacobian(network, x))
        low = np.maximum(box.lower - x, -radius * box.width)
        high = np.minimum(box.upper - x, radius * box.width)
        rows = np.isfinite(slack)
        # maximise t with slack + slopes @ d >= t
        matrix = np.hstack([-slopes[rows][:, free], np.ones((int(rows.sum()), 1))])
        cost = np.zeros(int(free.sum()) + 1)
        cost[-1] = -1.0
        program = LinearProgram(
            matrix,
            np.full(len(matrix), -np.inf),
            slack[rows],
            np.append(low[free], -np.inf),
            np.append(high[free], np.inf),
            cost,
        )
        point = program.solve(deadline).point
        if point is None:
            return
        candidate = x.copy()
        candidate[free] += point[:-1]
        candidate = box.clip(candidate)
        reached = network.forward(candidate[None]).reshape(1, -1)
        margin = margins.slack(disjunct, candidate[None], reached)[0].min()
        if margin > best:
            x, y, best = candidate, reached, margin
            yield x
        else:
            radius /= 3


def _jacobian(network: Network, x: Array) -> Array:
    """All outputs' gradients at one point: ``(m, n)``."""
    count = network.output_size
    values = network.values(np.repeat(x[None], count, axis=0))
    return np.asarray(network.backward(values, np.eye(count))[network.input].reshape(count, -1))


def _row_slopes(margins: Margins, disjunct: int, jacobian: Array) -> Array:
    """How each row's slack grows with the input: ``(rows, n)``."""
    found = []
    for part in margins.parts[disjunct]:
        rows = np.zeros((len(part), jacobian.shape[1]))
        if part.y_rows is not None:
            rows -= part.y_rows @ jacobian
        if part.x_rows is not None:
            rows -= part.x_rows.toarray() if hasattr(part.x_rows, "toarray") else part.x_rows
        found.append(rows)
    return np.concatenate(found)


def pgd(
    query: Query,
    x: Array,
    disjuncts: Disjuncts,
    *,
    steps: int = 30,
    first: float = 0.25,
    last: float = 0.005,
    softness: float = 0.0,
    momentum: float = 0.5,
    deadline: Deadline,
) -> Iterator[tuple[Array, Array]]:
    """Projected sign-gradient ascent with momentum; yields ``(points, margins)`` of every step.

    Args:
        x: ``(batch, n)`` starting points inside the box.
        disjuncts: the disjunct that each point works on.
        steps: number of steps; the step size falls geometrically from ``first`` to ``last`` box widths.
        softness: see `Margins.ascent`.

    Source:
        PGD: Madry et al., ICLR 2018; momentum: MI-FGSM, Dong et al., CVPR 2018.
    """
    margins, width = Margins.of(query), query.box.width
    velocity = np.zeros_like(x)
    for k in range(steps + 1):
        if deadline.passed:
            return
        margin, slope = margins.ascent(x, disjuncts, softness)
        yield x, margin
        scaled = slope * width
        size = np.abs(scaled).max(axis=1, keepdims=True)
        velocity = momentum * velocity + scaled / np.maximum(size, 1e-300)
        rate = first * (last / first) ** (k / max(1, steps))
        # half sign step, half true direction: signs move every input, the direction settles rows that compete
        move = 0.5 * np.sign(velocity) + 0.5 * velocity / np.maximum(
            np.abs(velocity).max(axis=1, keepdims=True), 1e-300
        )
        x = query.box.clip(x + rate * width * move)


def ascend(query: Query, x: Array, steps: int = 12) -> Iterator[Array]:
    """Points near ``x`` where the condition holds with more room, by growing steps up the worst row's slope.

    Shapes: x ``(n,)``.
    """
    margins = Margins.of(query)
    values = query.network.forward(x[None]).reshape(1, -1)
    disjunct = np.array([int(margins.at(x[None], values).argmax())])
    point, rate = x[None], 1e-8
    for _ in range(steps):
        _, slope = margins.ascent(point, disjunct)
        scaled = slope * query.box.width
        size = np.abs(scaled).max()
        if size == 0:
            return
        point = query.box.clip(point + rate * query.box.width * scaled / size)
        yield point[0]
        rate *= 3.0
