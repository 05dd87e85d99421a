"""Abductive explanations of a whole data set, one after the other, journalled: a run that was cut off goes on where it was."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError, PropertyError
from verifier.events import Listener, Progress, ignore
from verifier.explain.abductive import EACH, AbductiveExplanation, explain
from verifier.explain.features import Features, columns
from verifier.journal import Journal
from verifier.network.graph import Network
from verifier.options import Options
from verifier.properties.builders import Domain
from verifier.shown import Shown


@dataclass(frozen=True, kw_only=True)
class ExplainedInput:
    """One row of the table.

    Attributes:
        index: of the input.
        label: that is explained; None if there is nothing to explain (``reason`` says why: a tie, say).
        kept, undecided: as in `AbductiveExplanation`.
        changed, other: the features of the least change that was found, and the label there.
        questions, seconds: what it took.
    """

    index: int
    label: int | None
    kept: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    other: int | None = None
    questions: int = 0
    seconds: float = 0.0
    reason: str = ""

    @staticmethod
    def of(index: int, found: AbductiveExplanation) -> ExplainedInput:
        """The row of an explanation."""
        contrast = found.contrast
        return ExplainedInput(
            index=index,
            label=found.label,
            kept=found.kept,
            undecided=found.undecided,
            changed=() if contrast is None else tuple(sorted(contrast.features)),
            other=None if contrast is None else contrast.label,
            questions=found.questions,
            seconds=round(found.seconds, 3),
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ExplainedData(Shown):
    """All rows.

    Attributes:
        rows: in the order of the inputs.
        features: of every explanation.
    """

    rows: tuple[ExplainedInput, ...]
    features: Features

    @property
    def decided(self) -> bool:
        """Whether every explanation is proved to be irredundant."""
        return all(not row.undecided and row.label is not None for row in self.rows)

    def _facts(self) -> tuple[str, dict[str, str]]:
        return "ExplainedData", {"inputs": str(len(self.rows)), "found": self.summary()}

    def summary(self) -> str:
        """One line on all of them."""
        told = [row for row in self.rows if row.label is not None]
        if not told:
            return "nothing was explained"
        sure, sizes = sum(not row.undecided for row in told), [len(row.kept) for row in told]
        return (
            f"{sure} of {len(self.rows)} proved irredundant; kept {fmean(sizes):.1f} of {len(self.features)} features on "
            f"average ({min(sizes)} to {max(sizes)}), {fmean(r.seconds for r in told):.2f} s on average, "
            f"{median(r.seconds for r in told):.2f} s in the middle"
        )

    def table(self) -> str:
        """As a table in Markdown."""
        rows = [
            (
                f"| {r.index} | {r.label} | {len(r.kept)} | {len(r.undecided)} | {len(r.changed) or ''} | "
                f"{'' if r.other is None else r.other} | {r.questions} | {r.seconds:.2f} |"
                if r.label is not None
                else f"| {r.index} | {r.reason} | | | | | | |"
            )
            for r in self.rows
        ]
        head = "| input | label | kept | undecided | changed | to label | questions | seconds |"
        return "\n".join([head, "|" + "---|" * 8, *rows]) + "\n"


@checked
def explain_all(
    network: Network,
    inputs: npt.ArrayLike,
    *,
    epsilon: float | None = None,
    domain: Domain = "network",
    features: Features | None = None,
    journal: str | Path | None = None,
    timeout: float | None = 600.0,
    options: Options = EACH,
    listener: Listener = ignore,
) -> ExplainedData:
    """`explain` for many inputs, each with the network's own label.

    Args:
        inputs: ``(N, n)`` or ``(N, *input_shape)``.
        journal: a file to which every row is added at once; what it holds already for the same network, input, region,
            features and time limits is not asked again.
        timeout: seconds for each input.

    Raises:
        InputError: inputs of another size; a journal that is none; as `explain`.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import explain_all
        >>> network = verifier.feedforward([np.array([[4.0, 1.0, 0.0], [0.0, 0.0, 1.0]])], [np.array([-2.0, 0.0])])
        >>> [row.kept for row in explain_all(network, [[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]]).rows]
        [(0,), (0,)]
    """
    x = np.asarray(inputs, dtype=np.float64)
    if x.ndim < 2 or not len(x) or x[0].size != network.input_size:
        raise InputError(
            f"inputs of shape {x.shape} for a network with {network.input_size} inputs",
            fix="expected (N, n), N at least 1",
        )
    chosen = columns(network) if features is None else features
    known = None if journal is None else Journal(journal, "explanations")
    asked = (_digest(network), epsilon, str(domain), chosen.groups, timeout, options.timeout, options.engine)
    rows, spent = [], 0.0
    for k, point in enumerate(x.reshape(len(x), -1)):
        key = hashlib.sha256(repr((asked, point.tobytes())).encode()).hexdigest()
        record = None if known is None else known.get(key)
        if record is None:
            row = _row(network, point, k, epsilon, domain, chosen, timeout, options)
            if known is not None:
                known.put(key, asdict(row))
        else:
            row = _from_record(record, k)
        rows.append(row)
        spent += row.seconds
        left = len(x) - k - 1
        listener(Progress(seconds=spent, stage="explain", done=k + 1, unit="inputs", left=left, bound=0.0))
    return ExplainedData(rows=tuple(rows), features=chosen)


def _row(network: Network, point: Any, index: int, *asked: Any) -> ExplainedInput:
    epsilon, domain, features, timeout, options = asked
    try:
        found = explain(
            network, point, epsilon=epsilon, domain=domain, features=features, timeout=timeout, options=options
        )
    except PropertyError as error:
        raise InputError(error.problem, place=f"input {index}", fix=error.fix) from None
    except InputError as error:
        if "ties" not in error.problem:
            raise
        return ExplainedInput(index=index, label=None, reason="its largest outputs tie: nothing to explain")
    return ExplainedInput.of(index, found)


def _from_record(record: dict[str, Any], index: int) -> ExplainedInput:
    sets = {name: tuple(record[name]) for name in ("kept", "undecided", "changed")}
    return ExplainedInput(**{**record, **sets, "index": index})


def _digest(network: Network) -> str:
    from verifier.proofs.relu_network import fingerprint

    return fingerprint(network)
