"""Attention inconsistency: how far a saliency map is from where the perturbation should have moved it.

For an image x₀ and perturbation parameters θ (Munakata et al., NFM 2023, Section 3),

    AI(θ) = Σ_j dist( filter(∂f_j/∂x at g(θ)), g̃(θ, filter(∂f_j/∂x at x₀)) ),

where j runs over all classes (or the label only), g is the perturbed image, g̃ the expected movement of the
map, ``filter`` the identity, the absolute value or a 3 × 3 mean, and ``dist`` L1 or L2 over the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.encodings.perturbations import Perturbed, box_mean
from verifier.errors import InputError
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import PoolsBeforeRelus

FILTERS = ("identity", "absolute", "mean3")
MAPS = ("gradient", "integrated", "smooth")


@dataclass(frozen=True, kw_only=True)
class Inconsistency:
    """What "the same attention" means.

    Attributes:
        filter: "identity", "absolute" (|·| of every entry) or "mean3" (mean over 3 × 3 pixels, 0 outside).
        norm: 2 (Euclidean) or 1 (sum of absolute differences), over all pixels and channels of one map.
        classes: "all" (the paper's sum over all classes) or "label" (the label's map only).
        map: "gradient" (the paper's: of the network's outputs, before any softmax), "integrated" (Integrated Gradients:
            (x − baseline) times the mean gradient at the middles of equal steps from the baseline to x), or "smooth"
            (SmoothGrad: the mean gradient at noisy copies of x, the noise drawn once). Maps that are not gradients are
            bounded on tiles (``method="areas"``); the walk from region to region knows gradients only.
        samples: steps or noisy copies.
        noise: standard deviation of the noise.
        seed: of the noise.
        baseline: intensity of the baseline image.

    Source:
        Munakata et al., NFM 2023, Section 4.3 and Appendix I.1; L1 and other maps are this package's own.
    """

    filter: Literal["identity", "absolute", "mean3"] = "identity"
    norm: Literal[1, 2] = 2
    classes: Literal["all", "label"] = "all"
    map: Literal["gradient", "integrated", "smooth"] = "gradient"
    samples: int = 8
    noise: float = 0.1
    seed: int = 0
    baseline: float = 0.0

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise InputError(f"unknown filter {self.filter!r}", fix=f"one of {', '.join(FILTERS)}")
        if self.norm not in (1, 2):
            raise InputError(f"the norm must be 1 or 2, got {self.norm}")
        if self.classes not in ("all", "label"):
            raise InputError(f"classes must be 'all' or 'label', got {self.classes!r}")
        if self.map not in MAPS:
            raise InputError(f"unknown map {self.map!r}", fix=f"one of {', '.join(MAPS)}")
        if self.samples < 1 or not np.isfinite(self.noise) or self.noise < 0 or not np.isfinite(self.baseline):
            raise InputError("samples must be at least 1, noise at least 0, noise and baseline finite")

    def copies(self, image: Array) -> list[tuple[float, Array]]:
        """The affine copies ``scale · x + shift`` of an image x at which gradients are taken; the map is their mean."""
        if self.map == "integrated":
            steps = (np.arange(self.samples) + 0.5) / self.samples
            return [(float(a), np.full(image.shape, (1.0 - float(a)) * self.baseline)) for a in steps]
        if self.map == "smooth":
            draws = np.random.default_rng(self.seed).normal(scale=self.noise, size=(self.samples, *image.shape))
            return [(1.0, draw) for draw in draws]
        return [(1.0, np.zeros(image.shape))]

    def outputs(self, perturbed: Perturbed, label: int) -> tuple[int, ...]:
        """The classes whose maps count."""
        return tuple(range(perturbed.network.output_size)) if self.classes == "all" else (label,)

    def filtered(self, maps: Array) -> Array:
        """The filter applied to maps ``(…, channels, H, W)``."""
        if self.filter == "absolute":
            return np.abs(maps)
        return box_mean(maps, 3) if self.filter == "mean3" else maps

    def linear_part(self, shape: tuple[int, ...]) -> sp.csr_array:
        """The filter's linear part (all but the absolute value) as a matrix over flattened maps of this shape."""
        size = int(np.prod(shape))
        if self.filter != "mean3":
            return sp.csr_array(sp.eye_array(size))
        units = np.eye(shape[-2] * shape[-1]).reshape(-1, *shape[-2:])
        plane = sp.csr_array(box_mean(units, 3).reshape(len(units), -1).T)
        return sp.csr_array(sp.kron(sp.eye_array(size // plane.shape[0]), plane))

    def maps(self, perturbed: Perturbed, theta: npt.ArrayLike, label: int) -> Array:
        """The filtered saliency maps at parameters ``(batch, d)``: ``(batch, classes, channels, H, W)``."""
        points = np.atleast_2d(np.asarray(theta, dtype=np.float64))
        if self.map == "gradient":
            maps = [
                perturbed.network.gradient(points, j, wrt=perturbed.pixels).reshape(-1, *perturbed.image.shape)
                for j in self.outputs(perturbed, label)
            ]
            return self.filtered(np.stack(maps, axis=1))
        return self.filtered(self._mean(perturbed, perturbed.images(points), label))

    def _mean(self, perturbed: Perturbed, images: Array, label: int) -> Array:
        """The unfiltered maps of some images ``(batch, channels, H, W)``."""
        network, outputs = perturbed.original, self.outputs(perturbed, label)
        total = np.zeros((len(images), len(outputs), *perturbed.image.shape))
        copies = self.copies(perturbed.image)
        for scale, shift in copies:
            x = (scale * images + shift).reshape(len(images), -1)
            for k, j in enumerate(outputs):
                total[:, k] += network.gradient(x, j).reshape(images.shape) / len(copies)
        return total * (images - self.baseline)[:, None] if self.map == "integrated" else total

    def expected(self, perturbed: Perturbed, theta: npt.ArrayLike, label: int) -> Array:
        """The expected maps at parameters ``(batch, d)``: ``(batch, classes, channels, H, W)``."""
        points = np.atleast_2d(np.asarray(theta, dtype=np.float64))
        start = self.reference(perturbed, label)
        total = np.broadcast_to(start, (len(points), *start.shape)).copy()
        for i, perturbation in enumerate(perturbed.perturbations):
            path = perturbation.map_path(start)
            if path is not None:
                total += path(points[:, i])
        return total

    def reference(self, perturbed: Perturbed, label: int) -> Array:
        """The filtered maps of the unperturbed image: ``(classes, channels, H, W)``.

        An image on a kink, as far as floats tell, has its gradient computed exactly: the side matters.
        """
        if self.map != "gradient":
            return self.filtered(self._mean(perturbed, perturbed.image[None], label)[0])
        # zeros of ReLUs tie in pools, where they are no kink of the gradient; before the ReLUs they do not
        network = reduce(perturbed.original, (PoolsBeforeRelus(),)).network
        x, outputs = perturbed.image.reshape(1, -1), self.outputs(perturbed, label)
        if _on_a_breakpoint(network, x):
            exact = ExactNetwork(network)
            values = exact.values(x.reshape(-1))
            maps = [np.array(exact.gradient((), j, values), dtype=np.float64) for j in outputs]
        else:
            maps = [network.gradient(x, j) for j in outputs]
        return self.filtered(np.stack([m.reshape(perturbed.image.shape) for m in maps]))

    def __call__(self, perturbed: Perturbed, theta: npt.ArrayLike, label: int) -> Array:
        """AI at parameters ``(batch, d)``: ``(batch,)``, straight from the definition."""
        difference = self.maps(perturbed, theta, label) - self.expected(perturbed, theta, label)
        flat = difference.reshape(*difference.shape[:2], -1)
        distance = np.abs(flat).sum(axis=2) if self.norm == 1 else np.sqrt((flat**2).sum(axis=2))
        return np.asarray(distance.sum(axis=1))


def _on_a_breakpoint(network: Network, x: Array) -> bool:
    """Whether a preactivation is within rounding of a breakpoint, or two entries of a window of each other."""
    for name, z in network.preactivations(x).items():
        operator, reach = network[name].operator, 1e-9 * (1.0 + float(np.abs(z).max(initial=0.0)))
        if isinstance(operator, MaxPool):
            windows = operator.windows(z.shape[1:])
            if windows.shape[1] > 1:
                top = np.sort(np.where(windows >= 0, z.reshape(-1)[windows], -np.inf), axis=1)
                if bool((top[:, -1] - top[:, -2] <= reach).any()):
                    return True
        elif isinstance(operator, PiecewiseLinear) and any(
            bool((np.abs(z - b) <= reach).any()) for b in operator.breaks
        ):
            return True
    return False


@dataclass(frozen=True, eq=False)
class ExpectedMap:
    """The expected maps as a piecewise-linear function of the parameters.

    E(θ) = base + Σ_i θ_i slopes[i] + Σ_k relu(θ_{axes[k]} − breaks[k]) bends[k]; arrays are ``(…, R, C)`` with one
    row per entry of the map and one column per class.
    """

    base: Array
    slopes: Array
    bends: Array
    axes: npt.NDArray[np.int64]
    breaks: Array

    @property
    def moving(self) -> bool:
        """Whether it depends on θ at all."""
        return bool(np.any(self.slopes)) or bool(np.any(self.bends))


def expected_map(perturbed: Perturbed, settings: Inconsistency, label: int) -> ExpectedMap:
    """The expected maps; breakpoints are those of the image's own path, in the order of the network's hinges.

    Raises:
        InputError: the map's path bends at other parameters than the image's.
    """
    start = settings.reference(perturbed, label)
    classes = len(start)

    def columns(maps: Array) -> Array:
        return np.ascontiguousarray(
            np.moveaxis(maps.reshape(*maps.shape[: maps.ndim - 4], classes, start[0].size), -2, -1)
        )

    base, slopes, bends = start.copy(), [], []
    for perturbation, image_path in zip(perturbed.perturbations, perturbed.paths, strict=True):
        path = perturbation.map_path(start)
        if path is None:
            slopes.append(np.zeros_like(start))
            bends.append(np.zeros((len(image_path.breaks), *start.shape)))
            continue
        if not np.array_equal(path.breaks, image_path.breaks):
            raise InputError(f"{perturbation.label}: the map's path bends at other parameters than the image's")
        constant, slope, bend = path.hinges()
        base = base + constant
        slopes.append(slope)
        bends.append(np.asarray(bend).reshape(len(path.breaks), *start.shape))
    axes = np.repeat(np.arange(perturbed.dimension), [len(p.breaks) for p in perturbed.paths])
    breaks = np.concatenate([p.breaks for p in perturbed.paths]) if len(axes) else np.zeros(0)
    return ExpectedMap(columns(base), columns(np.stack(slopes)), columns(np.concatenate(bends)), axes, breaks)
