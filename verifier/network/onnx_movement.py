"""Converters of ONNX operators that only arrange data or speak of shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from verifier.errors import NetworkError
from verifier.network.assembly import Value
from verifier.network.onnx_reader import HALF, REALS, Step
from verifier.network.operators import Array, Concat

Converter = Callable[[Step], "Value | Array | Iterable[Value]"]
PAD_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _move(step: Step) -> list[Value]:
    """Any operator that only arranges its first input: it is evaluated on the positions of the entries."""
    value = step.value()
    positions = np.arange(value.size, dtype=np.int64).reshape(value.shape)
    feeds = {step.node.input[0]: positions}
    for k in range(1, len(step.node.input)):
        if step.given(k):
            found = step.constant(k)
            assert found is not None
            feeds[step.node.input[k]] = found
    return [
        step.assembler.select(value, np.asarray(index, dtype=np.int64), name)
        for index, name in zip(step.evaluate(feeds), step.node.output, strict=False)
    ]


def _pad(step: Step) -> Value:
    value = step.value()
    pads = step.integers(1, "pads") or step.integers(1, "paddings")
    if pads is None:
        raise NetworkError("Pad without pads", place=step.place)
    fill_array = step.constant(2)
    fill = float(step.attribute("value", 0.0) if fill_array is None else fill_array.reshape(-1)[0])
    rank = len(value.shape)
    axes = step.integers(3) or tuple(range(rank))
    mode = step.attribute("mode", "constant")
    index = np.arange(value.size, dtype=np.int64).reshape(value.shape)
    for k, axis in enumerate(axes):
        ends = pads[k], pads[k + len(axes)]
        width = [(0, 0)] * rank
        width[axis % rank] = max(0, ends[0]), max(0, ends[1])
        if mode == "constant":
            index = np.pad(index, width, constant_values=-1)
        else:
            if mode not in PAD_MODES:
                raise step.unsupported(f"in mode {mode!r}")
            index = np.pad(index, width, mode=PAD_MODES[mode])
        cut = [slice(None)] * rank
        cut[axis % rank] = slice(max(0, -ends[0]), index.shape[axis % rank] - max(0, -ends[1]))
        index = index[tuple(cut)]
    return step.assembler.select(value, index, step.name, fill)


def _dropout(step: Step) -> Value:
    training = step.constant(2)
    if (step.opset < 7 and not step.attribute("is_test", 0)) or (training is not None and bool(training.any())):
        raise step.unsupported("in training mode")
    return step.value()


def _cast(step: Step) -> Value:
    from onnx import TensorProto, helper

    kind = int(step.attribute("to", 1))
    if step.kind == "CastLike":
        like = step.reader.raw_constant(step.node.input[1])
        kind = 1 if like is None else int(helper.np_dtype_to_tensor_dtype(like.dtype))
        if step.node.input[1] in step.reader.integers:
            raise step.unsupported("to integers")
    if kind in HALF:
        step.reader.computes_in_half(TensorProto.DataType.Name(kind))
    elif kind not in REALS:
        raise step.unsupported(f"to {TensorProto.DataType.Name(kind)}, which makes integers of numbers,")
    return step.value()


def _concat(step: Step) -> Value:
    build = step.assembler
    count = len(step.node.input)
    values = [step.value(k) for k in range(count) if not step.is_constant(k)]
    rank = len(values[0].shape)
    axis = step.attribute("axis", 1) % rank
    trimmed = axis > 0 and all(v.shape[0] == 1 for v in values)
    nodes = [build.view(v, v.shape[1:] if trimmed else v.shape, step.name) for v in values]
    total = (*values[0].shape[:axis], sum(v.shape[axis] for v in values), *values[0].shape[axis + 1 :])
    if len(nodes) == 1:
        joined = values[0]
    else:
        name = step.name if len(values) == count else f"{step.name}/values"
        joined = Value(build.add(Concat(axis - 1 if trimmed else axis), *nodes, name=name), total)
    if len(values) == count:
        return joined
    positions = np.arange(joined.size, dtype=np.int64).reshape(total)
    indices, constants, start = [], [], 0
    for k in range(count):
        if step.is_constant(k):
            found = step.constant(k)
            assert found is not None
            indices.append(np.full(found.shape, -1, dtype=np.int64))
            constants.append(found.astype(np.float64))
        else:
            size = step.value(k).shape[axis]
            indices.append(positions.take(range(start, start + size), axis=axis))
            constants.append(np.zeros(step.value(k).shape))
            start += size
    spread = build.select(joined, np.concatenate(indices, axis=axis), f"{step.name}/spread")
    return build.affine(spread, 1.0, np.concatenate(constants, axis=axis), step.name)


# -- shapes ----------------------------------------------------------------------------------------------
def _shape(step: Step) -> Array:
    """The shape is known: the batch is 1."""
    shape = np.array(step.value().shape, dtype=np.int64)
    return shape[slice(step.attribute("start", 0), step.attribute("end", None))]


def _size(step: Step) -> Array:
    return np.array(step.value().size, dtype=np.int64)


MOVES = {
    *("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
"""Operators that only arrange the entries of their first input."""

MOVEMENTS: dict[str, Converter] = {
    **dict.fromkeys(MOVES, _move),
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _concat,
    "Dropout": _dropout,
    "Pad": _pad,
    "Shape": _shape,
    "Size": _size,
}
"""The converter of every supported operator type of this kind."""
