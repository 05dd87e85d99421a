"""CROWN through the convolutions themselves, in windows: for networks of hundreds of thousands of neurons.

A row of coefficients over a node goes back to the input through transposed convolutions; at a ReLU each coefficient takes
the lower or the upper line. Rows of neurons that lie near each other are taken together, on the rectangle of each
earlier node that these neurons can see (`windows`): a neuron of an early layer costs a few pixels, not an image.

**Rounding** (unit roundoff u of the float type; γ_k = k u / (1 - k u)). Every step turns computed coefficients into other
computed coefficients and is off by at most a local error times values that are met on the box; so the errors add up, each
weighted by the coefficients that the pass really had. With m >= |value| on the box, r the number of readers of the node
that a step leads to, and k the terms of its sums, a coefficient a loses at most |a| times

* affine v = W w + b:  γ_{k+r+4} |W| m_w + 2⁻³⁰ |b|  (products with constants are summed in float64);
* ReLU v = max(z, 0), relaxed to λ z and (λ + δ) z + t:  γ_{r+8} (m_z + t) + 2⁻³⁰ t;
* the input: its products with the box are made in float64, γ of float64 times m.

These local errors (`_Step.cost`) are summed with |a|, in the pass's own float type; they are raised for the rounding of this
sum itself. Each product that underflows is off by at most the smallest normal number: `_floor` covers all of them, and
the least cost of a coefficient is so large that none is lost with a large coefficient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from verifier.bounds.relaxations import elementwise
from verifier.bounds.structured.maps import Backend, Map, Tensor, maps_of
from verifier.bounds.structured.windows import Window, windows_from
from verifier.errors import InputError
from verifier.network.convolution import Conv
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array, Concat, Dense, Operator, Scale, Shape, Sum
from verifier.properties.sets import Box
from verifier.rounding import TINY, gamma

Ends = tuple[Array, Array]
"""Lower and upper ends of a node's values, each of the node's shape, float64."""
CONSTANTS = 2.0**-30
"""More than γ_k of float64 for any number of terms that a node can have: sums over constants are made in float64."""
SPARE = 1.01
"""Reserve for the roundings of the local errors themselves; that of their sum is added by the number of its terms."""
RANGE = 2.0**60
"""float32 is used where all numbers of the network are between 1/RANGE and RANGE, or zero."""


def backend_for(network: Network, box: Box, device: str = "cpu") -> Backend:
    """float32 where the network's and the box's numbers are neither huge nor tiny, else float64."""
    arrays = [np.maximum(np.abs(box.lower), np.abs(box.upper))]
    for node in network.nodes:
        operator = node.operator
        if isinstance(operator, AffineOperator):
            if operator.coefficients is not None:
                sparse = operator.sparse_weight if isinstance(operator, Dense) else None
                arrays.append(getattr(operator, operator.coefficients) if sparse is None else sparse.data)
            constant = operator.constant()
            if constant is not None:
                arrays.append(constant)
    numbers = [np.abs(a[a != 0]) for a in arrays]
    usual = all(((n > 1 / RANGE) & (n < RANGE)).all() for n in numbers)
    return Backend(torch.float32 if usual else torch.float64, device)


@dataclass(eq=False)
class _Step:
    """What a pass needs at one node, for the bounds known now; tensors of the node's shape.

    Attributes:
        cost: what a coefficient loses here (the module's docstring).
        lower, bend, intercept: at a ReLU λ, δ and t; None at an affine node.
    """

    cost: Tensor
    lower: Tensor | None = None
    bend: Tensor | None = None
    intercept: Tensor | None = None


@dataclass(eq=False)
class Weights:
    """What a pass may choose for each row, by ReLU node ``(R, *shape)``.

    Attributes:
        values: in [0, 1], the lower slope of an undecided neuron; where a phase is assumed, the multiplier β >= 0 of z >= 0
            or z <= 0 (β-CROWN: Wang et al., NeurIPS 2021).
        phases: 1 or -1 where a phase is assumed, else 0; None for none.
        record: if given, the coefficients that the pass meets at each ReLU are written to it.
    """

    values: Mapping[str, Tensor]
    phases: Mapping[str, Tensor] | None = None
    record: dict[str, Tensor] | None = None

    @property
    def fixed(self) -> bool:
        """Whether any phase may be assumed."""
        return self.phases is not None

    def of(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Values and phases at a node."""
        return self.values[name], None if self.phases is None else self.phases[name]

    def multipliers(self, name: str) -> Tensor:
        """β, and 0 where no phase is assumed."""
        assert self.phases is not None
        return torch.where(self.phases[name] != 0, self.values[name], 0.0)


class Backward:
    """Passes over one network and box, with bounds of its nodes that may become better on the way.

    Args:
        values: bounds of the nodes that passes go through (their magnitudes, and the ReLUs' relaxations); read at the
            first pass after `refresh`.

    Raises:
        InputError: for operators other than affine ones and ReLUs.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; α-CROWN: Xu et al., ICLR 2021, Section 3; β-CROWN:
        Wang et al., NeurIPS 2021, Theorem 3.1; products with operators in place of matrices: Xu et al.,
        NeurIPS 2020.
    """

    def __init__(self, network: Network, box: Box, values: Mapping[str, Ends], backend: Backend) -> None:
        if not network.is_relu_only:
            raise InputError("only networks of affine operators and ReLUs are bounded in windows")
        self.network, self.box, self.values, self.backend = network, box, values, backend
        self.maps = maps_of(network, backend)
        self._steps: dict[str, _Step] = {}
        self._readers = Counter(i for n in network.nodes for i in n.inputs)
        self._tiny = float(torch.finfo(backend.dtype).tiny)
        self.least = 2.0**-100 if backend.dtype == torch.float32 else TINY
        """The least cost of a coefficient."""
        self._lost: float | None = None

    def refresh(self, name: str) -> None:
        """Forget what was derived from a node's bounds, for they are better now."""
        for node in self.network.nodes:
            if name in node.inputs:
                self._steps.pop(node.name, None)
        self._lost = None

    def lower(
        self,
        name: str,
        rows: Tensor,
        window: Window | None,
        extra: Array | None = None,
        weights: Weights | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Lower bounds of rows over a part of a node, and what rounding may have cost them.

        Args:
            rows: ``(R, *shape of the part)``.
            extra: ``(R, n)`` further coefficients of the input.
            weights: lower slopes instead of CROWN's, and assumed phases with their multipliers.

        Returns:
            both ``(R,)`` float64; their difference is proved.
        """
        network = self.network
        parts = windows_from(network, name, window)
        pending: dict[str, Tensor] = {name: rows}
        total = torch.zeros(len(rows), dtype=torch.float64, device=self.backend.device)
        slack = torch.zeros_like(total)
        for node in reversed(network.nodes[1:]):
            if node.name not in pending:
                continue
            a, step, part = pending.pop(node.name), self._step(node.name), parts[node.name]
            cost = _cut(step.cost, part)
            slack = slack + (a.detach().abs().flatten(1) @ cost.flatten()).double()
            if isinstance(node.operator, AffineOperator):
                linear = self.maps[node.name]
                if linear.constant is not None:
                    total = total + _with_constant(linear, a, part)
                made = self._adjoint(linear, a, parts)
            else:
                through, gained = _relaxed(a, step, part, None if weights is None else weights.of(node.name))
                total, made = total + gained, (through,)
                if weights is not None and weights.fixed:
                    held = weights.multipliers(node.name).detach()
                    slack = slack + (_cut(held, part).flatten(1) @ cost.flatten()).double()
            for source, coefficients in zip(node.inputs, made, strict=True):
                known = pending.get(source)
                pending[source] = coefficients if known is None else known + coefficients
            if weights is not None and weights.record is not None and not isinstance(node.operator, AffineOperator):
                met = a.detach()
                weights.record[node.name] = met if part is None else _placed(met, part.top, part.left, None, node.shape)
        return self._on_box(pending.get(network.input), parts.get(network.input), total, slack, extra)

    def proved(
        self,
        name: str,
        rows: Tensor,
        window: Window | None,
        extra: Array | None = None,
        weights: Weights | None = None,
    ) -> tuple[Array, Array]:
        """Proved lower bounds, and what was subtracted for rounding, both ``(R,)``: see `lower`."""
        found, slack = self.lower(name, rows, window, extra, weights)
        lower = (found - slack).cpu().numpy()
        return np.where(lower < np.inf, lower, -np.inf), slack.cpu().numpy()  # NaN and overflow prove nothing

    # -- steps -------------------------------------------------------------------------------------------
    def _on_box(
        self, a: Tensor | None, part: Window | None, total: Tensor, slack: Tensor, extra: Array | None
    ) -> tuple[Tensor, Tensor]:
        shape = self.network.input_shape
        low, high = (torch.tensor(e, device=self.backend.device) for e in (self.box.lower, self.box.upper))
        flat = torch.zeros((len(total), self.box.size), dtype=torch.float64, device=self.backend.device)
        if a is not None and part is not None and extra is not None:
            a, part = _placed(a, part.top, part.left, None, shape), None
        if a is not None:
            low, high = (_cut(e.reshape(shape), part).flatten() for e in (low, high))
            flat = a.double().flatten(1)
        if extra is not None:
            flat = flat + torch.tensor(extra, device=self.backend.device)
        value = flat.clamp(min=0) @ low + flat.clamp(max=0) @ high
        size = flat.detach().abs() @ torch.maximum(low.abs(), high.abs())
        lost = slack + 2 * gamma(2 * flat.shape[1] + 64) * size + self._floor()
        return total + value, lost

    def _step(self, name: str) -> _Step:
        if name in self._steps:
            return self._steps[name]
        node, backend = self.network[name], self.backend
        sizes = [np.maximum(np.abs(low), np.abs(high)) for low, high in (self.values[i] for i in node.inputs)]
        readers = max(self._readers[i] for i in node.inputs)
        if isinstance(node.operator, AffineOperator):
            linear = self.maps[name]
            spread = linear.forward(*(backend.tensor(s)[None] for s in sizes), absolute=True)[0]
            cost = gamma(linear.terms(True) + readers + 4, backend.unit) * spread
            if linear.constant is not None:
                cost = cost + CONSTANTS * backend.tensor(np.abs(linear.constant)).reshape(node.shape)
            step = _Step(self._raised(cost))
        else:
            step = self._relu(node.operator, *self.values[node.inputs[0]], readers)
        self._steps[name] = step
        return step

    def _relu(self, operator: Operator, low: Array, high: Array, readers: int) -> _Step:
        """The table's relaxation, with the upper slope that passes will really use."""
        backend, relaxed = self.backend, elementwise(operator)
        found = relaxed.linear(operator, low.shape, low, high)
        lower, unstable = found.lower_slope, found.unstable
        bend = backend.tensor(np.where(unstable, found.upper_slope - lower, 0.0))
        above = lower + bend.double().cpu().numpy()
        _, top = relaxed.intercepts(operator, low, high, lower, above)
        intercept = backend.tensor(np.where(unstable, np.maximum(top, 4 * self._tiny), 0.0)) * (1 + 4 * backend.unit)
        size = backend.tensor(np.maximum(np.abs(low), np.abs(high)))
        cost = gamma(readers + 8, backend.unit) * (size + intercept) + CONSTANTS * intercept
        return _Step(self._raised(cost), backend.tensor(lower), bend, intercept)

    def _raised(self, cost: Tensor) -> Tensor:
        return cost * (SPARE + 4 * cost.numel() * self.backend.unit) + self.least

    def _adjoint(self, linear: Map, a: Tensor, parts: Mapping[str, Window | None]) -> tuple[Tensor, ...]:
        """``Wᵀ a`` on the parts of the inputs."""
        node = linear.node
        part, operator = parts[node.name], linear.operator
        top = left = 0
        if part is None or part == Window.whole(node.shape):
            made = linear.adjoint(a)
        elif isinstance(operator, Conv):
            top = part.top * operator.stride[0] - operator.padding[0]
            left = part.left * operator.stride[1] - operator.padding[1]
            made = (linear.unpadded(a),)
        elif isinstance(operator, (Scale, Sum)) or (isinstance(operator, Concat) and operator.axis == 0):
            top, left = part.top, part.left
            made = linear.adjoint_part(a, part.top, part.left)
        else:
            made = linear.adjoint(_placed(a, part.top, part.left, None, node.shape))
        return tuple(
            m if parts[source] is None else _placed(m, top, left, parts[source], self.network[source].shape)
            for m, source in zip(made, node.inputs, strict=True)
        )

    def _floor(self) -> float:
        """What underflow may cost a pass, all nodes together."""
        if self._lost is None:
            total = 0.0
            for node in self.network.nodes:
                if node.name in self.values:
                    low, high = self.values[node.name]
                    total += (node.size + 64.0) * (1.0 + float(np.maximum(np.abs(low), np.abs(high)).sum()))
            self._lost = 16 * self._tiny * total
        return self._lost


def _cut(tensor: Tensor, part: Window | None) -> Tensor:
    """A part of an image, or of a batch of them."""
    return tensor if part is None else tensor[..., part.top : part.bottom, part.left : part.right]


def _relaxed(
    a: Tensor, step: _Step, part: Window | None, chosen: tuple[Tensor, Tensor | None] | None
) -> tuple[Tensor, Tensor]:
    """From coefficients of ReLUs' outputs to those of their inputs, and what the intercepts add to the bounds."""
    assert step.lower is not None
    assert step.bend is not None
    assert step.intercept is not None
    negative, slope, bend = a.clamp(max=0), _cut(step.lower, part), _cut(step.bend, part)
    intercept = _cut(step.intercept, part)
    if chosen is None:
        return torch.addcmul(a * slope, negative, bend), (negative * intercept).flatten(1).sum(1, dtype=torch.float64)
    values, phases = chosen
    values = _cut(values, part)
    own = torch.where(intercept > 0, values, slope)
    made = torch.addcmul(a * own, negative, bend + (slope - own))
    if phases is not None:  # v = z and z >= 0, or v = 0 and z <= 0
        phase = _cut(phases, part)
        made = torch.where(phase == 0, made, torch.where(phase > 0, a - values, values))
        negative = torch.where(phase == 0, negative, 0.0)
    return made, (negative * intercept).flatten(1).sum(1, dtype=torch.float64)


def _with_constant(linear: Map, a: Tensor, part: Window | None) -> Tensor:
    """Products with the node's constant, in float64."""
    assert linear.constant is not None
    if isinstance(linear.operator, Conv):
        return a.sum((2, 3), dtype=torch.float64) @ torch.tensor(linear.operator.bias, device=a.device)
    constant = torch.tensor(linear.constant, device=a.device).reshape(linear.node.shape)
    return a.double().flatten(1) @ _cut(constant, part).flatten()


def _placed(made: Tensor, top: int, left: int, part: Window | None, shape: Shape) -> Tensor:
    """A rectangle whose corner is at ``(top, left)`` cut and filled up with zeros to a part of an image."""
    window = part if part is not None else Window(0, 0, shape[1], shape[2])
    edges = (
        left - window.left,
        window.right - left - made.shape[3],
        top - window.top,
        window.bottom - top - made.shape[2],
    )
    return functional.pad(made, edges) if any(edges) else made  # negative numbers cut
