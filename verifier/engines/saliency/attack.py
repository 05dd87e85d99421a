"""Counterexamples with a similar map: descent on the map's distance among inputs that meet the rest of the query.

The map is constant on each linear region, so its distance has no slope to follow. Its smoothed version has: with the
phases ``1[z > 0]`` replaced by ``σ(z/τ)`` (as saliency maps are attacked by softplus networks: Dombrowski et al.,
NeurIPS 2019), the derivative of ``Σ w g`` with respect to a phase of layer r is ``t_r h_r``, where h is what comes from
the output and t what comes from the weights w at the input, and each phase moves with its z. τ shrinks from step to step.
Points that fail the rest of the query climb its margin instead.
"""

from __future__ import annotations

import numpy as np

from verifier.engines.saliency.form import INPUT
from verifier.engines.saliency.problem import Problem
from verifier.limits import Deadline
from verifier.network.operators import Array
from verifier.search.attack import Margins, pgd
from verifier.search.replay import first_confirmed

BATCH, STEPS = 48, 60
"""Points and steps of one descent."""
PATIENCE, IMPATIENCE = 3, 1
"""After how many descents without progress the search ends, where proofs are hard and where they are not."""
NEAR, FAR = 3.0, 20.0
"""Distances, in radii of the map's box: above the one a descent is no progress, above the other it ends half-way."""
SOFT, SHARP = 2.0, 0.02
"""τ at the first and the last step, in multiples of a preactivation's spread over the box's corners."""
PROGRESS = 0.98
"""The least distance has to fall below so much of what it was to count as progress."""
POWER = 6
"""The largest entry of the map's distance is smoothed to a sum of so high powers."""
CORNERS = 64
"""So many corners of the box measure the spread."""


class MapAttack:
    """Searches for witnesses of a query with a gradient box.

    Attributes:
        distance: the least distance met so far of a map to its box's centre, in multiples of the box's radius.
    """

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        gradient = problem.query.gradient
        assert gradient is not None
        self.problem, self.rng = problem, np.random.default_rng(seed)
        self.margins = Margins.of(problem.query)
        with np.errstate(invalid="ignore"):
            self.center = (gradient.lower + gradient.upper) / 2
        radius = (gradient.upper - gradient.lower) / 2
        bounded = np.isfinite(radius)  # maps of other kinds bound some entries only, or from one side
        self.center = np.where(bounded, self.center, 0.0)
        self.radius = np.where(bounded, np.maximum(radius, 1e-12 * (1 + np.abs(self.center))), np.inf)
        self.distance = np.inf
        box = problem.query.box
        corners = np.where(self.rng.random((CORNERS, box.size)) < 0.5, box.lower, box.upper)
        self.spread = [z.std(axis=0) + 1e-12 for z in problem.form.preactivations(corners)]

    def run(self, known: Array, deadline: Deadline, patience: int = PATIENCE) -> Array | None:
        """Descents from points around known ones until a witness is met, the deadline passes, or they lead no further.

        Args:
            known: ``(k, n)``: inputs that meet all but the condition on the map.
            patience: descents without progress after which the search ends.
        """
        query, idle = self.problem.query, 0
        while not deadline.passed and idle < patience:
            x = np.repeat(known, -(-BATCH // len(known)), axis=0)[:BATCH]
            mixed = self.rng.random(x.shape) < self.rng.uniform(0, 0.6, size=(len(x), 1))
            mixed[: len(known)] = False
            x = np.where(mixed, query.box.sample(len(x), self.rng), x)
            disjuncts = self._disjuncts(x)
            met = np.zeros(len(x), dtype=bool)
            for points, margin in pgd(query, x.copy(), disjuncts, steps=15, first=0.1, deadline=deadline):
                fresh = (margin >= 0) & ~met
                x[fresh], met = points[fresh], met | fresh
                if met.all():
                    break
            idle += 1
            if not met.any():
                continue
            before = self.distance
            witness, x, size = self._descend(x[met], disjuncts[met], deadline)
            if witness is not None:
                return witness
            if self.distance < min(PROGRESS * before, NEAR):
                idle = 0
            reached = np.flatnonzero(np.isfinite(size))
            if len(reached):
                known = np.concatenate([known[:1], x[reached[np.argsort(size[reached])][: BATCH // 4]]])
        return None

    def _disjuncts(self, x: Array) -> Array:
        """The disjunct that each point is nearest to."""
        y = self.problem.query.network.forward(x).reshape(len(x), -1)
        return np.asarray(self.margins.at(x, y).argmax(axis=1))

    def _descend(self, x: Array, disjuncts: Array, deadline: Deadline) -> tuple[Array | None, Array, Array]:
        """One descent: a witness, or the best points met and their maps' distances."""
        query = self.problem.query
        best, place = np.full(len(x), np.inf), x.copy()
        velocity = np.zeros_like(x)
        for step in range(STEPS):
            if deadline.passed or (step == STEPS // 2 and best.min() > FAR):
                break
            share = step / (STEPS - 1)
            size, slope = self._map_slope(x, SOFT * (SHARP / SOFT) ** share)
            margin, up = self.margins.ascent(x, disjuncts)
            better = (margin >= 0) & (size < best)
            best, place = np.where(better, size, best), np.where(better[:, None], x, place)
            self.distance = min(self.distance, float(best.min()))
            inside = np.flatnonzero(better & (size <= 1))
            for k in inside:
                witness = first_confirmed(query, x[[k]])
                if witness is not None:
                    return witness, place, best
            down, up = _unit(-slope * query.box.width), _unit(up * query.box.width)
            # along the border of the other rows where they are met, back to it where they are not
            along = (down * up).sum(axis=1, keepdims=True)
            down = np.where((along < 0) & (margin < self._room(margin))[:, None], down - along * up, down)
            move = np.where(margin[:, None] >= 0, _unit(down), up)
            velocity = 0.5 * velocity + move
            rate = 0.15 * 0.05**share
            scaled = 0.5 * np.sign(velocity) + 0.5 * velocity / np.maximum(
                np.abs(velocity).max(axis=1, keepdims=True), 1e-300
            )
            x = query.box.clip(x + rate * query.box.width * scaled)
        return None, place, best

    @staticmethod
    def _room(margin: Array) -> float:
        met = margin[margin >= 0]
        return float(np.median(met)) if len(met) else 0.0

    def _map_slope(self, x: Array, softness: float) -> tuple[Array, Array]:
        """Distances of the maps at points ``(N, n)``, and the slopes of the smoothed distances."""
        form = self.problem.form
        layers = form.layers
        z = form.preactivations(x)
        hard = [(v > 0).astype(np.float64) for v in z]
        soft = [1 / (1 + np.exp(-np.clip(v / (softness * u), -60, 60))) for v, u in zip(z, self.spread, strict=True)]
        size = np.abs((self.problem.gradients(hard)[INPUT] - self.center) / self.radius).max(axis=1)
        h = self.problem.gradients(soft)
        off = (h[INPUT] - self.center) / self.radius
        largest = np.abs(off).max(axis=1, keepdims=True)
        weight = np.sign(off) * np.abs(off / np.maximum(largest, 1e-300)) ** (POWER - 1) / self.radius
        t: dict[int, Array] = {INPUT: weight}
        pull: dict[int, Array] = {}
        for r, layer in enumerate(layers):
            above = sum((m @ t[s].T).T for s, m in layer.matrices.items())
            pull[r] = above * h[r] * soft[r] * (1 - soft[r]) / (softness * self.spread[r])
            t[r] = above * soft[r]
        slope = np.zeros_like(x)
        for r in reversed(range(len(layers))):
            for s, m in layers[r].matrices.items():
                part = (m.T @ pull[r].T).T
                if s == INPUT:
                    slope += part
                else:
                    pull[s] = pull[s] + part * hard[s]
        return size, slope


def _unit(direction: Array) -> Array:
    return np.asarray(direction / np.maximum(np.abs(direction).max(axis=1, keepdims=True), 1e-300))
