"""Converters of the operators of ``ai.onnx.ml`` that exporters of scikit-learn's linear models and scalers write."""

from __future__ import annotations

import numpy as np

from verifier.network import compositions
from verifier.network.onnx_step import Converter, Step, Tensor
from verifier.network.piecewise import absolute
from verifier.network.tensors import Value


def _scaler(step: Step) -> Tensor:
    """``(x - offset) * scale``."""
    offset = np.asarray(step.attribute("offset", [0.0]), dtype=np.float64)
    scale = np.asarray(step.attribute("scale", [1.0]), dtype=np.float64)
    shifted = step.assembler.affine(step.value(), 1.0, -offset, f"{step.name}/shifted")
    return step.assembler.affine(shifted, scale, 0.0, step.name)


def _linear(step: Step, count: int, name: str) -> Value:
    """``count`` linear functions of each row, then the node's function of them."""
    value = step.value()
    weight = np.asarray(step.attribute("coefficients", []), dtype=np.float64).reshape(count, -1)
    shift = np.asarray(step.attribute("intercepts", [0.0] * count), dtype=np.float64)
    scores = step.assembler.times_matrix(value, weight, shift, f"{name}/scores")
    after = step.attribute("post_transform", "NONE")
    if after == "SOFTMAX":
        return compositions.softmax(step.assembler, scores, [1], name)
    if after == "LOGISTIC":
        return step.assembler.smooth(scores, "Sigmoid", (), name)
    if after != "NONE":
        raise step.unsupported(f"with the post_transform {after}")
    return scores


def _linear_regressor(step: Step) -> Tensor:
    return _linear(step, int(step.attribute("targets", 1)), step.name)


def _linear_classifier(step: Step) -> list[Tensor]:
    """The scores are its second output; the first, the label, is a position that jumps."""
    if step.used(0):
        raise step.unsupported("with its first output, the label (properties compare the scores),")
    labels = step.attribute("classlabels_ints", ()) or step.attribute("classlabels_strings", ())
    count = len(step.attribute("intercepts", ())) or len(labels)
    if count != len(labels):
        raise step.unsupported(f"of {count} scores for {len(labels)} labels")
    return [[], _linear(step, count, step.node.output[1])]


def _normalizer(step: Step) -> Tensor:
    """Each row over its largest entry, the sum of its magnitudes, or its Euclidean norm."""
    build, value, kind = step.assembler, step.value(), step.attribute("norm", "MAX")
    axes = [len(value.shape) - 1]
    if kind == "MAX":
        size = build.reduced(value, axes, True, f"{step.name}/size", kind="max")
    elif kind == "L1":
        sizes = build.apply(absolute(), value, f"{step.name}/sizes")
        size = build.reduced(sizes, axes, True, f"{step.name}/size", kind="sum")
    else:
        size = compositions.norm(build, value, axes, True, f"{step.name}/size", inner=("Power", (2.0,)), outer="Sqrt")
    return compositions.quotient(build, value, build.broadcast(size, value.shape, f"{step.name}/by"), step.name)


ML: dict[str, Converter] = {
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
}
"""The converter of every supported operator type of this kind."""
