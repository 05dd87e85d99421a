"""Reproducers: the query of a solver call that failed, kept in files so that the failure can be looked at."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

from verifier.errors import VerifierError
from verifier.options import Options
from verifier.properties.query import Query


def save(folder: Path, engine: str, query: Query, options: Options, reason: str) -> Path:
    """Write ``query.pickle`` and, where the query can be said in them, ``property.vnnlib`` and ``network.onnx``.

    Args:
        folder: where reproducers are kept; a folder named after the engine and the content is made in it.
        reason: what happened, for ``README.txt``.

    Returns:
        the path of ``query.pickle``: ``engine.solve(*pickle.load(file), Deadline.after(60))`` asks again.
    """
    data = pickle.dumps((query, options), protocol=pickle.HIGHEST_PROTOCOL)
    place = folder / f"{engine}-{hashlib.sha256(data).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "query.pickle").write_bytes(data)
    lines = [f"engine: {engine}", f"what happened: {reason}", f"network: {query.network.source or 'built in Python'}"]
    try:
        from verifier.properties import vnnlib1

        (place / "property.vnnlib").write_text(vnnlib1.write(query))
    except VerifierError as error:
        lines.append(f"no property.vnnlib: {error}")
    try:
        from verifier.network.onnx_writer import write_onnx

        write_onnx(query.network, place / "network.onnx", "float64")
    except (ImportError, VerifierError) as error:
        lines.append(f"no network.onnx: {error}")
    (place / "README.txt").write_text("\n".join(lines) + "\n")
    return place / "query.pickle"
