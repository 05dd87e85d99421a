"""Saliency maps by name, with the numbers that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.operators import Array
from verifier.properties.grad_cam import grad_cam
from verifier.properties.maps import (
    SaliencyMap,
    absolute_gradient,
    gradient_map,
    gradient_times_input,
    integrated_gradients,
    logit_difference,
    smooth_gradient,
)


def named_map(
    name: str,
    size: int,
    *,
    other: int | None = None,
    baseline: npt.ArrayLike | None = None,
    steps: int = 8,
    samples: int = 8,
    sigma: float = 0.1,
    seed: int = 0,
    layer: str | None = None,
) -> SaliencyMap:
    """The map of this name for inputs of ``size`` entries.

    Shapes: baseline ``(size,)``.

    Args:
        other: for "difference".
        baseline: for "integrated" and "integrated-exact"; zeros by default.
        steps: for "integrated".
        samples, sigma, seed: for "smooth": so many vectors of normal noise with standard deviation ``sigma``.
        layer: for "grad-cam": a node of the network; the last activation that makes feature maps by default.

    Raises:
        PropertyError: there is no such map, or a number is out of range.
    """
    start = np.zeros(size) if baseline is None else np.array(baseline, dtype=np.float64).reshape(-1)
    if start.size != size or not np.isfinite(start).all():
        raise PropertyError(f"the baseline must have {size} finite entries, got {start.size}")
    make = _MAKERS.get(name)
    if make is None:
        raise PropertyError(f"there is no map {name!r}", fix=f"maps: {', '.join(NAMES)}")
    return make(_Choices(size, other, start, steps, samples, sigma, seed, layer))


class _Choices(NamedTuple):
    """What the arguments of `named_map` say; a map uses those that it knows."""

    size: int
    other: int | None
    baseline: Array
    steps: int
    samples: int
    sigma: float
    seed: int
    layer: str | None


def _smooth(chosen: _Choices) -> SaliencyMap:
    if chosen.samples < 1 or not (np.isfinite(chosen.sigma) and chosen.sigma >= 0):
        raise PropertyError(f"SmoothGrad needs samples >= 1 and sigma >= 0, got {chosen.samples} and {chosen.sigma}")
    noise = np.random.default_rng(chosen.seed).normal(scale=chosen.sigma, size=(chosen.samples, chosen.size))
    return smooth_gradient(noise)


_MAKERS: dict[str, Callable[[_Choices], SaliencyMap]] = {
    "gradient": lambda c: gradient_map(),
    "absolute": lambda c: absolute_gradient(),
    "difference": lambda c: logit_difference(c.other),
    "gradient-input": lambda c: gradient_times_input(c.size),
    "integrated": lambda c: integrated_gradients(c.baseline, c.steps),
    "integrated-exact": lambda c: integrated_gradients(c.baseline, None),
    "smooth": _smooth,
    "grad-cam": lambda c: grad_cam(c.layer),
}
NAMES = tuple(_MAKERS)
"""The maps by name."""
