"""How large a computed value must be before its sign means anything: rounding errors carried through a network.

The entry j of a node's value at the vertex v carries an error of about ``weight[j] * scale[v] + offset[j]``:
``weight`` and ``offset`` depend on the network alone, ``scale`` is one number per vertex. Roundings are modelled
as independent (Higham & Mary, "A new approach to probabilistic rounding error analysis", 2019), so a neuron with
weights w turns errors of size e in its inputs into ``‖w‖₂ e`` and adds about ``u ‖w‖₂ ‖h‖₂`` of its own; all is
multiplied by `MARGIN`. A worst-case bound would grow by ``√n`` with every layer and be useless after a few.

The consequence of the model being too large is a crossing overlooked by less than the tolerance (about 1e-14 to
1e-12 of the values); of its being too small, a piece whose two neighbours differ by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import norm as sparse_norm

from verifier.limits import NEVER, Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array, Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.rounding import TINY, UNIT_ROUNDOFF

MARGIN = 16.0


@dataclass(frozen=True, eq=False)
class Slack:
    """The part of a node's rounding tolerance that does not depend on the vertex.

    Attributes:
        weight, offset: ``(n,)`` for the n entries of the node's value.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms, 2002, Section 3.1.
    """

    weight: Array
    offset: Array

    @property
    def mean(self) -> tuple[float, float]:
        """Root mean squares of weight and offset: what a typical entry carries into the next layer."""
        return _rms(self.weight), _rms(self.offset)


def _rms(x: Array) -> float:
    return float(row_norms(x.reshape(1, -1))[0] / np.sqrt(x.size)) if x.size else 0.0


def slacks(network: Network, deadline: Deadline = NEVER) -> dict[str, Slack]:
    """The tolerance factors of every node.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms, 2002, Section 3.1.
    """
    result: dict[str, Slack] = {}
    for node in network.nodes:
        deadline.check(f"at node {node.name!r}")
        if not node.inputs:
            result[node.name] = Slack(np.ones(node.size), np.zeros(node.size))
        else:
            result[node.name] = _slack(network, node, [result[i] for i in node.inputs])
    return result


def is_mixing(node: Node) -> bool:
    """Whether the node takes sums over many inputs, whose rounding enters ``scale``."""
    return isinstance(node.operator, AffineOperator) and not isinstance(
        node.operator, (Scale, Sum, Concat, Reshape, Select)
    )


def _slack(network: Network, node: Node, inputs: list[Slack]) -> Slack:
    operator, first = node.operator, inputs[0]
    match operator:
        case Dense():
            sparse = operator.sparse_weight
            norms = row_norms(operator.weight) if sparse is None else sparse_norm(sparse, axis=1)
            norms = np.broadcast_to(norms, node.shape)
            bias = np.broadcast_to(np.abs(operator.bias), node.shape)
        case Conv():
            norms = row_norms(operator.weight.reshape(len(operator.weight), -1))
            norms = np.broadcast_to(norms[:, None, None], node.shape)
            bias = np.broadcast_to(np.abs(operator.bias)[:, None, None], node.shape)
        case Scale():
            factor = np.abs(operator.scale).reshape(-1)
            shift = np.abs(operator.shift).reshape(-1)
            return Slack(first.weight * factor, first.offset * factor + MARGIN * UNIT_ROUNDOFF * shift)
        case Sum():
            return Slack(np.sum([s.weight for s in inputs], axis=0), np.sum([s.offset for s in inputs], axis=0))
        case Concat():
            shapes = [network[i].shape for i in node.inputs]
            weight = np.concatenate([s.weight.reshape(p) for s, p in zip(inputs, shapes)], operator.axis)
            offset = np.concatenate([s.offset.reshape(p) for s, p in zip(inputs, shapes)], operator.axis)
            return Slack(weight.reshape(-1), offset.reshape(-1))
        case Reshape():
            return first
        case Select():
            index = operator.index.reshape(-1)
            padding = index < 0
            return Slack(
                np.where(padding, 0.0, first.weight[index]),
                np.where(padding, MARGIN * UNIT_ROUNDOFF * abs(operator.fill), first.offset[index]),
            )
        case PiecewiseLinear():
            steepest = max(abs(s) for s in operator.slopes)
            constant = MARGIN * UNIT_ROUNDOFF * max(abs(s) for s in operator.intercepts)
            return Slack(first.weight * steepest, first.offset * steepest + constant)
        case MaxPool():
            windows = operator.windows(network[node.inputs[0]].shape)
            inside = windows >= 0
            return Slack(
                np.where(inside, first.weight[windows], 0.0).max(axis=1),
                np.where(inside, first.offset[windows], 0.0).max(axis=1),
            )
        case AffineOperator():
            matrices = operator.matrices(*(network[i].shape for i in node.inputs))
            norms = np.sqrt(sum(np.asarray(m.multiply(m).sum(axis=1)).reshape(-1) for m in matrices))
            constant = operator.constant()  # type: ignore[assignment]
            bias = np.zeros(node.size) if constant is None else np.abs(np.broadcast_to(constant, node.shape))
        case _:
            raise TypeError(f"no rounding model for {type(operator).__name__}")
    return Slack(
        np.ascontiguousarray(norms, dtype=np.float64).reshape(-1), MARGIN * UNIT_ROUNDOFF * np.asarray(bias).reshape(-1)
    )


def input_scale(x: Array) -> Array:
    """Tolerance scale ``(V,)`` of input points ``(V, n)``."""
    result: Array = MARGIN * UNIT_ROUNDOFF * np.abs(x).max(axis=1, initial=0.0)
    return result


def row_norms(x: Array) -> Array:
    """Euclidean norms ``(V,)`` of rows ``(V, n)``, without overflow or underflow of the squares."""
    squares = np.einsum("ij,ij->i", x, x)
    norms: Array = np.sqrt(squares)
    odd = np.flatnonzero(~((squares > TINY) & (squares < 1 / TINY)))
    if len(odd):
        largest = np.abs(x[odd]).max(axis=1, initial=0.0)
        unit = x[odd] / np.where(largest > 0, largest, 1.0)[:, None]
        norms[odd] = largest * np.sqrt(np.einsum("ij,ij->i", unit, unit))
    return norms


def output_scale(node: Node, inputs: list[Array], scales: list[Array], factors: list[Slack]) -> Array:
    """Tolerance scale ``(V,)`` of a node's value, from its inputs' values ``(V, n)``, scales and slacks."""
    if not is_mixing(node):
        return scales[0] if len(scales) == 1 else np.maximum.reduce(scales)
    total = np.zeros(len(scales[0]))
    for x, scale, slack in zip(inputs, scales, factors):
        weight, offset = slack.mean
        total += MARGIN * UNIT_ROUNDOFF * row_norms(x) + weight * scale + offset
    return total
