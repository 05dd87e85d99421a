"""The operators of a network: a small set in which every piecewise-linear network can be written.

Arrays carry the batch as their first axis: an operator whose output has shape ``s`` returns arrays of
shape ``(batch, *s)``. All arithmetic is float64; the same code also runs on object arrays of Python
integers, which is how `verifier.network.exact` evaluates a network without rounding.

An operator is either *affine* (`AffineOperator`: Dense, Scale, Sum, Concat, Reshape and Select here, Conv in
`verifier.network.convolution`) or an `Activation` (`verifier.network.activation`). An affine
operator needs `output_shape`, `linear` and `transpose`; all else has a default, which own code may do faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.lazy import sp

Array = npt.NDArray[Any]
"""A numeric array: float64, or object (exact integers) inside `verifier.network.exact`."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """One step of a network. Stateless, immutable, picklable."""

    elementwise: ClassVar[bool] = False
    """Whether each entry of the output depends on the same entry of every input alone."""

    @property
    def kind(self) -> str:
        """What an engine must declare to take it: "affine", "relu", "piecewise-linear", "maxpool"; else its own name."""
        return type(self).__name__.lower()

    @abstractmethod
    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the output (without batch) for inputs of these shapes; NetworkError if they do not fit."""

    @abstractmethod
    def forward(self, *inputs: Array) -> Array:
        """The operator's value, batch first.

        Raises:
            NetworkError: of the input, which has no value of its own.
        """


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """The network's input; the only operator without inputs of its own."""

    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def forward(self, *inputs: Array) -> Array:
        raise NetworkError("the input node has no value of its own")


@dataclass(frozen=True, eq=False)
class AffineOperator(Operator):
    """An operator that is affine in all its inputs together: linear part plus a constant."""

    coefficients: ClassVar[str | None] = None
    """Name of the field that holds the linear part's numbers; None when they are all 0 or 1 (else see `absolute`)."""

    @property
    def kind(self) -> str:
        return "affine"

    @abstractmethod
    def linear(self, *inputs: Array) -> Array:
        """The linear part (no constant) applied to inputs, batch first."""

    @abstractmethod
    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        """The transposed linear part: the gradient with respect to each input.

        Args:
            grad: ``(batch, *output_shape)``.
            shapes: the inputs' shapes (without batch).
        """

    def constant(self) -> Array | None:
        """The constant part, broadcastable to the output's shape; None when there is none."""
        return None

    def forward(self, *inputs: Array) -> Array:
        value, constant = self.linear(*inputs), self.constant()
        return value if constant is None else value + constant

    def write(self, out: Array, *inputs: Array) -> None:
        """Like `forward`, into an array ``(batch, *output_shape)`` that is there already (fresh pages cost more)."""
        value, constant = self.linear(*inputs), self.constant()
        if constant is None:
            out[...] = value
        else:
            np.add(value, constant, out=out)

    def absolute(self, least: float = 0.0) -> AffineOperator:
        """The operator with the absolute values of its coefficients, those not zero raised to ``least``.

        What its constant is then is left open.
        """
        if self.coefficients is None:
            return self
        made: AffineOperator = replace(self, **{self.coefficients: _sizes(getattr(self, self.coefficients), least)})
        return made

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        """The largest number of products that are summed for one entry of `linear` (or of `transpose`)."""
        axis, gathered = (0, max) if transposed else (1, sum)
        return gathered(int(np.asarray((m != 0).sum(axis=axis)).max(initial=1)) for m in self.matrices(*shapes))

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        """The linear part as one sparse matrix ``(flat output, flat input)`` for each input."""
        sizes = [prod(s) for s in shapes]
        result = []
        for k, size in enumerate(sizes):
            blocks = []
            for start in range(0, size, 256):
                units = np.zeros((min(256, size - start), size))
                units[np.arange(len(units)), start + np.arange(len(units))] = 1.0
                inputs = [units.reshape(-1, *s) if i == k else np.zeros((len(units), *s)) for i, s in enumerate(shapes)]
                blocks.append(sp.csr_array(self.linear(*inputs).reshape(len(units), -1)))
            result.append(sp.csr_array(sp.vstack(blocks).T))
        return tuple(result)


@dataclass(frozen=True, eq=False)
class Dense(AffineOperator):
    """``x -> weight @ x + bias`` along the last axis.

    Attributes:
        weight: ``(outputs, inputs)``. May be given as a sparse matrix: it is then kept in that form alone
            (`sparse_weight`), and the dense array is made anew each time ``weight`` is asked for.
        bias: ``(outputs,)``.
    """

    weight: Array
    bias: Array
    coefficients: ClassVar[str | None] = "weight"

    SPARSE_BELOW: ClassVar[float] = 0.05
    """Weights with a smaller share of non-zeros, and more than a million entries, are applied sparsely."""

    def __post_init__(self) -> None:
        if sp.issparse(self.weight):
            self.__dict__["_sparse"] = sp.csr_array(self.__dict__.pop("weight"))

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and self.__dict__.get("_sparse") is not None:
            return self.__dict__["_sparse"].toarray()
        raise AttributeError(name)

    @property
    def weight_shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``, without making a sparse weight dense."""
        held = self.__dict__["weight"] if "weight" in self.__dict__ else self.__dict__["_sparse"]
        return int(held.shape[0]), int(held.shape[1])

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if not shape or shape[-1] != self.weight_shape[1]:
            raise NetworkError(f"a dense layer with weight {self.weight_shape} cannot take an input of shape {shape}")
        return (*shape[:-1], self.weight_shape[0])

    @property
    def sparse_weight(self) -> sp.csr_array | None:
        """The weight in sparse form if it is large and nearly empty, else None (cached)."""
        if "_sparse" not in self.__dict__:
            w = self.weight
            sparse = w.size > 1_000_000 and w.dtype != object and np.count_nonzero(w) < self.SPARSE_BELOW * w.size
            self.__dict__["_sparse"] = sp.csr_array(w) if sparse else None
        result: sp.csr_array | None = self.__dict__["_sparse"]
        return result

    def linear(self, *inputs: Array) -> Array:
        (x,) = inputs
        sparse = self.sparse_weight
        if sparse is not None:
            rows = x.reshape(-1, x.shape[-1])
            return np.ascontiguousarray((sparse @ rows.T).T).reshape(*x.shape[:-1], -1)
        result: Array = x @ self.weight.T
        return result

    def write(self, out: Array, *inputs: Array) -> None:
        if self.sparse_weight is not None:
            super().write(out, *inputs)
            return
        np.matmul(inputs[0], self.weight.T, out=out)
        out += self.bias

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        sparse = self.sparse_weight
        if sparse is not None:
            rows = grad.reshape(-1, grad.shape[-1])
            return (np.ascontiguousarray((sparse.T @ rows.T).T).reshape(*grad.shape[:-1], -1),)
        return (grad @ self.weight,)

    def constant(self) -> Array | None:
        return self.bias

    def absolute(self, least: float = 0.0) -> Dense:
        sparse = self.sparse_weight
        if sparse is None:
            return replace(self, weight=_sizes(self.weight, least))
        size = sp.csr_array((_sizes(sparse.data, least), sparse.indices, sparse.indptr), shape=sparse.shape)
        return Dense(size, self.bias)  # type: ignore[arg-type]

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        return self.weight_shape[0 if transposed else 1]

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        weight = self.sparse_weight
        if weight is None:
            weight = sp.csr_array(self.weight)
        repeat = prod(shapes[0][:-1])
        return (weight,) if repeat == 1 else (sp.csr_array(sp.kron(sp.eye_array(repeat), weight)),)


@dataclass(frozen=True, eq=False)
class Scale(AffineOperator):
    """Elementwise ``x -> scale * x + shift``: BatchNormalization, Add/Sub/Mul/Div with constants.

    Attributes:
        scale, shift: arrays of the input's shape (without batch).
    """

    scale: Array
    shift: Array
    coefficients: ClassVar[str | None] = "scale"
    elementwise: ClassVar[bool] = True

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if self.scale.shape != shape or self.shift.shape != shape:
            raise NetworkError(f"scale {self.scale.shape} and shift {self.shift.shape} do not fit input {shape}")
        return shape

    def linear(self, *inputs: Array) -> Array:
        result: Array = inputs[0] * self.scale
        return result

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (grad * self.scale,)

    def constant(self) -> Array | None:
        return self.shift

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        return 1

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        return (sp.csr_array(sp.diags_array(self.scale.reshape(-1))),)


@dataclass(frozen=True, eq=False)
class Sum(AffineOperator):
    """Sum or difference of nodes of one shape (a residual connection): ``Σ signs[k] · input[k]``."""

    signs: tuple[int, ...]
    elementwise: ClassVar[bool] = True

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != len(self.signs) or any(s != shapes[0] for s in shapes):
            raise NetworkError(f"cannot add nodes of shapes {', '.join(map(str, shapes))}")
        return shapes[0]

    def linear(self, *inputs: Array) -> Array:
        total = inputs[0] if self.signs[0] > 0 else -inputs[0]
        for sign, x in zip(self.signs[1:], inputs[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return tuple(grad if sign > 0 else -grad for sign in self.signs)

    def absolute(self, least: float = 0.0) -> Sum:
        return Sum((1,) * len(self.signs))

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        return 1 if transposed else len(self.signs)

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        return tuple(sp.csr_array(sign * sp.eye_array(prod(shapes[0]))) for sign in self.signs)


@dataclass(frozen=True, eq=False)
class Concat(AffineOperator):
    """Concatenation along an axis (counted without the batch)."""

    axis: int

    def output_shape(self, *shapes: Shape) -> Shape:
        others = {s[: self.axis] + s[self.axis + 1 :] for s in shapes}
        if len(others) != 1 or any(len(s) <= self.axis for s in shapes):
            raise NetworkError(f"cannot concatenate shapes {', '.join(map(str, shapes))} along axis {self.axis}")
        total = sum(s[self.axis] for s in shapes)
        return (*shapes[0][: self.axis], total, *shapes[0][self.axis + 1 :])

    def linear(self, *inputs: Array) -> Array:
        return np.concatenate(inputs, axis=self.axis + 1)

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        ends = np.cumsum([s[self.axis] for s in shapes])[:-1]
        return tuple(np.split(grad, ends, axis=self.axis + 1))

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        return 1


@dataclass(frozen=True, eq=False)
class Reshape(AffineOperator):
    """Another shape for the same values in row-major order: Flatten, Reshape, Squeeze, Unsqueeze."""

    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        if prod(shapes[0]) != prod(self.shape):
            raise NetworkError(f"cannot reshape {shapes[0]} to {self.shape}")
        return self.shape

    def linear(self, *inputs: Array) -> Array:
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (grad.reshape(len(grad), *shapes[0]),)

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        return 1

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        return (sp.csr_array(sp.eye_array(prod(self.shape))),)


@dataclass(frozen=True, eq=False)
class Select(AffineOperator):
    """Picks entries by flat index: Transpose, Slice, Gather, Pad.

    Attributes:
        index: integer array of the output's shape; ``output[i] = flat input[index[i]]``, and
            ``fill`` where the index is -1 (padding).
        fill: the padding's value.
    """

    index: npt.NDArray[np.int64]
    fill: float = 0.0

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.index.size and (self.index.max() >= prod(shapes[0]) or self.index.min() < -1):
            raise NetworkError(f"index {int(self.index.max())} is outside an input of shape {shapes[0]}")
        return self.index.shape

    def linear(self, *inputs: Array) -> Array:
        flat = inputs[0].reshape(len(inputs[0]), -1)
        picked: Array = np.take(flat, self.index, axis=1, mode="wrap")  # -1 is the padding's; it is overwritten
        padding = self.index < 0
        if padding.any():
            picked = np.where(padding, np.zeros((), dtype=picked.dtype), picked)
        return picked

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        total = np.zeros((prod(shapes[0]), len(grad)), dtype=grad.dtype)
        keep = self.index.reshape(-1) >= 0
        np.add.at(total, self.index.reshape(-1)[keep], grad.reshape(len(grad), -1)[:, keep].T)
        return (np.ascontiguousarray(total.T).reshape(len(grad), *shapes[0]),)

    def constant(self) -> Array | None:
        if self.fill == 0.0:
            return None
        return np.where(self.index < 0, self.fill, 0.0)

    def terms(self, transposed: bool, *shapes: Shape) -> int:
        used = self.index[self.index >= 0]
        return int(np.bincount(used.reshape(-1)).max(initial=1)) if transposed else 1

    def matrices(self, *shapes: Shape) -> tuple[sp.csr_array, ...]:
        flat = self.index.reshape(-1)
        rows = np.flatnonzero(flat >= 0)
        triple = (np.ones(len(rows)), (rows, flat[rows]))
        return (sp.csr_array(sp.coo_array(triple, shape=(flat.size, prod(shapes[0])))),)


def _sizes(weights: Array, least: float) -> Array:
    return np.where(weights == 0, 0.0, np.maximum(np.abs(weights), least)) if least else np.abs(weights)
