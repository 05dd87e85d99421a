"""Abductive explanations: which features, kept at their values, fix the label whatever the others are?

A set A of features is an abductive explanation of x's label if every input of the region that agrees with x on A has
that label; it is *irredundant* if no feature can be left out (Ignatiev, Narodytska, Marques-Silva, AAAI 2019; for
pictures and an ε-ball: Wu, Wu, Barrett, *VeriX*, NeurIPS 2023). Its counterpart is a *contrastive* explanation: features
that suffice to change the label when they alone change.

**The search** frees features one after the other, those first that bounds say matter least:

1. Linear bounds (CROWN) of many prefixes of the order at once, from the bounds of the whole region: the longest prefix
   that they prove is freed without a question.
2. Else a chunk is asked of the verifier: proved, it is freed and the next chunk is twice as large; refuted, half.
3. A counterexample is reduced: features go back to x as long as the label stays wrong. What is left, D, is a
   contrastive set, and refutes every later question that frees D without being asked.

A feature is kept only where a counterexample of the free features and this one alone was replayed, so what is kept is
irredundant; where the verifier said neither, the feature is kept and named as undecided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.api import verify
from verifier.arguments import checked
from verifier.bounds.crown import Crown
from verifier.errors import InputError, UnsupportedOperatorError
from verifier.events import Listener, Progress, ignore
from verifier.explain.features import Features, columns
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.builders import Domain, network_domain, robustness
from verifier.properties.query import Query
from verifier.properties.sets import Box, Ends
from verifier.shown import Shown
from verifier.verdict import Status, Verdict

PREFIXES = 24
"""Prefixes of the order that linear bounds look at in one batch."""


EACH = Options(timeout=10.0)
"""For each question."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """A counterexample and what it changes.

    Attributes:
        features: indices of the features that differ from x; without any one of them this input keeps the label.
        input: ``(n,)``, replayed exactly.
        label: the label there (or one that ties).
    """

    features: frozenset[int]
    input: Array
    label: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AbductiveExplanation(Shown):
    """What was found.

    Attributes:
        label: that is explained.
        features: the features, kept and free.
        kept: indices of the features of the explanation.
        undecided: of these, those for which the verifier did not decide; empty: the explanation is irredundant, proved.
        contrasts: counterexamples that were found on the way, the smallest first.
        verdict: the last proof for the free features; None if linear bounds gave it, or nothing is free.
        questions: put to the verifier.
        bounded: features that linear bounds freed.
        seconds: wall-clock time.
    """

    label: int
    features: Features
    kept: tuple[int, ...]
    undecided: tuple[int, ...]
    contrasts: tuple[Contrast, ...]
    verdict: Verdict | None
    questions: int
    bounded: int
    seconds: float

    @property
    def irredundant(self) -> bool:
        """Whether it is proved that no feature can be left out."""
        return not self.undecided

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is kept."""
        return tuple(self.features.names[k] for k in self.kept)

    @property
    def contrast(self) -> Contrast | None:
        """The smallest contrastive set that was met, if any."""
        return self.contrasts[0] if self.contrasts else None

    def needed_top(self, saliency: npt.ArrayLike) -> int:
        """How many of the most salient features of a map are needed until they contain the explanation.

        Args:
            saliency: a map ``(n,)`` over the inputs; a feature counts with the sum of its absolute values.
        """
        order = np.argsort(
            -self.features.sums(np.abs(np.asarray(saliency, dtype=np.float64).reshape(-1))), kind="stable"
        )
        place = {int(k): rank for rank, k in enumerate(order.tolist(), 1)}
        return max((place[k] for k in self.kept), default=0)

    def _facts(self) -> tuple[str, dict[str, str]]:
        words = "irredundant" if self.irredundant else f"{len(self.undecided)} of them undecided"
        facts = {"label": str(self.label), "kept": f"{len(self.kept)} of {len(self.features)} features, {words}"}
        if self.contrast is not None:
            facts["to change it"] = f"{len(self.contrast.features)} features suffice: label {self.contrast.label}"
        facts["took"] = f"{self.questions} questions, {self.seconds:.2f} s"
        return "AbductiveExplanation", facts


@checked
def explain(
    network: Network,
    x: npt.ArrayLike,
    *,
    epsilon: float | None = None,
    domain: Domain = "network",
    label: int | None = None,
    features: Features | None = None,
    order: Sequence[int] | None = None,
    timeout: float | None = 600.0,
    options: Options = EACH,
    listener: Listener = ignore,
) -> AbductiveExplanation:
    """A set of features that fixes the label, of which none can be left out.

    Args:
        x: the input, flat or of the network's input shape.
        epsilon: how far a free input may move (L∞); None: anywhere in the domain.
        domain: inputs are cut to it, as for `verifier.robustness`.
        label: the label to explain; the network's own by default.
        features: what is kept or freed as one; by default every input for itself.
        order: feature indices in the order in which they are freed; by default the least sensitive first.
        timeout: seconds for everything; what is not decided then is kept.
        options: for each question, with its own time limit.
        listener: hears of the progress.

    Raises:
        InputError: neither ``epsilon`` nor a domain; features of another network; an order that names a feature twice.
        PropertyError: as `verifier.robustness`; a label that is not the network's own at x (or ties there).

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import columns, explain
        >>> network = verifier.feedforward([np.array([[4.0, 1.0, 0.0], [0.0, 0.0, 1.0]])], [np.array([-2.0, 0.0])])
        >>> explain(network, [0.9, 0.5, 0.1], features=columns(network, ["a", "b", "c"])).names
        ('a',)
    """
    run = _Run(network, x, epsilon, domain, label, features, options, Deadline.after(timeout), listener)
    return run.search(order)


@dataclass(eq=False)
class _Run:
    """One search."""

    network: Network
    given: npt.ArrayLike
    epsilon: float | None
    domain: Domain
    wanted: int | None
    chosen: Features | None
    options: Options
    deadline: Deadline
    listener: Listener
    questions: int = 0
    contrasts: list[Contrast] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.features = self.chosen or columns(self.network)
        if self.features.size != self.network.input_size:
            raise InputError(
                f"features of {self.features.size} inputs for a network with {self.network.input_size}",
                place=self.network.source,
            )
        ends = network_domain(self.network, self.domain)
        if ends is None and self.epsilon is None:
            raise InputError("neither epsilon nor a domain says how far free inputs may move", fix="give one of them")
        # the whole region; it also checks x, label and epsilon
        self.query: Query = robustness(self.network, self.given, self._radius(ends), label=self.wanted, domain=ends)
        assert self.query.anchor is not None
        self.x: Array = self.query.anchor
        y = self.network.forward(self.x).reshape(-1)
        self.label = int(np.argmax(y)) if self.wanted is None else self.wanted
        self.exact = ExactNetwork(self.network)
        outputs = self.exact.output([Fraction(v) for v in self.x.tolist()])
        if any(v >= outputs[self.label] for j, v in enumerate(outputs) if j != self.label):
            raise InputError(
                f"label {self.label} is not the network's own at the input (or ties there): there is nothing to explain"
            )

    def _radius(self, ends: Ends | None) -> float:
        if self.epsilon is not None:
            return self.epsilon
        assert ends is not None
        return float(np.max(np.asarray(ends[1]) - np.asarray(ends[0])))

    # -- questions ---------------------------------------------------------------------------------------
    def box(self, free: frozenset[int]) -> Box:
        """The region in which only some features move."""
        ends = network_domain(self.network, self.domain)
        mask = self.features.mask(free)
        low, high = (np.broadcast_to(np.asarray(e, dtype=np.float64), self.x.shape) for e in ends or (-np.inf, np.inf))
        return Box.around(self.x, self._radius(ends), (np.where(mask, low, self.x), np.where(mask, high, self.x)))

    def ask(self, free: frozenset[int]) -> Verdict:
        """The verifier's answer where some features are free."""
        self.questions += 1
        left = self.deadline.left
        limit = min(left, np.inf if self.options.timeout is None else self.options.timeout)
        options = replace(self.options, timeout=None if limit == np.inf else max(limit, 1e-3))
        return verify(replace(self.query, box=self.box(free)), options=options)

    def known(self, free: frozenset[int]) -> bool:
        """Whether a counterexample that was met refutes this already."""
        return any(contrast.features <= free for contrast in self.contrasts)

    def learn(self, verdict: Verdict) -> None:
        """Keep a counterexample, reduced to few features."""
        assert verdict.witness is not None
        w, outputs = np.array(verdict.witness.input), np.asarray(verdict.witness.output).reshape(-1)
        moved = sorted(self.features.changed(self.x, w), key=self.rank.__getitem__)
        step = max(len(moved) // 2, 1)
        while moved:
            tried = False
            for start in range(0, len(moved), step):
                back = w.copy()
                mask = self.features.mask(moved[start : start + step])
                back[mask] = self.x[mask]
                y = self.network.forward(back).reshape(-1)
                if self._wrong(y) and (back != self.x).any():
                    w, outputs, tried = back, y, True
                    moved = [k for k in moved if k not in set(moved[start : start + step])]
                    break
            if not tried:
                if step == 1:
                    break
                step = max(step // 2, 1)
            step = min(step, max(len(moved), 1))
        if w is not verdict.witness.input and not self._replayed(w):
            w, outputs = np.array(verdict.witness.input), np.asarray(verdict.witness.output).reshape(-1)
        others = np.where(np.arange(len(outputs)) == self.label, -np.inf, outputs)
        found = Contrast(features=self.features.changed(self.x, w), input=w, label=int(others.argmax()))
        self.contrasts = [c for c in self.contrasts if not found.features <= c.features] + [found]

    def _wrong(self, y: Array) -> bool:
        """Whether another label is larger, by more than float64 errors."""
        margin = np.delete(y, self.label).max() - y[self.label]
        return bool(margin > 1e-9 * max(float(np.abs(y).max()), 1.0))

    def _replayed(self, w: Array) -> bool:
        """Whether a point refutes in exact arithmetic, too."""
        y = self.exact.output([Fraction(v) for v in w.tolist()])
        return bool(self.query.box.contains(w)) and any(v >= y[self.label] for j, v in enumerate(y) if j != self.label)

    # -- bounds ------------------------------------------------------------------------------------------
    def sensitivities(self) -> Array:
        """How far linear bounds of the margins move with each feature, ``(features,)``."""
        low, high = self.query.box.lower, self.query.box.upper
        try:
            self.crown: Crown | None = Crown(self.network, self.query.box)
        except UnsupportedOperatorError:
            self.crown = None
            slopes = self.network.gradient(self.x, self._margins().sum(axis=0)).reshape(1, -1)
        else:
            _, slopes = self._bounds(low[None], high[None])
        return np.asarray(self.features.sums(np.abs(slopes).max(axis=0) * (high - low)))

    def _margins(self) -> Array:
        """Rows ``y_label - y_j``, ``(m - 1, m)``."""
        m = self.network.output_size
        rows = -np.eye(m)
        rows[:, self.label] += 1.0
        return np.delete(rows, self.label, axis=0)

    def _bounds(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Proved lower bounds of the margins on boxes, ``(boxes, m - 1)``, and their slopes."""
        assert self.crown is not None
        relaxed = self.crown.relax(low, high, parents=self.crown.root_bounds)
        rows = self._margins()
        box_of = np.repeat(np.arange(len(low)), len(rows))
        tiled = np.tile(rows, (len(low), 1))
        found = self.crown.lower(self.network.output, tiled, box_of, relaxed.relaxations, low, high)
        return found.lower.reshape(len(low), len(rows)), found.slopes

    def proved_prefix(self, free: frozenset[int], pending: list[int]) -> int:
        """How many of the next features linear bounds prove to be free, too."""
        if self.crown is None or not pending:
            return 0
        counts = np.unique(np.geomspace(1, len(pending), PREFIXES).round().astype(int))
        boxes = [self.box(free | frozenset(pending[:count])) for count in counts.tolist()]
        lower, _ = self._bounds(np.stack([b.lower for b in boxes]), np.stack([b.upper for b in boxes]))
        proved = (lower > 0).all(axis=1)
        return int(counts[proved].max(initial=0))

    # -- the search --------------------------------------------------------------------------------------
    def search(self, order: Sequence[int] | None) -> AbductiveExplanation:
        """Free what can be freed."""
        sensitivity = self.sensitivities()
        pending = [int(k) for k in (np.argsort(sensitivity, kind="stable") if order is None else order)]
        if sorted(pending) != list(range(len(self.features))):
            raise InputError("the order must name every feature once")
        self.rank = {k: place for place, k in enumerate(pending)}
        free, kept, undecided = frozenset[int](), list[int](), list[int]()
        last: Verdict | None = None
        chunk, bounded, look = max(len(pending) // 8, 1), 0, True
        while pending:
            self._tell(len(self.features) - len(pending), len(pending))
            if self.deadline.passed:
                undecided += pending
                kept += pending
                break
            if look and (count := self.proved_prefix(free, pending)):
                free, pending, bounded, last = free | frozenset(pending[:count]), pending[count:], bounded + count, None
                continue
            look = False
            some = pending[: min(chunk, len(pending))]
            wanted = free | frozenset(some)
            verdict = None if self.known(wanted) else self.ask(wanted)
            if verdict is not None and verdict.status is Status.HOLDS:
                free, pending, last, chunk, look = wanted, pending[len(some) :], verdict, 2 * len(some), True
                continue
            if verdict is not None and verdict.status is Status.VIOLATED:
                self.learn(verdict)
            if len(some) > 1:
                chunk = len(some) // 2
                continue
            if verdict is not None and verdict.status is not Status.VIOLATED:
                undecided += some
            kept, pending, chunk = kept + some, pending[1:], 1
        return AbductiveExplanation(
            label=self.label,
            features=self.features,
            kept=tuple(sorted(kept)),
            undecided=tuple(sorted(undecided)),
            contrasts=tuple(sorted(self.contrasts, key=lambda c: (len(c.features), sorted(c.features)))),
            verdict=last,
            questions=self.questions,
            bounded=bounded,
            seconds=time.monotonic() - self.began,
        )

    def _tell(self, done: int, left: int) -> None:
        seconds = time.monotonic() - self.began
        self.listener(Progress(seconds=seconds, stage="explain", done=done, unit="features", left=left, bound=0.0))
