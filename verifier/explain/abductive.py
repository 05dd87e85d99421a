"""Abductive explanations: which features, kept at their values, fix the label whatever the others are?

A set A of features is an abductive explanation of x's label if every input of the region that agrees with x on A has
that label; it is *irredundant* if no feature can be left out (Ignatiev, Narodytska, Marques-Silva, AAAI 2019; for
pictures and an ε-ball: Wu, Wu, Barrett, *VeriX*, NeurIPS 2023). Its counterpart is a *contrastive* explanation: features
that suffice to change the label when they alone change.

**The search** frees features, the cheapest by linear bounds first, and looks for reasons to keep others:

1. `Margins`: linear bounds price all features at once, and free as many together as the margins can pay for.
2. `Adversary`: an attack on the pending features in the order of their prices gives the shortest prefix that it can
   refute. The verifier is asked about the prefix without its last feature: proved, that is freed and the last one needed.
3. With so little left to spare most others are needed: one batch of attacks, each with one pending feature besides
   the free ones.

A feature is kept only where a counterexample of the free features and this one alone was replayed, so what is kept is
irredundant; where the verifier said neither, the feature is kept and named as undecided.

The least change that was found (a *contrastive* explanation) is irredundant where bounds, or the verifier if it is asked,
prove for each of its features that the others alone cannot change the label.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from verifier import compiled
from verifier.api import verify
from verifier.arguments import checked
from verifier.errors import InputError, TimeLimitError
from verifier.events import Listener, Progress, ignore
from verifier.explain.adversary import Adversary
from verifier.explain.explained import Explained
from verifier.explain.features import Features
from verifier.explain.margins import Margins
from verifier.limits import Deadline, in_force
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.options import Options
from verifier.properties.builders import Domain
from verifier.shown import Shown
from verifier.verdict import Status, Verdict

EACH = Options(timeout=10.0, prepass=False)
"""For each question; attacks of our own came before it."""


Contrastive = Literal["no", "found", "proved"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """A counterexample and what it changes.

    Attributes:
        features: indices of the features that differ from x.
        input: ``(n,)``, replayed exactly.
        label: the label there (or one that ties).
        irredundant: whether it is proved that no proper subset of the features can change the label.
    """

    features: frozenset[int]
    input: Array
    label: int
    irredundant: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AbductiveExplanation(Shown):
    """What was found.

    Attributes:
        label: that is explained.
        features: the features, kept and free.
        kept: indices of the features of the explanation.
        undecided: of these, those for which the verifier did not decide; empty: the explanation is irredundant, proved.
        needs: for every other kept feature a counterexample that changes it and free ones alone.
        contrast: the smallest change of the label that was met; None if there is none.
        verdict: the proof for the free features together; None if linear bounds gave it, or nothing is free. With
            ``options.proof`` it has the certificate (or says why not).
        questions: put to the verifier.
        bounded: features that linear bounds freed.
        seconds: wall-clock time.
    """

    label: int
    features: Features
    kept: tuple[int, ...]
    undecided: tuple[int, ...]
    needs: Mapping[int, Contrast]
    contrast: Contrast | None
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
    contrastive: Contrastive = "found",
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
        order: feature indices in the order in which they are freed; by default those that bounds find cheapest first.
        contrastive: whether to look for the least change of the label, too: "found" by attacks ("no": not at all), or
            "proved" to be irredundant, by a question for each of its features.
        timeout: seconds for everything; what is not decided then is kept.
        options: for each question, with its own time limit. With ``proof`` a last question asks for a certificate that the
            free features, all together, cannot change the label.
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
    explained = Explained(network, x, epsilon, domain, label, features)
    if network.is_piecewise_linear:
        compiled.ensure(compiled.NATIVE, listener)  # before the clock starts
    return _Run(explained, options, Deadline.after(timeout), listener).search(order, contrastive)


@dataclass(eq=False)
class _Run:
    """One search."""

    explained: Explained
    options: Options
    deadline: Deadline
    listener: Listener
    questions: int = 0
    bounded: int = 0
    bold: int = 1 << 30
    """At most so many features are freed in one question: fewer after one that took too long."""
    free: frozenset[int] = frozenset()
    last: Verdict | None = None
    needs: dict[int, Contrast] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.margins, self.adversary = Margins(self.explained), Adversary(self.explained)

    # -- questions ---------------------------------------------------------------------------------------
    def ask(self, free: frozenset[int], proof: bool | str | Path = False) -> Verdict:
        """The verifier's answer where some features are free."""
        self.questions += 1
        left = self.deadline.left
        limit = min(left, np.inf if self.options.timeout is None else self.options.timeout)
        options = replace(self.options, timeout=None if limit == np.inf else max(limit, 1e-3), proof=proof)
        words = f"label {self.explained.label} where {len(free)} of {len(self.explained.features)} features move"
        # the statement of the whole region is not what is asked here
        query = replace(self.explained.query, box=self.explained.box(free), statement=None, description=words)
        return verify(query, options=options)

    def need(self, feature: int, point: Array) -> bool:
        """Keep a feature, if a point that changes it and free ones alone refutes in exact arithmetic."""
        if not self.explained.changed(point) <= self.free | {feature} or not self.explained.refuted_by(point):
            return False
        self.needs[feature] = self.contrast_at(point)
        return True

    def contrast_at(self, point: Array, irredundant: bool = False) -> Contrast:
        """A replayed point, as a contrast."""
        y = self.explained.network.forward(point).reshape(-1)
        others = np.where(np.arange(len(y)) == self.explained.label, -np.inf, y)
        changed = self.explained.changed(point)
        return Contrast(features=changed, input=point, label=int(others.argmax()), irredundant=irredundant)

    # -- the search --------------------------------------------------------------------------------------
    def search(self, order: Sequence[int] | None, contrastive: Contrastive) -> AbductiveExplanation:
        """Free what can be freed."""
        every = list(range(len(self.explained.features)))
        if order is not None and sorted(order) != every:
            raise InputError("the order must name every feature once")
        place = None if order is None else {int(k): rank for rank, k in enumerate(order)}
        pending = every
        contrast = None
        try:
            with in_force(self.deadline):
                while pending and not self.deadline.passed:
                    self._tell(pending)
                    pending = self.round(pending, place)
                if self.options.proof is not False and self.free:
                    self.last = self.ask(self.free, self.options.proof)
                if contrastive != "no" and self.needs:
                    contrast = self.least_change(contrastive == "proved")
        except TimeLimitError:
            pass  # what is known by now is said
        return AbductiveExplanation(
            label=self.explained.label,
            features=self.explained.features,
            kept=tuple(k for k in every if k not in self.free),
            undecided=tuple(k for k in every if k not in self.free and k not in self.needs),
            needs=dict(sorted(self.needs.items())),
            contrast=contrast,
            verdict=self.last,
            questions=self.questions,
            bounded=self.bounded,
            seconds=time.monotonic() - self.began,
        )

    def round(self, pending: list[int], place: Mapping[int, int] | None) -> list[int]:
        """Decide at least one of the pending features; those that are left."""
        if place is None:
            gained = self.margins.grow(self.free, pending)
            if gained:
                self.release(gained, None)
                self.bounded += len(gained)
                pending = [k for k in pending if k not in gained]
        price = self.margins.prices
        pending = sorted(pending, key=lambda k: (price[k], k) if place is None else (place[k], k))
        if not pending:
            return []
        count, point = self.boldly(pending)
        if point is not None and self.need(pending[count], point):
            count += 1
        elif not count:  # not decided, or so near to a tie that float64 and exact arithmetic differ
            count = 1
        pending = pending[count:]
        singles = self.adversary.singles(self.free, pending)
        kept = {k for k, single in singles.items() if self.need(k, single)}
        return [k for k in pending if k not in kept]

    def boldly(self, pending: list[int]) -> tuple[int, Array | None]:
        """Free as many of the first pending features as can be proved; their number, and a point that refutes one more."""
        refuted = self.adversary.prefix(self.free, pending)
        while not self.deadline.passed:
            most = len(pending) if refuted is None else refuted[0] - 1
            count = min(most, self.bold)
            if not count:
                return 0, None if refuted is None else refuted[1]
            verdict = self.ask(self.free.union(pending[:count]))
            if verdict.status is Status.HOLDS:
                self.release(frozenset(pending[:count]), verdict)
                self.bold = max(self.bold, 2 * count)
                return count, refuted[1] if refuted is not None and count == most else None
            if verdict.status is Status.VIOLATED:
                assert verdict.witness is not None
                point = np.array(verdict.witness.input)
                self.adversary.learn(point)
                fewer = self.adversary.shortest(point, self.free, pending[:count])
                refuted = self.adversary.prefix(self.free, pending[: fewer[0]]) or fewer
            elif count == 1:
                return 0, None
            else:
                self.bold = count // 2
        return 0, None

    def release(self, some: frozenset[int], verdict: Verdict | None) -> None:
        """Free features, proved."""
        self.free, self.last = self.free | some, verdict
        self.adversary.settle(self.free)

    def least_change(self, prove: bool) -> Contrast:
        """Few features that suffice to change the label; with ``prove`` none of them can be left out, if there is time."""
        start = self.adversary.attack(frozenset(range(len(self.explained.features))))
        best = self.adversary.few(next(iter(self.needs.values())).input if start is None else start)
        if not self.explained.refuted_by(best):
            return min(self.needs.values(), key=lambda c: len(c.features))
        needed: set[int] = set()  # in every subset of `best` that suffices
        while not self.deadline.passed:
            changed = self.explained.changed(best)
            rest = sorted(changed - needed)
            sure = self.margins.proved([changed - {k} for k in rest])
            needed.update(k for k, proved in zip(rest, sure, strict=True) if proved)
            left = [k for k in rest if k not in needed]
            point = self.adversary.without_one(best, left) if left else None
            if point is None and prove:
                point = self._without_one(changed, left, needed)
            if point is None:
                return self.contrast_at(best, irredundant=needed >= changed)
            fewer = self.adversary.few(point)
            if not self.explained.refuted_by(fewer):
                break
            best = fewer
        return self.contrast_at(best)

    def _without_one(self, changed: frozenset[int], left: Sequence[int], needed: set[int]) -> Array | None:
        """A counterexample that leaves out a feature, by the verifier; those that it proves to be needed are noted."""
        for k in left:
            verdict = self.ask(changed - {k})
            if verdict.status is Status.HOLDS:
                needed.add(k)
            elif verdict.status is Status.VIOLATED:
                assert verdict.witness is not None
                return np.array(verdict.witness.input)
            else:
                return None
        return None

    def _tell(self, pending: Sequence[int]) -> None:
        seconds, done = time.monotonic() - self.began, len(self.explained.features) - len(pending)
        self.listener(
            Progress(seconds=seconds, stage="explain", done=done, unit="features", left=len(pending), bound=0.0)
        )
