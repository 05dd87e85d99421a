"""scikit-learn's perceptrons, by what their documentation says of a fitted one.

The models here are made without scikit-learn: they have its attributes and compute by its formulas.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import verifier
from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.tails import Tail
from verifier.verdict import Status

ACTIVATIONS: dict[str, Any] = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
}


class Fitted:
    """What a fitted perceptron has."""

    def __init__(self, sizes: tuple[int, ...], activation: str, out: str, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.coefs_ = [rng.normal(size=pair) for pair in pairwise(sizes)]
        self.intercepts_ = [rng.normal(size=n) for n in sizes[1:]]
        self.activation, self.out_activation_, self.n_features_in_ = activation, out, sizes[0]

    def _last(self, x: np.ndarray) -> np.ndarray:
        for k, (w, b) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            x = x @ w + b
            x = ACTIVATIONS[self.activation](x) if k < len(self.coefs_) - 1 else x
        return x


class MLPRegressor(Fitted):
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._last(x)


class MLPClassifier(Fitted):
    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        z = self._last(x)
        if self.out_activation_ == "softmax":
            powers = np.exp(z - z.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        p = ACTIVATIONS["logistic"](z)
        return np.hstack([1 - p, p]) if p.shape[1] == 1 else p


class StandardScaler:
    def __init__(self, width: int) -> None:
        self.mean_, self.scale_, self.n_features_in_ = np.arange(width) / 4, 1.0 + np.arange(width), width


class Pipeline:
    def __init__(self, *steps: Any) -> None:
        self.steps = [(type(s).__name__, s) for s in steps]

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        scaler, last = (step for _, step in self.steps)
        return last.predict_proba((x - scaler.mean_) / scaler.scale_)


for _kind in (MLPRegressor, MLPClassifier, StandardScaler, Pipeline, Fitted):
    _kind.__module__ = "sklearn.stand_in"


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_regressors_and_classifiers_are_the_functions_that_they_are(activation: str) -> None:
    x = np.random.default_rng(1).normal(size=(6, 4))
    regressor = MLPRegressor((4, 5, 3, 2), activation, "identity")
    np.testing.assert_allclose(verifier.load(regressor).forward(x), regressor.predict(x), rtol=1e-12, atol=1e-12)
    for classes, out in ((3, "softmax"), (1, "logistic"), (3, "logistic")):
        classifier = MLPClassifier((4, 5, classes), activation, out)
        network, scores = verifier.load(classifier), verifier.load(classifier, ordered=True)
        shares = classifier.predict_proba(x)
        np.testing.assert_allclose(network.forward(x), shares, rtol=1e-11, atol=1e-12)
        assert scores.tail == Tail("Sigmoid" if (classes, out) == (3, "logistic") else "Softmax")
        assert (scores.forward(x).argmax(axis=1) == shares.argmax(axis=1)).all()
        assert activation not in ("relu", "identity") or scores.is_piecewise_linear


def test_a_classifier_of_two_classes_after_a_scaler_from_fit_to_verdict() -> None:
    model = Pipeline(StandardScaler(3), MLPClassifier((3, 6, 1), "relu", "logistic", seed=14))
    network = verifier.load(model, ordered=True)
    x = np.array([0.5, 0.25, 0.75])
    verdicts = {
        verifier.verify(verifier.robustness(network, x, epsilon), timeout=20).status for epsilon in (0.001, 1.0)
    }
    assert verdicts == {Status.HOLDS, Status.VIOLATED}


def test_others_are_refused_with_a_way_out() -> None:
    forest = type("RandomForestClassifier", (), {})
    forest.__module__ = "sklearn.ensemble"
    with pytest.raises(UnsupportedOperatorError, match=r"RandomForestClassifier is not read.*skl2onnx"):
        verifier.load(forest())
    unfitted = MLPClassifier((3, 2), "relu", "softmax")
    del unfitted.coefs_
    with pytest.raises(NetworkError, match="not fitted"):
        verifier.load(unfitted)
    odd = MLPClassifier((3, 2, 2), "relu", "softmax")
    odd.predict_proba = lambda x: np.zeros((len(x), 2))  # type: ignore[method-assign]
    with pytest.raises(NetworkError, match="differs from the model"):
        verifier.load(odd)
    pca = type("PCA", (), {"n_features_in_": 3})()
    with pytest.raises(UnsupportedOperatorError, match="PCA before a network"):
        verifier.load(Pipeline(pca, MLPClassifier((3, 2), "relu", "softmax")))
