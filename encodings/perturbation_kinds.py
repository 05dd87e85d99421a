"""The kinds of perturbations of an image: each a piecewise-linear path in one parameter.

See `verifier.encodings.perturbations` for how they are put in front of a network.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.arguments import check_fields
from verifier.errors import InputError
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False)
class Path:
    """A displacement d(θ) that is piecewise linear in one parameter, with d(0) = 0.

    Attributes:
        breaks: where the slope changes, increasing, ``(k,)``; none of them at 0 unless the slope changes there.
        slopes: the derivative on each piece, ``(k + 1, *shape)``.
    """

    breaks: Array
    slopes: Array

    @staticmethod
    def straight(direction: Array) -> Path:
        """d(θ) = θ · direction."""
        return Path(np.zeros(0), np.asarray(direction, dtype=np.float64)[None])

    @staticmethod
    def through(parameters: Array, displacements: Array) -> Path:
        """The polygonal path through ``displacements[k]`` at ``parameters[k]``, prolonged straight at both ends."""
        steps = np.diff(parameters).reshape(-1, *[1] * (displacements.ndim - 1))
        return Path(np.asarray(parameters[1:-1]), np.diff(displacements, axis=0) / steps)

    def hinges(self) -> tuple[Array, Array, Array]:
        """``(constant, slope, bends)`` with d(θ) = constant + slope · θ + Σ bends[k] · relu(θ − breaks[k])."""
        bends = np.diff(self.slopes, axis=0)
        constant = -np.tensordot(np.maximum(-self.breaks, 0.0), bends, axes=1)
        return constant, self.slopes[0], bends

    def __call__(self, theta: Array) -> Array:
        """d at each parameter of ``(batch,)``: ``(batch, *shape)``."""
        constant, slope, bends = self.hinges()
        result = constant + np.multiply.outer(theta, slope)
        hinge = np.maximum(np.asarray(theta)[:, None] - self.breaks, 0.0)
        result = result + np.tensordot(hinge, bends, axes=1)
        return np.asarray(result)


@dataclass(frozen=True, eq=False, kw_only=True)
class Perturbation(ABC):
    """A perturbation with one parameter θ.

    Attributes:
        low, high: range of θ, ``low < high``; it should contain 0 (the unperturbed image).
    """

    low: float = 0.0
    high: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
        if not (np.isfinite(self.low) and np.isfinite(self.high)) or self.low >= self.high:
            raise InputError(
                f"the parameter range [{self.low}, {self.high}] is empty",
                place=self.label,
                fix="give finite low < high",
            )

    @property
    def label(self) -> str:
        """Name of the parameter, for reports."""
        return type(self).__name__.lower()

    @abstractmethod
    def image_path(self, image: Array) -> Path:
        """How the image ``(channels, H, W)`` is displaced.

        Raises:
            InputError: numbers that do not fit the image.
        """

    def map_path(self, saliency: Array) -> Path | None:
        """How a saliency map ``(…, channels, H, W)`` is expected to be displaced; None: not at all."""
        return None

    def displace(self, image: Array) -> Path | None:
        """The linear action on *another* image, for the interaction bound; None if it ignores the image.

        Shapes: image ``(channels, H, W)``.
        """
        return self.image_path(image)

    def approximation(self, image: Array) -> float:
        """Bound on |exact − piecewise-linear| over all pixels and parameters; 0 where the path is exact.

        Shapes: image ``(channels, H, W)``.
        """
        return 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Brightness(Perturbation):
    """Adds θ to every pixel.

    Source:
        Munakata et al., NFM 2023, Appendix I.5.
    """

    def image_path(self, image: Array) -> Path:
        return Path.straight(np.ones_like(image))

    def displace(self, image: Array) -> Path | None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Patch(Perturbation):
    """Adds θ to the pixels of a rectangle; with ``value``, blends them towards it: x + θ (value − x).

    Attributes:
        top, left: the rectangle's first row and column, from 0.
        height, width: its size in pixels, at least 1; it must lie inside the image.

    Source:
        Munakata et al., NFM 2023, Appendix I.5.
    """

    top: int
    left: int
    height: int = 3
    width: int = 3
    value: float | None = None

    def image_path(self, image: Array) -> Path:
        rows, columns = image.shape[-2:]
        inside = self.top >= 0 and self.left >= 0 and self.height >= 1 and self.width >= 1
        if not inside or self.top + self.height > rows or self.left + self.width > columns:
            raise InputError(
                f"the patch (rows {self.top} to {self.top + self.height - 1}, columns {self.left} to "
                f"{self.left + self.width - 1}) is not inside the image of {rows} × {columns} pixels",
                place=self.label,
            )
        mask = np.zeros_like(image)
        mask[..., self.top : self.top + self.height, self.left : self.left + self.width] = 1.0
        return Path.straight(mask if self.value is None else mask * (self.value - image))

    def displace(self, image: Array) -> Path | None:
        return None if self.value is None else self.image_path(image)


@dataclass(frozen=True, eq=False, kw_only=True)
class Contrast(Perturbation):
    """x + θ (x − pivot): θ = −1 is uniform grey, θ > 0 more contrast.

    Attributes:
        pivot: the intensity that stays; the image's mean if None.
    """

    pivot: float | None = 0.5

    def image_path(self, image: Array) -> Path:
        return Path.straight(image - (image.mean() if self.pivot is None else self.pivot))


@dataclass(frozen=True, eq=False, kw_only=True)
class Blend(Perturbation):
    """x + θ · mask · (other − x): occlusion by any mask, or mixing with another image.

    Attributes:
        mask: ``(H, W)`` or the image's shape, entries in [0, 1].
        other: the other image (the image's shape) or one intensity.

    Raises:
        InputError: a mask or other image of another shape.
    """

    mask: npt.ArrayLike
    other: npt.ArrayLike = 0.0

    def image_path(self, image: Array) -> Path:
        mask, other = (np.asarray(v, dtype=np.float64) for v in (self.mask, self.other))
        for name, value in (("mask", mask), ("other image", other)):
            if value.ndim and value.shape not in (image.shape, image.shape[-2:]):
                raise InputError(f"a {name} of shape {value.shape} for an image of {image.shape}", place=self.label)
            if not ((value >= 0) & (value <= 1)).all():
                raise InputError(f"the {name} has entries outside [0, 1]", place=self.label)
        return Path.straight(mask * (other - image))


@dataclass(frozen=True, eq=False, kw_only=True)
class Blur(Perturbation):
    """x + θ (blurred x − x), with a mean filter of ``size × size`` (odd; the border is repeated)."""

    size: int = 3

    def image_path(self, image: Array) -> Path:
        if self.size < 3 or self.size % 2 == 0:
            raise InputError(f"the filter size must be odd and at least 3, got {self.size}", place=self.label)
        return Path.straight(box_mean(image, self.size, edge=True) - image)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Perturbation):
    """x + θ · direction, for any direction of the image's shape.

    Attributes:
        direction: the displacement of the image per unit of θ.
        map_direction: that of the saliency map; None: the map is expected to stay.
        name: the parameter's name in reports.
    """

    direction: npt.ArrayLike
    map_direction: npt.ArrayLike | None = None
    name: str = "linear"

    @property
    def label(self) -> str:
        return self.name

    def image_path(self, image: Array) -> Path:
        direction = np.asarray(self.direction, dtype=np.float64)
        if direction.size != image.size or not np.isfinite(direction).all():
            raise InputError(
                f"the direction (shape {direction.shape}) must be finite and fit the image {image.shape}",
                place=self.label,
            )
        return Path.straight(direction.reshape(image.shape))

    def map_path(self, saliency: Array) -> Path | None:
        if self.map_direction is None:
            return None
        direction = np.asarray(self.map_direction, dtype=np.float64).reshape(saliency.shape[-3:])
        return Path.straight(np.broadcast_to(direction, saliency.shape))

    def displace(self, image: Array) -> Path | None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Translation(Perturbation):
    """Moves the image by θ pixels along (down, right), by bilinear interpolation; 0 comes in from outside.

    Along an axis (one of down, right is 0) or for any direction of integers the path between whole steps is
    the straight blend of the two shifted images: exact bilinear interpolation along an axis.

    Attributes:
        down, right: whole pixels moved per unit of θ.

    Source:
        Munakata et al., NFM 2023, Appendix I.5.
    """

    down: int = 0
    right: int = 1
    high: float = 1.0

    def image_path(self, image: Array) -> Path:
        first, last = int(np.floor(min(self.low, 0.0))), int(np.ceil(max(self.high, 0.0)))
        steps = np.arange(first, max(last, first + 1) + 1)
        poses = np.stack([shifted(image, int(k) * self.down, int(k) * self.right) for k in steps])
        return Path.through(steps.astype(np.float64), poses - image)

    def map_path(self, saliency: Array) -> Path | None:
        return self.image_path(saliency)


@dataclass(frozen=True, eq=False, kw_only=True)
class Warp(Perturbation):
    """A turn, zoom or shear about the image's center: interpolation between poses sampled along θ.

    Pose θ reads output pixel p at A(θ)⁻¹ p by bilinear interpolation (0 outside). Between the sampled poses
    the image is blended linearly: a piecewise-linear approximation, whose error `approximation` bounds.

    Attributes:
        poses: number of sampled poses over [low, high], at least 2 (a pose at 0 is always added).
    """

    poses: int = 11

    @abstractmethod
    def matrix(self, theta: float) -> Array:
        """A(θ)⁻¹, 2 × 2, acting on (row, column) offsets from the center; the identity at 0.

        Raises:
            InputError: (zoom) a parameter of -1 or less.
        """

    def parameters(self) -> Array:
        """The sampled θ, increasing.

        Raises:
            InputError: fewer than two poses.
        """
        if self.poses < 2:
            raise InputError(f"at least 2 poses are needed, got {self.poses}", place=self.label)
        return np.unique(np.append(np.linspace(self.low, self.high, self.poses), 0.0))

    def image_path(self, image: Array) -> Path:
        theta = self.parameters()
        poses = np.stack([warped(image, self.matrix(t)) for t in theta])
        return Path.through(theta, poses - image)

    def map_path(self, saliency: Array) -> Path | None:
        return self.image_path(saliency)

    def approximation(self, image: Array) -> float:
        """Per pixel, a path of speed at most M leaves its chord over a step h by at most M h / 2.

        Shapes: image ``(channels, H, W)``.

        M h is bounded by the distance that the read position moves in the step, times the steepest slope of
        the bilinear image over all cells that it can meet.
        """
        rows, columns = image.shape[-2:]
        padded = np.pad(image.reshape(-1, rows, columns), ((0, 0), (2, 2), (2, 2)))
        down = np.abs(np.diff(padded, axis=1)).max(axis=0)[:, :-1]
        right = np.abs(np.diff(padded, axis=2)).max(axis=0)[:-1]
        steep_down = np.maximum(down, np.abs(np.diff(padded, axis=1)).max(axis=0)[:, 1:])
        steep_right = np.maximum(right, np.abs(np.diff(padded, axis=2)).max(axis=0)[1:])
        slope = np.hypot(steep_down, steep_right)
        theta, worst = self.parameters(), 0.0
        for a, b in itertools.pairwise(theta):
            fine = [read_positions((rows, columns), self.matrix(t)) for t in np.linspace(a, b, 17)]
            moved = sum(np.hypot(*(q - p)) for p, q in itertools.pairwise(fine)) * 1.01
            reach = int(np.ceil(moved.max())) + 1
            local = slope
            for axis in (0, 1):
                local = np.maximum.reduce([np.roll(local, k, axis=axis) for k in range(-reach, reach + 1)])
            cell = np.clip(np.floor(fine[8]).astype(np.int64) + 2, 0, np.array(slope.shape)[:, None, None] - 1)
            worst = max(worst, float((local[cell[0], cell[1]] * moved).max()) / 2)
        return worst


@dataclass(frozen=True, eq=False, kw_only=True)
class Rotation(Warp):
    """Turns the image by θ degrees, counter-clockwise.

    Source:
        geometric perturbations verified by interpolation between poses: Balunović et al., NeurIPS 2019.
    """

    high: float = 10.0

    def matrix(self, theta: float) -> Array:
        c, s = np.cos(np.radians(theta)), np.sin(np.radians(theta))
        return np.array([[c, s], [-s, c]])


@dataclass(frozen=True, eq=False, kw_only=True)
class Zoom(Warp):
    """Scales the image by 1 + θ (θ > −1).

    Source:
        as `Rotation`.
    """

    def matrix(self, theta: float) -> Array:
        if theta <= -1:
            raise InputError(f"a zoom by 1 + θ needs θ > -1, got {theta}", place=self.label)
        return np.eye(2) / (1.0 + theta)


@dataclass(frozen=True, eq=False, kw_only=True)
class Shear(Warp):
    """Shears the image: each row moves right by θ times its height above the center."""

    def matrix(self, theta: float) -> Array:
        return np.array([[1.0, 0.0], [theta, 1.0]])


def shifted(image: Array, down: int, right: int) -> Array:
    """The image ``(…, H, W)`` moved by whole pixels; 0 comes in from outside."""
    rows, columns = image.shape[-2:]
    result = np.zeros_like(image)
    if abs(down) < rows and abs(right) < columns:
        target = (slice(max(down, 0), rows + min(down, 0)), slice(max(right, 0), columns + min(right, 0)))
        source = (slice(max(-down, 0), rows + min(-down, 0)), slice(max(-right, 0), columns + min(-right, 0)))
        result[..., *target] = image[..., *source]
    return result


def read_positions(size: tuple[int, int], matrix: Array) -> Array:
    """Where each output pixel is read, as (row, column) positions ``(2, H, W)``."""
    center = (np.array(size, dtype=np.float64) - 1.0)[:, None, None] / 2.0
    return np.einsum("ij,jhw->ihw", matrix, np.indices(size) - center) + center


def warped(image: Array, matrix: Array) -> Array:
    """Bilinear interpolation of the image ``(…, H, W)`` at `read_positions`; 0 outside."""
    rows, columns = image.shape[-2:]
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(1, 1), (1, 1)])
    limits = np.array([rows, columns])[:, None, None]
    position = np.clip(read_positions((rows, columns), matrix) + 1.0, 0.0, limits + 1.0)
    corner = np.minimum(np.floor(position).astype(np.int64), limits)
    (y, x), (v, u) = corner, position - corner
    return np.asarray(
        padded[..., y, x] * (1 - v) * (1 - u)
        + padded[..., y + 1, x] * v * (1 - u)
        + padded[..., y, x + 1] * (1 - v) * u
        + padded[..., y + 1, x + 1] * v * u
    )


def box_mean(image: Array, size: int = 3, *, edge: bool = False) -> Array:
    """Mean over ``size × size`` neighbours of ``(…, H, W)``; outside is 0, or the border repeated (``edge``)."""
    half = size // 2
    pads = [(0, 0)] * (image.ndim - 2) + [(half, half), (half, half)]
    padded = np.pad(image, pads, mode="edge") if edge else np.pad(image, pads)
    rows, columns = image.shape[-2:]
    total = sum(padded[..., i : i + rows, j : j + columns] for i in range(size) for j in range(size))
    return np.asarray(total / size**2)
