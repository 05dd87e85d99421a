"""Attention maps: every region of the perturbation parameters, and whether label and attention hold there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from verifier.attention.inconsistency import Inconsistency
from verifier.attention.region_map import RegionMap
from verifier.attention.run import MapRun
from verifier.attention.table import NAMES, Aspect
from verifier.encodings.perturbations import Perturbation, perturbed
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.network.graph import Network


def attention_map(
    network: Network,
    image: npt.ArrayLike,
    perturbations: Sequence[Perturbation],
    delta: float = 3.0,
    *,
    settings: Inconsistency | None = None,
    label: int | None = None,
    clip: bool = True,
    method: str = "exhaustive",
    aspect: Aspect = "attention",
    keep: int = 3_000_000,
    stream: str | Path | None = None,
    timeout: float | None = None,
    listener: Listener = ignore,
) -> RegionMap:
    """Map every linear region of the perturbation parameters (Munakata et al., NFM 2023).

    Args:
        network: any network of the framework; MaxPool and other piecewise-linear operators are rewritten with
            ReLUs, so that a region may come in several pieces.
        image: ``(channels, H, W)`` or ``(H, W)``, in [0, 1].
        perturbations: one per parameter; one and two parameters are walked geometrically, more by linear
            programs.
        delta: the largest inconsistency that still counts as the same attention, >= 0.
        settings: filter, norm and classes of the inconsistency; the paper's (identity, L2, all) by default.
        label: the label that should hold; the network's own at the image by default.
        clip: clip pixels to [0, 1].
        method: "exhaustive", or "gbs": only what is needed to find the boundary around θ = 0.
        aspect: whose boundary "gbs" follows: "attention" or "label".
        keep: most regions in memory at a time. An exhaustive map with more keeps totals and a picture only
            (two parameters), unless ``stream`` is given. About 0.5 kB a region.
        stream: a folder. Θ is mapped in tiles of at most ``keep`` regions, and each finished tile is written
            there (`RegionMap.tiles`). Called again with the same arguments, finished tiles are not mapped again.
        timeout: seconds after which the walk stops; the map then says what it covers.
        listener: hears `Progress` with the share of Θ done (in 1/1000).

    Raises:
        InputError: what is wrong with image, perturbations or arguments.
    """
    settings = settings or Inconsistency()
    if not np.isfinite(delta) or delta < 0:
        raise InputError(f"delta must be a finite number >= 0, got {delta}")
    if method not in ("exhaustive", "gbs"):
        raise InputError(f"unknown method {method!r}", fix="'exhaustive' or 'gbs'")
    if aspect not in NAMES:
        raise InputError(f"unknown aspect {aspect!r}", fix="'attention' or 'label'")
    if keep < 1:
        raise InputError(f"keep must be at least 1, got {keep}")
    if stream is not None and method != "exhaustive":
        raise InputError("only exhaustive maps can be streamed", fix="leave out stream=, or method='gbs'")
    layer = perturbed(network, image, perturbations, clip=clip)
    if label is None:
        label = int(np.argmax(network.forward(layer.image.reshape(1, -1))[0]))
    if not 0 <= label < network.output_size:
        raise InputError(f"label {label} does not exist", fix=f"labels are 0 to {network.output_size - 1}")
    began = time.monotonic()
    run = MapRun(layer, settings, float(delta), label, keep, began, timeout, listener)
    if method == "gbs":
        from verifier.attention.boundary import boundary_map

        return boundary_map(run, aspect)
    if stream is not None:
        from verifier.attention.tiles import tiled_map

        return tiled_map(run, Path(stream))
    from verifier.attention.boundary import whole_map

    return whole_map(run)
