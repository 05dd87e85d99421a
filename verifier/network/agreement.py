"""A network beside the model that it was read from: both evaluated at random inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.errors import NetworkError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.runtime import RuntimeModel, rounded

LARGEST_GAP = {"float64": 1e-9, "float16": 0.1}
"""Relative differences that rounding explains, by the type of the model's input; 1e-3 for other types."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a network is from its model in onnxruntime.

    Attributes:
        inputs: at how many inputs both were evaluated.
        gap: the largest ``max |ours - theirs| / max(1, max |theirs|)``, the maxima over one input's outputs.
        allowed: the largest gap that the rounding of the model's type explains.
    """

    inputs: int
    gap: float
    allowed: float

    @property
    def close(self) -> bool:
        """Whether rounding explains the difference."""
        return self.gap <= self.allowed


def agreement(network: Network, model: RuntimeModel, x: Array | None = None, *, inputs: int = 8) -> Agreement:
    """Evaluate a network and its model side by side.

    Args:
        x: ``(batch, n)``; random inputs, if None: in the network's domain where it has one, else some in [0, 1]
            and some normally distributed.
        inputs: how many random inputs.
    """
    if x is None:
        x = _random_inputs(network, inputs)
    seen = rounded(x, model.dtype).astype(np.float64)  # the same point for both
    theirs = model.run(seen).reshape(len(x), -1)
    ours = network.forward(seen).reshape(len(x), -1)
    allowed = LARGEST_GAP.get(str(model.dtype), 1e-3)
    if ours.shape != theirs.shape:
        return Agreement(inputs=len(x), gap=np.inf, allowed=allowed)
    finite = np.isfinite(theirs)  # what overflows in the model's type says nothing
    gaps = np.where(finite, np.abs(ours - theirs), 0.0).max(axis=1)
    scale = np.maximum(1.0, np.where(finite, np.abs(theirs), 0.0).max(axis=1))
    return Agreement(inputs=len(x), gap=float((gaps / scale).max()), allowed=allowed)


def _random_inputs(network: Network, count: int) -> Array:
    rng = np.random.default_rng(0)
    if network.domain is not None:
        lower, upper = network.domain
        return lower + rng.random((count, network.input_size)) * (upper - lower)
    x = rng.random((count, network.input_size))
    x[::2] = rng.normal(size=x[::2].shape)
    return x * 255 if network.integer_inputs else x


def check_against_runtime(network: Network) -> Agreement:
    """The agreement of a network that was read from an ONNX file with onnxruntime on that file.

    Raises:
        NetworkError: the two differ by more than rounding explains, or onnxruntime cannot run the model.
    """
    found = agreement(network, RuntimeModel(network, fused=False))
    if not found.close:
        raise NetworkError(
            f"the network that was read differs from onnxruntime by {found.gap:.3g} at a random input",
            place=network.source,
            fix="this is a fault of the reader, or the model's outputs are far larger than what rounding leaves of "
            "them: please report the model",
        )
    return found
