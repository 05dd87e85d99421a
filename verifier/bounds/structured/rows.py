"""Bounds of a condition's rows after a sweep: CROWN's, and with optimised lower slopes (α-CROWN: Xu et al., ICLR 2021).

The slopes are found in the sweep's float type by gradient ascent; what counts is one pass in float64 with them.
"""

from __future__ import annotations

import numpy as np
import torch

from verifier.bounds.settings import RowSettings
from verifier.bounds.structured.backward import Weights
from verifier.bounds.structured.maps import Backend, Tensor, exact_products
from verifier.bounds.structured.sweep import Sweep
from verifier.network.operators import Array


class RowBounds:
    """Rows ``y_rows y + x_rows x - bound`` over the box of a sweep that has run.

    Args:
        y_rows, x_rows, bound: ``(S, m)``, ``(S, n)``, ``(S,)``.
        settings: how slopes are optimised.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; α-CROWN: Xu et al., ICLR 2021, Section 3.
    """

    def __init__(
        self, sweep: Sweep, y_rows: Array, x_rows: Array, bound: Array, settings: RowSettings = RowSettings()
    ) -> None:
        self.settings = settings
        self.sweep, self.y_rows, self.x_rows, self.bound = sweep, y_rows, x_rows, bound

    def lower(self) -> Array:
        """Proved lower bounds ``(S,)``, CROWN's."""
        with exact_products(self.sweep.threads):
            return self._proved(np.arange(len(self.bound)), None)

    def optimised(self, steps: int) -> Array:
        """Proved lower bounds ``(S,)`` after so many steps of the ascent; the deadline is looked at in between."""
        found = np.full(len(self.bound), -np.inf)
        with exact_products(self.sweep.threads):
            together = self.settings.together
            for k in range(0, len(self.bound), together):
                if self.sweep.deadline.passed:
                    break
                some = np.arange(k, min(k + together, len(self.bound)))
                found[some] = self._proved(some, self._ascend(some, steps))
        return found

    def _ascend(self, some: Array, steps: int) -> dict[str, Tensor]:
        passes, network = self.sweep.passes, self.sweep.network
        rows, extra, _ = self.of(some, passes.backend)
        slopes: dict[str, Tensor] = {}
        for node in network.activations:
            low, high = self.sweep.values[node.inputs[0]]
            start = passes.backend.tensor(((high > -low) & (high > 0)).astype(np.float64))
            slopes[node.name] = start.expand(len(some), *node.shape).clone().requires_grad_()
        best = torch.full((len(some),), -np.inf, dtype=torch.float64, device=passes.backend.device)
        kept = {name: a.detach().clone() for name, a in slopes.items()}
        adam = torch.optim.Adam(slopes.values(), lr=self.settings.rate)
        for step in range(steps + 1):
            if self.sweep.deadline.passed:
                break
            with torch.enable_grad():
                value, _ = passes.lower(network.output, rows, None, extra, Weights(slopes))
                better = value.detach() > best
                best = torch.where(better, value.detach(), best)
                for name, a in slopes.items():
                    kept[name][better] = a.detach()[better]
                if step == steps:
                    break
                adam.zero_grad()
                (-value.sum()).backward()  # type: ignore[no-untyped-call]
            adam.param_groups[0]["lr"] = self.settings.rate * self.settings.decay**step
            adam.step()
            for a in slopes.values():
                a.clamp_(0, 1)
        return kept

    def _proved(self, some: Array, slopes: dict[str, Tensor] | None) -> Array:
        doubled = None if slopes is None else Weights({name: a.double() for name, a in slopes.items()})
        rows, extra, bound = self.of(some, self.sweep.exact.backend)
        lower, _ = self.sweep.exact.proved(self.sweep.network.output, rows, None, extra, doubled)
        return np.nextafter(lower - bound, -np.inf)

    def of(self, some: Array, backend: Backend) -> tuple[Tensor, Array | None, Array]:
        """Some rows: coefficients of the output and of the input (None for none), and bounds."""
        rows = backend.tensor(self.y_rows[some]).reshape(len(some), *self.sweep.network.output_shape)
        return rows, self.x_rows[some] if self.x_rows.any() else None, self.bound[some]
