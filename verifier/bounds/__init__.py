"""Bounds on a network's values and gradients over a box: interval arithmetic, CROWN, α-CROWN."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from verifier.arguments import checked
from verifier.bounds.bound import Bound, NetworkBounds
from verifier.bounds.interval import interval_bounds, interval_gradient_bounds
from verifier.bounds.jacobian import jacobian_bounds
from verifier.errors import EngineError, InputError
from verifier.lazy import callable_as
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.options import BOUND_STEPS
from verifier.properties.sets import Box

__all__ = ["Backend", "Bound", "Method", "NetworkBounds", "bounds", "gradient_bounds"]

Method = Literal["interval", "crown", "alpha-crown"]
Backend = Literal["own", "lirpa"]


@checked
def bounds(
    network: Network,
    box: Box,
    method: Method = "crown",
    *,
    backend: Backend = "own",
    steps: int = BOUND_STEPS,
    everything: bool = True,
) -> NetworkBounds:
    """Bounds on every node's value over a box of inputs; never wider than interval arithmetic.

    Args:
        method: "interval"; "crown" (linear bound propagation); "alpha-crown" (the same with optimised slopes,
            through auto_LiRPA).
        backend: "own" uses this package's kernel for "crown", whose rounding errors are bounded by proof;
            "lirpa" uses auto_LiRPA, a second implementation without that proof.
        steps: of the slopes' optimisation, for "alpha-crown" (20 is auto_LiRPA's default; Le et al., ACML 2023, section
            5.1, take 200).
        everything: False leaves neurons whose piece is decided anyway with the intervals that follow from the
            other bounds, and residual sums too: the output's bounds are nearly the same (0.3 % wider on a
            ResNet), several times sooner on wide networks.

    Returns:
        Bounds by node name, each in the node's shape: ``bounds(network, box)["relu_1"].lower``.

    Raises:
        InputError: for a box that does not fit the network, an unknown method or backend, or steps < 1.
        EngineError: if auto_LiRPA is needed and not installed, or, with backend "lirpa", fails. With the backend "own",
            "alpha-crown" falls back to "crown" where it fails; the result's ``method`` says so.

    Source:
        CROWN: Zhang et al., NeurIPS 2018; α-CROWN: Xu et al., ICLR 2021.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> found = verifier.bounds(network, verifier.Box.around([0.9, 0.1], 0.1))
        >>> found[network.output].lower.round(6), found[network.output].upper.round(6)
        (array([0.6, 0. ]), array([1., 0.]))
    """
    _check(network, box, method, backend, steps)
    if method == "interval":
        return interval_bounds(network, box)
    if method == "alpha-crown" or backend == "lirpa":
        from verifier.bounds.lirpa import lirpa_bounds
        from verifier.bounds.lirpa_compat import load

        if backend == "lirpa":
            return lirpa_bounds(network, box, method, steps=steps)
        own = _crown(network, box, everything)
        load()  # where auto_LiRPA is not installed, that is an error
        try:
            return lirpa_bounds(network, box, method, known=own, steps=steps)
        except EngineError as error:  # it fails on some networks with MaxPool
            return replace(own, method=f"crown (alpha-crown failed: {error.problem})")
    return _crown(network, box, everything)


@checked
def gradient_bounds(
    network: Network,
    box: Box,
    output: int | Array,
    values: NetworkBounds | None = None,
    method: Method = "crown",
    *,
    backend: Backend = "own",
    steps: int = BOUND_STEPS,
    everything: bool = True,
) -> NetworkBounds:
    """Bounds on the gradient of an output with respect to every node's value, over a box of inputs.

    Shapes: output ``(outputs,)``, if it is no index.

    The gradient convention at kinks is replaced by its closed superset: where a preactivation can be exactly on
    a breakpoint, both neighbouring slopes are admitted.

    Args:
        output: index into the flattened output, or one coefficient per flattened output.
        values: bounds on every node's value over the box, if at hand; else computed by ``method``.
        method: "interval" or "crown"; "alpha-crown" is "crown" with ``values`` from α-CROWN (on the backward
            graph itself there are no slopes to optimise, see `verifier.bounds.jacobian`).
        backend, steps: as for `bounds`.
        everything: False leaves neurons that cannot improve the input's gradient with intervals: the bounds of the
            input's gradient are the same for the same ``values``, sooner.

    Raises:
        InputError, EngineError: as `bounds`.

    Source:
        the Jacobian by linear propagation: `verifier.bounds.jacobian`.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> found = verifier.gradient_bounds(network, verifier.Box.around([0.9, 0.1], 0.1), 0)
        >>> found[network.input].lower, found[network.input].upper
        (array([ 1., -1.]), array([ 1., -1.]))
    """
    _check(network, box, method, backend, steps)
    if values is None:
        values = bounds(network, box, method, backend=backend, steps=steps, everything=everything)
    if method == "interval":
        return interval_gradient_bounds(network, output, values)
    if backend == "lirpa":
        from verifier.bounds.lirpa import lirpa_gradient_bounds

        return lirpa_gradient_bounds(network, output, values)
    return jacobian_bounds(network, output, values, everything=everything)


def _crown(network: Network, box: Box, everything: bool) -> NetworkBounds:
    """CROWN where linear bounds can improve on intervals; elsewhere intervals of what was found before."""
    from verifier.bounds.crown import Crown, crown_bounds

    if everything:
        wanted = {network.output, *(n.inputs[0] for n in network.activations)}
        wanted |= {n.name for n in network.nodes if len(n.inputs) > 1}
        found = crown_bounds(network, box, sorted(wanted))
    else:
        root = Crown(network, box).root_bounds
        shapes = {name: network[name].shape for name in root}
        ends = {name: [end.reshape(shapes[name]) for end in pair] for name, pair in root.items()}
        found = NetworkBounds({name: Bound(low, high) for name, (low, high) in ends.items()}, "crown")
    return interval_bounds(network, box, known=found, method="crown")


def _check(network: Network, box: Box, method: str, backend: str, steps: int) -> None:
    if backend not in get_args(Backend):
        raise InputError(f"unknown backend {backend!r}", fix=f"one of {', '.join(get_args(Backend))}")
    if method not in get_args(Method):
        raise InputError(f"unknown bounding method {method!r}", fix=f"one of {', '.join(get_args(Method))}")
    if steps < 1:
        raise InputError(f"steps of the optimisation must be at least 1, got {steps}")
    if box.size != network.input_size:
        raise InputError(f"a box of {box.size} inputs does not fit a network with {network.input_size}")


callable_as(__name__)
