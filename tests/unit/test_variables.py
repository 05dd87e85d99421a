"""Properties written in Python, by the names of tensors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import verifier
from verifier.errors import PropertyError
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Concat, Dense, Select
from verifier.network.piecewise import relu
from verifier.network.ports import in_turn
from verifier.properties.variables import query, variables
from verifier.verdict import Status


@pytest.fixture
def network() -> Network:
    """``scores = (relu(image_00 - image_11), speed)`` and ``sum = image_01 + image_10 + speed``."""
    from dataclasses import replace

    builder = NetworkBuilder((5,), input_name="inputs")
    first = builder.add(Dense(np.array([[1.0, 0, 0, -1.0, 0]]), np.zeros(1)), "inputs")
    active = builder.add(relu(), first)
    rest = builder.add(Dense(np.array([[0, 0, 0, 0, 1.0], [0, 1.0, 1.0, 0, 1.0]]), np.zeros(2)), "inputs")
    builder.add(Select(np.array([0, 1, 2])), builder.add(Concat(0), active, rest))
    made = builder.build()
    return replace(
        made,
        input_ports=in_turn([("image", (2, 2)), ("speed", ())]),
        output_ports=in_turn([("scores", (2,)), ("sum", ())]),
    )


def test_tensors_are_spoken_of_by_name(network: Network) -> None:
    x, y = variables(network)
    box = [x["image"] >= 0, x["image"] <= [[0.5, 1.0], [1.0, 1.0]], x["speed"] >= 0.25, x["speed"] <= Fraction(1, 2)]
    asked = query(network, *box, y["scores"][0] >= y["scores"][1] + 0.25)
    assert asked.box.lower.tolist() == [0, 0, 0, 0, 0.25]
    assert asked.box.upper.tolist() == [0.5, 1, 1, 1, 0.5]
    verdict = verifier.verify(asked, timeout=20)
    assert verdict.status is Status.VIOLATED
    image, speed = (port.of(verdict.witness.input) for port in network.input_ports)
    assert max(image[0, 0] - image[1, 1], 0) >= speed + 0.25
    assert (
        verifier.verify(query(network, *box, y["scores"][0] >= y["scores"][1] + 0.26), timeout=20).status
        is Status.HOLDS
    )


def test_arithmetic_and_connectives_are_those_of_formulas(network: Network) -> None:
    x, y = variables(network)
    box = (x["image"] >= 0) & (x["image"] <= 1) & (x["speed"] == 0.5)
    total = y["sum"] - (x["image"][0, 1] + x["image"][1, 0]) / 2 * 2 - np.array(0.5)
    assert verifier.verify(query(network, box, total != 0), timeout=20).status is Status.HOLDS
    assert verifier.verify(query(network, box, ~(total > -1)), timeout=20).status is Status.HOLDS
    either = (y["scores"][0] > 0.75) | (2 * y["sum"] - 1 >= 4 - y["scores"][1] * 2)
    verdict = verifier.verify(query(network, box, either), timeout=20)
    assert verdict.status is Status.VIOLATED
    few = query(network, box, x["image"].sum() <= 0.5, y["scores"][0] > 0.75)
    assert verifier.verify(few, timeout=20).status is Status.HOLDS


def test_mistakes_are_one_line(network: Network) -> None:
    x, y = variables(network)
    with pytest.raises(PropertyError, match=r"no tensor 'picture'.*image, speed"):
        x["picture"]
    with pytest.raises(PropertyError, match="several tensors"):
        x[0]
    with pytest.raises(PropertyError, match="no entry"):
        x["image"][2]
    with pytest.raises(PropertyError, match="join conditions"):
        query(network, 0 <= x["speed"] <= 1)
    with pytest.raises(PropertyError, match="not linear"):
        x["speed"] * y["sum"]
    with pytest.raises(PropertyError, match="do not meet"):
        query(network, x["image"] <= [1, 2, 3])
    with pytest.raises(PropertyError, match="no finite number"):
        query(network, x["speed"] <= float("nan"))
    with pytest.raises(PropertyError, match="no condition"):
        query(network, True)  # type: ignore[arg-type]
    with pytest.raises(PropertyError, match="bound"):
        query(network, x["image"] <= 1, x["image"] >= 0)
