"""`attribute`: which inputs, or neurons, an output comes from; one call, and a result that shows itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.attribution.integrated_gradients import METHODS, IntegratedGradients
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.shown import Shown

RULES = (*METHODS, "gradient")
"""What `attribute` takes as a method."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(Shown):
    """How much each input (or neuron) counts for one output at one input.

    Attributes:
        values: in the network's input shape (for a layer: the node's); their unit is the output's, for "gradient" output
            per input.
        what: "integrated gradients", "gradient" or "conductance of NODE".
        method: as it was asked.
        target: the output.
        value: of that output at the input.
        input: in the network's input shape.
        baseline: where the line begins; None for a gradient.
        change: ``f(input) - f(baseline)``, which exact attributions add up to; None for a gradient.
        error: exact relative error ``Σ|sampled - exact| / Σ|exact|`` of a sampled rule; None for the others.

    Source:
        completeness: Sundararajan, Taly, Yan, ICML 2017.
    """

    _drawn_by = "verifier.report.regions:attribution_plot"

    values: Array
    what: str
    method: str
    target: int
    value: float
    input: Array
    baseline: Array | None = None
    change: float | None = None
    error: float | None = None

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self.values.sum())

    def largest(self, count: int = 10) -> list[tuple[int, float]]:
        """The entries with the largest absolute values, as flat index and value, the largest first."""
        flat = self.values.reshape(-1)
        order = np.argsort(-np.abs(flat), kind="stable")[:count]
        return [(k, float(flat[k])) for k in order.tolist()]

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"entries": f"{self.values.size:,}", "sum": f"{self.total:.6g}"}
        if self.change is not None:
            facts["sum"] += f" (the output changes by {self.change:.6g} from the baseline)"
        if self.error is not None:
            facts["error"] = f"{self.error:.3%} against the exact integral ({self.method})"
        facts["largest"] = ", ".join(f"{v:.4g} at {k}" for k, v in self.largest(3))
        return f"{self.what} of output {self.target} (value {self.value:.6g})", facts


@checked
def attribute(
    network: Network,
    input: npt.ArrayLike,
    *,
    baseline: npt.ArrayLike | None = None,
    target: int | None = None,
    method: str = "exact",
    steps: int = 50,
    layer: str | None = None,
    listener: Listener = ignore,
) -> Attribution:
    """Attribute an output of a network to the entries of one input.

    Integrated gradients are the integral of the gradient along the line from a baseline to the input, times the
    difference (Sundararajan, Taly, Yan, ICML 2017). The gradient is constant on each linear piece of the line, so the
    integral is computed as it is (Sotoudeh, Thakur, ExactLine, NeurIPS 2019, Section 4), and the error of a sampled rule is
    known. Many inputs at once: `verifier.IntegratedGradients`.

    Args:
        input: one input, flat or in the network's input shape, in the network's units.
        baseline: of the same shape; zeros by default.
        target: index of the output; the largest at the input by default.
        method: "exact"; a rule with ``steps`` samples: "left", "right", "midpoint", "trapezoid", "gausslegendre"; or
            "gradient": the plain gradient at the input.
        steps: gradient samples of a rule.
        layer: name of a node: exact conductance of its entries instead (Dhamdhere, Sundararajan, Yan, ICLR 2019).
        listener: is told how many linear pieces there are after each layer.

    Raises:
        InputError: a shape that does not fit, NaN, no such output, method or node.

    Source:
        integrated gradients: Sundararajan, Taly, Yan, ICML 2017, exactly as in Sotoudeh, Thakur, ExactLine,
        NeurIPS 2019, Section 4, Equations 6 and 7; gradients: Simonyan, Vedaldi, Zisserman, 2014; expected
        gradients: Erion et al., 2021.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> found = verifier.attribute(network, [0.9, 0.1], target=0)
        >>> found.values.round(6), round(found.total, 6)
        (array([ 0.9, -0.1]), 0.8)
        >>> verifier.attribute(network, [0.9, 0.1], target=0, method="gradient").values
        array([ 1., -1.])
    """
    if method not in RULES:
        raise InputError(f"unknown method {method!r}", fix=f"one of {', '.join(RULES)}")
    x = one_input(network, input, "input")
    start = np.zeros_like(x) if baseline is None else one_input(network, baseline, "baseline")
    outputs = network.forward(x).reshape(-1)
    chosen = int(outputs.argmax()) if target is None else int(target)
    network.output_weights(chosen)  # raises where there is no such output
    common = {"target": chosen, "value": float(outputs[chosen]), "input": x, "method": method}
    if method == "gradient" and layer is None:
        return Attribution(values=network.gradient(x, chosen), what="gradient", **common)  # type: ignore[arg-type]
    rule = IntegratedGradients(network, listener=listener)
    change = float(outputs[chosen] - network.forward(start).reshape(-1)[chosen])
    error = None
    if layer is not None:
        values, what = rule.conductance(layer, x, start, chosen)[0], f"conductance of {layer}"
    else:
        what = "integrated gradients"
        values = rule.attribute(x, start, chosen, method=method, n_steps=steps)
        if method != "exact":
            error = float(rule.error(x, start, chosen, method=method, n_steps=steps)[0])
    found = np.asarray(values, dtype=np.float64)
    return Attribution(values=found, what=what, baseline=start, change=change, error=error, **common)  # type: ignore[arg-type]


def one_input(network: Network, x: npt.ArrayLike, name: str) -> Array:
    """One input, in the network's input shape.

    Raises:
        InputError: it is none, naming it.
    """
    batch, single = network.batch(x)
    if not single and len(batch) != 1:
        raise InputError(f"{name}: {len(batch)} inputs, and one is wanted", fix="see IntegratedGradients for many")
    if not np.isfinite(batch).all():
        raise InputError(f"{name} contains infinity")
    assert batch[0].size == prod(network.input_shape)
    return batch[0]
