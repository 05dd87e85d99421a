"""Reproducers: the query of a solver call that failed, kept in files so that the failure can be looked at."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

from verifier.errors import EngineError, OutputError, VerifierError
from verifier.files import make_folder, write_bytes, write_text
from verifier.options import Options
from verifier.properties.query import Query

MOST_NEURONS = 1000
"""SMT-LIB text is written for networks up to this size."""


def save(folder: Path, engine: str, query: Query, options: Options, reason: str) -> Path:
    """Write ``query.pickle`` and, where the query can be said in them, VNN-LIB, ONNX and SMT-LIB 2 text.

    Args:
        folder: where reproducers are kept; a folder named after the engine and the content is made in it.
        reason: what happened, for ``README.txt``.

    Raises:
        OutputError: a file cannot be written.

    Returns:
        the path of ``query.pickle``: ``engine.solve(*pickle.load(file), Deadline.after(60))`` asks again.
    """
    data = pickle.dumps((query, options), protocol=pickle.HIGHEST_PROTOCOL)
    place = folder / f"{engine}-{hashlib.sha256(data).hexdigest()[:12]}"
    make_folder(place)
    write_bytes(place / "query.pickle", data)
    lines = [f"engine: {engine}", f"what happened: {reason}", f"network: {query.network.source or 'built in Python'}"]
    for name, write in (("property.vnnlib", _vnnlib), ("network.onnx", _onnx), ("query.smt2", _smtlib)):
        try:
            write(place / name, query, options)
        except OutputError:
            raise
        except (ImportError, VerifierError) as error:
            lines.append(f"no {name}: {error}")
    write_text(place / "README.txt", "\n".join(lines) + "\n")
    return place / "query.pickle"


def _vnnlib(file: Path, query: Query, options: Options) -> None:
    from verifier.properties.vnnlib1 import write

    write_text(file, write(query))


def _onnx(file: Path, query: Query, options: Options) -> None:
    from verifier.network.onnx_writer import write_onnx

    write_onnx(query.network, file, "float64")


def _smtlib(file: Path, query: Query, options: Options) -> None:
    from verifier.encodings.smtlib import script
    from verifier.engines.encoded import bounded_encoding

    if query.network.neurons > MOST_NEURONS:
        raise EngineError(f"{query.network.neurons} neurons, and text is written for at most {MOST_NEURONS}")
    encoding = bounded_encoding(query, options, exact=True)
    write_text(file, script(encoding.model, strict=False, comment=query.description))
