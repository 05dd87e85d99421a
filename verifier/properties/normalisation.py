"""A network's own normalisation: data are given to it as ``(x - mean) / std``, and radii are meant in the data's units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.numbers import Numbers
from verifier.properties.sets import Box, Ends

Radius = float | str | Fraction
"""A number, or text such as "2/255", which is taken exactly."""


def exact_radius(epsilon: Radius) -> Fraction:
    """A radius without rounding.

    Raises:
        InputError: no number, or one below 0.
    """
    number = epsilon.item() if isinstance(epsilon, (np.generic, np.ndarray)) and epsilon.size == 1 else epsilon
    try:
        exact = Fraction(number.replace(" ", "")) if isinstance(number, str) else Fraction(number)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise InputError(f"{epsilon!r} is no radius", fix='a number, or text such as "2/255"') from None
    if exact < 0:
        raise InputError(f"a radius must be at least 0, and is {epsilon}")
    return exact


@dataclass(frozen=True, eq=False)
class Normalisation:
    """``(x - mean) / std``, entry by entry.

    Attributes:
        mean, std: ``(n,)``; no std is 0.
    """

    mean: Array
    std: Array

    @staticmethod
    def of(network: Network, mean: npt.ArrayLike | None, std: npt.ArrayLike | None) -> Normalisation:
        """From one number each, or one per channel; None: 0 and 1.

        Raises:
            InputError: another number of numbers, none that is finite, or a std of 0.
        """
        found = Normalisation(_per_entry(mean, network, "mean"), _per_entry(std, network, "std"))
        if not np.isfinite(found.mean).all() or not np.isfinite(found.std).all() or (found.std == 0).any():
            raise InputError("mean and std must be finite, and std not 0")
        return found

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not self.mean.any() and bool((self.std == 1).all())

    def apply(self, x: Array) -> Array:
        """Data ``(…, n)`` as the network takes them."""
        return (x - self.mean) / self.std

    def invert(self, x: Array) -> Array:
        """What the network takes as data ``(…, n)``."""
        return x * self.std + self.mean

    def box(self, x: Array, radius: Fraction, domain: Ends | None) -> Box:
        """``(clip(x ± radius) - mean) / std`` in rationals.

        Raises:
            InputError: x is outside the domain.
        """
        ends: tuple[list[Fraction], list[Fraction]] = ([], [])
        cut = None
        if domain is not None:
            cut = [np.broadcast_to(np.asarray(end, dtype=np.float64), x.shape).tolist() for end in domain]
            outside = np.flatnonzero((x < np.asarray(cut[0])) | (x > np.asarray(cut[1])))
            if outside.size:
                k = int(outside[0])
                raise InputError(
                    f"entry {k} of the input is {x[k]:g}, outside the domain [{cut[0][k]:g}, {cut[1][k]:g}]",
                    fix="scale the input, or name its domain (--domain / domain=)",
                )
        for k, (value, m, s) in enumerate(zip(x.tolist(), self.mean.tolist(), self.std.tolist(), strict=True)):
            low, high = Fraction(value) - radius, Fraction(value) + radius
            if cut is not None:
                low, high = max(low, Fraction(cut[0][k])), min(high, Fraction(cut[1][k]))
            both = sorted(((low - Fraction(m)) / Fraction(s), (high - Fraction(m)) / Fraction(s)))
            ends[0].append(both[0])
            ends[1].append(both[1])
        return Box.exactly(Numbers.given_as(ends[0]), Numbers.given_as(ends[1]))


def _per_entry(numbers: npt.ArrayLike | Sequence[float] | None, network: Network, name: str) -> Array:
    """A mean or deviation for every input entry, ``(n,)``."""
    if numbers is None:
        return np.full(network.input_size, 0.0 if name == "mean" else 1.0)
    given = np.asarray(numbers, dtype=np.float64).reshape(-1)
    channels = network.input_shape[0] if len(network.input_shape) == 3 else 1
    if len(given) not in (1, channels, network.input_size):
        fix = "one, one per channel, or one per entry"
        raise InputError(f"{len(given)} numbers as {name} for an input of shape {network.input_shape}", fix=fix)
    return np.repeat(given, network.input_size // len(given))
