"""Converters of ONNX operators that only arrange data or speak of shapes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from verifier.errors import NetworkError
from verifier.network.onnx_step import Converter, Step, Tensor
from verifier.network.operators import Array
from verifier.network.tensors import Value

PAD_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _move(step: Step) -> list[Value]:
    """Any operator that only arranges its first input: it is evaluated on the positions of the entries."""
    return _moved(step, [0])


def _merge(step: Step) -> list[Value]:
    """An operator that arranges the entries of its first and third input."""
    if step.attribute("reduction", "none") != "none":
        raise step.unsupported("that adds or compares entries")
    return _moved(step, [0, 2])


def _moved(step: Step, data: list[int]) -> list[Value]:
    """Evaluate an operator on the positions of entries, counted through some of its inputs in turn."""
    parts: list[Any] = []
    feeds: dict[str, Array] = {}
    start = 0
    for k in range(len(step.node.input)):
        if not step.given(k):
            continue
        if k not in data:
            found = step.constant(k)
            assert found is not None
            feeds[step.node.input[k]] = found
            continue
        parts.append(step.constant(k) if step.is_constant(k) else step.value(k))
        feeds[step.node.input[k]] = np.arange(start, start + parts[-1].size, dtype=np.int64).reshape(parts[-1].shape)
        start += parts[-1].size
    return [
        step.assembler.rearrange(parts, np.asarray(index, dtype=np.int64), name)
        for index, name in zip(step.evaluate(feeds), step.node.output, strict=False)
    ]


def _triangle(step: Step) -> Value:
    """Trilu: the entries above or below a diagonal, zeros elsewhere."""
    k = step.integers(1)
    take = np.triu if step.attribute("upper", 1) else np.tril
    return step.assembler.move(step.value(), lambda index: take(index + 1, k[0] if k else 0) - 1, step.name)


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


def _concat(step: Step) -> Value:
    parts: list[Any] = [step.constant(k) if step.is_constant(k) else step.value(k) for k in range(len(step.node.input))]
    return step.assembler.concatenated(parts, int(step.attribute("axis", 1)), step.name)


# -- sequences -------------------------------------------------------------------------------------------
def _split_to_sequence(step: Step) -> list[Any]:
    value, sizes = step.value(), step.constant(1)
    axis = int(step.attribute("axis", 0)) % len(value.shape)
    length = value.shape[axis]
    if sizes is None:
        ends = list(range(1, length))
    elif sizes.ndim == 0:
        ends = list(range(int(sizes), length, int(sizes)))
    else:
        ends = [int(e) for e in np.cumsum(sizes)[:-1]]
    index = np.arange(value.size, dtype=np.int64).reshape(value.shape)
    parts = np.split(index, ends, axis=axis)
    if sizes is None and not step.attribute("keepdims", 1):
        parts = [p.squeeze(axis) for p in parts]
    return [[step.assembler.select(value, p, f"{step.name}/{k}") for k, p in enumerate(parts)]]


def _sequence_construct(step: Step) -> list[Any]:
    return [[step.tensor(k) for k in range(len(step.node.input))]]


def _sequence_at(step: Step) -> Tensor:
    sequence, place = step.tensor(0), step.integers(1)
    assert place is not None
    if not isinstance(sequence, list):
        raise step.unsupported("of something that is no sequence")
    found: Tensor = sequence[place[0]]
    return found


def _concat_from_sequence(step: Step) -> Value:
    sequence = step.tensor(0)
    if not isinstance(sequence, list) or not all(isinstance(v, Value) for v in sequence):
        raise step.unsupported("of something that is no sequence of tensors that depend on the input")
    axis, new = int(step.attribute("axis", 0)), bool(step.attribute("new_axis", 0))
    index, start = [], 0
    for v in sequence:
        index.append(np.arange(start, start + v.size, dtype=np.int64).reshape(v.shape))
        start += v.size
    joined = np.stack(index, axis) if new else np.concatenate(index, axis)
    return step.assembler.rearrange(sequence, joined, step.name)


# -- shapes ----------------------------------------------------------------------------------------------
def _shape(step: Step) -> Array:
    """The shape is known: an open batch is 1."""
    shape = np.array(step.function().shape, dtype=np.int64)
    return shape[slice(step.attribute("start", 0), step.attribute("end", None))]


def _size(step: Step) -> Array:
    return np.array(int(np.prod(step.function().shape)), dtype=np.int64)


def _eye_like(step: Step) -> Array:
    rows, columns = step.function().shape
    return np.eye(rows, columns, k=int(step.attribute("k", 0)))


MOVES = {
    *("CenterCropPad", "Compress", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
    *("Identity", "Reshape", "ReverseSequence", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
    "Unsqueeze",
}
"""Operators that only arrange the entries of their first input."""

MOVEMENTS: dict[str, Converter] = {
    **dict.fromkeys(MOVES, _move),
    "Concat": _concat,
    "ConcatFromSequence": _concat_from_sequence,
    "EyeLike": _eye_like,
    "Pad": _pad,
    **dict.fromkeys(("Scatter", "ScatterElements", "ScatterND"), _merge),
    "SequenceAt": _sequence_at,
    "SequenceConstruct": _sequence_construct,
    "Shape": _shape,
    "Size": _size,
    "SplitToSequence": _split_to_sequence,
    "Trilu": _triangle,
}
"""The converter of every supported operator type of this kind."""
