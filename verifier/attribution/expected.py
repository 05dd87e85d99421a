"""Expected gradients over a line of baselines, exactly.

Integrated Gradients ask for one baseline; expected gradients (Erion et al., *Improving performance of deep learning models
with axiomatic attribution priors and expected gradients*, Nature Machine Intelligence 2021) average them over many, which
is otherwise done by sampling. For baselines b(s) = b₀ + s d, s uniform on [0, 1], all paths from the baselines to x lie in
one triangle of a plane, on which a piecewise-linear network has finitely many linear regions. With the coordinates
p = b₀ + α (x - b₀) + β d, the path from b(s) is α = t, β = (1 - t) s, so that

    EG = Σ over polygons P of ((x - b₀) I₀(P) - d I₁(P)) ⊙ g_P,      I₀ = ∫ dα dβ / (1 - α),   I₁ = ∫ β dα dβ / (1 - α)²

with the polygon's gradient g_P. Both integrals have closed forms along each edge (Green), so nothing is sampled: what is
left is float64 rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.plane import plane

TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


@checked
def expected_gradients(
    network: Network,
    x: npt.ArrayLike,
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    *,
    target: int,
    memory: float | None = None,
) -> Array:
    """The attributions of an output to the inputs, averaged over all baselines between two.

    Args:
        x: the input, flat or of the network's input shape.
        start, end: the ends of the line of baselines (black and white, say), uniformly weighted.
        target: the output.
        memory: GiB for the restriction to the plane, as for `verifier.plane`.

    Returns:
        ``(n,)``. They sum up to ``y_target(x)`` minus its mean over the line of baselines.

    Raises:
        InputError: inputs of the wrong size; baselines that are equal or on a line with x (then the paths overlap: use
            `verifier.attribution.IntegratedGradients` along that line); no such output.
        MemoryLimitError: as `verifier.plane`.

    Source:
        Erion et al., Nature Machine Intelligence 2021.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.attribution import expected_gradients
        >>> network = verifier.feedforward([[[1.0, 2.0]]], [np.zeros(1)])
        >>> expected_gradients(network, [1.0, 1.0], [0.0, 0.0], [0.0, 1.0], target=0).round(12)
        array([1., 1.])
    """
    if not 0 <= target < network.output_size:
        raise InputError(f"output {target} does not exist", fix=f"outputs are 0 to {network.output_size - 1}")
    point, b0, b1 = (np.asarray(p, dtype=np.float64).reshape(-1) for p in (x, start, end))
    for name, p in (("x", point), ("start", b0), ("end", b1)):
        if p.size != network.input_size:
            raise InputError(f"{name} has {p.size} entries for a network with {network.input_size} inputs")
    towards, along = point - b0, b1 - b0
    found = plane(network, b0, towards, along, TRIANGLE, memory=memory)
    gradients = found.gradient(target).reshape(len(found), -1)
    zeroth, first = _moments(found.vertices[found.indices], found.offsets)
    return np.asarray(towards * (zeroth @ gradients) - along * (first @ gradients))


def _moments(corners: Array, offsets: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """I₀ and I₁ of every polygon, ``(P,)`` each: ``-∮ H dα`` counter-clockwise with ∂H/∂β the integrand.

    Args:
        corners: ``(k, 2)`` α and β of all polygons' corners, polygon after polygon, counter-clockwise.
        offsets: ``(P + 1,)`` where each begins.
    """
    following = np.arange(1, len(corners) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    q, beta = 1.0 - corners[:, 0], corners[:, 1]
    q2, beta2 = q[following], beta[following]
    run = q2 - q
    flat = np.abs(run) < 1e-300
    slope = np.divide(beta2 - beta, run, out=np.zeros_like(run), where=~flat)
    # an edge is β = A + B q; at x itself q and β are 0, and with them A
    at_x = np.minimum(q, q2) <= 0
    a = np.where(at_x, 0.0, beta - slope * q)
    safe, safe2 = np.where(at_x, 1.0, q), np.where(at_x, 1.0, q2)
    logs = np.log(safe2 / safe)
    zeroth = np.where(flat, 0.0, a * logs + slope * run)
    first = np.where(flat, 0.0, (a**2 * (1 / safe - 1 / safe2) + 2 * a * slope * logs + slope**2 * run) / 2)
    # dα = -dq, and the boundary integral has a minus of its own
    return np.add.reduceat(zeroth, offsets[:-1]), np.add.reduceat(first, offsets[:-1])
