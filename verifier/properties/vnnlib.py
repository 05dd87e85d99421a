"""Property files in VNN-LIB, version 1.0 or 2.0, plain or gzipped."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

from verifier.arguments import checked
from verifier.errors import PropertyError, TailError
from verifier.network.graph import Network
from verifier.properties import vnnlib1
from verifier.properties.query import Query, Statement

_VERSION_2 = re.compile(r"(?:\s|;[^\n]*(?:\n|\Z))*\(\s*vnnlib-version\s*<\s*2")


def read_text(path: str | PathLike[str]) -> str:
    """A property file's text; gunzipped if it is gzip, whatever its name.

    Raises:
        PropertyError: the file is missing, truncated or not text.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except OSError as error:
        raise PropertyError(f"cannot be read: {error.strerror or error}", place=str(path)) from None
    except EOFError:
        raise PropertyError("the gzip file is truncated", place=str(path)) from None
    except zlib.error as error:
        raise PropertyError(f"the gzip file is damaged: {error}", place=str(path)) from None
    except UnicodeDecodeError:
        raise PropertyError("not a text file", place=str(path), fix="is it a property file (.vnnlib)?") from None


def version(text: str) -> int:
    """1 or 2: the major version of VNN-LIB that a text is written in."""
    return 2 if _VERSION_2.match(text) else 1


def asked_of(path: str | PathLike[str], networks: Callable[[bool], Network | Mapping[str, Network]]) -> Query:
    """The query of a property file about the scores before a last Softmax, Sigmoid …, or, where the property does not carry over, about the whole model.

    Args:
        networks: loads the model (or several by name), with (True) or without leaving out what may be left out at its end.

    Raises:
        NetworkError, PropertyError: as `verifier.load` and `read_vnnlib`.
    """
    try:
        return read_vnnlib(path, networks(True))
    except TailError:
        return read_vnnlib(path, networks(False))


@checked
def read_vnnlib(path: str | PathLike[str], network: Network | Mapping[str, Network]) -> Query:
    """The query of a VNN-LIB file (1.0 or 2.0, gzipped or not) about a network, or several.

    A VNN-LIB file describes counterexamples: the query asks for an input that satisfies all assertions.

    Args:
        path: the file; inputs and outputs are numbered as in the network's flattened input and output.
        network: what it is about; where a file of VNN-LIB 2.0 declares several, each by its name there.

    Raises:
        PropertyError: with file and line: a syntax error, sizes that are not the network's, an unbounded input.

    Source:
        the VNN-LIB standard, as the competition uses it: `docs/formats.md`.

    Example:
        >>> import numpy as np, pathlib, tempfile, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> path = pathlib.Path(tempfile.mkdtemp(), "property.vnnlib")
        >>> names = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
        >>> inputs = "(assert (and (>= X_0 0.8) (<= X_0 1) (>= X_1 0) (<= X_1 0.2)))"
        >>> _ = path.write_text(names + inputs + "(assert (<= Y_0 Y_1))")
        >>> verifier.verify(verifier.read_vnnlib(path, network)).status
        <Status.HOLDS: 'holds'>
    """
    text = read_text(path)
    if not text.strip():
        raise PropertyError("the property file is empty", place=str(path))
    if version(text) == 1:
        if not isinstance(network, Network):
            if len(network) != 1:
                raise PropertyError(f"VNN-LIB 1.0 speaks of one network, and {len(network)} are given", place=str(path))
            (network,) = network.values()
        return replace(vnnlib1.parse(text, network, place=str(path)), statement=Statement(text=text, is_vnnlib=True))
    from verifier.properties import vnnlib2

    return vnnlib2.parse(text, network, place=str(path))
