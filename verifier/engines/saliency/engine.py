"""The engine: queries about outputs and the gradient map, decided by propagation and certified LPs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import ClassVar

import numpy as np

from verifier.bab import Ending
from verifier.engines.base import (
    PIECEWISE_LINEAR,
    Answer,
    Availability,
    Capabilities,
    Engine,
    EngineResult,
    gradient_features,
)
from verifier.engines.exact_regions import RegionSearch
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.engines.saliency.attack import DescentSettings, MapDescent
from verifier.engines.saliency.problem import Problem
from verifier.engines.saliency.settings import TreeSettings
from verifier.engines.saliency.tree import Tree
from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.balanced import balanced
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.verdict import Certainty


@dataclass(frozen=True, kw_only=True)
class SaliencySettings:
    """How the saliency engine works.

    Attributes:
        exact_up_to: neurons up to which a query that rounding errors leave open is passed to exact arithmetic.
        small: networks of at most so many neurons are searched at once, without compiled code.
        large: networks of more neurons are asked without their gradient first: propagation would take longer than that.
        attack: seconds of the attack before the query without its gradient is asked.
        share, large_share: of the time left, given to the query without its gradient; in large networks the search that
            comes after it closes only what has few unknown phases, soon or not at all.
        native: how the query without its gradient is decided.
        exact: networks that are searched in exact arithmetic beside the tree, and how long at first.
        tree_steps: subproblems of the tree before that.
        tree: how the tree is searched.
        descent: how inputs with a similar map are searched for.
    """

    exact_up_to: int = 300
    small: int = 64
    large: int = 1000
    attack: float = 0.3
    share: float = 0.5
    large_share: float = 0.8
    native: NativeSettings = NativeSettings()
    exact: ExactSettings = ExactSettings()
    tree_steps: int = 80
    tree: TreeSettings = TreeSettings()
    descent: DescentSettings = DescentSettings()


@cache
def _highspy_version() -> str:
    return metadata.version("highspy")


class SaliencyEngine(Engine):
    """Gradient inversion, phases propagated both ways, branch and bound with certified LPs.

    Source:
        the question: Le et al., ACML 2023, Section 3; inverting gradients, certified linear programs and
        Lagrangian leaves are this package's own.
    """

    name: ClassVar[str] = "saliency"
    capabilities: ClassVar[Capabilities] = Capabilities(
        operators=PIECEWISE_LINEAR,
        features=gradient_features(
            maps=("gradient", "absolute", "difference", "gradient-input", "integrated", "smooth"),
            similarities=("linf", "l1", "l2", "top-k"),
        ),
    )
    isolated: ClassVar[bool] = False

    def __init__(self, settings: SaliencySettings = SaliencySettings()) -> None:
        self.settings = settings

    def availability(self) -> Availability:
        if importlib.util.find_spec("highspy") is None:
            return Availability(False, "install highspy")
        return Availability(True, f"highspy {_highspy_version()}")

    def kernels(self, query: Query) -> tuple[str, ...]:
        return ("the saliency engine",) if query.network.neurons > self.settings.small else ()

    def searches(self, query: Query) -> bool:
        # after the query without its gradient; not at all where programs are tiny, for their solutions lead to a witness
        # sooner than a search at random
        return True

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        query = balanced(query)
        tree = Tree(Problem.of(query, self.settings.tree), options.memory)
        large = query.network.neurons > self.settings.large
        label = self._without_gradient(query, tree, options, deadline, listener) if large else None
        refuted = label is None and tree.refuted_at_root(deadline)
        if not (large or refuted):
            label = self._without_gradient(query, tree, options, deadline, listener)
        if label is not None:
            return replace(label, statistics={**tree.statistics.as_dict(), **label.statistics})
        witness, exact = None, None
        if not refuted and query.network.neurons <= self.settings.exact.neurons:
            witness, exact = self._beside(query, tree, deadline)
        elif not refuted:
            witness = tree.run(deadline, options.threads if query.network.neurons > self.settings.small else 1)
        statistics = tree.statistics.as_dict()
        if exact is not None:
            return replace(exact, statistics={**statistics, **exact.statistics})
        if witness is not None:
            return EngineResult(answer=Answer.SAT, x=witness, statistics=statistics)
        if tree.result.late:
            return EngineResult(answer=Answer.TIMEOUT, reason="the deadline passed", statistics=statistics)
        if tree.result.ending is not Ending.PROVED:
            exact = self._exactly(query, options, deadline)
            if exact is not None:
                return replace(exact, statistics={**statistics, "open leaves": tree.result.stuck})
            reason = f"{tree.result.stuck} {tree.result.reason}" if tree.result.stuck else tree.result.reason
            return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=statistics)
        if not tree.problem.composed_well:
            reason = "the network's layers cancel to so few digits that composed coefficients prove nothing"
            found = self._exactly(query, options, deadline) or EngineResult(answer=Answer.UNKNOWN, reason=reason)
            return replace(found, statistics={**statistics, **found.statistics})
        certainty = Certainty.RIGOROUS if tree.problem.form.exact else Certainty.NUMERICAL
        return EngineResult(answer=Answer.UNSAT, certainty=certainty, statistics=statistics)

    def _beside(self, query: Query, tree: Tree, deadline: Deadline) -> tuple[Point | None, EngineResult | None]:
        """A tiny network: the tree, and all linear regions in exact arithmetic beside it; what ends first decides."""
        steps, work = self.settings.tree_steps, float(self.settings.exact.at_once)
        exact = RegionSearch(query)
        while True:
            witness = tree.run(deadline, most=steps)
            if tree.result.ending is not Ending.OPEN or tree.result.late:
                return witness, None
            if tree.result.left == tree.result.stuck:  # what the tree left is for exact arithmetic to say
                work = float("inf")
            if exact.run(work, deadline):
                return None, exact.result()
            if deadline.passed:
                tree.result = replace(tree.result, late=True)
                return None, None
            steps, work = 2 * steps, 2 * work

    def _without_gradient(
        self, query: Query, tree: Tree, options: Options, deadline: Deadline, listener: Listener
    ) -> EngineResult | None:
        """Where the outputs' conditions cannot be met at all, nothing about the gradient is needed.

        A quick attack tells the boxes where that is hopeless; from its point on, similar maps are searched for.
        """
        if query.network.neurons <= self.settings.small:
            return None
        # imported here: compiled code that small networks need not wait for
        from verifier.engines.native.engine import NativeEngine
        from verifier.falsify.falsifier import Falsifier
        from verifier.falsify.search import FalsifierSettings

        speaks = any(part.g_rows is not None for part in query.parts)
        met = None
        share = self.settings.large_share if query.network.neurons > self.settings.large else self.settings.share
        if query.gradient is not None and not speaks:
            plain = replace(query, gradient=None, condition=None)
            met = Falsifier(FalsifierSettings(most=self.settings.attack)).run(plain, deadline, seed=options.seed)
            if met is None:
                result = NativeEngine(self.settings.native).solve(plain, options, Deadline.after(share * deadline.left))
                if result.answer is Answer.UNSAT:
                    return result
                met = None if result.x is None else np.asarray(result.x, dtype=np.float64)
        thorough, found = FalsifierSettings().thorough(query.network), None
        if met is not None:
            hard = query.network.neurons > self.settings.large
            descent = MapDescent(tree.problem, met[None], options.seed, hard, self.settings.descent)
            found = Falsifier(replace(thorough, share=1.0), lambda: (descent,)).run(query, deadline, listener=listener)
        if found is None and options.prepass and (met is None or query.condition is not None):
            found = Falsifier(thorough).run(query, deadline, seed=options.seed + 1, listener=listener)
        return None if found is None else EngineResult(answer=Answer.SAT, x=found)

    def _exactly(self, query: Query, options: Options, deadline: Deadline) -> EngineResult | None:
        """Where rounding errors leave a small query open (a solution set of empty interior, say): Z3's, in a process of its own."""
        if query.network.neurons > self.settings.exact_up_to:
            return None
        from verifier.engines.process import solve_in_child
        from verifier.engines.z3_engine import Z3Engine

        engine = Z3Engine()
        if not engine.availability().installed or engine.rejects(query.network, query):
            return None
        result = solve_in_child(engine, query, options, deadline)
        return result if result.answer in (Answer.SAT, Answer.UNSAT) else None
