"""Runs models in onnxruntime on the CPU: the second opinion of every replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError, NetworkError
from verifier.network.graph import Network
from verifier.network.onnx_model import model_bytes, read_model, refuse_external_data
from verifier.network.operators import Array
from verifier.network.ports import Port

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
        fused: whether onnxruntime may fuse operators, as it does by default; of weights in integers it then computes
            with inputs rounded to 8 bits. Without it the model is evaluated operator by operator.

    Attributes:
        dtype: of the model's input, float32 as a rule; an integer type takes integers alone.
        model: what runs: the file's name, or "written as float32 …".
    """

    def __init__(self, source: str | Path | Network | Any, *, fused: bool = True) -> None:
        self._fused = fused
        self.model = str(source) if isinstance(source, (str, Path)) else "a model in memory"
        self._parts: list[tuple[RuntimeModel, npt.NDArray[np.int64]]] = []
        if isinstance(source, Network) and source.models:
            self._join(source)
            return
        tail = source.tail if isinstance(source, Network) else None
        ports = source.input_ports if isinstance(source, Network) else ()
        wanted = [p.name for p in source.output_ports] if isinstance(source, Network) and source.model_file else []
        if tail is not None:
            wanted = [tail.tensor]
        if isinstance(source, Network) and source.model_file and Path(source.model_file).is_file():
            source = source.model_file
            self.model = source
        if isinstance(source, Network):
            self._session = self._written(source)
        elif isinstance(source, (str, Path)):
            self._session = _session(_runnable(Path(source), wanted), str(source), fused)
        else:
            refuse_external_data(source, self.model)
            self._session = _session(source.SerializeToString(), self.model, fused)
        self._feeds = [_Feed.of(i, port, self.model) for i, port in _paired(self._session.get_inputs(), ports)]
        if not self._feeds:
            raise NetworkError("the model has no input", place=self.model)
        kinds = {feed.dtype for feed in self._feeds}
        self.dtype: np.dtype[Any] = self._feeds[0].dtype if len(kinds) == 1 else np.dtype(np.float32)
        self._size = sum(feed.size for feed in self._feeds)
        outputs = self._session.get_outputs()
        # of several outputs those of floats, as the reader takes them: a classifier's scores, not its label
        floats = [o.name for o in outputs if o.type in FLOATS or o.type.startswith("seq(map")]
        self._outputs = floats or [outputs[0].name]
        if wanted and {o.name for o in outputs} >= set(wanted):
            self._outputs = list(wanted)

    def _join(self, network: Network) -> None:
        """Every model of a joint network runs from its own file; products of their values are made from these."""
        self._parts = [(RuntimeModel(model, fused=self._fused), places) for model, places in network.models]
        self.model = ", ".join(part.model for part, _ in self._parts)
        kinds = {part.dtype for part, _ in self._parts}
        self.dtype = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
        self._size, self._products = network.input_size, network.products

    def _written(self, network: Network) -> Any:
        from verifier.network.onnx_writer import to_onnx

        for precision in ("float64", "float32"):
            try:
                session = _session(to_onnx(network, precision).SerializeToString(), network.source, self._fused)  # type: ignore[arg-type]
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

        Raises:
            InputError: an input of another size.
        """
        array = np.asarray(x, dtype=np.float64)
        if array.size == self._size:
            return self._one(array) if array.ndim != 2 or len(array) != 1 else self._one(array)[None]
        if array.size % self._size or array.reshape(len(array), -1).shape[1] != self._size:
            raise InputError(f"an input of shape {array.shape} for a model with {self._size} inputs", place=self.model)
        return np.stack([self._one(row) for row in array])

    def _one(self, x: Array) -> Array:
        flat, start, feeds = x.reshape(-1), 0, dict[str, Array]()
        if self._parts:
            base = [rounded(flat, self.dtype).astype(np.float64)]
            base += [part.run(flat[places]) for part, places in self._parts]
            values = np.concatenate(base)
            return np.concatenate([values[self._size :], [values[list(p)].prod() for p in self._products]])
        for feed in self._feeds:
            feeds[feed.name] = rounded(flat[start : start + feed.size].reshape(feed.shape), feed.dtype)
            start += feed.size
        found = []
        for result in self._session.run(self._outputs, feeds):
            if isinstance(result, list):  # ZipMap's: scores by class
                result = [list(scores.values()) for scores in result]
            found.append(np.asarray(result, dtype=np.float64).reshape(-1))
        return np.concatenate(found)


@dataclass(frozen=True)
class _Feed:
    """One input of a session: its name, shape with the batch, and type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @staticmethod
    def of(given: Any, port: Port | None, model: str) -> _Feed:
        """What a session says of an input; where it leaves a size open, the network was read with one, and a batch is 1."""
        sizes, known = given.shape, () if port is None else port.shape
        read = [1] * (len(sizes) - len(known)) + list(known)
        shape = tuple(d if isinstance(d, int) and d > 0 else n for d, n in zip(sizes, read, strict=False))
        kind = given.type.removeprefix("tensor(").removesuffix(")")
        if kind not in TYPES:
            raise NetworkError(f"the model's input is of type {kind}", place=model, fix="numbers are supported")
        return _Feed(given.name, shape, np.dtype(TYPES[kind]))


def _paired(inputs: Sequence[Any], ports: Sequence[Port]) -> list[tuple[Any, Port | None]]:
    """A session's inputs in the order of the network's ports."""
    if len(ports) != len(inputs):
        return [(i, None) for i in inputs]
    by_name = {i.name: i for i in inputs}
    if all(p.name in by_name for p in ports):
        return [(by_name[p.name], p) for p in ports]
    return list(zip(inputs, ports, strict=True))


def rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    """The nearest values of a type; for integers within the type's range.

    Shapes: x ``(…)``, any shape.
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # what lies outside the type's range becomes infinite
            return x.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(x), float(ends.min), float(ends.max)).astype(dtype)


def _runnable(path: Path, outputs: Sequence[str]) -> bytes | str:
    """What onnxruntime is given: the file itself, beside which it finds external data; unpacked, if it is gzipped.

    Where tensors inside of the model are wanted, it gives these too.
    """
    if outputs:
        model = read_model(path)
        lacking = [name for name in outputs if all(o.name != name for o in model.graph.output)]
        if lacking:
            import onnx

            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in lacking)
            made: bytes = model.SerializeToString()
            return made
    if path.suffix != ".gz":
        if not path.is_file():
            raise NetworkError("there is no such file", place=str(path))
        return str(path)
    data = model_bytes(path)
    if b"location" not in data:  # the key of external data's file
        return data
    whole: bytes = read_model(path).SerializeToString()
    return whole


def _session(model: bytes | str, place: str, fused: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own classes, by status
        raise NetworkError(f"onnxruntime cannot run the model: {error}", place=place) from None
