"""ONNX graphs with curved operators, products of tensors and jumps, for the corpus.

Each is what writes it into an `onnx_graphs.builder.Builder`, with the first opset that it exists in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Write = Callable[[Any], str]


def _function(kind: str, *, shift: float = 0.0, scale: float = 1.0, **attributes: Any) -> Write:
    """An operator of one tensor after a line."""

    def write(b: Any) -> str:
        line = b.op("Add", b.op("Mul", b.x(1, 6), b.constant(scale)), b.constant(shift))
        return str(b.op(kind, line, **attributes))

    return write


def _positive(kind: str) -> Write:
    return lambda b: b.op(kind, b.op("Add", b.op("Abs", b.x(1, 6)), b.constant(0.25)))


def _power(exponent: float, *, positive: bool = False) -> Write:
    def write(b: Any) -> str:
        x = b.x(1, 6)
        x = b.op("Add", b.op("Abs", x), b.constant(0.25)) if positive else x
        return str(b.op("Pow", x, b.constant(exponent)))

    return write


def _silu(b: Any) -> str:
    x = b.op("MatMul", b.x(1, 6), b.numbers(6, 4))
    return str(b.op("Mul", x, b.op("Sigmoid", x)))


def _gelu(b: Any) -> str:
    x = b.op("MatMul", b.x(1, 6), b.numbers(6, 4))
    erf = b.op("Erf", b.op("Div", x, b.constant(np.sqrt(2.0))))
    return str(b.op("Mul", b.op("Mul", x, b.op("Add", erf, b.constant(1.0))), b.constant(0.5)))


def _attention(b: Any) -> str:
    """Softmax(Q K) V of three tokens."""
    x = b.x(1, 3, 4)
    q, k, v = (b.op("MatMul", x, b.numbers(4, 2)) for _ in range(3))
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1]))
    return str(b.op("MatMul", b.op("Softmax", scores, axis=-1 if b.opset >= 13 else 2), v))


def _share(b: Any) -> str:
    """x² / Σ x², which is how one exporter writes a choice."""
    x = b.op("Add", b.op("Relu", b.x(1, 6)), b.constant(0.5))
    square = b.op("Pow", x, b.constant(2.0))
    return str(b.op("Div", square, b.over("ReduceSum", square, [1], 13, keepdims=1)))


def _tanh_gelu(b: Any) -> str:
    return str(b.op("Gelu", b.x(1, 6), approximate="tanh"))


def _layer_norm(b: Any) -> str:
    return str(b.op("LayerNormalization", b.x(1, 3, 4), b.numbers(4), b.numbers(4), axis=-1))


def _instance_norm(b: Any) -> str:
    return str(b.op("InstanceNormalization", b.x(1, 2, 3, 3), b.numbers(2), b.numbers(2)))


def curved() -> dict[str, tuple[Write, int]]:
    """Curved operators and products."""
    names = ("Sigmoid", "Tanh", "Exp", "Erf", "Softplus", "Softsign", "Sin", "Cos", "Atan", "Elu", "Selu", "Celu")
    graphs: dict[str, tuple[Write, int]] = {
        name.lower(): (_function(name), 12 if name == "Celu" else 9) for name in names
    }
    graphs |= {name.lower(): (_positive(name), 9) for name in ("Log", "Sqrt", "Reciprocal")}
    graphs |= {
        "elu of a large alpha": (_function("Elu", alpha=2.0), 9), "celu of 0.5": (_function("Celu", alpha=0.5), 12),
        "mish": (_function("Mish"), 18), "gelu": (_function("Gelu"), 20), "gelu by tanh": (_tanh_gelu, 20),
        "hard swish": (_function("HardSwish", scale=3.0), 14), "silu spelled out": (_silu, 9), "gelu spelled out": (_gelu, 9),
        "square": (_power(2.0), 9), "cube": (_power(3.0), 9), "fourth power": (_power(4.0), 9), "first power": (_power(1.0), 9),
        "power of 1.5": (_power(1.5, positive=True), 9), "power of -2": (_power(-2.0, positive=True), 9),
        "root as a power": (_power(0.5, positive=True), 9), "inverse as a power": (_power(-1.0, positive=True), 9),
        "power of a constant": (lambda b: b.op("Pow", b.constant(2.0), b.x(1, 6)), 9),
        "softmax": (_function("Softmax", axis=1), 9), "log softmax": (_function("LogSoftmax", axis=1), 9),
        "softmax over the middle": (lambda b: b.op("Softmax", b.x(1, 3, 4), axis=1), 13),
        "product": (lambda b: b.op("Mul", b.op("MatMul", b.x(1, 6), b.numbers(6, 4)), b.op("Relu", b.op("MatMul", "x", b.numbers(6, 4)))), 9),
        "product of a row": (lambda b: b.op("Mul", b.x(1, 3, 4), b.op("ReduceMax", "x", axes=[1], keepdims=1) if b.opset < 18 else b.op("ReduceMax", "x", b.constant(np.array([1])))), 9),
        "quotient": (lambda b: b.op("Div", b.x(1, 6), b.op("Add", b.op("Exp", "x"), b.constant(1.0))), 9),
        "quotient of a constant": (lambda b: b.op("Div", b.constant(2.0), b.op("Sub", b.constant(-0.5), b.op("Abs", b.x(1, 6)))), 9),
        "attention": (_attention, 9), "share": (_share, 9), "layer norm": (_layer_norm, 17), "instance norm": (_instance_norm, 9),
        "gemm of two": (lambda b: b.op("Gemm", b.x(3, 4), b.op("Relu", "x"), transB=1, alpha=0.5), 11),
        "vector times matrix": (lambda b: b.op("MatMul", b.op("Squeeze", b.x(1, 4), b.constant(np.array([0]))), b.op("Mul", b.op("Reshape", "x", b.constant(np.array([4, 1]))), b.numbers(4, 3))), 13),
        "sum of squares": (lambda b: b.over("ReduceSumSquare", b.x(1, 3, 4), [1], 18), 9),
        "euclidean norm": (lambda b: b.over("ReduceL2", b.op("Add", b.op("Abs", b.x(1, 3, 4)), b.constant(0.5)), [2], 18), 9),
        "log of a sum": (lambda b: b.over("ReduceLogSum", b.op("Exp", b.x(1, 3, 4)), [1], 18), 9),
        "log of a sum of powers": (lambda b: b.over("ReduceLogSumExp", b.x(1, 3, 4), [2], 18), 9),
    }  # fmt: skip
    return {f"curved: {name}": graph for name, graph in graphs.items()}


def _after(kind: str, **attributes: Any) -> Write:
    """An operator that jumps between two layers."""

    def write(b: Any) -> str:
        z = b.op("MatMul", b.x(1, 6), b.numbers(6, 4))
        return str(b.op("MatMul", b.op(kind, z, **attributes), b.numbers(4, 3)))

    return write


def _compared(kind: str) -> Write:
    def write(b: Any) -> str:
        x = b.x(1, 6)
        y = b.op("MatMul", x, b.numbers(6, 6))
        return str(b.op("MatMul", b.op("Cast", b.op(kind, x, y), to=11 if b.kind == "float64" else 1), b.numbers(6, 2)))

    return write


def _logic(kind: str) -> Write:
    def write(b: Any) -> str:
        x, zero = b.x(1, 6), b.constant(0.0)
        y = b.op("MatMul", x, b.numbers(6, 6))
        both = b.op(kind, b.op("Greater", x, zero), b.op("Less", y, zero))
        return str(b.op("MatMul", b.op("Cast", both, to=11 if b.kind == "float64" else 1), b.numbers(6, 2)))

    return write


def _choice(b: Any) -> str:
    x = b.x(1, 6)
    y = b.op("MatMul", x, b.numbers(6, 6))
    return str(b.op("Where", b.op("Greater", y, b.constant(0.0)), x, b.op("Neg", y)))


def _choice_of_constant(b: Any) -> str:
    x = b.x(1, 6)
    y = b.op("MatMul", x, b.numbers(6, 6))
    return str(b.op("Where", b.op("Less", y, b.constant(0.25)), x, b.numbers(6)))


def _binarised(b: Any) -> str:
    """Two layers of signs, as quantised networks are written."""
    z = b.op("MatMul", b.x(1, 6), b.constant(np.sign(b.rng.normal(size=(6, 5)))))
    z = b.op("Sign", b.op("Add", b.op("Sign", z), b.constant(0.25)))
    z = b.op("MatMul", z, b.constant(np.sign(b.rng.normal(size=(5, 4)))))
    return str(b.op("MatMul", b.op("Sign", b.op("Add", b.op("Sign", z), b.constant(0.25))), b.numbers(4, 3)))


def jumping() -> dict[str, tuple[Write, int]]:
    """Operators with jumps that stay in the network."""
    graphs: dict[str, tuple[Write, int]] = {
        "sign": (_after("Sign"), 9), "sign at the end": (lambda b: b.op("Sign", b.x(1, 6)), 9), "binarised": (_binarised, 9),
        "thresholded relu": (_after("ThresholdedRelu", alpha=0.5), 10), "hard shrink": (_after("Shrink", lambd=0.5, bias=0.0), 9),
        "choice": (_choice, 9), "choice of constants": (_choice_of_constant, 9),
        **{kind.lower(): (_compared(kind), 16) for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
        **{kind.lower(): (_logic(kind), 9) for kind in ("And", "Or", "Xor")},
    }  # fmt: skip
    return {f"jumps: {name}": graph for name, graph in graphs.items()}
