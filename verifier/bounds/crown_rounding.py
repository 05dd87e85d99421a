"""What rounding in float64 may cost a CROWN bound.

Coefficients are computed in float64 and so differ from the exact ones; what is lost is bounded
once per root box (`Rounding.errors`), by a vector E_v per node such that the computed bound of a row ``a`` over v
is wrong by at most ``|a| · E_v``. With u = 2^-53 and γ_k = k u / (1 - k u) (Higham, *Accuracy and Stability*,
Section 3.1; valid for every order of summation and for fused operations) and m_v >= |v| on the root box:

* input: ``E = γ m`` (the final dot product);
* affine v = W w + b: the product a W is computed with an error below γ |a| |W| per entry, which multiplies a
  value of size m_w; so ``E_v = |W| E_w + γ (|W| m_w + |b|)``;
* activation v = f(w), a linear relaxation of slopes at most L and intercept at most t on the root box:
  ``E_v = L E_w + γ (L m_w + t)``; for an output that depends on several inputs the largest of them counts;
* product v = x y: the slopes are values of the other factor, so ``E_v = m_y E_x + m_x E_y + 4 γ m_x m_y`` (times a reserve).

k is the largest number of terms in one of the sums, plus the number of nodes, plus a reserve; a factor
1 + 1e-6 covers the second-order terms.

E multiplies absolute weights through all layers, which in deep networks comes to more than their bounds leave. The *running*
analysis (Higham, Section 3.3) uses the coefficients a_v that a row really has on its way back: each step replaces
``a_v · v`` by what was computed from the computed a_v, and is wrong by less than its own rounding,
``γ |a_v| · (|W| m_w + |b|)`` or ``γ |a_v| · (L m_w + t)``; the row's bound is wrong by less than the sum of these
(`Rounding.local`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.bounds.interval import interval_values
from verifier.bounds.relaxations import relaxation
from verifier.errors import InputError
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator, Array
from verifier.properties.sets import Box
from verifier.rounding import LARGEST, TINY, gamma

Intervals = dict[str, tuple[Array, Array]]
"""Lower and upper ends by node name, each ``(boxes, flat size)``."""


class Rounding:
    """The error analysis of one network on a root box.

    Attributes:
        gamma: γ_k.
        constants: the constants of affine nodes that have any, flat.
        magnitudes, errors: m and E by node (module docstring).
        sizes: sums of the absolute values of the terms of each value: what the rounding of its evaluation grows with.
            Never cut by known bounds, for terms may cancel.
        local: by node what one step back through it may be wrong by, for each unit of coefficient; of the input the final
            dot product's error.
        reach: bounds on every coefficient and constant that a unit row over a node meets on its way back.

    Raises:
        InputError: if the network's size or numbers are beyond the analysis.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms, 2002, Section 3.1.
    """

    def __init__(self, network: Network, root: Box) -> None:
        self.network, self.root = network, root
        self._absolute: dict[str, AffineOperator] = {}
        self.constants: dict[str, Array] = {}
        for node in network.nodes:
            operator = node.operator
            if isinstance(operator, AffineOperator):
                self._absolute[node.name] = operator.absolute()
                constant = operator.constant()
                if constant is not None and np.any(constant):
                    spread = np.broadcast_to(constant, node.shape)
                    self.constants[node.name] = np.ascontiguousarray(spread).reshape(-1)
        self.gamma = gamma(2 * max(n.size for n in network.nodes) + 4 * len(network.nodes) + 64)
        if self.gamma * len(network.nodes) > 1e-6:
            raise InputError("the network is too large for the rounding analysis of float64")
        self._intervals: Intervals = {}
        self.magnitudes: dict[str, Array] = {}
        self.errors: dict[str, Array] = {}
        self.sizes: dict[str, Array] = {}
        self.local: dict[str, Array] = {}
        self.reach: dict[str, Array] = {}
        self.analyse({})
        if not all(np.all(r < LARGEST) for r in self.reach.values()):
            raise InputError("the network's numbers are too large for bounds in float64")

    def analyse(self, known: Intervals) -> None:
        """Magnitudes on the root box and the error vectors E, cut by bounds already known."""
        magnitudes: dict[str, Array] = {}
        errors: dict[str, Array] = {}
        sizes: dict[str, Array] = {}
        local: dict[str, Array] = {}
        reach: dict[str, Array] = {}
        for node in self.network.nodes:
            m_in = [magnitudes[i] for i in node.inputs]
            e_in = [errors[i] for i in node.inputs]
            r_in = [reach[i] for i in node.inputs]
            if not node.inputs:
                r = np.zeros(node.size)
                m = np.maximum(np.abs(self.root.lower), np.abs(self.root.upper))
                e = step = self.gamma * m
            elif isinstance(node.operator, AffineOperator):
                m = self.spread(node, m_in) + np.abs(self.constants.get(node.name, np.zeros(1)))
                step = self.gamma * m
                e = self.spread(node, e_in) + step
                r = self.spread(node, r_in)
            else:
                relaxed, shape = relaxation(node.operator), self.network[node.inputs[0]].shape
                between = self._between(node, known) if relaxed.needs_bounds else None
                m, e, r = relaxed.spread(node.operator, shape, (m_in[0], e_in[0], r_in[0]), between)
                step = relaxed.roundings * self.gamma * m
                e = e + step
            m = m * (1 + 1e-6)
            sizes[node.name], reach[node.name] = m, r + m + 1.0
            if node.name in known:
                m = np.minimum(m, np.abs(known[node.name]).max(axis=(0, 1)))
            magnitudes[node.name], errors[node.name] = m, e * (1 + 1e-6) + TINY
            local[node.name] = step * (1 + 1e-6) + TINY
        self.magnitudes, self.errors, self.sizes, self.reach = magnitudes, errors, sizes, reach
        self.local = local

    def _between(self, node: Node, known: Intervals) -> tuple[Array, Array]:
        """Bounds of an activation's input on the root box, ``(size,)`` each: those that are known, else intervals."""
        found = known.get(node.inputs[0])
        if found is None:
            if not self._intervals:
                self._intervals = {
                    name: (low.reshape(1, -1), high.reshape(1, -1))
                    for name, (low, high) in interval_values(
                        self.network, self.root.lower[None], self.root.upper[None]
                    ).items()
                }
            found = self._intervals[node.inputs[0]]
        return found[0].min(axis=0), found[1].max(axis=0)

    def spread(self, node: Node, inputs: Sequence[Array]) -> Array:
        """``Σ |W_i| @ x_i`` for flat non-negative vectors, or batches of them.

        Shapes: inputs ``(…, size)``, one for each input of the node.
        """
        shaped = [x.reshape(-1, *self.network[i].shape) for x, i in zip(inputs, node.inputs, strict=True)]
        result = self._absolute[node.name].linear(*shaped)
        return result.reshape(*inputs[0].shape[:-1], node.size)
