"""What a reader of an attention map should know of the question itself: each one line."""

from __future__ import annotations

import itertools

import numpy as np

from verifier.attention import AreaMap, RegionMap


def notes(m: RegionMap | AreaMap) -> list[str]:
    """Lines on what is odd about a question; empty if nothing is."""
    found = []
    layer, box = m.perturbed, m.perturbed.box
    if not layer.clip:
        ends = [
            sorted({p.low, *path.breaks.tolist(), p.high})
            for p, path in zip(layer.perturbations, layer.paths, strict=True)
        ]
        corners = np.array(list(itertools.islice(itertools.product(*ends), 4096)))
        pixels = layer.images(corners)
        if pixels.min() < 0 or pixels.max() > 1:
            found.append(f"pixels are not clipped and go from {pixels.min():.4g} to {pixels.max():.4g}, outside [0, 1]")
    if np.any((box.lower > 0) | (box.upper < 0)):
        found.append(
            "the unchanged image (every change 0) is not among the parameters: its nearest one takes its place"
        )
    if not np.any(m.settings.reference(layer, m.label)):
        found.append("the network does not react to any pixel of the unchanged image: its saliency map is 0")
    return found
