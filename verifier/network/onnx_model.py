"""ONNX files: the model in one with all its data, and the arrays of its tensors."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import NetworkError
from verifier.network.operators import Array, Shape

OLDEST_OPSET = 6
"""Operators of older opsets have rules of their own that are not read."""


def read_model(path: str | Path) -> Any:
    """The ``ModelProto`` in a file, plain or gzipped, with its external data, which must lie beside it.

    Raises:
        NetworkError: a file that is missing or damaged, or external data that is.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = Path(path)
    data = model_bytes(path)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise NetworkError(
            "this is not an ONNX model, or it is cut short", place=str(path), fix="fetch or export it again"
        ) from None
    if not model.graph.node or not model.graph.output:
        raise NetworkError("the model has no graph", place=str(path), fix="is the file cut short?")
    try:
        onnx.load_external_data_for_model(model, str(path.absolute().parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise NetworkError(
            f"the model's external data cannot be read: {error}",
            place=str(path),
            fix="it must lie beside the model, under the name that the exporter gave it",
        ) from None
    return model


def model_bytes(path: Path) -> bytes:
    """What a file holds, unpacked if it is gzipped; NetworkError if it cannot be read."""
    if not path.is_file():
        raise NetworkError("there is no such file", place=str(path))
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise NetworkError(f"the gzip file is damaged: {error}", place=str(path), fix="fetch it again") from None
    except OSError as error:
        raise NetworkError(f"the file cannot be read: {error}", place=str(path)) from None


def refuse_external_data(model: Any, source: str) -> None:
    """NetworkError if a tensor's data lies in a file that was not read: nothing is looked for in the current folder."""
    import onnx

    def tensors(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for inner in (attribute.g, *attribute.graphs):
                    yield from tensors(inner)

    for found in tensors(model.graph):
        if onnx.external_data_helper.uses_external_data(found):
            raise NetworkError(
                f"the data of tensor {found.name!r} lies in a file that was not read",
                place=source,
                fix="load the model by its path, or call onnx.load_external_data_for_model(model, folder) first",
            )


def opset_of(model: Any, source: str) -> int:
    """The version of ONNX's own operators that a model is written in; NetworkError if it cannot be read by its rules."""
    import onnx

    version = max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    newest = int(onnx.defs.onnx_opset_version())
    if version > newest:
        raise NetworkError(
            f"the model is written in opset {version}, and the installed onnx knows those up to {newest}",
            place=source,
            fix="install a newer onnx, or export the model in an older opset",
        )
    if version < OLDEST_OPSET:
        raise NetworkError(
            f"the model is written in opset {version}; those from {OLDEST_OPSET} on are read",
            place=source,
            fix="convert it: onnx.version_converter.convert_version(model, 13)",
        )
    return version


def initializers_of(graph: Any) -> dict[str, Any]:
    """The ``TensorProto``s and ``SparseTensorProto``s that a graph starts with, by name."""
    dense = {t.name: t for t in graph.initializer}
    return {**dense, **{t.values.name: t for t in graph.sparse_initializer}}


def tensor(proto: Any, source: str) -> Array:
    """The array of a ``TensorProto`` or ``SparseTensorProto``.

    Raises:
        NetworkError: where its data is damaged.
    """
    import onnx

    if isinstance(proto, onnx.SparseTensorProto):
        return _dense(proto, source)
    try:
        return np.asarray(onnx.numpy_helper.to_array(proto))
    except (ValueError, TypeError, OSError) as error:
        raise NetworkError(f"the data of tensor {proto.name!r} is damaged: {error}", place=source) from None


def _dense(proto: Any, source: str) -> Array:
    values, places = tensor(proto.values, source), tensor(proto.indices, source)
    shape: Shape = tuple(int(d) for d in proto.dims)
    made = np.zeros(shape, dtype=values.dtype)
    try:
        if places.ndim == 1:
            made.reshape(-1)[places] = values
        else:
            made[tuple(places.T)] = values
    except (IndexError, ValueError) as error:
        raise NetworkError(
            f"the data of sparse tensor {proto.values.name!r} is damaged: {error}", place=source
        ) from None
    return made


def as_reals(array: Array) -> Array:
    """Floats of any precision as float64; other types as they are.

    Shapes: array ``(…)``, any shape.
    """
    narrow = array.dtype.name.startswith(("bfloat", "float"))
    return array.astype(np.float64) if narrow else array
