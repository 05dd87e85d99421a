"""Repair of several layers at once, by alternating exact linear steps.

With changes in several layers a row is a polynomial in them (the patching paper's Appendix B, its third case), but with all
layers fixed but one it is linear again. So one layer after another is solved for its whole change, the others held:

1. soft programs, until nothing is violated: norm + price · violations of the one layer never rises, since its present
   change is one of those that its program compares;
2. then hard ones, each proved least for its layer given the others (`LayerRepair.least`), until the sum of the layers'
   norms does not fall any more.

That is a local optimum, and no proof that there is nothing better: what one step cannot mend, two at once might. Every
repair is decided by the exact check, as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from verifier.events import Listener, ignore
from verifier.limits import NEVER, Deadline
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.keypoints import KeyPoints
from verifier.repair.search import LayerRepair, Outcome, repair_layer
from verifier.repair.settings import Settings


class Alternation:
    """Several layers changed in turn; after `run` the attributes say what came out.

    Attributes:
        frozen: the network with all changes.
        outcome: REPAIRED or ROUNDED; PARTIAL if violations are left.
        reason: for PARTIAL and ROUNDED.
        last: for each layer with a change, the step that gave it: its norm, and the proof that it is least given the others.
        steps: linear steps taken.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Appendix B, its third case; block coordinate descent: Tseng, JOTA
        2001.
    """

    def __init__(
        self,
        frozen: FrozenNetwork,
        points: KeyPoints,
        layers: Sequence[str],
        settings: Settings,
        *,
        deadline: Deadline = NEVER,
        listener: Listener = ignore,
    ) -> None:
        self._original, self._points, self._layers = frozen, points, layers
        self._soft = replace(settings, soft=settings.soft or settings.search.turns.price)
        self._hard = replace(settings, soft=None)
        self._deadline, self._listener = deadline, listener
        self.frozen, self.steps = frozen, 0
        self.outcome, self.reason = Outcome.PARTIAL, ""
        self.last: dict[str, LayerRepair] = {}

    @property
    def norm(self) -> float:
        """The sum of the layers' norms."""
        return sum(step.norm for step in self.last.values())

    def run(self) -> None:
        """Both phases."""
        turns = self._hard.search.turns
        for _ in range(turns.cycles):
            before = self._points.violation(self.frozen)
            if any(self._mended(layer) for layer in self._layers):
                break
            if self._deadline.passed or self._points.violation(self.frozen) >= before * (1 - turns.gain):
                self.reason = (
                    "time limit" if self._deadline.passed else "no change of one layer lessens what is violated"
                )
                return
        else:
            self.reason = f"violations are left after {turns.cycles} rounds"
            return
        for _ in range(turns.cycles):
            before = self.norm
            for layer in self._layers:
                if not self._deadline.passed:
                    self._lessen(layer)
            if self._deadline.passed or self.norm >= before * (1 - turns.gain):
                return

    def _turn(self, layer: str, settings: Settings) -> LayerRepair:
        """One linear step: the layer's whole change, the other layers as they are."""
        patches = {name: operator for name, operator in self.frozen.patches.items() if name != layer}
        if layer in self._original.patches:
            patches[layer] = self._original.patches[layer]
        held = FrozenNetwork(self._original.network, patches)
        self.steps += 1
        return repair_layer(held, self._points, layer, settings, deadline=self._deadline, listener=self._listener)

    def _mended(self, layer: str) -> bool:
        """Lessen what is violated by one layer; whether nothing is violated any more."""
        step = self._turn(layer, self._soft)
        if step.frozen is None or self._points.violation(step.frozen) > self._points.violation(self.frozen):
            return False
        self._take(layer, step)
        return step.outcome in (Outcome.REPAIRED, Outcome.ROUNDED)

    def _lessen(self, layer: str) -> None:
        """The least change of one layer, if that is as good a repair and a smaller one."""
        step = self._turn(layer, self._hard)
        held = self.last[layer].norm if layer in self.last else 0.0
        good = step.outcome is Outcome.REPAIRED or step.outcome is self.outcome
        if good and (step.norm < held or (self.outcome is Outcome.ROUNDED and step.outcome is Outcome.REPAIRED)):
            self._take(layer, step)

    def _take(self, layer: str, step: LayerRepair) -> None:
        assert step.frozen is not None
        self.frozen, self.outcome, self.reason = step.frozen, step.outcome, step.reason
        self.last[layer] = step
