"""The engine: boxes are bounded, cut, tried and split until none is left or a witness is confirmed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verifier.bab import BranchAndBound, DepthStore, Ending, SearchResult, Settings
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
from verifier.engines.maps.boxes import Bounder, Boxes, Brancher
from verifier.engines.maps.enclosure import EnclosureSettings
from verifier.engines.native.settings import ExactSettings
from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.falsify.replay import first_confirmed
from verifier.limits import Deadline, MemoryBudget
from verifier.options import Options
from verifier.properties.balanced import balanced
from verifier.properties.query import Query
from verifier.verdict import Certainty


@dataclass(frozen=True, kw_only=True)
class MapsSettings:
    """How boxes are searched.

    Attributes:
        cells: boxes times neurons (times segments, for path maps) bounded at once.
        few_unstable: with at most so many unstable ReLUs a box is split on the one that moves the map most.
        narrow: boxes narrower than this share of the root in every input are not split again.
        stuck: more boxes than this that are too narrow to be split end the search.
        first: after so many boxes, and twice as many each time, the linear regions of a tiny network are looked at.
        enclosures: how boxes are bounded.
        exact: how large a network is searched so, and how long at first.
    """

    cells: int = 1 << 14
    few_unstable: int = 12
    narrow: float = 1e-10
    stuck: int = 200
    first: int = 4000
    enclosures: EnclosureSettings = EnclosureSettings()
    exact: ExactSettings = ExactSettings()


TURN = "exact linear regions are looked at"
"""Why the boxes stop for a while."""


class MapsEngine(Engine):
    """Branch and bound over boxes of the input, for conditions on any saliency map; its proofs cover rounding.

    Boxes are closed where the label cannot change (CROWN) or no map is similar (CROWN on the Jacobian), and cut to
    where map and input agree. Made for few inputs, and the only engine for the integral of a path.

    Source:
        the question is that of Le et al., ACML 2023, Section 3; the search is this package's own.
    """

    name: ClassVar[str] = "maps"
    capabilities: ClassVar[Capabilities] = Capabilities(
        operators=PIECEWISE_LINEAR,
        features=gradient_features(
            maps=(
                "gradient",
                "absolute",
                "difference",
                "gradient-input",
                "integrated",
                "integrated-exact",
                "smooth",
                "grad-cam",
            ),
            similarities=("linf", "l1", "l2", "top-k"),
        ),
        needs=frozenset({"a saliency map"}),
    )
    isolated: ClassVar[bool] = False

    def __init__(self, settings: MapsSettings = MapsSettings()) -> None:
        self.settings = settings

    def availability(self) -> Availability:
        return Availability(True, "built in")

    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        query = balanced(query)
        witness = first_confirmed(query, query.box.clip(np.stack([query.start, query.box.center])))
        if witness is not None:
            return EngineResult(answer=Answer.SAT, x=witness)
        try:
            bounder = Bounder(query, self.settings.enclosures)
        except InputError as error:  # numbers too large for bounds
            return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
        chosen = self.settings
        size = max(4, chosen.cells // max(1, query.network.neurons))

        beside = RegionSearch(query) if query.network.neurons <= chosen.exact.neurons else None
        turn, work = [chosen.first], float(chosen.exact.at_once)

        def stop(so_far: SearchResult) -> str:
            if so_far.stuck > chosen.stuck:
                return "too many boxes cannot be split"
            return TURN if beside is not None and so_far.done >= turn[0] else ""

        search = BranchAndBound(
            store=DepthStore(MemoryBudget.of(options.memory)),
            bounder=bounder,
            brancher=Brancher(query.box.width, chosen.few_unstable, chosen.narrow),
            settings=Settings(batch=size * options.threads, piece=size, threads=options.threads, unit="boxes"),
            stop=stop,
        )
        root = Boxes.root(query.box.lower, query.box.upper, bounder.enclosures.neurons)
        found = search.run(root, deadline, listener)
        while beside is not None and found.ending is Ending.OPEN and not found.late:
            # what boxes leave open for ever (a tie, a map at exactly δ) linear regions may settle, and soon if they are few
            if beside.run(work if found.reason == TURN else float("inf"), deadline):
                exact = beside.result()
                if exact.answer is not Answer.UNKNOWN:
                    return exact
                beside = None
            elif found.reason != TURN or deadline.passed:
                return _result(replace(found, late=deadline.passed), bounder)
            turn[0], work = 2 * turn[0], 2 * work
            if found.reason == TURN:
                found = search.resume(deadline, listener)
        return _result(found, bounder)


def _result(found: SearchResult, bounder: Bounder) -> EngineResult:
    """The search's ending as an engine's answer."""
    figures = {"boxes": found.done, "closed by outputs": bounder.by_label, "closed by the map": bounder.by_map}
    if found.ending is Ending.WITNESS:
        return EngineResult(answer=Answer.SAT, x=found.witness, statistics=figures)
    if found.ending is Ending.PROVED:
        return EngineResult(answer=Answer.UNSAT, certainty=Certainty.RIGOROUS, statistics=figures)
    if found.late:
        reason = f"{found.left} boxes left after {found.done}; {found.closed:.1%} done"
        return EngineResult(answer=Answer.TIMEOUT, reason=reason, statistics=figures)
    reason = f"{found.stuck} boxes too small to be split stay undecided" if found.stuck else found.reason
    return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures)
