"""What the engines that solve an encoding share: bounds, packages, and turning a solution into a witness."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import TypeAlias

import numpy as np

from verifier.bounds import bounds, gradient_bounds
from verifier.encodings.phases import phases
from verifier.encodings.query import Encoding, Pattern, encode
from verifier.encodings.region import Region, RegionAnswer
from verifier.engines.base import Answer, Availability, EngineResult
from verifier.engines.subproblem import Subproblem
from verifier.errors import InputError
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.options import Options
from verifier.properties.balanced import balanced
from verifier.properties.numbers import Point
from verifier.properties.query import GradientBox, Query
from verifier.verdict import Certainty

RIGOROUS = ("interval", "crown")
"""Bound methods with a proved bound on rounding: the only ones that an exact proof may rest on."""


@dataclass(frozen=True, kw_only=True)
class EncodedSettings:
    """How a solver is asked.

    Attributes:
        regions: linear regions in which an exact solver may find rational solutions only, before the answer is UNKNOWN.
        more: entries of the gradient that are added at a time, at most, to those whose bounds a solver is given.
        slice: seconds after which a question that can be divided is; twice as long for its parts, and so on.
        relax: the query's rows are widened by up to this, so that a solver's tolerances cannot lose a witness on a boundary.
    """

    regions: int = 10
    more: int = 40
    slice: float = 3.0
    relax: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TolerantSettings(EncodedSettings):
    """How a solver with tolerances is asked.

    Attributes:
        rounds: linear regions that it may propose in vain, each then excluded, before the answer is UNKNOWN.
    """

    rounds: int = 50


Ask: TypeAlias = Callable[[Encoding, Deadline], EngineResult]
"""Decides an encoding's query; a point that it returns is a witness of this query."""


def bounded_encoding(query: Query, options: Options, *, exact: bool, relax: float = 0.0) -> Encoding:
    """The query's encoding with bounds by the method of the options.

    Args:
        exact: whether the proof is to be exact; then a method without a proved rounding error is replaced
            by CROWN.
        relax: see `verifier.encodings.query.encode`.

    Raises:
        InputError: the network's numbers are too large for bounds.

    Source:
        big-M form and triangle: Tjeng, Xiao, Tedrake, ICLR 2019; Ehlers, ATVA 2017.
    """
    method = _method(options, exact)
    values = bounds(query.network, query.box, method, steps=options.bound_steps)  # type: ignore[arg-type]
    gradients = None
    if query.gradient is not None:
        gradients = gradient_bounds(query.network, query.box, query.gradient.output, values, method)  # type: ignore[arg-type]
    return encode(query, values, gradients, relax=relax)


def _method(options: Options, exact: bool) -> str:
    return options.bounds if not exact or options.bounds in RIGOROUS else "crown"


def _parts(query: Query, gradient: GradientBox, options: Options, exact: bool) -> list[Subproblem]:
    """A query on the gradient with its bounds, as one question; with propagation, none if that refutes it."""
    method = _method(options, exact)
    values = bounds(query.network, query.box, method, steps=options.bound_steps)  # type: ignore[arg-type]
    if options.propagate:
        from verifier.engines.saliency.hints import witness_subproblems

        parts = witness_subproblems(query, values)
        if parts is not None:
            return parts
    gradients = gradient_bounds(query.network, query.box, gradient.output, values, method)  # type: ignore[arg-type]
    return [Subproblem(query, values, gradients)]


def decide(
    query: Query,
    options: Options,
    deadline: Deadline,
    ask: Ask,
    settings: EncodedSettings = EncodedSettings(),
    *,
    exact: bool,
) -> EngineResult:
    """Decide a query by its encoding, or, with propagation, by those of the parts that it falls into.

    Args:
        exact: see `bounded_encoding`.

    Source:
        the encoding of the gradient: Le et al., ACML 2023, Equations 9 to 16; dividing with growing slices of
        time is this module's own.
    """
    query = balanced(query)
    try:
        if query.gradient is None:
            return _ask(bounded_encoding(query, options, exact=exact, relax=settings.relax), deadline, ask, exact)
        parts = _parts(query, query.gradient, options, exact)
    except InputError as error:  # numbers too large for bounds
        return EngineResult(answer=Answer.UNKNOWN, reason=str(error))
    final: list[EngineResult] = []
    asked, seconds = 0, settings.slice
    while parts:
        again = []
        for k, part in enumerate(parts):
            share = Deadline.after(
                deadline.left / (len(parts) - k) if part.split is None else min(seconds, deadline.left)
            )
            result = _decide_subproblem(query, query.gradient, part, share, ask, exact, settings)
            asked += result.statistics.get("decided by") != "bounds"
            if result.answer is Answer.SAT:
                return result
            if result.answer is Answer.TIMEOUT and share.passed and not deadline.passed:
                again += [part] if part.split is None else part.split()
            else:
                final.append(result)
        parts, seconds = again, 2 * seconds
    decided = "propagation" if options.propagate else "bounds"
    figures: dict[str, float | int | str] = {"questions asked": asked} if asked else {"decided by": decided}
    for answer in (Answer.ERROR, Answer.TIMEOUT, Answer.UNKNOWN):
        for result in final:
            if result.answer is answer:
                return replace(result, statistics={**result.statistics, **figures})
    for name in ("free neurons", "nodes", "rows", "columns", "regions excluded"):
        counts = [int(result.statistics[name]) for result in final if name in result.statistics]
        figures |= {name: sum(counts)} if counts else {}
    # propagation, and bounds where they decide, work in floats with proved bounds on the rounding errors
    padded = options.propagate or any(result.certainty is Certainty.RIGOROUS for result in final)
    certainty = Certainty.NUMERICAL if not exact else Certainty.RIGOROUS if padded else Certainty.EXACT
    return EngineResult(answer=Answer.UNSAT, certainty=certainty, statistics=figures)


def _decide_subproblem(
    query: Query,
    box: GradientBox,
    part: Subproblem,
    deadline: Deadline,
    ask: Ask,
    exact: bool,
    settings: EncodedSettings,
) -> EngineResult:
    """Ask with the bounds on few entries of the gradient, and with more where a point violates these."""
    entries = np.zeros(0, dtype=np.int64) if part.few_entries else None
    while True:
        encoding = encode(
            part.query,
            part.values,
            part.gradients,
            known=part.known,
            identity=part.gradient,
            entries=entries,
            relax=settings.relax,
        )
        result = _ask(encoding, deadline, ask, exact)
        if result.answer is not Answer.SAT or entries is None:
            return result
        assert result.x is not None
        if replay(query, result.x).exact:
            return result
        g = query.network.gradient(np.asarray(result.x, dtype=np.float64), box.output).reshape(-1)
        assert encoding.g is not None
        excess = np.where(encoding.g >= 0, -np.inf, np.maximum(box.lower - g, g - box.upper))
        worst = np.argsort(-excess)[: settings.more]
        more = worst[excess[worst] > 0]
        # none: only rounding errors hide which entry the replay found violated
        entries = np.union1d(entries, more) if len(more) else None


def _ask(encoding: Encoding, deadline: Deadline, ask: Ask, exact: bool) -> EngineResult:
    """The solver's answer, unless the encoding is plainly contradictory."""
    if not exact and (problem := _out_of_reach(encoding)):
        return EngineResult(answer=Answer.UNKNOWN, reason=problem)
    if encoding.model.contradiction:
        # the bounds decide: in floats, their rounding errors proved where the proof is to be exact
        certainty = Certainty.RIGOROUS if exact else Certainty.NUMERICAL
        return EngineResult(answer=Answer.UNSAT, certainty=certainty, statistics={"decided by": "bounds"})
    return ask(encoding, deadline)


SMALL, LARGE = 1e-7, 1e10
"""Sizes between which solvers with tolerances of about 1e-9 can tell numbers apart."""


def _out_of_reach(encoding: Encoding) -> str:
    """Why a solver with tolerances should not be asked: numbers too large, or the question's own all too small; or ""."""
    model = encoding.model
    ends = np.concatenate([model.lower, model.upper])
    if np.abs(ends[np.isfinite(ends)]).max(initial=0.0) > LARGE:
        return "numbers too large for a solver with tolerances, ask an exact one"
    for name, columns in (("outputs", encoding.y), ("gradients", encoding.g)):
        if columns is not None:
            chosen = columns[columns >= 0]
            size = np.abs(np.concatenate([model.lower[chosen], model.upper[chosen]])).max(initial=0.0)
            if 0 < size < SMALL:
                return f"the {name} are at most {size:.1g}: too small for a solver with tolerances, ask an exact one"
    return ""


def package(name: str, module: str, install: str) -> Availability:
    """Whether a package is installed, without importing it."""
    if importlib.util.find_spec(module) is None:
        return Availability(False, install)
    try:
        return Availability(True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Availability(True, "unknown version")


def too_narrow(query: Query) -> str:
    """Why a solver with tolerances should not be asked about a box or a distance of maps; "" if it may be."""
    condition = query.condition
    if condition is not None and condition.similarity.adds_up:
        size = float(np.abs(condition.reference).max(initial=0.0))
        if condition.delta < 1e-5 * size:
            return f"δ = {condition.delta:g}: too small for a solver with tolerances, ask an exact one"
    width = query.box.width
    narrow = np.flatnonzero((width > 0) & (width < 1e-11 * np.maximum(1.0, np.abs(query.box.lower))))
    if not narrow.size:
        return ""
    return (
        f"input {narrow[0]} has width {width[narrow[0]]:g}: too narrow for a solver with tolerances, ask an exact one"
    )


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an exact solver says of one encoding.

    Attributes:
        x: for SAT, the rational point.
        reason: in words, where it did not decide.
    """

    answer: Answer
    x: list[Fraction] | None = None
    reason: str = ""
    figures: Mapping[str, float | int | str] = field(default_factory=dict)


def solve_exactly(
    query: Query,
    options: Options,
    deadline: Deadline,
    ask: Callable[[Encoding, Deadline, bool], Reply],
    settings: EncodedSettings = EncodedSettings(),
) -> EngineResult:
    """Decide a query with an exact solver.

    Kinks are closed first (either neighbour), which proves the most. If a solution exists only by a choice
    at a kink that the gradient convention does not make, the convention's own (half-open) form is asked.

    Args:
        ask: asks the solver whether an encoding has a solution, with open ends respected (True) or closed.

    Source:
        Le et al., ACML 2023, Equations 15 and 16, without their gap of 1e-6.
    """
    return decide(
        query, options, deadline, partial(_exactly, reply_to=ask, most=settings.regions), settings, exact=True
    )


def _exactly(
    encoding: Encoding, deadline: Deadline, reply_to: Callable[[Encoding, Deadline, bool], Reply], most: int
) -> EngineResult:
    checker = Checker(encoding.query)
    figures: dict[str, float | int | str] = {"free neurons": encoding.free_neurons, "regions passed over": 0}
    strict, passed_over = False, 0
    while passed_over <= most:
        if deadline.passed:
            return EngineResult(answer=Answer.TIMEOUT, reason="time limit", statistics=figures)
        reply = reply_to(encoding, deadline, strict)
        figures |= {"kinks": "convention" if strict else "closed", "regions passed over": passed_over, **reply.figures}
        if reply.answer is Answer.UNSAT and not passed_over:
            return EngineResult(answer=Answer.UNSAT, certainty=Certainty.EXACT, statistics=figures)
        if reply.answer is Answer.UNSAT:
            break
        if reply.answer is not Answer.SAT:
            answer = Answer.TIMEOUT if reply.answer is Answer.UNKNOWN and deadline.passed else reply.answer
            return EngineResult(answer=answer, reason=reply.reason, statistics=figures)
        assert reply.x is not None
        point = checker.near(reply.x, deadline)
        if point is not None:
            return EngineResult(answer=Answer.SAT, x=point, statistics=figures)
        if strict:
            # the replay refutes it: other regions may have a witness (never again UNSAT after this)
            passed_over += 1
            others = encoding.other_regions(checker.pattern_at(reply.x))
            if others is None:
                break
            encoding.model.disjunctions.append(others)
        strict = True
    reason = "there is a solution of the encoding, but no point that the replay confirms was found"
    return EngineResult(answer=Answer.UNKNOWN, reason=reason, statistics=figures)


class Checker:
    """Turns what a solver proposes into a confirmed witness, or finds out that a linear region has none."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.exact = ExactNetwork(query.network)

    def confirmed(self, x: Point) -> bool:
        """Whether the exact replay confirms a point."""
        return replay(self.query, x, self.exact).exact

    def region(self, pattern: Pattern, deadline: Deadline) -> RegionAnswer:
        """Solve one linear region exactly."""
        return Region(self.query, pattern, self.exact).solve(deadline.left)

    def near(self, x: list[Fraction], deadline: Deadline) -> Point | None:
        """A confirmed witness: the rational point rounded, one in its linear region, or the rational point itself."""
        rounded = np.array([float(v) for v in x])
        if self.confirmed(rounded):
            return rounded
        found = self.region(self.pattern_at(x), deadline).point
        return tuple(x) if found is None and self.confirmed(tuple(x)) else found

    def pattern_at(self, x: list[Fraction]) -> Pattern:
        """The activation pattern at a rational point, by the gradient convention."""
        values = self.exact.values(x)
        result: Pattern = {}
        for node in self.query.network.activations:
            z = values[node.inputs[0]]
            if isinstance(node.operator, MaxPool):
                result[node.name] = node.operator.pattern(z.numerators).reshape(-1).astype(np.int64)
                continue
            assert isinstance(node.operator, PiecewiseLinear)
            options = phases(node.operator, gradient=self.query.gradient is not None)
            chosen = [next(p.index for p in options if p.contains(v)) for v in z.fractions()]
            result[node.name] = np.array(chosen, dtype=np.int64)
        return result
