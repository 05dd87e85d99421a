"""A proof that a query has no solution, as arrays that can be written to a file.

**Regions.** Node 0 is the query's box. Division d divides node ``divided[d]`` into the nodes ``2 d + 1`` and ``2 d + 2``:
where ``axis[d] = j >= 0`` into ``x_j <= value[d]`` and ``x_j >= value[d]``, else by the ReLU ``unit[d]`` into ``z >= 0`` and
``z <= 0``. So the children of a node cover it whatever the numbers are. A division is for one case of the query, or, if
``division_case[d]`` is -1, for those that have none of their own at this node. ReLUs are numbered through
`verifier.proofs.relu_network.relu_network`: node after node, each flattened.

**Bounds.** Record b says which bounds of ReLUs' inputs are found on the region of node ``bounds_node[b]``, starting from
those of record ``bounds_base[b]`` (-1: from none): by `ReluGraph.bounds`, with default slopes, or (``bounds_weighted[b]``)
with the weights given for each row. ``units`` of a record are the ReLUs that weights are for.

**Certificates.** Certificate c refutes case ``case[c]`` on the region of ``node[c]``, with the bounds of record
``bounds[c]``, found there or on a region around it. Each of its terms is a combination λ >= 0 of the case's rows, taken
back to the input with slopes α of free ReLUs and multipliers β of fixed ones (`ReluGraph.lower`); the sum of
the terms is positive on the box. A certificate without terms (case -1) says that the record's bounds contradict each
other: the region has no point. Every case must be refuted on every leaf, or above it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import VerifierError
from verifier.files import whole_file
from verifier.network.operators import Array

FORMAT, VERSION = "pwl-verifier proof", 1

Integers = npt.NDArray[np.int64]


class ProofError(VerifierError):
    """A proof that cannot be read, is of something else, or does not prove what it says."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Proof:
    """See the module. Ragged lists are flat arrays with an array of offsets, one longer than the list.

    Attributes:
        network: fingerprint of the network.
        operators: the kinds of operators that the proof relies on.
        method: how it was found, in words.
        low, high: ``(n,)`` the query's box.
        y_rows, x_rows, bound, case_of: the query's rows ``y_rows y + x_rows x <= bound``, and the case of each.
        divided, division_case, axis, value, unit: ``(D,)`` the divisions.
        bounds_node, bounds_base, bounds_weighted: ``(B,)`` the records of bounds.
        units_start, units: the ReLUs of each record.
        rows_start, row_unit, row_sign, row_weights_start, row_weights: of each record, its bounded units, -1 or 1
            (upper or lower bound), and one row of weights after the other: for those of ``units`` that belong to ReLU
            nodes before the row's own. ``row_weights_start`` is by record.
        node, case, bounds: ``(C,)`` the certificates.
        terms_start: of each certificate.
        rows_of_start, row, multiplier: of each term, rows of the query and λ.
        weights_start, weights: of each term, α and β for all of the record's ``units``; none: default slopes, β = 0.
    """

    network: str
    operators: tuple[str, ...]
    method: str
    low: Array
    high: Array
    y_rows: Array
    x_rows: Array
    bound: Array
    case_of: Integers
    divided: Integers
    division_case: Integers
    axis: Integers
    value: Array
    unit: Integers
    bounds_node: Integers
    bounds_base: Integers
    bounds_weighted: npt.NDArray[np.bool_]
    units_start: Integers
    units: Integers
    rows_start: Integers
    row_unit: Integers
    row_sign: npt.NDArray[np.int8]
    row_weights_start: Integers
    row_weights: npt.NDArray[np.float16]
    node: Integers
    case: Integers
    bounds: Integers
    terms_start: Integers
    rows_of_start: Integers
    row: Integers
    multiplier: Array
    weights_start: Integers
    weights: npt.NDArray[np.float32]

    @property
    def nodes(self) -> int:
        """Number of nodes of the tree."""
        return 2 * len(self.divided) + 1

    @property
    def leaves(self) -> int:
        """Number of nodes that are not divided."""
        return self.nodes - len(np.unique(self.divided))

    def save(self, path: Path | str) -> None:
        """Write one file: a zip archive of ``.npy`` arrays and ``header.json`` (numpy's ``.npz`` with a header).

        Raises:
            OutputError: it cannot be written.
        """
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in TEXTS}
        header = {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(self, name) for name in TEXTS},
            "nodes": self.nodes,
            "certificates": len(self.node),
            "arrays": {name: _digest(a) for name, a in arrays.items()},
        }
        with whole_file(path) as file:
            np.savez_compressed(file, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)


TEXTS = ("network", "operators", "method")
MATRICES = ("y_rows", "x_rows")
"""Arrays of two dimensions; all others have one."""
KINDS: dict[str, Any] = {
    **dict.fromkeys(("low", "high", "y_rows", "x_rows", "bound", "value", "multiplier"), np.float64),
    "weights": np.float32,
    "row_weights": np.float16,
    "row_sign": np.int8,
    "bounds_weighted": np.bool_,
}
"""The arrays' types; int64 where none is given."""


def _digest(array: Any) -> str:
    return hashlib.sha256(
        f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


@checked
def load_proof(path: Path | str) -> Proof:
    """Read a proof that `Proof.save` wrote.

    Raises:
        ProofError: naming the file, if it is missing, truncated, altered, or of another format or version.

    Example:
        >>> import numpy as np, pathlib, tempfile, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> query = verifier.robustness(network, [0.9, 0.1], epsilon=0.1)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "proof.npz")
        >>> verifier.verify(query, proof=True).proof.save(path)
        >>> verifier.check_proof(verifier.load_proof(path), query).leaves
        1
    """
    place = str(path)
    if Path(path).is_file() and not zipfile.is_zipfile(path):  # numpy would take it for a pickle
        raise ProofError("no proof, or damaged: not an .npz file", place=place, fix="write it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except OSError as error:
        raise ProofError(f"cannot be read: {error.strerror or error}", place=place) from None
    except Exception as error:  # whatever numpy, zipfile and the decompressors raise on bytes that make no sense
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProofError(f"no proof, or damaged: {why}", place=place, fix="write it again") from None
    try:
        header = json.loads(found.pop("header").tobytes())
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        version, texts, digests = header["version"], {name: header[name] for name in TEXTS}, dict(header["arrays"])
        texts["operators"] = tuple(texts["operators"])
        if not all(isinstance(text, str) for text in (texts["network"], texts["method"], *texts["operators"])):
            raise ValueError("its texts are none")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ProofError(f"has no header of a proof: {error}", place=place) from None
    if version != VERSION:
        raise ProofError(f"is of version {version}", place=place, fix=f"this program reads version {VERSION}")
    names = {f.name for f in fields(Proof)} - set(TEXTS)
    if names != set(found) or names != set(digests):
        wrong = sorted((names ^ set(found)) | (names ^ set(digests)))
        raise ProofError(f"arrays are missing or unknown: {', '.join(wrong)}", place=place)
    for name, array in found.items():
        if array.dtype != np.dtype(KINDS.get(name, np.int64)):
            raise ProofError(f"array {name!r} has the type {array.dtype}", place=place)
        if array.ndim != (2 if name in MATRICES else 1):
            raise ProofError(f"array {name!r} has the shape {array.shape}", place=place, fix="write the proof again")
        if _digest(array) != digests[name]:
            raise ProofError(f"array {name!r} was altered", place=place, fix="write the proof again")
    return Proof(**texts, **found)
