"""What all pictures share: colours of classes and of answers, signed maps, images, axes.

One convention for signed maps everywhere: red raises the output, blue lowers it, white is zero, the scale is symmetric and
has a bar beside it.
"""

from __future__ import annotations

from math import isqrt, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array, Shape

COLOURS = (
    "#94c3d4", "#f3b562", "#7fb685", "#c8553d", "#426a8c",
    "#9c89b8", "#e29ab5", "#6b705c", "#cfb9a0", "#1d3540",
)  # fmt: skip
"""One colour per class, repeated beyond the tenth."""
HOLDS, FAILS, PARTLY, OPEN = "#7fbf7b", "#d6604d", "#fdae61", "#e2e2e2"
"""Of what holds, what fails, what holds in a part, and what is not decided."""
INK, FAINT = "#22313f", "#9aa7b1"
SIGNED = "RdBu_r"
"""The colours of signed maps."""


def colour_of(label: int) -> str:
    """A class's colour."""
    return COLOURS[label % len(COLOURS)]


def image_shape(shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width in which values of a shape are drawn; vectors of a square size become squares."""
    if len(shape) == 3 and min(shape[1:]) > 1:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2 and min(shape) > 1:
        return 1, shape[0], shape[1]
    size = prod(shape)
    side = isqrt(size)
    return (1, side, side) if side * side == size and size > 4 else (1, 1, size)


def figure_of(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def signed_map(
    axes: Any, values: npt.ArrayLike, shape: Shape, *, size: float | None = None, title: str = "", bar: bool = True
) -> None:
    """Draw a signed map; its channels are added up.

    Args:
        values: of that shape, or flat.
        shape: `image_shape` says how it is drawn.
        size: the largest absolute value of the scale; that of the map by default.
        bar: whether the scale stands beside it.
    """
    channels, height, width = image_shape(shape)
    summed = np.asarray(values, dtype=np.float64).reshape(channels, height, width).sum(axis=0)
    largest = (float(np.abs(summed).max()) if size is None else size) or 1.0
    drawn = axes.imshow(
        summed, cmap=SIGNED, vmin=-largest, vmax=largest, interpolation="nearest", aspect=_aspect(height, width)
    )
    _framed(axes, title, height, width)
    if bar:
        scale = axes.figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
        scale.outline.set_visible(False)
        scale.ax.tick_params(labelsize=8, colors=INK)


def picture_of(
    axes: Any, x: npt.ArrayLike, shape: Shape, *, title: str = "", ends: tuple[float, float] | None = None
) -> None:
    """Draw an input as a picture: three channels in colours, others in grey.

    Shapes: x ``(n,)`` or of the shape.

    Args:
        ends: the values that are black and white; by default 0 and 1, or the input's own range where it is wider.
    """
    channels, height, width = image_shape(shape)
    pixels: Array = np.asarray(x, dtype=np.float64).reshape(channels, height, width)
    low, high = ends or (min(0.0, float(pixels.min())), max(1.0, float(pixels.max())))
    scaled = np.clip((pixels - low) / ((high - low) or 1.0), 0.0, 1.0)
    shown = scaled.transpose(1, 2, 0) if channels == 3 else scaled.mean(axis=0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect=_aspect(height, width))
    _framed(axes, title, height, width)


def _aspect(height: int, width: int) -> str:
    return "auto" if height == 1 else "equal"


def _framed(axes: Any, title: str, height: int, width: int) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_yticks([])
    axes.set_xticks(range(width) if height == 1 and width <= 20 else [])
    axes.tick_params(labelsize=8, colors=INK, length=0)
    if height == 1:
        axes.set_xlabel("entry", fontsize=8, color=INK)
    axes.spines[:].set_color(FAINT)
    axes.spines[:].set_linewidth(0.5)


def plain_axes(axes: Any) -> None:
    """Axes with faint horizontal lines and no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis="y", color="#e8edf0", linewidth=0.8)
    axes.set_axisbelow(True)
