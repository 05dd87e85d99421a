"""Operators that work entry by entry: alone, spelled out with comparisons and signs, and of two tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_graphs.builder import Builder, Graph, float_type, one, with_constants


def elementwise() -> dict[str, Graph]:
    """Functions of one tensor, and arithmetic with constants."""
    six = (1, 6)
    graphs = {
        "relu": one("Relu", *six), "leaky relu": one("LeakyRelu", *six, alpha=0.25), "abs": one("Abs", *six),
        "neg": one("Neg", *six), "identity": one("Identity", *six), "hard sigmoid": one("HardSigmoid", *six, alpha=0.5, beta=0.25),
        "thresholded relu at 0": one("ThresholdedRelu", *six, alpha=0.0, first=10),
        "soft shrink": replace(one("Shrink", *six, lambd=0.5, bias=0.5), rough=1e-6),
        "prelu": with_constants("PRelu", (1, 3, 4), (3, 1)), "prelu one": with_constants("PRelu", (1, 3, 4), np.array([0.25])),
        "clip": Graph(lambda b: b.clip(b.x(1, 6), -0.25, 0.5)),
        "relu6": Graph(lambda b: b.clip(b.op("Mul", b.x(1, 6), b.constant(9.0)), 0.0, 6.0)),
        "add": with_constants("Add", (1, 3, 4), (3, 1)), "sub from": with_constants("Sub", (1, 4), (4,), swap=True),
        "mul": with_constants("Mul", (1, 2, 4), (4,)), "div": with_constants("Div", (1, 4), np.array([2.0, -0.5, 3.0, 1.5])),
        "sum": with_constants("Sum", (1, 4), (4,), (1, 4)), "mean": with_constants("Mean", (1, 4), (4,), (1, 4)),
        "max of constant": with_constants("Max", (1, 4), (4,)), "min of constant": with_constants("Min", (1, 4), (4,)),
        "batch normalisation": with_constants("BatchNormalization", (1, 3, 2, 2), (3,), (3,), (3,), np.array([0.5, 1.0, 2.0])),
        "dropout": one("Dropout", *six), "dropout of inputs": Graph(lambda b: b.op("Dropout", b.x(1, 6), b.constant(np.array(0.5)), b.constant(np.array(False))), 12),
        "scaler": Graph(lambda b: b.op("Scaler", b.x(1, 3), domain="ai.onnx.ml", offset=[0.5, 1.0, -1.0], scale=[2.0, 0.5, 1.5])),
    }  # fmt: skip
    return graphs


def machine_learning() -> dict[str, Graph]:
    """Operators of ``ai.onnx.ml`` that linear models of scikit-learn become."""
    six = [0.5, -1.0, 0.25, 1.0, 0.5, -0.75]

    def classified(after: str, *, zipped: bool = False) -> Callable[[Builder], str]:
        def write(b: Builder) -> str:
            scores = b.op(
                "LinearClassifier", b.x(1, 2), outputs=2, domain="ai.onnx.ml", coefficients=six, intercepts=[0.5, 0.0, -0.5], classlabels_ints=[0, 1, 2], post_transform=after,
            )[1]  # fmt: skip
            scores = b.op("Normalizer", scores, domain="ai.onnx.ml", norm="L1") if zipped else scores
            b.outputs = [(scores, 1)]
            return str(scores)

        return write

    def normalised(norm: str) -> Callable[[Builder], str]:
        def write(b: Builder) -> str:
            made = b.op(
                "Normalizer", b.op("Add", b.op("Relu", b.x(2, 3)), b.constant(0.5)), domain="ai.onnx.ml", norm=norm
            )
            b.outputs = [(made, 1)]
            return str(made)

        return write

    regressor = one("LinearRegressor", 1, 3, domain="ai.onnx.ml", coefficients=six, intercepts=[0.5, 1.0], targets=2)
    graphs = {
        "linear regressor": regressor, "linear classifier": Graph(classified("NONE")), "curved: linear classifier by softmax": Graph(classified("SOFTMAX")),
        "curved: linear classifier by logistic, shares": Graph(classified("LOGISTIC", zipped=True)), **{f"curved: rows over their {n} norm": Graph(normalised(n)) for n in ("MAX", "L1", "L2")},
    }  # fmt: skip
    return {name: replace(graph, rough=1e-6) for name, graph in graphs.items()}


def spelled_out() -> dict[str, Graph]:
    """Activations written with comparisons, signs, masks and choices."""

    def leaky(kind: str) -> Callable[[Builder], str]:
        def write(b: Builder) -> str:
            x, zero = b.x(1, 6), b.constant(np.array(0.0))
            condition = b.op(kind, x, zero) if kind.startswith("G") else b.op("Not", b.op(kind, x, zero))
            return str(b.op("Where", condition, x, b.op("Mul", x, b.constant(np.array(0.25)))))

        return write

    def masked(b: Builder) -> str:
        x = b.x(1, 6)
        mask = b.op("Cast", b.op("Greater", x, b.constant(np.array(0.5))), to=float_type(b))
        return str(b.op("Mul", b.op("Sub", x, b.constant(np.array(0.5))), mask))

    def soft_threshold(b: Builder) -> str:
        x = b.x(1, 6)
        excess = b.op("Relu", b.op("Sub", b.op("Abs", x), b.constant(np.array(0.25))))
        return str(b.op("Mul", b.op("Sign", x), excess))

    def dead_zone(b: Builder) -> str:
        x = b.x(1, 6)
        low, high = b.constant(np.array(-0.25)), b.constant(np.array(0.25))
        outside = b.op("Or", b.op("Less", x, low), b.op("Greater", x, high))
        edge = b.op("Mul", b.op("Sign", x), high)
        return str(b.op("Where", outside, b.op("Sub", x, edge), b.constant(np.array(0.0))))

    def between(b: Builder) -> str:
        x = b.x(1, 6)
        one = b.constant(np.array(1.0))
        inside = b.op("And", b.op("Greater", x, b.op("Neg", one)), b.op("Less", x, one))
        return str(b.op("Where", inside, x, b.op("Sign", x)))

    def dead_zone_by_xor(b: Builder) -> str:
        x = b.x(1, 6)
        low, high = b.constant(np.array(-0.25)), b.constant(np.array(0.25))
        outside = b.op("Xor", b.op("Less", x, low), b.op("Greater", x, high))
        return str(
            b.op("Where", outside, b.op("Sub", x, b.op("Mul", b.op("Sign", x), high)), b.constant(np.array(0.0)))
        )

    def zero_at_zero(b: Builder) -> str:
        x, zero = b.x(1, 6), b.constant(np.array(0.0))
        return str(b.op("Where", b.op("Equal", x, zero), zero, b.op("LeakyRelu", x, alpha=0.25)))

    def hinge_of_relu(b: Builder) -> str:
        y = b.op("Relu", b.op("Add", b.x(1, 6), b.constant(np.array(0.5))))
        return str(b.op("Where", b.op("Greater", y, b.constant(np.array(1.0))), b.constant(np.array(1.0)), y))

    return {
        "leaky by where": Graph(leaky("Greater")), "leaky by where, closed": Graph(leaky("GreaterOrEqual"), 12),
        "leaky by where, not": Graph(leaky("Less")), "leaky by where, not closed": Graph(leaky("LessOrEqual"), 12),
        "dead zone by xor": Graph(dead_zone_by_xor), "choice at a point": Graph(zero_at_zero, 11), "relu by mask": Graph(masked), "soft threshold by sign": Graph(soft_threshold),
        "dead zone by or": Graph(dead_zone), "hard tanh by and": Graph(between), "saturation by where": Graph(hinge_of_relu),
    }  # fmt: skip


def two_paths() -> dict[str, Graph]:
    """Operators of two tensors that depend on the input."""

    def pair(kind: str, **attributes: Any) -> Graph:
        def write(b: Builder) -> str:
            x = b.x(1, 2, 3)
            other = b.op("MatMul", b.op("Relu", x), b.numbers(3, 3))
            return str(b.op(kind, x, other, **attributes))

        return Graph(write)

    def residual(b: Builder) -> str:
        x = b.x(1, 2, 4, 4)
        y = b.op("Relu", b.op("Conv", x, b.numbers(2, 2, 3, 3), b.numbers(2), pads=[1, 1, 1, 1]))
        return str(b.op("Relu", b.op("Add", b.op("Conv", y, b.numbers(2, 2, 1, 1)), x)))

    def broadcast(b: Builder) -> str:
        x = b.x(1, 3, 4)
        return str(b.op("Sub", x, b.over("ReduceMean", x, [-1], 18, keepdims=1)))

    def three(b: Builder) -> str:
        x = b.x(1, 4)
        return str(b.op("Max", x, b.op("Neg", x), b.op("MatMul", x, b.numbers(4, 4)), b.numbers(4)))

    return {
        **{f"{k.lower()} of two": pair(k) for k in ("Add", "Sub", "Max", "Min", "Sum", "Mean")},
        "concat of two": pair("Concat", axis=1), "residual": Graph(residual), "mean taken off": Graph(broadcast),
        "max of four": Graph(three),
        "concat with constants": Graph(lambda b: b.op("Concat", b.numbers(1, 2, 3), b.x(1, 1, 3), b.numbers(1, 1, 3), axis=1)),
    }  # fmt: skip
