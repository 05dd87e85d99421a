"""Ports: the named tensors that a network's flat input and output consist of.

A network has one flat input and one flat output, which is all that engines see. A model with several inputs is read as
one whose flat input holds them one after the other; a port says where each of them is. The ports of networks that stand
side by side (`verifier.network.joint`) may share entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.operators import Array, Shape


@dataclass(frozen=True, eq=False)
class Port:
    """A named tensor.

    Attributes:
        name: as in the model.
        shape: without the batch.
        places: of that shape: the position of each entry in the flat input (or output).
    """

    name: str
    shape: Shape
    places: npt.NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    def of(self, flat: Array) -> Array:
        """The tensor's entries in a flat vector ``(n,)``, in its shape; of a batch ``(batch, n)``, batch first."""
        return np.asarray(flat[..., self.places])


def in_turn(tensors: Sequence[tuple[str, Shape]]) -> tuple[Port, ...]:
    """Ports of tensors (name, shape) that lie one after the other."""
    ports, start = [], 0
    for name, shape in tensors:
        size = prod(shape)
        ports.append(Port(name, tuple(shape), np.arange(start, start + size, dtype=np.int64).reshape(shape)))
        start += size
    return tuple(ports)


def packed(ports: Sequence[Port], values: Mapping[str, Any], size: int, place: str = "") -> Array:
    """The flat vector ``(size,)`` with the given tensors in their places.

    Raises:
        InputError: a name that is missing, unknown or given another value by a port that shares its entries; a size that
            does not fit.
    """
    names = ", ".join(p.name for p in ports)
    for name in values:
        if all(p.name != name for p in ports):
            raise InputError(f"there is no tensor {name!r}", place=place, fix=f"there are {names}")
    flat, filled = np.zeros(size), np.zeros(size, dtype=bool)
    for port in ports:
        if port.name not in values:
            if filled[port.places].all():  # another port with the same entries was given
                continue
            raise InputError(f"the tensor {port.name!r} is missing", place=place, fix=f"give all of {names}")
        array = np.asarray(values[port.name], dtype=np.float64)
        if array.size != port.size:
            raise InputError(f"{port.name!r} has {array.size} entries, and {port.size} are wanted", place=place)
        where, array = port.places.reshape(-1), array.reshape(-1)
        if (filled[where] & (flat[where] != array)).any():
            raise InputError(f"{port.name!r} shares entries with another tensor, and differs from it", place=place)
        flat[where], filled[where] = array, True
    return flat
