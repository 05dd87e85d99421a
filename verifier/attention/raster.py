"""A picture of a map of two parameters that does not keep its regions: shares of AR and CR per pixel."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array
from verifier.properties.sets import Box

SIDE = 256
"""Pixels a side."""


class Raster:
    """Painted region by region; a region counts where it covers a pixel's center, a smaller one in its own pixel.

    Args:
        box: Θ.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self.pixels = np.zeros((SIDE, SIDE, 3))

    def paint(
        self,
        vertices: Array,
        offsets: npt.NDArray[np.int64],
        volumes: Array,
        attention: npt.NDArray[np.int8],
        label_volumes: Array,
    ) -> None:
        """Add regions: columns of a `Table`."""
        unit = (vertices - self.box.lower) / self.box.width
        _paint(self.pixels, unit, offsets, attention == 0, label_volumes / np.maximum(volumes, 1e-300))

    def shares(self) -> Array:
        """``(SIDE, SIDE, 2)``: the share of each pixel that is AR and CR; NaN where no region was seen."""
        total = self.pixels[..., :1]
        return np.asarray(np.where(total > 0, self.pixels[..., 1:] / np.maximum(total, 1e-300), np.nan))


@nb.njit(cache=True)
def _paint(pixels, vertices, offsets, attention, label):  # type: ignore[no-untyped-def]
    side = len(pixels)
    for region in range(len(offsets) - 1):
        first, last = offsets[region], offsets[region + 1]
        x = y = area = 0.0
        low, high = np.inf, -np.inf
        for i in range(first, last):
            k = i + 1 if i + 1 < last else first
            area += (vertices[i, 0] * vertices[k, 1] - vertices[k, 0] * vertices[i, 1]) / 2.0
            x, y = x + vertices[i, 0] / (last - first), y + vertices[i, 1] / (last - first)
            low, high = min(low, vertices[i, 0]), max(high, vertices[i, 0])
        covered = 0
        for column in range(
            max(int(np.ceil(low * side - 0.5)), 0), min(int(np.floor(high * side - 0.5)), side - 1) + 1
        ):
            center = (column + 0.5) / side
            bottom, top = np.inf, -np.inf
            for i in range(first, last):
                k = i + 1 if i + 1 < last else first
                a, b = vertices[i, 0], vertices[k, 0]
                if (a <= center) != (b <= center):
                    at = vertices[i, 1] + (center - a) / (b - a) * (vertices[k, 1] - vertices[i, 1])
                    bottom, top = min(bottom, at), max(top, at)
            if top < bottom:
                continue
            for row in range(
                max(int(np.ceil(bottom * side - 0.5)), 0), min(int(np.floor(top * side - 0.5)), side - 1) + 1
            ):
                _add(pixels, column, row, 1.0, attention[region], label[region])
                covered += 1
        if not covered:
            column, row = min(max(int(x * side), 0), side - 1), min(max(int(y * side), 0), side - 1)
            _add(pixels, column, row, abs(area) * side * side, attention[region], label[region])


@nb.njit(cache=True)
def _add(pixels, column, row, weight, attention, label):  # type: ignore[no-untyped-def]
    pixels[column, row, 0] += weight
    pixels[column, row, 1] += weight * attention
    pixels[column, row, 2] += weight * label
