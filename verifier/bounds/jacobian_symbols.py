"""Gradients where few slopes are unknown: each of these a symbol, which travels on to the input with its sign.

Behind an unstable ReLU with slope s in [0, 1] the gradient is ``s g = g / 2 + ε |g| / 2`` for some ε in [-1, 1]: half of
what was known of g, and one symbol more, for each output, of size ``max |g| / 2``. Behind affine nodes and behind ReLUs of a
known phase symbols stay what they are, so that terms cancel as they do in the gradient itself; interval arithmetic would add up
the absolute values of all weights on the way, which for a dozen layers is a factor of millions. The cost is one backward
pass for every symbol. (Zonotopes: Singh et al., *Fast and Effective Robustness Certification*, NeurIPS 2018, here for the
gradient.)

**Rounding.** Beside the symbols an error is carried, by interval arithmetic: an affine node's product of n terms is
off by at most ``g |W|ᵀ Σ|terms|`` (`verifier.bounds.interval`), and what earlier nodes were off by goes through ``|W|ᵀ``. Slopes of
0, 1/2 and 1 round nothing, others in their last places; sums of two gradients by half a unit in the last place of their terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bounds.interval import FLOOR, magnitude, rounding
from verifier.bounds.relaxation import Slopes
from verifier.bounds.zonotope import Zonotope
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Shape
from verifier.rounding import SPACING


@dataclass(frozen=True, eq=False)
class GradientSymbols(Zonotope):
    """The input's gradients on a set, of ``(outputs, *input shape)``.

    Attributes:
        owners: the symbols' neurons in order: activations and the flat indices of their neurons.
    """

    owners: tuple[tuple[str, npt.NDArray[np.intp]], ...]


def gradient_symbols(
    network: Network, weights: Array, slopes: Mapping[str, Slopes], *, most: int = 1 << 26, at_most: int = 1 << 20
) -> GradientSymbols | None:
    """The input's gradient of some outputs, on a set on which most activations have a known slope; see the module.

    Args:
        weights: ``(outputs, m)``: coefficients of the outputs whose gradients these are.
        slopes: by activation, a batch of one.
        most, at_most: numbers in one array of symbols, and symbols.

    Returns:
        None where there would be too many symbols.
    """
    seed = np.array(weights, dtype=np.float64).reshape(1, len(weights), *network.output_shape)
    found = {network.output: Zonotope(seed, np.zeros(seed.shape[1:]))}
    symbols, owners = 0, list[tuple[str, npt.NDArray[np.intp]]]()
    for node in reversed(network.nodes[1:]):
        poll(f"while symbols went back through node {node.name!r}")
        here = found.pop(node.name, None)
        if here is None:
            continue
        if isinstance(node.operator, AffineOperator):
            parts = _through_affine(node.operator, here, [network[i].shape for i in node.inputs])
        else:
            part, loose = _through_slopes(node, here, slopes[node.name], symbols)
            parts, symbols = [part], symbols + len(loose)
            owners.append((node.name, loose))
        if symbols > at_most or any((1 + symbols) * part.error.size > most for part in parts):
            return None
        for name, part in zip(node.inputs, parts, strict=True):
            found[name] = found[name].plus(part) if name in found else part
    shape = (len(weights), *network.input_shape)
    last = found.get(network.input, Zonotope(np.zeros((1, *shape)), np.zeros(shape)))
    return GradientSymbols(last.padded(1 + symbols), last.error, tuple(owners))


def _through_affine(operator: AffineOperator, here: Zonotope, shapes: list[Shape]) -> list[Zonotope]:
    lead, shape = here.terms.shape[:2], here.terms.shape[2:]
    slack = rounding(operator, True, shapes)
    total = np.abs(here.terms).sum(axis=0) * (1 + (lead[0] + 8) * SPACING)
    raised = np.where((total > 0) | (here.error > 0), np.maximum(here.error + slack * total, FLOOR), 0.0)
    errors = magnitude(operator).transpose(raised, *shapes)
    terms = operator.transpose(here.terms.reshape(-1, *shape), *shapes)
    return [Zonotope(t.reshape(*lead, *t.shape[1:]), e * (1 + 4 * slack)) for t, e in zip(terms, errors, strict=True)]


def _through_slopes(node: Node, here: Zonotope, slopes: Slopes, symbols: int) -> tuple[Zonotope, npt.NDArray[np.intp]]:
    """What an activation passes back, and the neurons that are the symbols after those that there are already."""
    small, large, reach = slopes.smallest, slopes.largest, here.reach()
    gain, steep = (small + large) / 2, np.maximum(np.abs(small), np.abs(large))
    exact = np.isin(small, (0.0, 1.0)) & np.isin(large, (0.0, 1.0))
    rounded = np.where(exact, 0.0, 4 * SPACING * steep) * reach + np.where(exact & slopes.fixed, 0.0, FLOOR)
    error = (here.error * np.abs(gain) + rounded) * (1 + 4 * SPACING)
    terms = here.terms * gain[None]
    loose = np.flatnonzero(~slopes.fixed & (reach > 0).any(axis=0, keepdims=True))
    if not loose.size:
        return Zonotope(terms, error), loose
    half = ((large - small) / 2).reshape(-1)[loose]
    made = np.zeros((len(loose), terms.shape[1], node.size))
    made[np.arange(len(loose)), :, loose] = (reach.reshape(terms.shape[1], -1)[:, loose] * half).T
    made = made.reshape(len(loose), *terms.shape[1:])
    return Zonotope(np.concatenate([Zonotope(terms, error).padded(1 + symbols), made]), error), loose
