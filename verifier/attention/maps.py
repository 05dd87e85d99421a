"""Attention maps: every region of the perturbation parameters, and whether label and attention hold there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.attention.ahead import compile_ahead
from verifier.attention.area_result import AreaMap, AreaSettings
from verifier.attention.areas import area_map
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.region_map import RegionMap
from verifier.attention.run import MapRun
from verifier.attention.table import Aspect
from verifier.attention.walk_settings import WalkSettings
from verifier.encodings.perturbations import Perturbation, Perturbed, perturbed
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network


@checked
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
    band: float = 0.0,
    keep: int = 3_000_000,
    stream: str | Path | None = None,
    how: WalkSettings | None = None,
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
        aspect: whose boundary "gbs" follows: "attention", "label" or "both" (the paper's gbs-AR, gbs-CR, gbs-CRAR).
        band: the paper's w^δ: "gbs" also follows regions whose inconsistency is within this of delta.
        keep: most regions in memory at a time. An exhaustive map with more keeps totals and a picture only
            (two parameters), unless ``stream`` is given. About 0.5 kB a region.
        stream: a folder. Θ is mapped in tiles of at most ``keep`` regions, and each finished tile is written
            there (`RegionMap.tiles`). Called again with the same arguments, finished tiles are not mapped again.
        how: how the regions are walked, and by how many threads; they do not depend on the number.
        timeout: seconds after which the walk stops; the map then says what it covers.
        listener: hears `Progress` with the share of Θ done (in 1/1000).

    Raises:
        InputError: what is wrong with image, perturbations or arguments.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([np.eye(4), [[1, 1, 0, 0], [0, 0, 1, 1]]], [np.zeros(4), [0, 0]])
        >>> found = verifier.attention_map(network, [[0.9, 0.8], [0.1, 0.2]], [verifier.Brightness(low=0, high=0.1)])
        >>> str(found.answers["label"].answer), str(found.answers["attention"].answer)
        ('Answer.ROBUST', 'Answer.ROBUST')
    """
    if method not in ("exhaustive", "gbs"):
        raise InputError(f"unknown method {method!r}", fix="'exhaustive' or 'gbs' (tiles: attention_areas)")
    if aspect not in ("attention", "label", "both"):
        raise InputError(f"unknown aspect {aspect!r}", fix="'attention', 'label' or 'both'")
    if not np.isfinite(band) or band < 0:
        raise InputError(f"band must be a finite number >= 0, got {band}")
    if keep < 1:
        raise InputError(f"keep must be at least 1, got {keep}")
    if stream is not None and method != "exhaustive":
        raise InputError("only exhaustive maps can be streamed", fix="leave out stream=, or method='gbs'")
    layer, settings, label = _question(network, image, perturbations, delta, settings, label, clip)
    if settings.map != "gradient":
        raise InputError(
            f"the map {settings.map!r} is not constant on regions", fix="use attention_areas (--method areas)"
        )
    compile_ahead(attention_map, listener)
    began = time.monotonic()
    how = how or WalkSettings()
    run = MapRun(layer, settings, float(delta), label, keep, began, timeout, listener, band=band, how=how)
    if method == "gbs":
        from verifier.attention.boundary import boundary_map

        return boundary_map(run, aspect)
    if stream is not None:
        from verifier.attention.tiles import tiled_map

        return tiled_map(run, Path(stream))
    from verifier.attention.boundary import whole_map

    return whole_map(run)


@checked
def attention_areas(
    network: Network,
    image: npt.ArrayLike,
    perturbations: Sequence[Perturbation],
    delta: float = 3.0,
    *,
    settings: Inconsistency | None = None,
    label: int | None = None,
    clip: bool = True,
    how: AreaSettings | None = None,
    stream: str | Path | None = None,
    timeout: float | None = None,
    listener: Listener = ignore,
) -> AreaMap:
    """For which share of the parameters label and attention are proved to hold, refuted, and open: for large networks.

    Shapes: image ``(channels, H, W)``, or flat.

    Takes what `attention_map` takes, any number of parameters, and the saliency maps of Integrated Gradients and
    SmoothGrad (`Inconsistency.map`). "Robust" is proved here with a bound on every rounding.

    Args:
        how: how Θ is cut into tiles, and by how many threads.
        stream: a folder where what is found is kept. Called again with the same arguments after an interruption, the
            search goes on from there, and ends with the same result, bit for bit.
        timeout: seconds after which what is left stays open.

    Raises:
        InputError: what is wrong with image, perturbations or arguments.

    Source:
        the question is that of Munakata et al., NFM 2023; the branch and bound over Θ is this package's own.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([np.eye(4), [[1, 1, 0, 0], [0, 0, 1, 1]]], [np.zeros(4), [0, 0]])
        >>> image, changes = [[0.9, 0.8], [0.1, 0.2]], [verifier.Brightness(low=0, high=0.1), verifier.Translation(high=1)]
        >>> verifier.attention_areas(network, image, changes).shares["label"]  # proved, refuted, open
        (1.0, 0.0, 0.0)
    """
    layer, settings, label = _question(network, image, perturbations, delta, settings, label, clip)
    compile_ahead(attention_map, listener)
    folder = None if stream is None else Path(stream)
    deadline = Deadline.after(timeout)
    return area_map(layer, settings, float(delta), label, how=how, folder=folder, deadline=deadline, listener=listener)


def _question(
    network: Network,
    image: npt.ArrayLike,
    perturbations: Sequence[Perturbation],
    delta: float,
    settings: Inconsistency | None,
    label: int | None,
    clip: bool,
) -> tuple[Perturbed, Inconsistency, int]:
    """The arguments that both kinds of maps share, checked."""
    if not isinstance(network, Network):
        raise InputError(
            f"network must be a network, got {type(network).__name__}", fix="the order is network, image, perturbations"
        )
    if isinstance(perturbations, Perturbation) or not all(isinstance(p, Perturbation) for p in perturbations):
        raise InputError("perturbations must be a list of perturbations", fix="for instance [Brightness(high=0.2)]")
    try:
        image = np.asarray(image, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("the image must be an array of numbers") from None
    if not np.isfinite(delta) or delta < 0:
        raise InputError(f"delta must be a finite number >= 0, got {delta}")
    layer = perturbed(network, image, perturbations, clip=clip)
    if network.output_size < 2:
        raise InputError("a network with one output has no label to keep", place=network.source)
    if label is None:
        label = int(np.argmax(network.forward(layer.image.reshape(1, -1))[0]))
    if not 0 <= label < network.output_size:
        raise InputError(f"label {label} does not exist", fix=f"labels are 0 to {network.output_size - 1}")
    return layer, settings or Inconsistency(), label
