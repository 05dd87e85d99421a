"""Runs models in onnxruntime on the CPU: the second opinion of every replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError, NetworkError
from verifier.network.graph import Network
from verifier.network.onnx_model import model_bytes, read_model, refuse_external_data
from verifier.network.operators import Array
from verifier.network.tails import Tail

TYPES = {
    "float": "float32",
    "double": "float64",
    **{name: name for name in ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
"""numpy's name of each type of number that onnxruntime names."""

FLOATS = {f"tensor({name})" for name in ("float", "double", "float16", "bfloat16")}
"""onnxruntime's names of the types of tensors of floats."""


class RuntimeModel:
    """A model in onnxruntime.

    Args:
        source: an ONNX file (plain or gzipped), an ``onnx.ModelProto``, or a network. A network that was read
            from an ONNX file runs from that file (up to its `tail`, where that was left out); another is written in float64, or in float32 where
            onnxruntime has no float64 kernel (convolutions).

    Attributes:
        dtype: of the model's input, float32 as a rule; an integer type takes integers alone.
        model: what runs: the file's name, or "written as float32 …".
    """

    def __init__(self, source: str | Path | Network | Any) -> None:
        self.model = str(source) if isinstance(source, (str, Path)) else "a model in memory"
        tail = source.tail if isinstance(source, Network) else None
        known = source.input_shape if isinstance(source, Network) else ()
        if isinstance(source, Network) and source.model_file and Path(source.model_file).is_file():
            source = source.model_file
            self.model = source
        if isinstance(source, Network):
            self._session = self._written(source)
        elif isinstance(source, (str, Path)):
            self._session = _session(_runnable(Path(source), tail), str(source))
        else:
            refuse_external_data(source, self.model)
            self._session = _session(source.SerializeToString(), self.model)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise NetworkError(f"the model has {len(inputs)} inputs", place=self.model)
        self._name = inputs[0].name
        sizes = inputs[0].shape  # where the file leaves one open, the network was read with one; a batch is 1
        read = [1] * (len(sizes) - len(known)) + list(known)
        self._shape = [d if isinstance(d, int) and d > 0 else n for d, n in zip(sizes, read, strict=False)]
        kind = inputs[0].type.removeprefix("tensor(").removesuffix(")")
        if kind not in TYPES:
            raise NetworkError(f"the model's input is of type {kind}", place=self.model, fix="numbers are supported")
        self.dtype: np.dtype[Any] = np.dtype(TYPES[kind])
        self._size = int(np.prod(self._shape))
        outputs = self._session.get_outputs()
        # of several outputs the only one of floats, as the reader takes it: a classifier's scores, not its label
        floats = [o.name for o in outputs if o.type in FLOATS or o.type.startswith("seq(map")]
        self._output = floats[0] if len(floats) == 1 else outputs[0].name
        if tail is not None and any(o.name == tail.tensor for o in outputs):
            self._output = tail.tensor

    def _written(self, network: Network) -> Any:
        from verifier.network.onnx_writer import to_onnx

        for precision in ("float64", "float32"):
            try:
                session = _session(to_onnx(network, precision).SerializeToString(), network.source)  # type: ignore[arg-type]
            except NetworkError as error:
                if precision == "float32" or "NOT_IMPLEMENTED" not in error.problem:
                    raise
            else:
                self.model = f"the network written as {precision} ONNX"
                return session
        raise AssertionError

    def run(self, x: npt.ArrayLike) -> Array:
        """The flattened output, float64, at one input ``(n,)`` (any shape of n entries) or a batch ``(batch, n)``.

        The input is cast to the model's type (`rounded`); inputs run one at a time, as witnesses are
        replayed in VNN-COMP.

        Returns:
            ``(m,)``, or ``(batch, m)``.
        """
        array = np.asarray(x, dtype=np.float64)
        if array.size == self._size:
            return self._one(array) if array.ndim != 2 or len(array) != 1 else self._one(array)[None]
        if array.size % self._size or array.reshape(len(array), -1).shape[1] != self._size:
            raise InputError(f"an input of shape {array.shape} for a model with {self._size} inputs", place=self.model)
        return np.stack([self._one(row) for row in array])

    def _one(self, x: Array) -> Array:
        feed = rounded(x.reshape(self._shape), self.dtype)
        (result,) = self._session.run([self._output], {self._name: feed})
        if isinstance(result, list):  # ZipMap's: scores by class
            result = [list(scores.values()) for scores in result]
        return np.asarray(result, dtype=np.float64).reshape(-1)


def rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    """The nearest values of a type; for integers within the type's range."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # what lies outside the type's range becomes infinite
            return x.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(x), float(ends.min), float(ends.max)).astype(dtype)


def _runnable(path: Path, tail: Tail | None) -> bytes | str:
    """What onnxruntime is given: the file itself, beside which it finds external data; unpacked, if it is gzipped.

    Where a function at the end was left out, the model also gives the tensor before it.
    """
    if tail is not None:
        import onnx

        longer = read_model(path)
        longer.graph.output.append(onnx.ValueInfoProto(name=tail.tensor))
        made: bytes = longer.SerializeToString()
        return made
    if path.suffix != ".gz":
        if not path.is_file():
            raise NetworkError("there is no such file", place=str(path))
        return str(path)
    data = model_bytes(path)
    if b"location" not in data:  # the key of external data's file
        return data
    model: bytes = read_model(path).SerializeToString()
    return model


def _session(model: bytes | str, place: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own classes, by status
        raise NetworkError(f"onnxruntime cannot run the model: {error}", place=place) from None
