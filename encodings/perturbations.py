"""Semantic perturbations of an image as piecewise-linear layers in front of a network.

A perturbation moves the image along a path that is piecewise linear in its one parameter θ and passes
through the image itself at θ = 0 (`Path`). Several are superposed: with parameters θ = (θ₁, …, θ_d)

    g(θ) = clip(x₀ + Σᵢ dᵢ(θᵢ)),        dᵢ(0) = 0,        clip(z) = 1 − relu(1 − relu(z))

so `perturbed(network, image, perturbations)` is an ordinary `Network` with d inputs, which every engine
of the framework takes, whose node ``"pixels"`` holds the perturbed image (Munakata et al., NFM 2023,
Section 4.1 and Appendix I.5). The order of the perturbations is the order of the parameters only: what is
superposed are displacements of the *original* image. Applying one after the other instead would add the
products θᵢθⱼ, which no piecewise-linear network has; `Perturbed.interaction` bounds what they would add.

Each perturbation also says how it should move a saliency map of the image (Munakata et al.'s g̃): not at
all for changes of intensity, along with the image for changes of place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.encodings.perturbation_kinds import (
    Blend,
    Blur,
    Brightness,
    Contrast,
    Linear,
    Patch,
    Path,
    Perturbation,
    Rotation,
    Shear,
    Translation,
    Warp,
    Zoom,
    box_mean,
    read_positions,
    shifted,
    warped,
)
from verifier.errors import InputError
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense, Input, Reshape, Scale, Shape, Sum
from verifier.network.piecewise import relu
from verifier.properties.sets import Box

__all__ = [
    "PIXELS",
    "Blend",
    "Blur",
    "Brightness",
    "Contrast",
    "Linear",
    "Patch",
    "Path",
    "Perturbation",
    "Perturbed",
    "Rotation",
    "Shear",
    "Translation",
    "Warp",
    "Zoom",
    "box_mean",
    "perturbed",
    "read_positions",
    "shifted",
    "warped",
]

PIXELS = "pixels"
"""Name of the node that holds the perturbed image: ``network.gradient(θ, j, wrt=PIXELS)`` is its saliency map."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Perturbed:
    """A network as a function of the perturbation parameters.

    Attributes:
        network: from θ ``(d,)`` to the original outputs; its node ``pixels`` is the perturbed image.
        original: the network itself.
        image: the unperturbed image, ``(channels, H, W)``.
        perturbations: one per parameter, in order.
        clip: whether pixels are clipped to [0, 1].
    """

    network: Network
    original: Network
    image: Array
    perturbations: tuple[Perturbation, ...]
    clip: bool
    pixels: str = PIXELS
    paths: tuple[Path, ...] = field(repr=False)

    @property
    def dimension(self) -> int:
        """Number of parameters d."""
        return len(self.perturbations)

    @cached_property
    def box(self) -> Box:
        """Θ: the product of the parameter ranges."""
        return Box(np.array([p.low for p in self.perturbations]), np.array([p.high for p in self.perturbations]))

    @property
    def labels(self) -> tuple[str, ...]:
        """The parameters' names, numbered where a perturbation occurs twice."""
        names = [p.label for p in self.perturbations]
        return tuple(f"{n}{names[:i].count(n) + 1}" if names.count(n) > 1 else n for i, n in enumerate(names))

    def images(self, theta: npt.ArrayLike) -> Array:
        """The perturbed images at parameters ``(batch, d)``: ``(batch, channels, H, W)``."""
        points = np.atleast_2d(np.asarray(theta, dtype=np.float64))
        total = self.image + sum(path(points[:, i]) for i, path in enumerate(self.paths))
        return np.clip(total, 0.0, 1.0) if self.clip else np.asarray(total)

    def to_pixels(self, theta: npt.ArrayLike) -> Array:
        """The original network's input for one θ (a witness of the perturbed network): ``(input_size,)``."""
        return np.asarray(self.network.values(np.asarray(theta), [self.pixels])[self.pixels].reshape(-1))

    def interaction(self) -> float:
        """Bound on what applying the perturbations one after the other would add to the superposition.

        Over all pixels and parameters, for pairs: the displacement that a later perturbation gives to the
        displacement of an earlier one (clipping left aside; products of three and more are not included).
        """
        worst = 0.0
        for i, path in enumerate(self.paths):
            ends = [self.perturbations[i].low, *path.breaks, self.perturbations[i].high]
            for moved in path(np.array(ends)):
                for later in self.perturbations[i + 1 :]:
                    second = later.displace(self.image + moved)
                    plain = later.displace(self.image)
                    if second is None or plain is None:
                        continue
                    where = np.array([later.low, *second.breaks, later.high])
                    worst = max(worst, float(np.abs(second(where) - plain(where)).max()))
        return worst


@checked
def perturbed(
    network: Network,
    image: npt.ArrayLike,
    perturbations: Sequence[Perturbation],
    *,
    clip: bool = True,
) -> Perturbed:
    """The network as a function of the parameters of some perturbations of an image.

    Args:
        network: takes the image (in any shape with as many entries).
        image: ``(channels, H, W)`` or ``(H, W)``, or flat if the network's input has one of these shapes;
            entries in [0, 1].
        perturbations: one per parameter.
        clip: clip the pixels to [0, 1], as two ReLU layers.

    Raises:
        InputError: an image that does not fit or is not in [0, 1], no perturbation, or what a perturbation
            finds wrong with its own settings.

    Source:
        Munakata et al., NFM 2023, Section 4.1 and Appendix I.5.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([np.eye(4), [[1, 1, 0, 0], [0, 0, 1, 1]]], [np.zeros(4), [0, 0]])
        >>> brighter = verifier.perturbed(network, [[0.5, 0.5], [0, 0]], [verifier.Brightness(low=0, high=0.2)])
        >>> brighter.network([0.1]).round(6)  # an ordinary network of the parameter
        array([1.2, 0.2])
    """
    x = _checked_image(network, image)
    if not perturbations:
        raise InputError("no perturbation is given", fix="pass at least one, for instance Brightness(high=0.2)")
    paths = tuple(p.image_path(x) for p in perturbations)
    nodes = _prefix(paths, x, network.input_shape, clip)
    names = {network.input: PIXELS}
    for node in network.nodes[1:]:
        names[node.name] = f"net/{node.name}"
        nodes.append(Node(names[node.name], node.operator, tuple(names[i] for i in node.inputs), node.shape))
    label = "".join(type(p).__name__[0] for p in perturbations)
    return Perturbed(
        network=Network(tuple(nodes), names[network.output], f"{network.source}∘{label}" if network.source else label),
        original=network,
        image=x,
        perturbations=tuple(perturbations),
        clip=clip,
        paths=paths,
    )


def _checked_image(network: Network, image: npt.ArrayLike) -> Array:
    x = np.array(image, dtype=np.float64)
    if x.size != network.input_size:
        raise InputError(f"an image of {x.size} entries for a network with {network.input_size}", place=network.source)
    if x.ndim == 1 and len(network.input_shape) > 1:
        x = x.reshape(network.input_shape)
    if x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3:
        raise InputError(
            f"an image of shape {x.shape} has no rows and columns", fix="pass it as (H, W) or (channels, H, W)"
        )
    if not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            f"the image is not in [0, 1]: its values are {x.min():g} to {x.max():g}", fix="scale it (divide by 255?)"
        )
    return x


def _prefix(paths: Sequence[Path], image: Array, shape: Shape, clip: bool) -> list[Node]:
    """The nodes from θ to ``pixels``."""
    d, size = len(paths), image.size
    constants, slopes, bends, breaks, owner = [], [], [], [], []
    for i, path in enumerate(paths):
        constant, slope, bend = path.hinges()
        constants.append(np.asarray(constant).reshape(-1) if np.ndim(constant) else np.zeros(size))
        slopes.append(slope.reshape(-1))
        bends.append(bend.reshape(len(path.breaks), size))
        breaks += list(path.breaks)
        owner += [i] * len(path.breaks)
    base = image.reshape(-1) + sum(constants)
    nodes = [
        Node("theta", Input((d,)), (), (d,)),
        Node("displaced", Dense(np.stack(slopes, axis=1), base), ("theta",), (size,)),
    ]
    last = "displaced"

    def add(name: str, operator: Dense | Scale | Sum, *inputs: str) -> None:
        nodes.append(Node(name, operator, inputs, operator.output_shape(*((size,) for _ in inputs))))

    if breaks:
        count = len(breaks)
        nodes.append(Node("offsets", Dense(np.eye(d)[owner], -np.array(breaks)), ("theta",), (count,)))
        nodes.append(Node("hinges", relu(), ("offsets",), (count,)))
        nodes.append(Node("bends", Dense(np.concatenate(bends).T.copy(), np.zeros(size)), ("hinges",), (size,)))
        add("poses", Sum((1, 1)), "displaced", "bends")
        last = "poses"
    if clip:
        flip = Scale(-np.ones(size), np.ones(size))
        nodes.append(Node("above_zero", relu(), (last,), (size,)))
        add("headroom", flip, "above_zero")
        nodes.append(Node("below_one", relu(), ("headroom",), (size,)))
        add("clipped", flip, "below_one")
        last = "clipped"
    nodes.append(Node(PIXELS, Reshape(shape), (last,), shape))
    return nodes
