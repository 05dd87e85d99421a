"""What bounds must know of an activation: the interface of the entries of `verifier.bounds.relaxations.TABLE`.

Every backend (intervals, forward functions, CROWN on graphs and through convolutions, slopes, the Jacobian) asks these
questions and no others, so an activation is added in one place for all of them.

**Shapes.** Bounds on the activation's input are flat, ``(boxes, size)``; ``shape`` is the input's shape without the batch.
What speaks of the activation's output is ``(boxes, outputs)``.

**Rounding.** Every answer holds in exact arithmetic, for the float64 numbers that are returned and the operator as its
fields define it. Numbers that are computed in a handful of operations are moved outwards by `verifier.rounding.OUTWARD`
times the sizes of their terms, plus `verifier.rounding.TINY` for underflow; a library's ``exp`` or ``tanh`` is not
correctly rounded and needs more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from verifier.network.operators import Array, Operator, Shape

Ends = tuple[Array, Array]
"""Lower and upper ends."""
Mask = npt.NDArray[np.bool_]
A = TypeVar("A", bound=Operator)


@dataclass(frozen=True, eq=False)
class LinearRelaxation:
    """``lower_slope z + lower_intercept <= f(z) <= upper_slope z + upper_intercept`` for z within the bounds.

    Attributes:
        lower_slope, upper_slope, upper_intercept: ``(boxes, size)``.
        lower_intercept: ``(boxes, size)``; None when all are zero (ReLU): then any slope in [0, 1] may take the place of
            ``lower_slope`` where the neuron is unstable.
        unstable: ``(boxes, size)``: where the two lines differ.
    """

    lower_slope: Array
    lower_intercept: Array | None
    upper_slope: Array
    upper_intercept: Array
    unstable: Mask


@dataclass(frozen=True, eq=False)
class PoolRelaxation:
    """MaxPool: ``z[chosen] <= f <= z[chosen]`` where decided, else ``z[chosen] <= f <= upper``.

    Attributes:
        chosen: ``(boxes, outputs)`` flat index of the input with the largest lower bound in each window.
        decided: ``(boxes, outputs)``: no other input of the window can exceed the chosen one.
        upper: ``(boxes, outputs)`` largest upper bound in the window.
    """

    chosen: npt.NDArray[np.intp]
    decided: Mask
    upper: Array

    @property
    def unstable(self) -> Mask:
        """Where the maximum is not decided."""
        return ~self.decided


@dataclass(frozen=True, eq=False)
class ProductRelaxation:
    """``x_slope x + y_slope y + intercept ± error`` around the product of an input's halves x and y.

    Attributes:
        x_slope, y_slope, intercept, error: ``(boxes, outputs)``.
        unstable: ``(boxes, outputs)``: where both factors vary.
    """

    x_slope: Array
    y_slope: Array
    intercept: Array
    error: Array
    unstable: Mask


@dataclass(frozen=True, eq=False)
class Slopes:
    """The derivatives an elementwise operator can have: any in ``[smallest, largest]``, neuron by neuron.

    Attributes:
        smallest, largest: ``(batch, *shape)``, or flat.
    """

    smallest: Array
    largest: Array

    @property
    def fixed(self) -> Mask:
        """Neurons with one derivative left, ``(batch, *shape)``."""
        return np.asarray(self.smallest == self.largest)


@dataclass(frozen=True, eq=False)
class Winners:
    """The entries of each pooling window that can be its maximum.

    Attributes:
        windows: flat input indices ``(outputs, k)``; -1 in the padding.
        possible: ``(batch, outputs, k)``; at least one per window.
    """

    windows: npt.NDArray[np.int64]
    possible: Mask

    @property
    def fixed(self) -> Mask:
        """Windows with one possible winner, ``(batch, outputs)``."""
        return np.asarray(self.possible.sum(axis=-1) == 1)

    @property
    def overlaps(self) -> int:
        """The largest number of windows that share an entry."""
        return int(np.bincount(self.windows[self.windows >= 0]).max(initial=1))


class Relaxation(ABC, Generic[A]):
    """What bounds know of one kind of activation; stateless."""

    roundings: ClassVar[int] = 1
    """How many sums a coefficient goes through on its way back (`verifier.bounds.crown_rounding`)."""
    needs_bounds: ClassVar[bool] = False
    """Whether the size of its input alone does not bound its slopes (`limits_between`)."""

    @abstractmethod
    def range(self, operator: A, shape: Shape, low: Array, high: Array) -> Ends:
        """Ends of the values that the activation takes on ``[low, high]``, both ``(boxes, outputs)``."""

    @abstractmethod
    def derivatives(self, operator: A, shape: Shape, low: Array, high: Array) -> Slopes | Winners:
        """The derivatives possible on ``[low, high]``, as a closed superset of the gradient convention.

        Shapes: low, high ``(boxes, size)``.

        Raises:
            UnsupportedOperatorError: the operator jumps, or no bounds on its gradient are known.
        """

    @abstractmethod
    def linear(
        self, operator: A, shape: Shape, low: Array, high: Array
    ) -> LinearRelaxation | PoolRelaxation | ProductRelaxation:
        """Linear functions below and above the activation on ``[low, high]``.

        Shapes: low, high ``(boxes, size)``.
        """

    @abstractmethod
    def undecided(self, operator: A, shape: Shape, low: Array, high: Array) -> Mask:
        """Entries of the input, ``(boxes, size)``, whose bounds, if they were better, could make the relaxation better."""

    @abstractmethod
    def choices(self, operator: A, shape: Shape, low: Array, high: Array) -> npt.NDArray[np.int64]:
        """How many decisions about phases are open on each box, ``(boxes,)``; 0: the activation is affine there."""

    @abstractmethod
    def spread(
        self, operator: A, shape: Shape, sizes: tuple[Array, Array, Array], between: Ends | None
    ) -> tuple[Array, Array, Array]:
        """Sizes, errors and reaches of the outputs from those of the input, all ``(size,)``: see `verifier.bounds.crown_rounding`.

        A size bounds the outputs' absolute values and all terms of their relaxations; this node's own rounding is the caller's.

        Args:
            sizes: the same three of the input.
            between: bounds of the input, where ``needs_bounds``.
        """


class Limited(Relaxation[A]):
    """An activation whose outputs all depend on their inputs through slopes and intercepts with common limits."""

    @abstractmethod
    def limits(self, operator: A, magnitude: Array) -> tuple[float | Array, Array]:
        """``L, t``: no relaxation has a slope above L, or an intercept above t, while ``|z| <= magnitude``.

        Nor are values above ``L |z| + t``. A relative 1e-6 and `TINY` above t are allowed. ``magnitude`` and t:
        ``(outputs,)``, see `gathered`.
        """

    def limits_between(self, operator: A, low: Array, high: Array) -> tuple[float | Array, Array]:
        """`limits` for bounds of the activation's input, ``(size,)`` each, where ``needs_bounds``."""
        return self.limits(operator, np.maximum(np.abs(low), np.abs(high)))

    def gathered(self, operator: A, shape: Shape, sizes: Array) -> Array:
        """The largest of the non-negative sizes ``(size,)`` that each output depends on, ``(outputs,)``."""
        return sizes

    def spread(
        self, operator: A, shape: Shape, sizes: tuple[Array, Array, Array], between: Ends | None
    ) -> tuple[Array, Array, Array]:
        m, e, r = (self.gathered(operator, shape, v) for v in sizes)
        slope, intercept = self.limits(operator, m) if between is None else self.limits_between(operator, *between)
        return slope * m + intercept, slope * e, slope * r


class Elementwise(Limited[A]):
    """An activation of one variable, neuron by neuron."""

    @abstractmethod
    def linear(self, operator: A, shape: Shape, low: Array, high: Array) -> LinearRelaxation:
        """Linear functions below and above the activation on ``[low, high]``.

        Shapes: low, high ``(boxes, size)``.
        """

    @abstractmethod
    def intercepts(self, operator: A, low: Array, high: Array, below: Array, above: Array) -> Ends:
        """Intercepts for given slopes: ``below z + i <= f(z) <= above z + j`` on ``[low, high]``.

        Where slopes were optimised, or rounded to a shorter float type.
        """
