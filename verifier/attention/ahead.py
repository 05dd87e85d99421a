"""The kernels of attention maps, compiled ahead of a map's clock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifier import compiled
from verifier.encodings.perturbations import Brightness, Translation
from verifier.events import Listener, ignore
from verifier.network.graph import feedforward


def compile_ahead(attention_map: Callable[..., object], listener: Listener = ignore) -> None:
    """Compile what attention maps use, the first time after an installation (`verifier.compiled.ensure`)."""
    compiled.ensure("attention maps", listener, lambda: _sample(attention_map))


def _sample(attention_map: Callable[..., object]) -> None:
    rng = np.random.default_rng(0)
    network = feedforward(
        [rng.normal(size=s) for s in ((12, 16), (8, 12), (3, 8))], [rng.normal(size=n) for n in (12, 8, 3)]
    )
    image = rng.uniform(0.2, 0.8, (4, 4))
    for perturbations in ([Brightness(high=0.2)], [Brightness(high=0.2), Translation()]):
        for method in ("exhaustive", "gbs"):
            attention_map(network, image, perturbations, 1.0, method=method)
    attention_map(network, image, perturbations, 1.0, keep=1)  # totals and a picture alone
