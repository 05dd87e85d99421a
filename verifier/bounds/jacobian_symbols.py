"""Bounds on gradients where few ReLUs are unstable: each of them a symbol, which travels on to the input with its sign.

Behind an unstable ReLU with slope s in [0, 1] the gradient is ``s g = g / 2 + ε |g| / 2`` for some ε in [-1, 1]: half of
what was known of g, and one symbol more, for each output, of size ``max |g| / 2``. Behind affine nodes and behind ReLUs of a
known phase symbols stay what they are, so that terms cancel as they do in the gradient itself; interval arithmetic would add up
the absolute values of all weights on the way, which for a dozen layers is a factor of millions. The cost is one backward
pass for every symbol. (Zonotopes: Singh et al., *Fast and Effective Robustness Certification*, NeurIPS 2018, here for the
gradient.)

**Rounding.** Beside the symbols an error is carried, by interval arithmetic: an affine node's product of n terms is
off by at most ``g |W|ᵀ Σ|terms|`` (`verifier.bounds.interval`), and what earlier nodes were off by goes through ``|W|ᵀ``. Slopes of
0, 1/2 and 1 round nothing; sums of two gradients by half a unit in the last place of their terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bounds.interval import FLOOR, magnitude, rounding
from verifier.bounds.phases import Pair
from verifier.bounds.relaxation import Slopes
from verifier.limits import poll
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Shape
from verifier.rounding import SPACING


@dataclass(frozen=True, eq=False)
class _Gradient:
    """``terms[0] + Σ ε_k terms[k] ± error``: ``(1 + symbols, outputs, *shape)`` and ``(outputs, *shape)``."""

    terms: Array
    error: Array

    def reach(self) -> Array:
        """At least the largest absolute value of every entry, ``(outputs, *shape)``."""
        return np.asarray((np.abs(self.terms).sum(axis=0) + self.error) * (1 + (len(self.terms) + 8) * SPACING))

    def plus(self, other: _Gradient) -> _Gradient:
        """The sum; symbols of the same number are the same."""
        count = max(len(self.terms), len(other.terms))
        a, b = _padded(self.terms, count), _padded(other.terms, count)
        wide = (self.error + other.error + SPACING * (np.abs(a) + np.abs(b)).sum(axis=0)) * (1 + (count + 8) * SPACING)
        return _Gradient(a + b, wide)


@dataclass(frozen=True, eq=False)
class GradientSymbols:
    """The input's gradients on a set: ``terms[0] + Σ ε_k terms[k] ± error``, every ε_k in [-1, 1].

    Attributes:
        terms: ``(1 + symbols, outputs, *input shape)``.
        error: ``(outputs, *input shape)``.
        owners: the symbols' ReLUs in order: activations and the flat indices of their neurons.
    """

    terms: Array
    error: Array
    owners: tuple[tuple[str, npt.NDArray[np.intp]], ...]


def gradient_symbols(
    network: Network, weights: Array, slopes: Mapping[str, Slopes], *, most: int = 1 << 26
) -> GradientSymbols | None:
    """The input's gradient of some outputs, on a set on which most ReLUs have a known phase; see the module.

    Args:
        weights: ``(outputs, m)``: coefficients of the outputs whose gradients these are.
        slopes: by activation, all of them ReLUs, a batch of one.
        most: numbers in one array of symbols.

    Returns:
        None where there would be too many symbols.
    """
    unstable = sum(int((~s.fixed).sum()) for s in slopes.values())
    if (1 + unstable) * len(weights) * max(node.size for node in network.nodes) > most:
        return None
    seed = np.array(weights, dtype=np.float64).reshape(1, len(weights), *network.output_shape)
    found = {network.output: _Gradient(seed, np.zeros(seed.shape[1:]))}
    symbols, owners = 0, list[tuple[str, npt.NDArray[np.intp]]]()
    for node in reversed(network.nodes[1:]):
        poll(f"while symbols went back through node {node.name!r}")
        here = found.pop(node.name, None)
        if here is None:
            continue
        if isinstance(node.operator, AffineOperator):
            parts = _through_affine(node.operator, here, [network[i].shape for i in node.inputs])
        else:
            parts = [_through_relu(node, here, slopes[node.name], symbols)]
            owners.append((node.name, np.flatnonzero(~slopes[node.name].fixed)))
            symbols += len(owners[-1][1])
        for name, part in zip(node.inputs, parts, strict=True):
            found[name] = found[name].plus(part) if name in found else part
    shape = (len(weights), *network.input_shape)
    last = found.get(network.input, _Gradient(np.zeros((1, *shape)), np.zeros(shape)))
    return GradientSymbols(_padded(last.terms, 1 + symbols), last.error, tuple(owners))


def symbolic_gradients(
    network: Network, weights: Array, slopes: Mapping[str, Slopes], *, most: int = 1 << 26
) -> Pair | None:
    """Bounds on the gradients that `gradient_symbols` describes, ``(outputs, *input shape)`` each."""
    found = gradient_symbols(network, weights, slopes, most=most)
    if found is None:
        return None
    spread = np.abs(found.terms[1:]).sum(axis=0) + found.error
    spread = spread * (1 + (len(found.terms) + 8) * SPACING)
    return np.nextafter(found.terms[0] - spread, -np.inf), np.nextafter(found.terms[0] + spread, np.inf)


def _through_affine(operator: AffineOperator, here: _Gradient, shapes: list[Shape]) -> list[_Gradient]:
    lead, shape = here.terms.shape[:2], here.terms.shape[2:]
    slack = rounding(operator, True, shapes)
    total = np.abs(here.terms).sum(axis=0) * (1 + (lead[0] + 8) * SPACING)
    raised = np.where((total > 0) | (here.error > 0), np.maximum(here.error + slack * total, FLOOR), 0.0)
    errors = magnitude(operator).transpose(raised, *shapes)
    terms = operator.transpose(here.terms.reshape(-1, *shape), *shapes)
    return [_Gradient(t.reshape(*lead, *t.shape[1:]), e * (1 + 4 * slack)) for t, e in zip(terms, errors, strict=True)]


def _through_relu(node: Node, here: _Gradient, slopes: Slopes, symbols: int) -> _Gradient:
    """What a ReLU passes back; its unstable neurons are the symbols after those that there are already."""
    gain = (slopes.smallest + slopes.largest) / 2
    loose = np.flatnonzero(~slopes.fixed)
    error = here.error * gain + np.where(slopes.fixed, 0.0, FLOOR)
    terms = here.terms * gain[None]
    if loose.size:
        half = ((slopes.largest - slopes.smallest) / 2).reshape(-1)[loose]
        made = np.zeros((len(loose), terms.shape[1], node.size))
        made[np.arange(len(loose)), :, loose] = (here.reach().reshape(terms.shape[1], -1)[:, loose] * half).T
        made = made.reshape(len(loose), *terms.shape[1:])
        terms = np.concatenate([_padded(terms, 1 + symbols), made])
    return _Gradient(terms, error)


def _padded(terms: Array, count: int) -> Array:
    """The terms with zeros for symbols that they do not have."""
    if len(terms) == count:
        return terms
    return np.concatenate([terms, np.zeros((count - len(terms), *terms.shape[1:]))])
