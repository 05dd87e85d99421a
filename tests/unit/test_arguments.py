"""Wrong Python types are named at the door; what is right goes through, of whatever library."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import verifier
from verifier.arguments import NUMBER, NUMBERS, WHOLE, checked
from verifier.attention import attention_map
from verifier.attribution import IntegratedGradients
from verifier.encodings.perturbations import Brightness
from verifier.regions import line, lines, plane
from verifier.repair import repair

NETWORK = verifier.feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])
X = np.array([0.5, 0.25])
QUERY = verifier.robustness(NETWORK, X, 0.1)
IMAGE = X.reshape(1, 2)

WRONG: dict[str, Callable[[], Any]] = {
    "robustness: network": lambda: verifier.robustness("net.onnx", X, 0.1),
    "robustness: x": lambda: verifier.robustness(NETWORK, "x.npy", 0.1),
    "robustness: epsilon": lambda: verifier.robustness(NETWORK, X, [0.1]),
    "robustness: label": lambda: verifier.robustness(NETWORK, X, 0.1, label=1.5),
    "saliency_robustness: network": lambda: verifier.saliency_robustness(None, X, epsilon=0.1, delta=0.1),
    "saliency_robustness: delta": lambda: verifier.saliency_robustness(NETWORK, X, epsilon=0.1, delta=None),
    "saliency_robustness: map": lambda: verifier.saliency_robustness(NETWORK, X, epsilon=0.1, delta=0.1, map=3),
    "saliency_robustness: similarity": lambda: verifier.saliency_robustness(
        NETWORK, X, epsilon=0.1, delta=0.1, similarity=2
    ),
    "verify: query": lambda: verifier.verify(NETWORK),
    "verify: engine": lambda: verifier.verify(QUERY, engine=3),
    "verify: timeout": lambda: verifier.verify(QUERY, timeout="soon"),
    "verify: listener": lambda: verifier.verify(QUERY, listener=3),
    "Options: threads": lambda: verifier.verify(QUERY, threads="two"),
    "Options: seed": lambda: verifier.Options(seed=0.5),
    "Options: bound_steps": lambda: verifier.Options(bound_steps="many"),
    "read_vnnlib: network": lambda: verifier.read_vnnlib("a.vnnlib", "net.onnx"),
    "read_vnnlib: path": lambda: verifier.read_vnnlib(3, NETWORK),
    "line: network": lambda: line("net.onnx", X, X),
    "line: start": lambda: line(NETWORK, None, X),
    "lines: ends": lambda: lines(NETWORK, X, {1: 2}),
    "plane: origin": lambda: plane(NETWORK, "a", X, X),
    "plane: network": lambda: plane(None, X, X, X),
    "IntegratedGradients: network": lambda: IntegratedGradients("net.onnx"),
    "IntegratedGradients.attribute: inputs": lambda: IntegratedGradients(NETWORK).attribute("x", X, 0),
    "attention_map: network": lambda: attention_map("net.onnx", IMAGE, [Brightness(high=0.1)], 1.0),
    "attention_map: perturbations": lambda: attention_map(NETWORK, IMAGE, ["brightness"], 1.0),
    "attention_map: delta": lambda: attention_map(NETWORK, IMAGE, [Brightness(high=0.1)], "3"),
    "repair: network": lambda: repair("net.onnx", None),
    "repair: specification": lambda: repair(NETWORK, {"requirements": []}),
    "write_onnx: network": lambda: verifier.write_onnx("net.onnx", "out.onnx"),
    "replay: query": lambda: verifier.replay(NETWORK, X),
    "replay: x": lambda: verifier.replay(QUERY, "x"),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_type_is_named_with_its_function(place: str) -> None:
    with pytest.raises(TypeError) as caught:
        WRONG[place]()
    assert str(caught.value).startswith(f"{place} must be ")


@pytest.mark.parametrize("x", [[0.5, 0.25], (Fraction(1, 2), Fraction(1, 4)), torch.tensor([0.5, 0.25]), X.tolist()])
@pytest.mark.parametrize("epsilon", [0, 0.125, np.float32(0.125), np.array(0.125)])
def test_what_holds_numbers_is_taken(x: Any, epsilon: Any) -> None:
    assert verifier.robustness(NETWORK, x, epsilon, label=np.int64(0)).box.size == 2


def test_kinds() -> None:
    assert not NUMBER.fits(Decimal("0.1")), "a float would round it"
    assert NUMBER.fits(torch.tensor(0.1))
    assert not NUMBER.fits(True)
    assert not WHOLE.fits(True)
    assert not NUMBERS.fits([[1.0], [1.0, 2.0]])
    assert not NUMBERS.fits([None])

    @checked
    def of(
        a: int,
        words: Sequence[str] = (),
        *,
        b: float | None = None,
        c: bool | str = "",
        path: PathLike[str] | None = None,
    ) -> tuple[int, float | None]:
        """Its own words."""
        return a, b

    assert of(1) == (1, None)
    assert of(a=1, b=2.5) == (1, 2.5)
    assert of(1, ["x"], c=np.bool_(True), path=Path("y")) == (1, None)
    assert of.__doc__ == "Its own words."
    for wrong, words in (
        ({"b": "c"}, "b must be a number (int or float) or None, not str"),
        ({"words": "one"}, "words must be a sequence of strings, not str"),
        ({"words": [1]}, "words must be a sequence of strings, not list"),
        ({"c": 1}, "c must be True or False or a string, not int"),
        ({"path": 3}, "path must be a path or None, not int"),
    ):
        with pytest.raises(TypeError, match=re.escape(words)):
            of(1, **wrong)  # type: ignore[arg-type]

    with pytest.raises(KeyError):  # an annotation that nobody has thought of is none that may be passed over

        @checked
        def unknown(a: frozenset[int]) -> None: ...


class Odd:
    """Of no kind that anything wants."""


GOOD: dict[str, dict[str, Any]] = {
    "attention_areas": {"network": NETWORK, "image": IMAGE, "perturbations": [Brightness(high=0.1)]},
    "attention_map": {"network": NETWORK, "image": IMAGE, "perturbations": [Brightness(high=0.1)]},
    "attribute": {"network": NETWORK, "input": X},
    "bounds": {"network": NETWORK, "box": QUERY.box},
    "certify": {"network": NETWORK, "images": [X], "epsilon": 0.1},
    "drawdown": {"inputs": [X]},
    "feedforward": {"weights": [np.eye(2)], "biases": [np.zeros(2)]},
    "gradient_bounds": {"network": NETWORK, "box": QUERY.box, "output": 0},
    "largest_delta": {"network": NETWORK, "x": X, "epsilon": 0.1},
    "largest_epsilon": {"network": NETWORK, "x": X, "delta": 0.1},
    "line": {"network": NETWORK, "start": X, "end": 1 - X},
    "lines": {"network": NETWORK, "starts": X, "ends": 1 - X},
    "output_class": {"outputs": 2, "label": 0},
    "perturbed": {"network": NETWORK, "image": IMAGE, "perturbations": [Brightness(high=0.1)]},
    "plane": {"network": NETWORK, "origin": X, "u": X, "v": 1 - X},
    "plane_tiles": {"network": NETWORK, "origin": X, "u": X, "v": 1 - X},
    "repair": {"network": NETWORK},
    "repair_property": {"query": QUERY, "decide": verifier.verify},
    "replay": {"query": QUERY, "x": X},
    "robustness": {"network": NETWORK, "x": X, "epsilon": 0.1},
    "saliency_robustness": {"network": NETWORK, "x": X, "epsilon": 0.1, "delta": 0.1},
    "verify": {"query": QUERY},
    "write_onnx": {"network": NETWORK, "path": "nowhere/net.onnx"},
}
"""Good arguments of public functions; of the others none is needed: the first wrong one is named."""
FREE = {("load", "source"), ("attribute", "target")}
"""What is of many kinds has words of its own."""
PUBLIC = [
    name for name in verifier.__all__
    if callable(getattr(verifier, name)) and not inspect.isclass(getattr(verifier, name))
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_of_every_public_function_is_looked_at(name: str) -> None:
    function = getattr(verifier, name)
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and (name, p.name) not in FREE]
    assert named
    for argument in named:
        with pytest.raises(TypeError) as caught:
            function(**{**GOOD.get(name, {}), argument: Odd()})
        assert f"{argument} must be " in str(caught.value)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: verifier.Box(Odd(), X), "Box: lower"),  # type: ignore[arg-type]
        (lambda: verifier.Box.around(X, "wide"), "Box.around: epsilon"),  # type: ignore[arg-type]
        (lambda: verifier.Options(prepass="no"), "Options: prepass"),  # type: ignore[arg-type]
        (lambda: Brightness(high="0.1"), "Brightness: high"),  # type: ignore[arg-type]
    ],
)
def test_fields_of_what_users_make_are_looked_at(build: Callable[[], Any], field: str) -> None:
    with pytest.raises(TypeError, match=f"{field} must be "):
        build()


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no layer": (lambda: verifier.feedforward([], []), verifier.NetworkError, "these are: none"),
    "a bias too many": (lambda: verifier.feedforward([[[1, 2]]], [[0, 1]]), verifier.NetworkError, r"\(2,\)"),
    "half a domain": (lambda: verifier.robustness(NETWORK, [0.5, 0.4], 0.1, domain=(0,)), verifier.PropertyError, "pair"),  # type: ignore[arg-type]
    "a misspelled option": (
        lambda: verifier.verify(verifier.robustness(NETWORK, [0.5, 0.4], 0.1), tmeout=3), TypeError, "'timeout'",
    ),
    "no worker": (lambda: verifier.certify(NETWORK, [[0.5, 0.4]], epsilon=0.1, workers=0), verifier.InputError, "workers"),
    "a point of another size": (
        lambda: verifier.replay(verifier.robustness(NETWORK, [0.5, 0.4], 0.1), np.zeros(3)), verifier.InputError, "3 numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_values_are_named(name: str) -> None:
    call, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        call()
