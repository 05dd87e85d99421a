"""Features: groups of inputs that an explanation keeps or frees together, each with a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.graph import Network


@dataclass(frozen=True)
class Features:
    """Disjoint groups of inputs. Inputs of no group keep their values throughout.

    Attributes:
        groups: for each feature the flat indices of its inputs.
        names: one for each.
        size: number of inputs of the network.
        shape: how the features lie in a picture ``(rows, columns)``, if they do.
    """

    groups: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    size: int
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.names) != len(self.groups):
            raise InputError(f"{len(self.names)} names for {len(self.groups)} features")
        twice = [name for name in dict.fromkeys(self.names) if self.names.count(name) > 1] if self.names else []
        if twice:
            raise InputError(f"two features are called {twice[0]!r}", fix="give every feature a name of its own")
        owner: dict[int, str] = {}
        for name, group in zip(self.names, self.groups, strict=True):
            if not group:
                raise InputError(f"the feature {name!r} has no input")
            for index in group:
                if not 0 <= index < self.size:
                    raise InputError(
                        f"the feature {name!r} has input {index}", fix=f"the network's inputs are 0 to {self.size - 1}"
                    )
                if index in owner:
                    raise InputError(
                        f"input {index} is in the feature {owner[index]!r} and in {name!r}",
                        fix="features must not overlap",
                    )
                owner[index] = name

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def _members(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """All groups' inputs one after the other, where each group begins, and the feature of each input (-1: none)."""
        sizes = [len(group) for group in self.groups]
        flat = np.fromiter((k for group in self.groups for k in group), dtype=np.intp, count=sum(sizes))
        owner = np.full(self.size, -1, dtype=np.intp)
        owner[flat] = np.repeat(np.arange(len(sizes)), sizes)
        return flat, np.cumsum([0, *sizes[:-1]], dtype=np.intp), owner

    def mask(self, which: Iterable[int]) -> npt.NDArray[np.bool_]:
        """``(size,)`` booleans: the inputs of some features."""
        chosen = np.zeros(len(self) + 1, dtype=bool)  # the last one: inputs of no feature
        chosen[list(which)] = True
        return np.asarray(chosen[self._members[2]])

    def sums(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sums over each feature of values ``(…, size)`` of the inputs, ``(…, features)``."""
        flat, starts, _ = self._members
        return np.asarray(np.add.reduceat(values[..., flat], starts, axis=-1)) if len(self) else values[..., :0]

    def changed(self, before: npt.ArrayLike, after: npt.ArrayLike) -> frozenset[int]:
        """The features in which two inputs differ."""
        differs = np.asarray(before).reshape(-1) != np.asarray(after).reshape(-1)
        owners = self._members[2][differs]
        return frozenset(owners[owners >= 0].tolist())


def columns(network: Network, names: Sequence[str] | Mapping[str, Sequence[int]] | None = None) -> Features:
    """One feature for each input, or for each named group of inputs.

    Args:
        names: the inputs' names in order (``x0``, ``x1`` … if not given), or name and indices of each group.

    Raises:
        InputError: too few or too many names, a name that stands twice, an index out of range, groups that overlap.

    Example:
        >>> import numpy as np, verifier
        >>> from verifier.explain import columns
        >>> network = verifier.feedforward([np.ones((2, 3))], [np.zeros(2)])
        >>> columns(network, ["age", "income", "debt"]).names
        ('age', 'income', 'debt')
    """
    n = network.input_size
    if isinstance(names, Mapping):
        groups = tuple(tuple(int(k) for k in group) for group in names.values())
        return Features(groups, tuple(names), n)
    if names is not None and len(names) != n:
        raise InputError(f"{len(names)} names for {n} inputs", fix="name every column, in the network's order")
    return Features(tuple((k,) for k in range(n)), tuple(names or (f"x{k}" for k in range(n))), n)


def patches(network: Network, size: int = 1, *, shape: Sequence[int] | None = None) -> Features:
    """Squares of pixels of an image, all channels together; with size 1 single pixels.

    Args:
        size: pixels along a side; squares at the right and lower edge are cut.
        shape: ``(channels, height, width)`` or ``(height, width)``, for networks whose own input shape is flat.

    Raises:
        InputError: a size below 1; an input that is no image.
    """
    n = network.input_size
    own = tuple(shape) if shape is not None else tuple(k for k in network.input_shape if k != 1)
    if shape is None and len(own) == 1 and round(n**0.5) ** 2 == n:
        own = (round(n**0.5),) * 2
    if len(own) not in (2, 3) or prod(own) != n:
        raise InputError(
            f"an input of shape {own} and {n} entries is no image",
            fix="give shape=(channels, height, width), or use `columns`",
        )
    if size < 1:
        raise InputError(f"patches have at least 1 pixel along a side, got {size}")
    index = np.arange(n).reshape(-1, *own[-2:])
    height, width = own[-2:]
    corners = [(i, j) for i in range(0, height, size) for j in range(0, width, size)]
    return Features(
        tuple(tuple(index[:, i : i + size, j : j + size].reshape(-1).tolist()) for i, j in corners),
        tuple(f"({i}, {j})" for i, j in corners),
        n,
        (-(-height // size), -(-width // size)),
    )
