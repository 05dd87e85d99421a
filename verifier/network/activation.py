"""What a network must know of an operator that is not affine; what bounds must know is in `verifier.bounds.relaxation`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.errors import NetworkError
from verifier.network.operators import Array, Operator
from verifier.network.rationals import Rationals


@dataclass(frozen=True, eq=False)
class Activation(Operator):
    """An operator of one input that is not affine; its bounds are in `verifier.bounds.relaxations`."""

    @abstractmethod
    def vjp(self, grad: Array, x: Array) -> Array:
        """The gradient with respect to the input at ``x``, by the gradient convention.

        Args:
            grad: upstream gradient ``(batch, *output_shape)``.
            x: the operator's input ``(batch, *input_shape)``.
        """

    def exact(self, x: Rationals, pattern: npt.NDArray[np.int16] | None = None) -> Rationals:
        """`forward` in rational arithmetic; with ``pattern`` on given pieces, where the operator has pieces.

        Shapes: pattern ``(batch, *shape)``.

        Raises:
            NetworkError: for a function whose values are no rationals.
        """
        raise NetworkError(f"{self.name} has no rational values")

    def exact_vjp(self, grad: Rationals, x: Rationals) -> Rationals:
        """`vjp` in rational arithmetic.

        Raises:
            NetworkError: for a function without an exact derivative.
        """
        raise NetworkError(f"no exact derivative for {self.name}")

    @property
    def corners(self) -> tuple[tuple[Fraction, tuple[Fraction, ...]], ...]:
        """Breakpoints with the values at and beside them: between two of them the value is monotone in every entry."""
        return ()

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(getattr(self, "label", type(self).__name__))
