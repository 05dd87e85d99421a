"""Grad-CAM: where in an image do the feature maps lie that speak for an output?

Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization*, ICCV 2017, Equations
1 and 2. With A_k the K feature maps ``(h, w)`` that a layer makes of x, and o the output,

    α_k(x) = mean over i, j of ∂o/∂A_kij (x)          map(x) = relu(Σ_k α_k(x) A_k(x))          (h, w)

On a linear region of the network the α_k are constant and the A_k affine, so the map is piecewise linear there. From one
region to the next the α_k jump, and the map with them, unless all that follows the layer is affine (one pooling and one
dense layer: CAM); then it is a piecewise-linear function of x everywhere. It is the gradient of no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifier.errors import PropertyError
from verifier.network.activation import Activation
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.maps import SaliencyMap
from verifier.rounding import SPACING

Ends = tuple[Array, Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class GradCam(SaliencyMap):
    """Grad-CAM, by `grad_cam`.

    Attributes:
        layer: the node whose feature maps are weighted; None: the last activation that makes feature maps.
    """

    layer: str | None = None

    @property
    def plain(self) -> bool:
        """See `SaliencyMap.plain`."""
        return False

    @property
    def by_gradient(self) -> bool:
        """See `SaliencyMap.by_gradient`."""
        return False

    @property
    def discrete(self) -> bool:
        """See `SaliencyMap.discrete`."""
        return False

    def node(self, network: Network) -> str:
        """The layer's name in a network.

        Raises:
            PropertyError: there is no such node, or it makes no feature maps ``(channels, h, w)``.
        """
        shapes = {node.name: node.shape for node in network.nodes}
        if self.layer is None:
            found = [n.name for n in network.nodes if isinstance(n.operator, Activation) and _are_maps(n.shape)]
            if not found:
                raise PropertyError("Grad-CAM needs feature maps, and no activation of the network makes any",
                                    place=network.source, fix="name a layer of shape (channels, h, w)")  # fmt: skip
            return found[-1]
        if self.layer not in shapes:
            raise PropertyError(f"there is no layer {self.layer!r}", fix=f"layers: {', '.join(shapes)}")
        if not _are_maps(shapes[self.layer]):
            words = "x".join(map(str, shapes[self.layer]))
            raise PropertyError(f"layer {self.layer!r} has shape {words}, which are no feature maps (channels, h, w)")
        return self.layer

    def shape(self, network: Network) -> tuple[int, ...]:
        """See `SaliencyMap.shape`."""
        return (1, *network[self.node(network)].shape[1:])

    def values(self, network: Network, output: Array, x: Array) -> Array:
        """See `SaliencyMap.values`."""
        name = self.node(network)
        features, gradients = network.values(x)[name], network.gradients(x, output)[name]
        weighted = np.einsum("bk,bkij->bij", gradients.mean(axis=(2, 3)), features)
        return np.maximum(weighted, 0.0).reshape(len(weighted), -1)

    def exact(self, network: ExactNetwork, output: Array, x: Sequence[Fraction]) -> list[Fraction]:
        """See `SaliencyMap.exact`."""
        name = self.node(network.network)
        channels = network.network[name].shape[0]
        values = network.values(x)
        features = np.array(values[name].fractions(), dtype=object).reshape(channels, -1)
        gradient = np.array(network.gradient(x, output, values, at=name), dtype=object).reshape(channels, -1)
        weights = [sum(row, Fraction(0)) / len(row) for row in gradient.tolist()]
        total = [sum((w * v for w, v in zip(weights, c, strict=True)), Fraction(0)) for c in features.T.tolist()]
        return [max(v, Fraction(0)) for v in total]

    def bounds(self, shape: tuple[int, ...], features: Ends, gradient: Ends) -> Ends:
        """Bounds on the map for bounds on the feature maps and on ∂o/∂A, rounded outwards.

        Args:
            shape: of the layer.
            features, gradient: ``(batch, size)`` each.

        Returns:
            ``(batch, h w)`` each.
        """
        a, b = (end.reshape(len(end), shape[0], -1) for end in features)
        g, h = (end.reshape(len(end), shape[0], -1) for end in gradient)
        count = a.shape[2]
        slack = (count + 4) * SPACING * np.maximum(np.abs(g), np.abs(h)).mean(axis=2)
        low, high = (g.mean(axis=2) - slack)[..., None], (h.mean(axis=2) + slack)[..., None]
        products = np.stack([low * a, low * b, high * a, high * b])
        products = np.where(np.isnan(products), 0.0, products)  # 0 times infinity
        least, most = products.min(axis=0), products.max(axis=0)
        slack = (shape[0] + 4) * SPACING * np.maximum(np.abs(least), np.abs(most)).sum(axis=1)
        return np.maximum(least.sum(axis=1) - slack, 0.0), np.maximum(most.sum(axis=1) + slack, 0.0)


def grad_cam(layer: str | None = None) -> GradCam:
    """Grad-CAM of a layer's feature maps; the last activation that makes feature maps by default."""
    return GradCam(name="grad-cam", weights=np.ones(1), factors=np.ones(1), layer=layer)


def _are_maps(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3
