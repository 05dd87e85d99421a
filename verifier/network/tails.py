"""Increasing functions at a network's end, which keep the order of its outputs and can be left out.

``Softmax(z)_i <= Softmax(z)_j`` is ``z_i <= z_j``, and ``Sigmoid(z) <= t`` is ``z <= log(t / (1 - t))``. A property that
only compares outputs, or bounds those of an elementwise function, is thus a property of the piecewise-linear network
before the function. A threshold that becomes irrational is enclosed between rationals: proofs use the outer one, and a
point refutes only if it meets the inner one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from verifier.network.operators import Array

DIGITS = 60
"""Decimal digits that thresholds are computed with."""
KEPT = 40
"""Digits of them that are relied on."""
ELEMENTWISE = ("Sigmoid", "Tanh", "Exp")
JOINT = ("Softmax", "LogSoftmax")


@dataclass(frozen=True)
class Tail:
    """An increasing function that was left out at a network's end.

    Attributes:
        kind: ONNX's name of it.
        tensor: the tensor of the model before it; "" where the network is not from an ONNX file.
    """

    kind: str
    tensor: str = ""

    @property
    def joint(self) -> bool:
        """Whether each output depends on all scores, so that only comparisons of outputs carry over."""
        return self.kind in JOINT

    @property
    def remark(self) -> str:
        """What there is to say of it."""
        return f"the last {self.kind} keeps the order of the outputs and is left out: outputs shown are those before it"

    def values(self, scores: Array) -> Array:
        """The model's outputs for scores ``(m,)``, in float64."""
        z = np.asarray(scores, dtype=np.float64)
        if self.joint:
            logarithms = z - z.max() - np.log(np.exp(z - z.max()).sum())
            return np.asarray(logarithms if self.kind == "LogSoftmax" else np.exp(logarithms))
        if self.kind == "Sigmoid":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))
        return np.asarray(np.tanh(z) if self.kind == "Tanh" else np.exp(z))

    def threshold(self, t: Fraction) -> tuple[Fraction, Fraction] | bool:
        """Where the elementwise function reaches ``t``: rationals below and above, equal if exact.

        True where it is always less than ``t``, False where it is never.
        """
        least, greatest, ratio, halves = _INVERSES[self.kind]
        if greatest is not None and t >= greatest:
            return True
        if t <= least:
            return False
        x = ratio(t)
        if x == 1:
            return Fraction(0), Fraction(0)
        with localcontext() as context:
            context.prec = DIGITS
            logarithm = (Decimal(x.numerator) / Decimal(x.denominator)).ln()
        middle = Fraction(logarithm) / halves
        margin = (1 + abs(middle)) / Fraction(10) ** KEPT
        return middle - margin, middle + margin


_INVERSES: dict[str, tuple[int, int | None, Callable[[Fraction], Fraction], int]] = {
    "Sigmoid": (0, 1, lambda t: t / (1 - t), 1),
    "Tanh": (-1, 1, lambda t: (1 + t) / (1 - t), 2),
    "Exp": (0, None, lambda t: t, 1),
}
"""The greatest lower and the least upper bound of each function, neither of which it reaches; and its inverse: the
logarithm of a ratio, divided by a number."""
