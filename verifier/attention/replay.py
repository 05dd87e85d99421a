"""Label and inconsistency at one parameter, on the original network, in exact rational arithmetic.

What refutes a claim about an image is looked at here again, and so is what hangs on rounding: a region whose
inconsistency is within rounding of the bound. The perturbed pixels are those of the encoding, computed exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import isqrt

import numpy as np

from verifier.attention.inconsistency import Inconsistency
from verifier.encodings.perturbations import Perturbed
from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.network.rationals import Rationals

SLACK = 1e-9
"""An expected map that moves, or is a mean, is computed in float64: then "above the bound" needs this much more
(relative to 1 and to the value), which is a million times its rounding."""


class Replay:
    """Exact evaluation for one image.

    Args:
        perturbed: network, image and perturbations.
        settings: how inconsistency is measured.
        label: the label that should hold.
    """

    def __init__(self, perturbed: Perturbed, settings: Inconsistency, label: int) -> None:
        self.perturbed, self.settings, self.label = perturbed, settings, label
        self._prefix, self._network = ExactNetwork(perturbed.network), ExactNetwork(perturbed.original)

    def pixels(self, theta: Sequence[Fraction] | Array) -> Rationals:
        """The perturbed image, exactly; in the shape of the original network's input, one in a batch."""
        name = self.perturbed.pixels
        found = self._prefix.values(theta, stop=name)[name]
        return Rationals(found.numerators.reshape(1, *self.perturbed.original.input_shape), found.denominator)

    def margin(self, theta: Sequence[Fraction] | Array) -> Fraction:
        """The label's output less the largest other one; the label holds where this is positive.

        Shapes: theta ``(d,)``.

        A tie is no classification: at margin 0 the label does not hold.
        """
        network = self.perturbed.original
        outputs = self._network.values(self.pixels(theta))[network.output].fractions()
        return outputs[self.label] - max(v for j, v in enumerate(outputs) if j != self.label)

    def exceeds(self, theta: Sequence[Fraction] | Array, delta: float) -> bool | None:
        """Whether the inconsistency is above delta; None if that cannot be told from rounding.

        Shapes: theta ``(d,)``.

        Gradients follow the convention ReLU'(0) = 0. Where the expected map stands still and is not a mean,
        everything is exact.
        """
        exact = self._static and self.settings.filter != "mean3"
        maps = self._maps(self.pixels(theta))
        if not exact:
            floats = self.settings.filtered(np.array(maps, dtype=np.float64).reshape(-1, *self.perturbed.image.shape))
            point = np.array([[float(v) for v in theta]])
            value = self._distance(floats - self.settings.expected(self.perturbed, point, self.label)[0])
            slack = SLACK * (1.0 + value + float(np.abs(floats).sum()))
            return True if value > delta + slack else (False if value < delta - slack else None)
        if self.settings.filter == "absolute":
            maps = [abs(m) for m in maps]
        gaps = [m - e for m, e in zip(maps, self._reference, strict=True)]
        bound = Fraction(delta)
        if self.settings.norm == 1:
            return bool(sum((abs(v) for gap in gaps for v in gap), Fraction(0)) > bound)
        return roots_exceed([sum((v * v for v in gap), Fraction(0)) for gap in gaps], bound)

    def range_over(self, polygon: Array) -> tuple[float, float]:
        """Bounds on the inconsistency over a region, its saliency map taken exactly at the center.

        Shapes: polygon ``(k, d)``.

        The map is constant on the region and the expected one affine: the maximum is at a vertex, and the distance
        from the center's value at most the way that the expected map moves.
        """
        center = polygon.mean(axis=0)
        maps = np.array(self._maps(self.pixels(center)), dtype=np.float64).reshape(-1, *self.perturbed.image.shape)
        expected = self.settings.expected(self.perturbed, np.concatenate([center[None], polygon]), self.label)
        here, *ends = (self._distance(self.settings.filtered(maps) - e) for e in expected)
        moved = max(self._distance(e - expected[0]) for e in expected)
        return max(0.0, here - moved), max(here, *ends)

    def _distance(self, gap: Array) -> float:
        flat = gap.reshape(len(gap), -1)
        return float(np.abs(flat).sum() if self.settings.norm == 1 else np.sqrt((flat**2).sum(axis=1)).sum())

    @property
    def _static(self) -> bool:
        probe = np.zeros((1, *self.perturbed.image.shape))
        return all(p.map_path(probe) is None for p in self.perturbed.perturbations)

    @cached_property
    def _reference(self) -> list[Array]:
        image = Rationals.of(self.perturbed.image.reshape(1, *self.perturbed.original.input_shape))
        maps = self._maps(image)
        return [abs(m) for m in maps] if self.settings.filter == "absolute" else maps

    def _maps(self, pixels: Rationals) -> list[Array]:
        """The unfiltered maps of an image, one object array of rationals for each class."""
        outputs = self.settings.outputs(self.perturbed, self.label)
        total: list[Array] = [np.full(self.perturbed.image.size, Fraction(0), dtype=object) for _ in outputs]
        copies = self.settings.copies(self.perturbed.image)
        for scale, shift in copies:
            share = Fraction(scale)
            scaled = Rationals(pixels.numerators * share.numerator, pixels.denominator * share.denominator)
            moved = Rationals.of(np.asarray(shift, dtype=np.float64).reshape(pixels.numerators.shape))
            values = self._network.values(scaled + moved)
            for k, j in enumerate(outputs):
                total[k] = total[k] + np.array(self._network.gradient((), j, values), dtype=object)
        if len(copies) > 1:
            total = [t / len(copies) for t in total]
        if self.settings.map == "integrated":
            away = np.array(pixels.fractions(), dtype=object) - Fraction(self.settings.baseline)
            total = [t * away for t in total]
        return total


def roots_exceed(squares: Sequence[Fraction], bound: Fraction) -> bool | None:
    """Whether the sum of some square roots is above a bound; None if 2000 bits do not tell (they are equal, surely)."""
    rest = []
    for q in squares:
        top, bottom = isqrt(q.numerator), isqrt(q.denominator)
        if top * top == q.numerator and bottom * bottom == q.denominator:
            bound -= Fraction(top, bottom)
        else:
            rest.append(q)
    if not rest or bound <= 0:
        return bool(bound < 0 or rest)
    if len(rest) == 1:
        return bool(rest[0] > bound * bound)
    for bits in (64, 400, 2000):
        low = sum(Fraction(isqrt((q.numerator << 2 * bits) // q.denominator), 1 << bits) for q in rest)
        if low > bound:
            return True
        if low + Fraction(len(rest), 1 << bits) <= bound:
            return False
    return None
