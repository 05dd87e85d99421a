"""An attention problem made ready for the traversal: normal form, expected map, and a small basis for the maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from verifier.attention.inconsistency import ExpectedMap, Inconsistency, expected_map
from verifier.attention.traversal.kernels import Expected
from verifier.attention.traversal.layers import LayeredForm, layered_form
from verifier.attention.traversal.net import TraversalNet, traversal_net
from verifier.encodings.perturbations import Perturbed
from verifier.network.operators import Array
from verifier.properties.sets import Box


@dataclass(frozen=True, eq=False)
class Problem:
    """What a traversal needs.

    Attributes:
        tnet: the network over Θ scaled to the unit cube.
        expected: the expected map over the unit cube.
        box: Θ; with an idle second parameter in [0, 1] if there is only one.
        origin: θ = 0 (or the nearest point of the box), in the unit cube.
        into: unit vector from there into the cube, in general position; many regions may meet at θ = 0, and this
            says which one is meant, in Θ and in a tile of it alike.
        idle: whether the second parameter is an idle companion of the only one.
    """

    tnet: TraversalNet
    expected: Expected
    box: Box
    origin: Array
    into: Array
    idle: bool = False


def problem(
    perturbed: Perturbed, settings: Inconsistency, label: int, *, idle: bool = True, box: Box | None = None
) -> Problem:
    """Prepare a traversal.

    Args:
        idle: give a single parameter an idle companion, so that its regions are rectangles of a square.
        box: a tile of Θ; all of Θ by default.
    """
    form = layered_form(perturbed.network, [perturbed.pixels])
    whole = perturbed.box
    box = whole if box is None else box
    idle = idle and box.size == 1
    if idle:
        form = _with_idle(form)
        whole, box = (Box(np.append(b.lower, 0.0), np.append(b.upper, 1.0)) for b in (whole, box))
    pixels = form.linear[perturbed.pixels]
    rows = settings.linear_part(perturbed.image.shape)
    wanted = expected_map(perturbed, settings, label)
    if settings.norm == 2 and settings.filter != "absolute":
        rows, wanted = _reduced(form, pixels, rows, wanted)
    seeds = np.eye(perturbed.network.output_size)[list(settings.outputs(perturbed, label))]
    seeds, wanted = _padded(seeds, wanted)
    tnet = traversal_net(form, box, pixels, seeds, rows)
    origin = (np.clip(0.0, box.lower, box.upper) - box.lower) / box.width
    start = np.clip(0.0, whole.lower, whole.upper)
    into = inward(origin)
    if np.all((box.lower <= start) & (start <= box.upper)):
        into = inward((start - whole.lower) / whole.width) * whole.width / box.width
        into /= np.linalg.norm(into)
    return Problem(tnet, _scaled(wanted, settings, box, form, tnet), box, origin, into, idle)


def inward(origin: Array) -> Array:
    """A direction from a point of the cube into it, in general position.

    Shapes: origin ``(d,)``.
    """
    target = 0.25 + 0.5 * np.random.default_rng(0).random(len(origin))
    step = target - origin
    return np.asarray(step / np.linalg.norm(step))


def _padded(seeds: Array, wanted: ExpectedMap) -> tuple[Array, ExpectedMap]:
    """Classes filled up with empty ones to a multiple of four, which vector instructions take at a time."""
    more = -len(seeds) % 4

    def wider(maps: Array) -> Array:
        return np.concatenate([maps, np.zeros((*maps.shape[:-1], more))], axis=-1)

    wanted = replace(wanted, base=wider(wanted.base), slopes=wider(wanted.slopes), bends=wider(wanted.bends))
    return np.concatenate([seeds, np.zeros((more, seeds.shape[1]))]), wanted


def _with_idle(form: LayeredForm) -> LayeredForm:
    """The same network with one more input that it ignores."""
    layers = [replace(form.layers[0], bias=np.zeros(2))]
    for layer in form.layers[1:]:
        blocks = dict(layer.blocks)
        if 0 in blocks:
            blocks[0] = sp.csr_array(sp.hstack([blocks[0], sp.csr_array((layer.size, 1))]))
        layers.append(replace(layer, blocks=blocks))
    return replace(form, layers=tuple(layers))


def _reduced(
    form: LayeredForm, pixels: int, rows: sp.csr_array, wanted: ExpectedMap
) -> tuple[sp.csr_array, ExpectedMap]:
    """Coordinates of the maps in an orthonormal basis of all maps that can occur, if that is much smaller.

    A dense first layer of k neurons has gradients in a k-dimensional space; Euclidean distances only see it
    and the span of the expected maps.
    """
    columns = [
        (rows @ layer.blocks[pixels].T).toarray() for layer in form.layers[pixels + 1 :] if pixels in layer.blocks
    ]
    if sum(c.shape[1] for c in columns) > 0.3 * rows.shape[0]:
        return rows, wanted
    expected = [wanted.base, *wanted.slopes, *wanted.bends]
    spanned = np.concatenate([*columns, *expected], axis=1)
    if spanned.shape[1] > 0.6 * rows.shape[0]:
        return rows, wanted
    basis, _ = np.linalg.qr(spanned)
    small = ExpectedMap(
        basis.T @ wanted.base, basis.T @ wanted.slopes, basis.T @ wanted.bends, wanted.axes, wanted.breaks
    )
    return sp.csr_array(sp.csr_array(basis.T) @ rows), small


def _scaled(wanted: ExpectedMap, settings: Inconsistency, box: Box, form: LayeredForm, tnet: TraversalNet) -> Expected:
    """The expected map over the unit cube: θ = lower + width · t."""
    d, lower, width = box.size, box.lower, box.width
    slopes = np.zeros((d, *wanted.base.shape))
    slopes[: len(wanted.slopes)] = wanted.slopes
    axes = wanted.axes
    hinges = next((k for k, layer in enumerate(form.layers) if layer.name == "hinges"), None)
    neurons = np.zeros(0, dtype=np.int64) if hinges is None else tnet.position[hinges - 1]
    return Expected(
        base=wanted.base + np.tensordot(lower, slopes, axes=1),
        moves=slopes * width[:, None, None],
        bends=wanted.bends * width[axes][:, None, None],
        neurons=neurons,
        axes=axes,
        offsets=(wanted.breaks - lower[axes]) / width[axes],
        moving=wanted.moving,
        norm=settings.norm,
        absolute=settings.filter == "absolute",
    )
