"""Certified accuracy of a data set: for which inputs is the label proved at each radius?"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError
from verifier.events import Listener, Progress, ignore
from verifier.journal import Journal
from verifier.network.graph import Network
from verifier.options import Options
from verifier.properties.builders import Domain, network_domain
from verifier.properties.normalisation import Normalisation, exact_radius
from verifier.properties.query import Query, larger_output_disjuncts
from verifier.shown import Shown

MISCLASSIFIED = "misclassified"
"""In place of a status: the network's own answer at the input is another label, so no radius is asked."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The answer for one input at one radius.

    Attributes:
        index: of the input.
        label: the label that is to be kept.
        epsilon: the radius, as it was given ("2/255").
        status: "holds", "violated", "unknown", "timeout", "error", or "misclassified".
        certainty: of "holds".
        engine, reason: as in the verdict; "a smaller radius" and "a larger radius" where another answer implies this one.
        seconds: wall-clock time.
        witness: for "violated": a counterexample in the data's own units, flat.
        other: for "violated": the label that is at least as large there.
    """

    index: int
    label: int
    epsilon: str
    status: str
    certainty: str = ""
    engine: str = ""
    reason: str = ""
    seconds: float = 0.0
    witness: tuple[float, ...] | None = None
    other: int | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Certification(Shown):
    """All answers.

    Attributes:
        lines: by input and radius.
        radii: as given, from the smallest to the largest.
        count: number of inputs.

    Source:
        certified accuracy: Cohen, Rosenfeld, Kolter, ICML 2019, here deterministic.
    """

    lines: tuple[Line, ...]
    radii: tuple[str, ...]
    count: int

    _drawn_by = "verifier.report.certification:certified_curve"

    def at(self, epsilon: str) -> tuple[Line, ...]:
        """The answers at one radius."""
        return tuple(line for line in self.lines if line.epsilon == epsilon)

    @property
    def accuracy(self) -> float:
        """Share of the inputs whose label the network gives."""
        return 1 - sum(line.status == MISCLASSIFIED for line in self.at(self.radii[0])) / self.count

    def certified(self, epsilon: str) -> float:
        """Certified accuracy: share of the inputs whose label is proved at this radius; a lower bound of the truth."""
        return sum(line.status == "holds" for line in self.at(epsilon)) / self.count

    def not_refuted(self, epsilon: str) -> float:
        """Share of the inputs for which no counterexample is known at this radius: an upper bound of the truth."""
        return sum(line.status not in ("violated", MISCLASSIFIED) for line in self.at(epsilon)) / self.count

    def figures(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The figures of each radius: the columns' names, and a row of words for each."""
        head = ("radius", "certified", "violated", "undecided", "misclassified", "certified accuracy", "seconds")
        rows = []
        for epsilon in self.radii:
            lines = self.at(epsilon)
            found = Counter(line.status for line in lines)
            undecided = len(lines) - found["holds"] - found["violated"] - found[MISCLASSIFIED]
            seconds = sum(line.seconds for line in lines)
            counts = (found["holds"], found["violated"], undecided, found[MISCLASSIFIED])
            rows.append((epsilon, *map(str, counts), f"{self.certified(epsilon):.1%}", f"{seconds:.1f}"))
        return head, rows

    def table(self) -> str:
        """The figures as a table in Markdown."""
        head, rows = self.figures()
        return "".join(f"| {' | '.join(row)} |\n" for row in (head, ("---",) * len(head), *rows))

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {
            f"radius {e}": f"{self.certified(e):.1%} certified, {self.not_refuted(e):.1%} not refuted"
            for e in self.radii
        }
        return f"Certification of {self.count} inputs, accuracy {self.accuracy:.1%}", facts


@checked
def certify(
    network: Network,
    images: npt.ArrayLike,
    labels: Sequence[int] | npt.ArrayLike | None = None,
    *,
    epsilon: float | str | Sequence[float | str],
    domain: Domain = "network",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int = 1,
    journal: str | Path | None = None,
    options: Options | None = None,
    listener: Listener = ignore,
    **changes: Any,
) -> Certification:
    """Certified accuracy: for each input and radius, is every input within ``epsilon`` (L∞) given the same label?

    A tie with another output counts as a violation. A label proved at a radius is proved at smaller ones, and a
    counterexample holds at larger ones, so radii are asked from the smallest to the largest until one is violated.

    Args:
        network: the network.
        images: ``(N, *input_shape)`` or ``(N, n)`` inputs, in ``domain``.
        labels: ``(N,)`` true labels; None: the network's own.
        epsilon: a radius in the images' units, or several; numbers, or text such as "2/255", which is taken exactly.
        domain: inputs are cut to it; by default the network's own (a .nnet file says one), else ``(0, 1)``, as for images;
            None for no cut.
        mean, std: the network's own normalisation, one number each or one per channel: it is given ``(x - mean) / std``.
        workers: questions that are asked side by side.
        journal: a file to which every answer is added at once; what it holds already for the same network, input, radius
            and time limit is not asked again.
        options: of every question; ``changes`` to it by name (``timeout=20``).
        listener: receives a `Progress` after every input.

    Raises:
        InputError: shapes, labels or radii that do not fit; a journal that is none.

    Source:
        certified accuracy: Cohen, Rosenfeld, Kolter, ICML 2019; proofs here are deterministic.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> result = verifier.certify(network, [[0.9, 0.1], [0.6, 0.5]], epsilon=["0.01", "0.1"])
        >>> [(line.index, line.epsilon, line.status) for line in result.lines]
        [(0, '0.01', 'holds'), (0, '0.1', 'holds'), (1, '0.01', 'holds'), (1, '0.1', 'violated')]
    """
    options = (options or Options()).but(**changes)
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    job = _Job(network, images, labels, epsilon, domain, (mean, std), options)
    known = _Journal(journal, "certified accuracy") if journal is not None else None
    lines: dict[int, list[Line]] = {}
    with ThreadPoolExecutor(workers) as pool:
        tasks: list[Future[list[Line]]] = [pool.submit(job.ask, k, known) for k in range(len(job.images))]
        try:
            for k, task in enumerate(tasks):
                lines[k] = task.result()
                listener(
                    Progress(seconds=job.seconds, stage="solve", done=k + 1, unit="inputs", left=len(tasks) - k - 1)
                )
        except BaseException:
            for task in tasks:
                task.cancel()
            raise
    ordered = tuple(line for k in range(len(job.images)) for line in lines[k])
    return Certification(lines=ordered, radii=tuple(name for name, _ in job.radii), count=len(job.images))


class _Job:
    """The questions of a run."""

    def __init__(
        self,
        network: Network,
        images: npt.ArrayLike,
        labels: Any,
        epsilon: Any,
        domain: Domain,
        scale: tuple[Sequence[float] | None, Sequence[float] | None],
        options: Options,
    ) -> None:
        self.network, self.domain, self.options = network, network_domain(network, domain), options
        x = np.asarray(images, dtype=np.float64)
        if x.ndim < 2 or not len(x) or x[0].size != network.input_size:
            raise InputError(
                f"images of shape {x.shape} for a network with {network.input_size} inputs",
                fix=f"expected (N, {', '.join(map(str, network.input_shape))}), N at least 1",
            )
        if not np.isfinite(x).all():
            raise InputError("the images contain NaN or infinity")
        self.images = x.reshape(len(x), -1)
        ends = self.domain
        if ends is not None and (left := ((self.images < ends[0]) | (self.images > ends[1])).any(axis=1)).any():
            k, words = int(left.argmax()), "the network's own" if isinstance(ends[0], np.ndarray) else f"{ends}"
            raise InputError(f"image {k} leaves the domain {words}", fix="scale the images, or name their domain")
        self.scale = Normalisation.of(network, *scale)
        self.outputs = network.forward(self.scale.apply(self.images)).reshape(len(x), -1)
        given = self.outputs.argmax(axis=1) if labels is None else np.asarray(labels).reshape(-1)
        if len(given) != len(x):
            raise InputError(f"{len(given)} labels for {len(x)} images", fix="one label for each image")
        wrong = np.flatnonzero(~np.isin(given, np.arange(network.output_size)))
        if wrong.size:
            raise InputError(
                f"label {given[wrong[0]]} of image {wrong[0]} does not exist",
                fix=f"labels are whole numbers from 0 to {network.output_size - 1}",
            )
        self.labels = given.astype(int)
        self.radii = _radii(epsilon)
        self.seconds = 0.0
        self._digest = _digest(network)
        self._lock = threading.Lock()

    def ask(self, k: int, journal: _Journal | None) -> list[Line]:
        """The answers for one input, the smallest radius first."""
        label, found = int(self.labels[k]), list[Line]()
        if int(self.outputs[k].argmax()) != label:
            return [Line(index=k, label=label, epsilon=e, status=MISCLASSIFIED) for e, _ in self.radii]
        violated: Line | None = None
        for name, radius in self.radii:
            if violated is not None:
                found.append(replace(violated, epsilon=name, reason="a smaller radius", seconds=0.0))
                continue
            key = self._key(k, label, radius)
            line = None if journal is None else journal.line(key, k, name)
            if line is None:
                line = self._verdict(k, label, name, radius)
                if journal is not None:
                    journal.put(key, asdict(line))
            with self._lock:
                self.seconds += line.seconds
            found.append(line)
            violated = line if line.status == "violated" else None
        # a proof at a radius is one for all smaller ones
        proved = max((place for place, line in enumerate(found) if line.status == "holds"), default=-1)
        return [
            replace(line, status="holds", certainty=found[proved].certainty, reason="a larger radius")
            if place < proved and line.status != "holds"
            else line
            for place, line in enumerate(found)
        ]

    def _verdict(self, k: int, label: int, name: str, radius: Fraction) -> Line:
        from verifier.api import verify

        verdict = verify(self._query(k, label, name, radius), options=self.options)
        witness, other = None, None
        if verdict.witness is not None:
            point = self.scale.invert(verdict.witness.input)
            others = np.where(np.arange(self.network.output_size) == label, -np.inf, verdict.witness.output)
            witness, other = tuple(float(v) for v in point), int(others.argmax())
        return Line(
            index=k,
            label=label,
            epsilon=name,
            status=verdict.status.value,
            certainty="" if verdict.certainty is None else verdict.certainty.value,
            engine=verdict.engine,
            reason=verdict.reason,
            seconds=round(verdict.times["total"], 3),
            witness=witness,
            other=other,
        )

    def _query(self, k: int, label: int, name: str, radius: Fraction) -> Query:
        """The question, its box exactly as asked."""
        return Query(
            network=self.network,
            box=self.scale.box(self.images[k], radius, self.domain),
            disjuncts=larger_output_disjuncts(self.network.output_size, label),
            anchor=self.scale.apply(self.images[k]),
            description=f"label {label} within L∞ distance {name} of input {k}",
        )

    def _key(self, k: int, label: int, radius: Fraction) -> str:
        ends = None if self.domain is None else tuple(np.asarray(end).tolist() for end in self.domain)
        words: tuple[Any, ...] = (self._digest, self.images[k].tobytes().hex(), label, str(radius), ends)
        words += (
            self.scale.mean.tobytes().hex(),
            self.scale.std.tobytes().hex(),
            self.options.timeout,
            self.options.engine,
        )
        return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()


class _Journal(Journal):
    """The answers of earlier runs."""

    def line(self, key: str, index: int, epsilon: str) -> Line | None:
        """A known answer, for this place in the data; those that ran out of time count as answers too."""
        record = self.get(key)
        if record is None or record["status"] == "error":
            return None
        witness = record["witness"]
        named = {**record, "index": index, "epsilon": epsilon, "witness": None if witness is None else tuple(witness)}
        return Line(**named)


def _radii(epsilon: Any) -> list[tuple[str, Fraction]]:
    """The radii as given and exactly, the smallest first."""
    several = epsilon if isinstance(epsilon, (list, tuple, np.ndarray)) else [epsilon]
    found = []
    for radius in several:
        exact = exact_radius(radius if isinstance(radius, str) else float(radius))
        found.append((radius if isinstance(radius, str) else f"{float(radius):g}", exact))
    if not found:
        raise InputError("no radius is named")
    return sorted(dict(found).items(), key=lambda pair: pair[1])


def _digest(network: Network) -> str:
    """A network's structure and numbers."""
    from verifier.proofs.relu_network import fingerprint

    return fingerprint(network)
