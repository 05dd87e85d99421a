"""Reads scikit-learn's multi-layer perceptrons into networks, without importing scikit-learn.

What is read are the fitted attributes that its documentation names (``coefs_``, ``intercepts_``, ``activation``,
``out_activation_``); scalers before them in a pipeline are linear and go into the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.assembly import Assembler
from verifier.network.compositions import softmax
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import relu
from verifier.network.tails import Tail
from verifier.network.tensors import Value

PERCEPTRONS = ("MLPClassifier", "MLPRegressor")
SCALERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "StandardScaler": lambda s: (
        1.0 / s.scale_ if s.scale_ is not None else 1.0,
        (0.0 if s.mean_ is None else -s.mean_) / (1.0 if s.scale_ is None else s.scale_),
    ),
    "MinMaxScaler": lambda s: (s.scale_, s.min_),
    "MaxAbsScaler": lambda s: (1.0 / s.scale_, 0.0),
    "RobustScaler": lambda s: (
        1.0 if s.scale_ is None else 1.0 / s.scale_,
        (0.0 if s.center_ is None else -s.center_) / (1.0 if s.scale_ is None else s.scale_),
    ),
}
"""Scale and shift of each."""
HIDDEN = {"tanh": "Tanh", "logistic": "Sigmoid"}
TOLERANCE = 1e-9
"""Largest difference from the model's own output at random inputs, relative to its largest entry."""


def is_sklearn(source: Any) -> bool:
    """Whether an object is one of scikit-learn's models."""
    return any(c.__module__.split(".")[0] == "sklearn" for c in type(source).__mro__)


def read_sklearn(model: Any, ordered: bool = False) -> Network:
    """The network of a fitted `MLPClassifier` or `MLPRegressor`, alone or after scalers in a `Pipeline`.

    A classifier's outputs are its probabilities, one for each class in ``classes_``; with ``ordered`` the scores before
    the last function, in the same order (of two classes: 0 and the score of the second).

    Raises:
        UnsupportedOperatorError: another kind of model or step.
        NetworkError: a model that is not fitted, or that differs from what was read.
    """
    steps = [step for _, step in model.steps] if type(model).__name__ == "Pipeline" else [model]
    source, last = type(steps[-1]).__name__, steps[-1]
    if source not in PERCEPTRONS:
        raise UnsupportedOperatorError(
            f"scikit-learn's {source} is not read",
            fix=f"{', '.join(PERCEPTRONS)} are; or skl2onnx.to_onnx(model, X[:1])",
        )
    if not hasattr(last, "coefs_"):
        raise NetworkError("the model is not fitted", place=source, fix="call its fit first")
    width = int(steps[0].n_features_in_)
    build = Assembler((1, width), input_name="input", source=source)
    value = build.input
    for k, step in enumerate(steps[:-1]):
        scaler = SCALERS.get(type(step).__name__)
        if scaler is None or getattr(step, "clip", False):
            raise UnsupportedOperatorError(f"{type(step).__name__} before a network is not read", place=source)
        scale, shift = scaler(step)
        value = build.affine(value, np.asarray(scale), np.asarray(shift), f"scaled {k}")
    for k, (weight, bias) in enumerate(zip(last.coefs_, last.intercepts_, strict=True)):
        value = build.times_matrix(value, _floats(weight).T, _floats(bias), f"layer {k + 1}")
        if k < len(last.coefs_) - 1:
            value = _activated(build, value, str(last.activation), f"{last.activation} {k + 1}")
    value, tail, remarks = _ended(build, value, str(last.out_activation_), ordered)
    network = replace(build.finish(value, "output"), tail=tail, remarks=remarks)
    _compare(network, model, source, width)
    return network


def _floats(array: Any) -> Array:
    found = np.asarray(array, dtype=np.float64)
    if not np.isfinite(found).all():
        raise NetworkError("a weight is NaN or infinite")
    return found


def _activated(build: Assembler, value: Value, kind: str, name: str) -> Value:
    if kind == "identity":
        return value
    if kind == "relu":
        return build.apply(relu(), value, name)
    if kind not in HIDDEN:
        raise UnsupportedOperatorError(f"the activation {kind!r} is not read")
    return build.smooth(value, HIDDEN[kind], (), name)


def _ended(build: Assembler, scores: Value, kind: str, ordered: bool) -> tuple[Value, Tail | None, tuple[str, ...]]:
    """The output after the last function, or the scores before it."""
    if kind == "identity":
        return scores, None, ()
    if kind not in ("softmax", "logistic"):
        raise UnsupportedOperatorError(f"the last activation {kind!r} is not read")
    two = kind == "logistic" and scores.size == 1
    if two:  # the probability of the second class; that of the first is the rest
        scores = build.times_matrix(scores, np.array([[0.0], [1.0]]), None, "scores of both classes")
    tail = Tail("Softmax" if two or kind == "softmax" else "Sigmoid")
    if ordered:
        return scores, tail, (tail.remark,)
    if tail.joint:
        return softmax(build, scores, [1], "probabilities"), None, ()
    return build.smooth(scores, "Sigmoid", (), "probabilities"), None, ()


def _compare(network: Network, model: Any, source: str, width: int) -> None:
    """Evaluate network and model side by side; NetworkError if they differ."""
    x = np.random.default_rng(0).normal(size=(4, width))
    theirs = np.asarray(model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x))
    ours = network.forward(x).reshape(4, -1)
    if network.tail is not None:
        ours = np.array([network.tail.values(z) for z in ours])
    theirs = theirs.reshape(4, -1)
    gap = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.inf
    if not gap <= TOLERANCE * max(1.0, float(np.abs(theirs).max())):
        raise NetworkError(
            f"the network that was read differs from the model by {gap:.3g} at a random input",
            place=source,
            fix="this is a fault of the reader: please report the model, or export it by skl2onnx and load that",
        )
