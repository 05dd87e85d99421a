"""The native engine: branch and bound on CROWN bounds, by inputs or by ReLUs."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np

from verifier.bounds.crown import Crown
from verifier.engines.base import (
    CURVED,
    PIECEWISE_LINEAR,
    Answer,
    Availability,
    Capabilities,
    Engine,
    EngineResult,
)
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.native.bounding import BoxBounds
from verifier.engines.native.dense_bounds import DenseBounds, StagedBounds, dense_layers
from verifier.engines.native.exact_leaves import ExactLeaves
from verifier.engines.native.graph_bounds import ForwardBounds, GraphBounds
from verifier.engines.native.input_split import InputSplit
from verifier.engines.native.settings import BoxSettings, CutSettings, NativeSettings
from verifier.errors import UnsupportedOperatorError
from verifier.events import Listener, ignore
from verifier.falsify.climb import climbing
from verifier.falsify.replay import first_confirmed, replay
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.maxima import with_maxima
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.verdict import Certainty


class NativeEngine(Engine):
    """Decides conditions on inputs and outputs (not on gradients); its proofs cover all rounding errors.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2; α-CROWN: Xu et al., ICLR 2021, Section 3; β-CROWN:
        Wang et al., NeurIPS 2021, Theorem 3.1; splitting inputs: ReluVal, Wang et al., USENIX Security 2018;
        splitting ReLUs: Bunel et al., JMLR 2020.
    """

    name: ClassVar[str] = "native"
    capabilities: ClassVar[Capabilities] = Capabilities(operators=PIECEWISE_LINEAR | CURVED)
    isolated: ClassVar[bool] = False

    def __init__(self, settings: NativeSettings = NativeSettings()) -> None:
        self.settings = settings

    def availability(self) -> Availability:
        return Availability(True, "built in")

    def withholds_proof(self, query: Query) -> str:
        if not query.network.is_piecewise_linear:
            return "the format knows piecewise-linear networks"
        from verifier.proofs.relu_network import relu_network

        try:
            relu_network(query.network)
        except UnsupportedOperatorError as error:
            return error.problem
        if not query.clauses:
            return ""
        return f"the format has no place for {1 + len(query.clauses)} disjunctions side by side: multiply them out"

    def kernels(self, query: Query) -> tuple[str, ...]:
        return ("the native engine",)

    def searches(self, query: Query) -> bool:
        # the centres of split boxes are tried as they come; ReLU splitting searches when its first bounds fail
        return True

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        reason = self.rejects(query.network, query)
        if reason:
            return EngineResult(answer=Answer.ERROR, reason=f"the native engine does not take {reason}")
        if options.proof and (self.withholds_proof(query) or self._is_decided_otherwise(query)):
            options = replace(options, proof=False)
        return self.search(query, options, deadline, listener)

    def _is_decided_otherwise(self, query: Query) -> bool:
        """Whether the search that keeps a proof is much the weaker one: then it comes second."""
        if with_maxima(query.network) is not None:
            return True
        return query.network.is_piecewise_linear and query.network.neurons >= self.settings.condensed_from

    def search(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        """`solve` for queries that it takes; with ``options.proof`` by a search that keeps one."""
        conditions = Conditions.of(query)
        found = _at_points(query, conditions, bool(options.proof))
        if found is not None:
            return found
        if not query.network.is_piecewise_linear:
            from verifier.engines.native.curved_search import search_curved

            return search_curved(query, conditions, options, self.settings, deadline, listener)
        exact, limits = None, self.settings.exact
        if not options.proof and query.network.neurons <= limits.neurons and query.box.varying <= limits.inputs:
            exact = RegionSearch(query)
            exact.run(limits.at_once, deadline)
            if exact.finished:
                return exact.result()
        neurons = 0 if options.proof else query.network.neurons
        if query.box.varying > self.settings.low_dimension:
            if neurons >= self.settings.windows_from and query.network.is_relu_only:
                from verifier.engines.native.window_search import WindowSearch  # loads torch

                return WindowSearch(query, conditions, options, self.settings.windows).run(deadline, listener)
            from verifier.engines.native.relu_split import ReluSplit  # start-up: only where it is needed

            return ReluSplit(query, conditions, options, self.settings.relu).run(deadline, listener)
        maxima = with_maxima(query.network)  # then forward bounds are the better ones
        if neurons >= self.settings.condensed_from and maxima is None:
            from verifier.engines.native.box_search import BoxSearch  # loads torch

            return BoxSearch(query, conditions, options, self.settings).run(deadline, listener)
        if conditions.disjuncts >= self.settings.many_disjuncts and maxima is None and not options.proof:
            from verifier.engines.native.disjuncts import open_disjuncts, refuted_all, with_disjuncts

            rest, low, high = conditions.boxed(query.box)
            crown, together = Crown(query.network, query.box), self.settings.disjuncts_together
            bounds = GraphBounds(crown, rest, options.threads, cuts=self.settings.boxes.cuts, together=together)
            left = open_disjuncts(bounds, rest, low, high, deadline)
            if not left:
                return refuted_all(conditions)
            query = with_disjuncts(query, left)
            conditions = Conditions.of(query)
        return self._by_boxes(query, conditions, options, exact, maxima).run(deadline, listener)

    def _by_boxes(
        self,
        query: Query,
        conditions: Conditions,
        options: Options,
        exact: RegionSearch | None,
        maxima: Network | None,
    ) -> InputSplit:
        """The search that splits boxes of inputs.

        Args:
            exact: the search of all linear regions that was begun beside it.
            maxima: the network with its maxima read back, if it has any.
        """
        falsifier, boxes = climbing(query, conditions, options.seed), self.settings.boxes
        rest, low, high = conditions.boxed(query.box)
        if not options.proof:
            bounds = _bounds(query, maxima, rest, options.threads, boxes)
            leaves = ExactLeaves(query, bounds, self.settings.exact, exact)
            return InputSplit(query, bounds, low, high, falsifier, leaves=leaves, memory=options.memory, settings=boxes)
        from verifier.engines.native.box_record import BoxRecord
        from verifier.proofs.relu_network import relu_network

        record, as_relus = self.settings.record, replace(query, network=relu_network(query.network))
        certified = _certified(as_relus, rest, options.threads, record.reserve, boxes.cuts)
        kept = BoxRecord(certified, rest, np.flatnonzero(~conditions.alone), record)
        return InputSplit(query, certified, low, high, falsifier, kept, memory=options.memory, settings=boxes)


def _at_points(query: Query, conditions: Conditions, proof: bool) -> EngineResult | None:
    """What single points decide: a disjunct without rows, the anchor and the centre, a box of one point."""
    for disjunct in range(conditions.disjuncts):
        if not len(conditions.members(disjunct)):
            return EngineResult(answer=Answer.SAT, x=query.start)
    witness = first_confirmed(query, query.box.clip(np.stack([query.start, query.box.center])))
    if witness is not None:
        return EngineResult(answer=Answer.SAT, x=witness)
    if not query.box.width.any():  # one point only, and the exact replay decides it
        if replay(query, query.box.lower).exact:
            return EngineResult(answer=Answer.SAT, x=query.box.lower)
        if not proof:  # else it is the box of a proof, too
            return EngineResult(answer=Answer.UNSAT, certainty=Certainty.EXACT)
    return None


def _certified(
    query: Query, conditions: Conditions, threads: int, reserve: float, cuts: CutSettings
) -> DenseBounds | GraphBounds:
    """Bounds that the checker of proofs finds, too."""
    crown, layers = Crown(query.network, query.box), dense_layers(query.network)
    if layers is None:
        return GraphBounds(crown, conditions, threads, reserve, cuts)
    return DenseBounds(crown, conditions, layers, threads, reserve, cuts)


def _bounds(
    query: Query, maxima: Network | None, conditions: Conditions, threads: int, settings: BoxSettings
) -> BoxBounds:
    """The bounds that fit a network of few inputs."""
    if maxima is not None:  # their bounds are tight without going back
        return ForwardBounds(maxima, conditions, np.flatnonzero(query.box.width > 0), threads, settings.cuts)
    crown = Crown(query.network, query.box)
    layers = dense_layers(query.network)
    if layers is None:
        return GraphBounds(crown, conditions, threads, cuts=settings.cuts)
    loaded = "verifier.engines.native.decide" in sys.modules
    if settings.numpy_boxes and not loaded and all(relu for _, relu in layers[:-1]):
        return StagedBounds(crown, conditions, layers, threads, settings.numpy_boxes, settings.cuts)
    return DenseBounds(crown, conditions, layers, threads, cuts=settings.cuts)
