"""Counterexamples with a similar map: descent on the map's distance among inputs that meet the rest of the query.

The map is constant on each linear region, so its distance has no slope to follow. Its smoothed version has: with the
phases ``1[z > 0]`` replaced by ``σ(z/τ)`` (as saliency maps are attacked by softplus networks: Dombrowski et al.,
NeurIPS 2019), the derivative of ``Σ w g`` with respect to a phase of layer r is ``t_r h_r``, where h is what comes from
the output and t what comes from the weights w at the input, and each phase moves with its z. τ shrinks from step to step.
Points that fail the rest of the query climb its margin instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.engines.saliency.problem import Problem
from verifier.falsify.attack import pgd
from verifier.falsify.search import Search
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT


@dataclass(frozen=True, kw_only=True)
class DescentSettings:
    """How maps are moved towards the one that is asked for.

    Attributes:
        batch, steps: points and steps of one descent.
        patience, impatience: after how many descents without progress the search ends, where proofs are hard and where
            they are not.
        near, far: distances, in radii of the map's box: above the one a descent is no progress, above the other it ends
            half-way.
        soft, sharp: τ at the first and the last step, in multiples of a preactivation's spread over the box's corners.
        progress: the least distance has to fall below so much of what it was to count as progress.
        power: the largest entry of the map's distance is smoothed to a sum of so high powers.
        corners: so many corners of the box measure the spread.
    """

    batch: int = 48
    steps: int = 60
    patience: int = 3
    impatience: int = 1
    near: float = 3.0
    far: float = 20.0
    soft: float = 2.0
    sharp: float = 0.02
    progress: float = 0.98
    power: int = 6
    corners: int = 64


class MapDescent:
    """The part of a `Falsifier` that looks for witnesses of a query with a gradient box.

    Attributes:
        distance: the least distance met so far of a map to its box's centre, in multiples of the box's radius.
        center, radius: ``(n,)`` of the map's box; the radius is infinite where an entry is not bounded from both sides.

    Source:
        gradients through smoothed ReLUs to move a map: Dombrowski et al., NeurIPS 2019 (softplus there,
        sigmoid phases here).
    """

    def __init__(
        self,
        problem: Problem,
        known: Array,
        seed: int = 0,
        hard: bool = True,
        settings: DescentSettings = DescentSettings(),
    ) -> None:
        """Begin around known points.

        Args:
            known: ``(k, n)``: inputs that meet all but the condition on the map.
            seed: of everything random.
            hard: whether proofs are hard, so that it pays to be patient.
        """
        gradient = problem.query.gradient
        assert gradient is not None
        self.problem, self.settings, self.rng = problem, settings, np.random.default_rng(seed)
        self._known, self._idle = known, 0
        self._patience = settings.patience if hard else settings.impatience
        with np.errstate(invalid="ignore"):
            self.center = (gradient.lower + gradient.upper) / 2
        radius = (gradient.upper - gradient.lower) / 2
        bounded = np.isfinite(radius)  # maps of other kinds bound some entries only, or from one side
        self.center = np.where(bounded, self.center, 0.0)
        self.radius = np.where(bounded, np.maximum(radius, 1e-12 * (1 + np.abs(self.center))), np.inf)
        self.distance = np.inf
        box = problem.query.box
        corners = np.where(self.rng.random((settings.corners, box.size)) < 0.5, box.lower, box.upper)
        self.spread = [z.std(axis=0) + 1e-12 for z in problem.form.preactivations(corners)]

    @property
    def done(self) -> bool:
        """Whether descents lead no further."""
        return self._idle >= self._patience

    def step(self, search: Search, turn: int) -> Array | None:
        """See `verifier.falsify.search.Part.step`: one descent from points around known ones."""
        query, known, size = search.query, self._known, self.settings.batch
        x = np.repeat(known, -(-size // len(known)), axis=0)[:size]
        mixed = self.rng.random(x.shape) < self.rng.uniform(0, 0.6, size=(len(x), 1))
        mixed[: len(known)] = False
        x = np.where(mixed, query.box.sample(len(x), self.rng), x)
        disjuncts = np.asarray(search.evaluate(x).argmax(axis=1))
        met = np.zeros(len(x), dtype=bool)
        for points, margin in pgd(query, x.copy(), disjuncts, steps=15, first=0.1, deadline=search.deadline):
            search.points += len(points)
            fresh = (margin >= 0) & ~met
            x[fresh], met = points[fresh], met | fresh
            if met.all():
                break
        self._idle += 1
        if not met.any():
            return None
        before = self.distance
        witness, x, distances = self._descend(search, x[met], disjuncts[met])
        if witness is not None:
            return witness
        if self.distance < min(self.settings.progress * before, self.settings.near):
            self._idle = 0
        reached = np.flatnonzero(np.isfinite(distances))
        if len(reached):
            self._known = np.concatenate([known[:1], x[reached[np.argsort(distances[reached])][: size // 4]]])
        return None

    def _descend(self, search: Search, x: Array, disjuncts: Array) -> tuple[Array | None, Array, Array]:
        """One descent: a witness, or the best points met and their maps' distances."""
        query, s = search.query, self.settings
        best, place = np.full(len(x), np.inf), x.copy()
        velocity = np.zeros_like(x)
        for step in range(s.steps):
            if search.deadline.passed or (step == s.steps // 2 and best.min() > s.far):
                break
            share = step / (s.steps - 1)
            size, slope = self._map_slope(x, s.soft * (s.sharp / s.soft) ** share)
            margin, up = search.margins.ascent(x, disjuncts)
            better = (margin >= 0) & (size < best)
            best, place = np.where(better, size, best), np.where(better[:, None], x, place)
            self.distance = min(self.distance, float(best.min()))
            inside = np.flatnonzero(better & (size <= 1))
            for k in inside:
                witness = search.check(x[[k]])
                if witness is not None:
                    return witness, place, best
            down, up = _unit(-slope * query.box.width), _unit(up * query.box.width)
            # along the border of the other rows where they are met, back to it where they are not
            along = (down * up).sum(axis=1, keepdims=True)
            down = np.where((along < 0) & (margin < _middle(margin))[:, None], down - along * up, down)
            move = np.where(margin[:, None] >= 0, _unit(down), up)
            velocity = 0.5 * velocity + move
            rate = 0.15 * 0.05**share
            scaled = 0.5 * np.sign(velocity) + 0.5 * velocity / np.maximum(
                np.abs(velocity).max(axis=1, keepdims=True), 1e-300
            )
            x = query.box.clip(x + rate * query.box.width * scaled)
        return None, place, best

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
        weight = np.sign(off) * np.abs(off / np.maximum(largest, 1e-300)) ** (self.settings.power - 1) / self.radius
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


def _middle(margin: Array) -> float:
    """The median of the margins that are met; 0 if none is."""
    met = margin[margin >= 0]
    return float(np.median(met)) if len(met) else 0.0


def _unit(direction: Array) -> Array:
    return np.asarray(direction / np.maximum(np.abs(direction).max(axis=1, keepdims=True), 1e-300))
