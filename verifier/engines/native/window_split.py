"""ReLU splitting on very large networks: rows bounded through the convolutions, with one set of neurons' bounds (β-CROWN).

What `relu_split` does on a condensed network, for networks whose condensed one would not fit: a node fixes phases of some
neurons, its bound has optimised slopes and multipliers (Wang et al., NeurIPS 2021), found by gradients of the passes in
`bounds.structured.backward` and proved by one pass in float64. Weights are kept for undecided neurons alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from verifier.bab import Bounded, BranchAndBound, Children, LeafAnswer, SearchResult, Settings, Verdict
from verifier.bounds.structured.backward import Backward, Weights
from verifier.bounds.structured.maps import Tensor, exact_products
from verifier.bounds.structured.rows import RowBounds
from verifier.engines.native.node_store import Nodes, NodeStore
from verifier.engines.native.settings import WindowSettings
from verifier.events import Listener
from verifier.limits import Deadline
from verifier.network.operators import Array


class WindowSplit:
    """One search: bounder, brancher and leaf solver of its `verifier.bab.BranchAndBound`.

    Args:
        rows: the rows of the condition, over a sweep that has run.

    Source:
        β-CROWN: Wang et al., NeurIPS 2021, Theorem 3.1.
    """

    def __init__(self, rows: RowBounds, settings: WindowSettings = WindowSettings()) -> None:
        self.settings = settings
        self.rows, self.sweep, self.network = rows, rows.sweep, rows.sweep.network
        self.places: dict[str, tuple[slice, npt.NDArray[np.intp]]] = {}
        """By ReLU node: its undecided neurons, as a part of all of them and as places in the node."""
        self.starts: list[Array] = []
        self.neurons = 0
        for node in self.network.activations:
            low, high = self.sweep.values[node.inputs[0]]
            found = np.flatnonzero(self.sweep.open((low, high), node.inputs[0]))
            self.places[node.name] = slice(self.neurons, self.neurons + len(found)), found
            self.starts.append((high > -low).reshape(-1)[found].astype(np.float32))
            self.neurons += len(found)

    def run(self, disjuncts: dict[int, float], memory: float, deadline: Deadline, listener: Listener) -> SearchResult:
        """Refute rows, one for each disjunct that is left, given with their bounds so far."""
        count = len(disjuncts)
        start = np.concatenate([*self.starts, np.zeros(0, dtype=np.float32)])
        roots = Nodes(
            np.array(list(disjuncts.values()), dtype=np.float32),
            np.array(list(disjuncts), dtype=np.int32),
            np.zeros((count, self.neurons), dtype=np.int8),
            np.repeat(start[None], count, axis=0),
        )
        search = BranchAndBound(
            store=NodeStore(self.neurons, memory),
            bounder=self,
            brancher=self,
            leaf=self,
            settings=Settings(batch=self.settings.batch, piece=self.settings.batch, unit="nodes"),
        )
        with exact_products(self.sweep.threads):
            return search.run(roots, deadline, listener)

    # -- the parts of the branch and bound ---------------------------------------------------------------
    @np.errstate(over="ignore", invalid="ignore")
    def bound(self, batch: Nodes, deadline: Deadline) -> Bounded[Nodes]:
        """See `verifier.bab.Bounder.bound`."""
        best, kept, record = self._ascend(batch, self.settings.steps, self.settings.decay, deadline)
        half = kept.astype(np.float16).astype(np.float32)
        maybe = np.flatnonzero(best > self.settings.margin)
        proved = np.zeros(len(batch), dtype=bool)
        if len(maybe):
            proved[maybe] = self._proved(batch.row[maybe], half[maybe], batch.phases[maybe]) > 0
        scores = np.where(batch.phases == 0, self._scores(record), -1.0).astype(np.float32)
        nodes = Nodes(best.astype(np.float32), batch.row, batch.phases, half, scores)
        return Bounded(nodes, np.where(proved, 1.0, np.minimum(best, 0.0)))

    def split(self, batch: Nodes, lower: Array) -> Children[Nodes]:
        """See `verifier.bab.Brancher.split`: of the neurons with the highest scores the one with the best children."""
        parent = np.flatnonzero((batch.phases == 0).any(axis=1))
        some = batch.take(parent)
        if not len(parent):
            return Children(some, parent)
        assert some.scores is not None
        tries = min(self.settings.candidates, self.neurons)
        best = np.argsort(-some.scores, axis=1)[:, :tries]
        best = np.where(np.take_along_axis(some.scores, best, 1) >= 0, best, best[:, :1])
        line, bounds = np.arange(len(some)), np.zeros((tries, 2, len(some)))
        children: list[list[Nodes]] = []
        for k in range(tries):
            pair = []
            for side, sign in enumerate((1, -1)):
                phases, weights = some.phases.copy(), some.weights.copy()
                phases[line, best[:, k]], weights[line, best[:, k]] = sign, 0.0
                passes = self.sweep.passes
                fixed = self._spread(passes, passes.backend.tensor(phases))
                tensor = passes.backend.tensor(weights)
                found = self._lower(passes, some.row, tensor, fixed, None).cpu().numpy()
                bounds[k, side] = found
                pair.append(Nodes(np.maximum(found, some.bound).astype(np.float32), some.row, phases, weights))
            children.append(pair)
        cut = np.minimum(bounds, 0.0)
        choice = (2 * cut.min(axis=1) + cut.max(axis=1)).argmax(axis=0)
        chosen = [children[choice[i]][side].take(np.array([i])) for side in (0, 1) for i in line]
        return Children(Nodes.join(chosen), np.concatenate([parent, parent]))

    def takes(self, batch: Nodes, lower: Array) -> npt.NDArray[np.bool_]:
        """See `verifier.bab.LeafSolver.takes`: none."""
        return np.zeros(len(batch), dtype=bool)

    def solve(self, leaf: Nodes, deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`: a long ascent on a linear region."""
        _, weights, _ = self._ascend(leaf, self.settings.leaf_steps, self.settings.leaf_decay, deadline)
        if self._proved(leaf.row, weights, leaf.phases)[0] > 0:
            return LeafAnswer(Verdict.REFUTED)
        return LeafAnswer(Verdict.OPEN, reason="a linear region stays undecided")

    # -- passes ------------------------------------------------------------------------------------------
    def _ascend(
        self, batch: Nodes, steps: int, decay: float, deadline: Deadline
    ) -> tuple[Array, Array, dict[str, Tensor]]:
        """The best bounds of nodes (nothing is proved by them), their weights, and the last pass's coefficients."""
        passes, device = self.sweep.passes, self.sweep.backend.device
        phases = passes.backend.tensor(batch.phases)
        fixed = self._spread(passes, phases)
        weights = passes.backend.tensor(batch.weights.astype(np.float32)).requires_grad_()
        best = torch.full((len(batch),), -np.inf, dtype=torch.float64, device=device)
        kept = weights.detach().clone()
        adam = torch.optim.Adam([weights], lr=self.settings.rate)
        record: dict[str, Tensor] = {}
        for step in range(steps + 1):
            deadline.check("while bounding nodes")
            with torch.enable_grad():
                value = self._lower(passes, batch.row, weights, fixed, record)
                better = value.detach() > best
                best = torch.where(better, value.detach(), best)
                kept[better] = weights.detach()[better]
                if step == steps or bool((best > self.settings.margin).all()):
                    break
                adam.zero_grad()
                (-value.sum()).backward()  # type: ignore[no-untyped-call]
            adam.param_groups[0]["lr"] = self.settings.rate * decay**step
            adam.step()
            with torch.no_grad():
                weights.clamp_(min=0)
                weights[phases == 0] = weights[phases == 0].clamp(max=1)
        return best.cpu().numpy(), kept.cpu().numpy().astype(np.float32), record

    def _spread(self, passes: Backward, values: Tensor) -> dict[str, Tensor]:
        """Values of undecided neurons ``(R, neurons)`` in their places, by ReLU node; zeros elsewhere."""
        found = {}
        for node in self.network.activations:
            part, places = self.places[node.name]
            whole = torch.zeros((len(values), node.size), dtype=values.dtype, device=values.device)
            index = torch.as_tensor(places, device=values.device)
            found[node.name] = whole.index_copy(1, index, values[:, part]).reshape(-1, *node.shape)
        return found

    def _lower(
        self, passes: Backward, row: Array, weights: Tensor, fixed: dict[str, Tensor], record: dict[str, Tensor] | None
    ) -> Tensor:
        """Lower bounds in the passes' float type: nothing is proved by them."""
        coefficients, extra, bound = self.rows.of(row, passes.backend)
        chosen = Weights(self._spread(passes, weights), fixed, record)
        value, _ = passes.lower(self.network.output, coefficients, None, extra, chosen)
        return value - torch.tensor(bound, device=value.device)

    def _proved(self, row: Array, weights: Array, phases: Array) -> Array:
        """Proved lower bounds, by one pass in float64."""
        passes = self.sweep.exact
        coefficients, extra, bound = self.rows.of(row, passes.backend)
        spread, fixed = (self._spread(passes, passes.backend.tensor(a)) for a in (weights, phases))
        chosen = Weights(spread, fixed)
        lower, _ = passes.proved(self.network.output, coefficients, None, extra, chosen)
        return np.nextafter(lower - bound, -np.inf)

    def _scores(self, record: dict[str, Tensor]) -> Array:
        """What each neuron's relaxation may cost the bound: the intercept above, half of the wedge below."""
        scores = []
        for node in self.network.activations:
            _, places = self.places[node.name]
            low, high = (e.reshape(-1)[places] for e in self.sweep.values[node.inputs[0]])
            a = record[node.name].flatten(1).cpu()[:, torch.as_tensor(places)].numpy()
            above = np.maximum(-a, 0.0) * (-low * high / np.maximum(high - low, np.finfo(np.float64).tiny))
            scores.append(above + np.maximum(a, 0.0) * np.minimum(-low, high) / 2)
        return np.concatenate(scores, axis=1)
