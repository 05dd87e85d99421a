"""The properties that most users want, built in one call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.graph import Network
from verifier.properties.query import GradientBox, Query, larger_output_cases
from verifier.properties.sets import Box

Domain = tuple[float, float] | None


def robustness(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    *,
    label: int | None = None,
    domain: Domain = (0.0, 1.0),
) -> Query:
    """Local robustness: every input within ``epsilon`` (L∞) of ``x`` has label ``label``.

    A tie with another output counts as a violation (as in VNN-COMP).

    Args:
        x: the input, of the network's input shape or flat.
        epsilon: radius in input units, >= 0.
        label: the label to keep; the network's own label at ``x`` by default.
        domain: inputs are cut to this interval, ``(0, 1)`` (images) by default; None for no cut.

    Raises:
        PropertyError: epsilon < 0, ``x`` of the wrong size, NaN or outside the domain, no such label.
    """
    point, label = _point_and_label(network, x, label)
    return Query(
        network=network,
        box=Box.around(point, epsilon, domain),
        cases=larger_output_cases(network.output_size, label),
        anchor=point,
        description=f"label {label} within L∞ distance {epsilon:g}{_domain_text(domain)}",
    )


def saliency_robustness(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    delta: float,
    label: int | None = None,
    *,
    domain: Domain = (0.0, 1.0),
) -> Query:
    """Saliency robustness (Le et al., ACML 2023): inputs with a similar map have the same label.

    For every x' within ``epsilon`` (L∞) of ``x``, inside ``domain``: if
    ``|∂N_label/∂x (x') - ∂N_label/∂x (x)|∞ <= delta`` then the label of x' is ``label``.
    A tie with another output counts as a violation.

    Args:
        x: the input x̂, of the network's input shape or flat.
        epsilon: radius in input units, >= 0.
        delta: largest difference of any entry of the vanilla-gradient map, >= 0.
        label: the label; the network's own label at ``x`` by default.
        domain: inputs are cut to this interval, ``(0, 1)`` (images) by default; None for no cut.

    Raises:
        PropertyError: epsilon or delta < 0, ``x`` of the wrong size, NaN or outside the domain, no such label.
    """
    point, label = _point_and_label(network, x, label)
    if not np.isfinite(delta) or delta < 0:
        raise PropertyError(f"delta must be a finite number >= 0, got {delta}")
    reference = network.gradient(point, label).reshape(-1)
    return Query(
        network=network,
        box=Box.around(point, epsilon, domain),
        cases=larger_output_cases(network.output_size, label),
        gradient=GradientBox(output=network.output_weights(label), lower=reference - delta, upper=reference + delta),
        anchor=point,
        description=(
            f"label {label} wherever the gradient map differs by at most {delta:g}, "
            f"within L∞ distance {epsilon:g}{_domain_text(domain)}"
        ),
    )


def _point_and_label(network: Network, x: npt.ArrayLike, label: int | None) -> tuple[npt.NDArray[np.float64], int]:
    point = np.asarray(x, dtype=np.float64).reshape(-1)
    if point.size != network.input_size:
        raise PropertyError(
            f"an input of {point.size} entries for a network with {network.input_size}", place=network.source
        )
    if not np.isfinite(point).all():
        raise PropertyError("the input contains NaN or infinity")
    if label is None:
        label = int(np.argmax(network.forward(point)))
    if not 0 <= label < network.output_size:
        raise PropertyError(f"label {label} does not exist", fix=f"labels are 0 to {network.output_size - 1}")
    return point, int(label)


def _domain_text(domain: Domain) -> str:
    return "" if domain is None else f", inputs in [{domain[0]:g}, {domain[1]:g}]"
