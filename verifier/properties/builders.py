"""The properties that most users want, built in one call."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError, PropertyError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.map_condition import MapCondition
from verifier.properties.maps import SaliencyMap, sampled_network
from verifier.properties.named_maps import named_map
from verifier.properties.normalisation import Normalisation, Radius, exact_radius
from verifier.properties.query import GradientBox, Query, Statement, larger_output_disjuncts
from verifier.properties.sets import Box, Ends
from verifier.properties.statements import around_input

Domain = Ends | None | Literal["network"]
"""The lower and the upper ends that inputs are cut to; None: no cut; "network": `network_domain`."""


def network_domain(network: Network, domain: Domain = "network") -> Ends | None:
    """The domain that is meant: the network's own for "network", and for one that has none (0, 1), as for images.

    Raises:
        PropertyError: a domain that is no pair of ends, or of another shape than the input.
    """
    if not isinstance(domain, str):
        if domain is not None and len(domain) != 2:
            raise PropertyError(f"a domain is a pair of ends, not {len(domain)} of them", fix="(lower, upper)")
        return domain
    if domain != "network":
        raise PropertyError(f"there is no domain {domain!r}", fix='"network", None, or (lower, upper)')
    return (0.0, 1.0) if network.domain is None else network.domain


@checked
def robustness(
    network: Network,
    x: npt.ArrayLike,
    epsilon: Radius,
    *,
    label: int | None = None,
    domain: Domain = "network",
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
) -> Query:
    """Local robustness: every input within ``epsilon`` (L∞) of ``x`` has label ``label``.

    A tie with another output counts as a violation (as in VNN-COMP).

    Args:
        x: the input, of the network's input shape or flat.
        epsilon: radius in the units of ``x``, >= 0; text such as "2/255" is taken exactly.
        label: the label to keep; the network's own label at ``x`` by default.
        domain: inputs are cut to it; by default the network's own (a .nnet file says one), else ``(0, 1)``, as for
            images; None for no cut.
        mean, std: the network's own normalisation, one number each or one per channel: it is given ``(x - mean) / std``,
            while ``x``, ``epsilon`` and ``domain`` are in the data's units. A witness is what the network is given.

    Raises:
        PropertyError: epsilon < 0, ``x`` of the wrong size, NaN or outside the domain (by more than float32 rounding),
            no such label.

    Source:
        local robustness as in Katz et al., CAV 2017, and VNN-COMP; a tie counts as a violation.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> verifier.robustness(network, [0.9, 0.1], epsilon=0.1)
        <Query 'label 0 within L∞ distance 0.1, inputs in [0, 1]', inputs 2 of 2 vary, disjuncts 1, about outputs, of <Network built in Python, shape 2 → 2, nodes 4, neurons 2>>
    """
    ball = _Ball(network, x, epsilon, domain, mean, std)
    label = _label(network, ball.anchor, label)
    return Query(
        network=network,
        box=ball.box,
        disjuncts=larger_output_disjuncts(network.output_size, label),
        anchor=ball.anchor,
        statement=ball.statement(label),
        description=f"label {label} {ball.words}",
    )


@checked
def saliency_robustness(
    network: Network,
    x: npt.ArrayLike,
    *,
    epsilon: Radius,
    delta: float,
    label: int | None = None,
    domain: Domain = "network",
    map: str | SaliencyMap = "gradient",
    similarity: str = "linf",
    top_k: int = 0,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
) -> Query:
    """Saliency robustness (Le et al., ACML 2023): inputs with a similar map have the same label.

    For every x' within ``epsilon`` (L∞) of ``x``, inside ``domain``: if the map at x' is similar to the map at x,
    then the label of x' is ``label``. As in the paper by default: ``|∂N_label/∂x (x') - ∂N_label/∂x (x)|∞ <= delta``.
    A tie with another output counts as a violation, which the paper's Equation 14 leaves out (docs/papers.md).

    Args:
        x: the input x̂, of the network's input shape or flat.
        epsilon: radius in the units of ``x``, >= 0; text such as "2/255" is taken exactly.
        delta: largest distance of the maps, >= 0, see `verifier.properties.map_condition.MapCondition`.
        label: the label; the network's own label at ``x`` by default.
        domain: inputs are cut to it; by default the network's own (a .nnet file says one), else ``(0, 1)``, as for
            images; None for no cut.
        map: a name of `verifier.properties.named_maps.NAMES`, or a map made by the functions of `verifier.properties.maps`.
        similarity: "linf", "l1", "l2" or "top-k".
        top_k: for "top-k", how many pixels.
        mean, std: the network's own normalisation, as for `robustness`; maps are those of what the network is given.

    Raises:
        PropertyError: epsilon or delta < 0, ``x`` of the wrong size, NaN or outside the domain, no such label,
            map or similarity.

    Source:
        Le et al., ACML 2023, Equations 7 and 8; other maps and distances are this package's own.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> query = verifier.saliency_robustness(network, [0.9, 0.1], epsilon=0.5, delta=0.5)
        >>> verifier.verify(query).status  # where the label is another, so is the gradient
        <Status.HOLDS: 'holds'>
    """
    ball = _Ball(network, x, epsilon, domain, mean, std)
    point, box = ball.anchor, ball.box
    label = _label(network, point, label)
    condition = condition_at(network, point, delta, label, map=map, similarity=similarity, top_k=top_k)
    chosen = condition.map
    what = "gradient map" if chosen.name == "gradient" else f"map ({chosen.name})"
    how = "" if similarity == "linf" else f" ({'top-' + str(top_k) if top_k else similarity})"
    description = f"label {label} wherever the {what} differs by at most {delta:g}{how}, {ball.words}"
    host, weights = network_of(condition)
    gradient = None
    if chosen.by_gradient:
        if condition.is_box:
            gradient = GradientBox.exactly(weights, *condition.ends)
        else:
            lower, upper = condition.gradient_box(box.lower, box.upper)
            gradient = GradientBox(output=weights, lower=lower, upper=upper)
    return Query(
        network=host,
        statement=ball.statement(label, condition),
        box=box,
        disjuncts=larger_output_disjuncts(network.output_size, label, width=host.output_size),
        gradient=gradient,
        condition=None if condition.is_box and chosen.plain else condition,
        anchor=point,
        description=description,
    )


def network_of(condition: MapCondition) -> tuple[Network, Array]:
    """The network and the coefficients of its outputs, ``(m,)``, whose gradient is the one behind a condition's map.

    The condition's own, or for a map made of several points the network that holds them all; of a map that has no such
    network (`SaliencyMap.by_gradient`) the condition's own.
    """
    chosen, network = condition.map, condition.network
    if chosen.plain or not chosen.by_gradient:
        return network, condition.output
    host = sampled_network(network, chosen, condition.output)
    return host, host.output_weights(host.output_size - 1)


def condition_at(
    network: Network,
    x: npt.ArrayLike,
    delta: float = 0.0,
    label: int | None = None,
    *,
    domain: Domain = None,
    map: str | SaliencyMap = "gradient",
    similarity: str = "linf",
    top_k: int = 0,
) -> MapCondition:
    """ "The map is similar to the one at ``x``", as in `saliency_robustness`.

    Shapes: x ``(n,)`` or of the network's input shape.

    Raises:
        PropertyError: as `saliency_robustness`.

    Source:
        Le et al., ACML 2023, Equation 12, for any map and similarity.
    """
    if network.tail is not None:
        raise PropertyError(
            f"the network's last {network.tail.kind} was left out, and the gradient is that of the scores before it",
            place=network.source,
            fix="load it without ordered=True, or from a model without it",
        )
    if network.integer_inputs:
        raise PropertyError("the network takes integers, on which no gradient is defined", place=network.source)
    point, _ = _point(network, x, network_domain(network, domain))
    label = _label(network, point, label)
    chosen = named_map(map, network.input_size) if isinstance(map, str) else map
    return MapCondition.at(network, chosen, point, label, similarity, delta, top_k)


def centre(network: Network, x: npt.ArrayLike, domain: Domain = "network") -> Array:
    """The point around which questions about ``x`` are asked, ``(n,)`` in the data's units: x, moved into the domain if
    float32 rounding has put it outside.

    Raises:
        PropertyError: ``x`` of the wrong size, or NaN.
    """
    return _point(network, x, network_domain(network, domain))[0]


class _Ball:
    """The inputs of a question about robustness, as the network takes them.

    Attributes:
        box: the L∞ ball, cut to the domain.
        anchor: its center.
        words: what it is, for the description.
    """

    def __init__(
        self,
        network: Network,
        x: npt.ArrayLike,
        epsilon: Radius,
        domain: Domain,
        mean: npt.ArrayLike | None,
        std: npt.ArrayLike | None,
    ) -> None:
        ends = network_domain(network, domain)
        point, moved = _point(network, x, ends)
        scale = Normalisation.of(network, mean, std)
        shown = epsilon if isinstance(epsilon, str) else f"{float(epsilon):g}"
        self.words = f"within L∞ distance {shown}{_domain_text(ends)}{moved}"
        self._stated = (point, epsilon, ends) if scale.is_identity else None
        if scale.is_identity and not isinstance(epsilon, (str, Fraction)):
            self.box, self.anchor = Box.around(point, epsilon, ends), point
            return
        try:
            self.box = scale.box(point, exact_radius(epsilon), ends)
        except InputError as error:
            raise PropertyError(error.problem, place=error.place, fix=error.fix) from None
        self.anchor = self.box.clip(scale.apply(point))
        self.words += "" if scale.is_identity else ", given to the network as (x - mean) / std"

    def statement(self, label: int, condition: MapCondition | None = None) -> Statement | None:
        """What is asked, for those who check its proof; None where inputs are scaled first."""
        if self._stated is None or not np.array_equal(self._stated[0], self.anchor):
            return None
        point, epsilon, ends = self._stated
        return around_input(point, exact_radius(epsilon), ends, label, condition)


ROUNDED = 1e-6
"""Share of the domain's width by which an input may lie outside it and is moved to its end: float32 pixels are rounded."""


def _point(network: Network, x: npt.ArrayLike, domain: Ends | None) -> tuple[npt.NDArray[np.float64], str]:
    """The input, flat; one that float32 rounding has put outside the domain is moved into it, and the text says so."""
    point = np.asarray(x, dtype=np.float64).reshape(-1)
    if point.size != network.input_size:
        raise PropertyError(
            f"an input of {point.size} entries for a network with {network.input_size}", place=network.source
        )
    if not np.isfinite(point).all():
        raise PropertyError("the input contains NaN or infinity")
    if domain is None:
        return point, ""
    low, high = domain
    inside = np.clip(point, low, high)
    moved = np.abs(inside - point)
    if not moved.any() or (moved > ROUNDED * (np.asarray(high) - np.asarray(low))).any():
        return point, ""
    entry = int(moved.argmax())
    return inside, f"; entry {entry} of the input was {moved[entry]:.1g} outside the domain and was moved to its end"


def _label(network: Network, point: npt.NDArray[np.float64], label: int | None) -> int:
    if label is None:
        label = int(np.argmax(network.forward(point)))
    if not 0 <= label < network.output_size:
        raise PropertyError(f"label {label} does not exist", fix=f"labels are 0 to {network.output_size - 1}")
    return int(label)


def _domain_text(domain: Ends | None) -> str:
    if domain is None:
        return ""
    low, high = domain
    if isinstance(low, np.ndarray) or isinstance(high, np.ndarray):
        return ", inputs in the network's own ranges"
    return f", inputs in [{low:g}, {high:g}]"
