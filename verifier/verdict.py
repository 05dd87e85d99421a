"""Verdicts: an enum and frozen records, never a bool."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.network.operators import Array
from verifier.shown import Shown

if TYPE_CHECKING:
    from verifier.proofs.writer import Proof


class Status(enum.Enum):
    """The answer to "does the property hold?"."""

    HOLDS = "holds"
    """Proved: the query has no solution."""
    VIOLATED = "violated"
    """Refuted by a witness that was replayed on the original network."""
    UNKNOWN = "unknown"
    """Neither proved nor refuted; the reason says why."""
    TIMEOUT = "timeout"
    ERROR = "error"

    def __bool__(self) -> bool:
        raise TypeError("a Status is not a bool: compare it, e.g. verdict.status is Status.HOLDS")

    @property
    def decided(self) -> bool:
        """Whether this is HOLDS or VIOLATED."""
        return self in (Status.HOLDS, Status.VIOLATED)


class Certainty(enum.Enum):
    """How strong a HOLDS is."""

    EXACT = "exact"
    """Proved in exact rational arithmetic (Z3, SMT)."""
    RIGOROUS = "rigorous"
    """Proved in floating point with a proved bound on all rounding errors."""
    NUMERICAL = "numerical"
    """Proved by a solver with tolerances (Marabou, HiGHS: about 1e-6)."""


def shortly(values: Array, most: int = 4) -> str:
    """A vector in a few words: ``[0.5 1 0.25 0 …; 784]``.

    Shapes: values ``(k,)``.
    """
    shown = " ".join(f"{v:.6g}" for v in values[:most])
    return f"[{shown}]" if len(values) <= most else f"[{shown} …; {len(values)}]"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Witness(Shown):
    """An input that refutes a property, and how it was checked again on the original network.

    Attributes:
        input: flattened, float64.
        exact_input: the rational point that was checked, where it is not this float64 point: the question fixes an input
            at a decimal, say.
        output: flattened network output at ``input``, computed exactly and rounded once.
        gradient: flattened gradient at ``input`` by the strict convention; None if the query has none.
        map: the saliency map at ``input``, computed exactly and rounded once; None if the query has no condition
            on one (the map of a plain saliency query is ``gradient``).
        exact: whether the condition holds in exact rational arithmetic (box, gradient, outputs).
        onnxruntime: whether it also holds in onnxruntime (float32 for float32 models); None if not run.
        runtime_output: onnxruntime's output at the input; None if not run.
        remarks: what the replay noticed (the float32 point differs, say).
        shape: of one input of the network; () if it is not known.
    """

    input: Array
    output: Array
    exact_input: tuple[Fraction, ...] | None = None
    gradient: Array | None = None
    map: Array | None = None
    exact: bool = False
    onnxruntime: bool | None = None
    runtime_output: Array | None = None
    remarks: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    _drawn_by = "verifier.report.witness:witness_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        checks = ["exactly"] if self.exact else ["NOT confirmed"]
        if self.onnxruntime is not None:
            checks.append("in onnxruntime" if self.onnxruntime else "NOT in onnxruntime")
        facts = {"input": shortly(self.input), "output": shortly(self.output)}
        if len(self.output) > 1:
            facts["largest"] = self.lead
        return "Witness", {**facts, "replayed": ", ".join(checks)}

    @property
    def lead(self) -> str:
        """Which output is the largest, and by how much: in words."""
        first, second = sorted(range(len(self.output)), key=lambda k: (-self.output[k], k))[:2]
        ahead = float(self.output[first] - self.output[second])
        return (
            f"outputs {first} and {second}, equal"
            if ahead == 0
            else f"output {first}, by {ahead:.6g} over output {second}"
        )

    @property
    def shaped(self) -> Array:
        """The input in the network's input shape, where that is known."""
        return self.input.reshape(self.shape) if self.shape else self.input

    @property
    def point(self) -> tuple[Fraction, ...]:
        """The input that was checked, exactly."""
        return self.exact_input or tuple(Fraction(v) for v in self.input.tolist())

    @property
    def confirmed(self) -> bool:
        """Whether the exact replay confirmed it."""
        return self.exact


@dataclass(frozen=True, kw_only=True)
class EngineAnswer:
    """What one of several engines said.

    Attributes:
        engine: its name.
        answer: in a few words: "proved", "refuted", "refuted, not confirmed", "unknown", "timeout" or "error".
        seconds: wall-clock seconds until the answer was in.
        certainty: of a proof.
        reason: of an answer that decides nothing.
    """

    engine: str
    answer: str
    seconds: float
    certainty: Certainty | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Verdict(Shown):
    """The answer to a query, with where it came from.

    Attributes:
        status: the answer.
        witness: for VIOLATED, the confirmed witness; else None.
        stage: "search", "bounds" or "solve": the stage that decided, or where the work ended.
        engine: name of the engine (or search, or bound method) that decided; "" if none.
        certainty: how strong a HOLDS is; None otherwise.
        reason: in words, for UNKNOWN, TIMEOUT and ERROR; why the engine was picked, for "auto", is in ``notes``.
        progress: how far the work had come, for UNKNOWN, TIMEOUT and ERROR; "" if nothing was told.
        answers: of each engine, where several were asked, in the order in which they came.
        times: wall-clock seconds by stage, and "total".
        bounds: bound method that was used, "" if none.
        unconfirmed: a witness that a solver proposed and the replay did not confirm.
        reproducer: a file with the query that failed.
        notes: remarks for the user.
        proof: the certificate of HOLDS, if one was asked for.
        no_certificate: why there is none though one was asked for; "" otherwise.
    """

    status: Status
    witness: Witness | None = None
    stage: str = ""
    engine: str = ""
    certainty: Certainty | None = None
    reason: str = ""
    progress: str = ""
    answers: tuple[EngineAnswer, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    bounds: str = ""
    unconfirmed: Witness | None = None
    reproducer: Path | None = None
    notes: tuple[str, ...] = ()
    proof: Proof | None = None
    no_certificate: str = ""

    _drawn_by = "verifier.report.witness:verdict_plot"

    def __post_init__(self) -> None:
        if self.status is Status.VIOLATED and (self.witness is None or not self.witness.confirmed):
            raise ValueError("VIOLATED needs a witness that the replay confirmed")
        if self.status is not Status.VIOLATED and self.witness is not None:
            raise ValueError(f"{self.status.name} has no witness; an unconfirmed one goes to `unconfirmed`")
        if self.status is Status.HOLDS and self.certainty is None:
            raise ValueError("HOLDS must say how certain it is")
        if not self.status.decided and not self.reason:
            raise ValueError(f"{self.status.name} must say why")

    def _facts(self) -> tuple[str, dict[str, str]]:
        total = self.times.get("total")
        title = f"Verdict {self.status.name}" + (f" ({self.certainty.value})" if self.certainty else "")
        facts = {"by": self.engine, "in": "" if total is None else f"{total:.3g} s", "because": self.reason}
        facts["certificate"] = f"none: {self.no_certificate}" if self.no_certificate else ""
        facts["witness"] = "" if self.witness is None else repr(self.witness)
        return title, {name: fact for name, fact in facts.items() if fact}

    def __bool__(self) -> bool:
        raise TypeError("a Verdict is not a bool: look at verdict.status")
