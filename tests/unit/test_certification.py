"""Certified accuracy of a data set."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier.certification import Line, certify
from verifier.errors import InputError
from verifier.events import Event


def identity() -> verifier.Network:
    """The larger of two inputs in [0, 1] is the label: at (a, b) with a > b it holds for every radius below (a - b) / 2."""
    return verifier.feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])


IMAGES = np.array([[0.75, 0.25], [0.5, 0.4375], [0.25, 0.75], [1.0, 0.0]])
LABELS = [0, 0, 0, 0]


def statuses(lines: tuple[Line, ...]) -> list[str]:
    return [line.status for line in lines]


def test_the_truth_is_certified_and_refuted_at_its_very_radius() -> None:
    radii = ["1/64", "1/32", 0.2, "1/4", "0.6"]
    found = certify(identity(), IMAGES, LABELS, epsilon=radii, timeout=20)
    assert found.radii == ("1/64", "1/32", "0.2", "1/4", "0.6")
    for k, gap in ((0, Fraction(1, 4)), (1, Fraction(1, 32)), (3, Fraction(1, 2))):
        for line in (line for line in found.lines if line.index == k):
            truth = "holds" if Fraction(line.epsilon) < gap else "violated"  # a tie is a violation
            assert line.status == truth, (k, line)
    assert statuses(tuple(line for line in found.lines if line.index == 2)) == ["misclassified"] * 5
    assert found.accuracy == 0.75
    assert found.certified("1/64") == 0.75
    assert found.certified("1/4") == 0.25
    assert found.not_refuted("0.6") == 0.0
    violated = next(line for line in found.lines if line.index == 1 and line.epsilon == "1/32")
    assert violated.other == 1
    assert violated.witness is not None
    assert violated.witness[0] <= violated.witness[1]
    assert "| 1/64 | 3 | 0 | 0 | 1 | 75.0% |" in found.table()
    assert "75.0% certified" in found._repr_html_()
    assert len(repr(found).splitlines()) == 1


def test_normalised_networks_are_asked_in_the_units_of_the_data() -> None:
    images = IMAGES[[0]].repeat(2, axis=0)
    shifted = verifier.feedforward([np.eye(2), np.eye(2)], [np.full(2, 4.0), np.zeros(2)])  # its ReLUs are active
    for scale in ({"mean": [0.5], "std": [0.25]}, {"mean": [0.5], "std": [-0.25]}):
        labels = [0, 0] if scale["std"][0] > 0 else [1, 1]
        found = certify(shifted, images, labels, epsilon=["0.2", "0.25"], timeout=20, **scale)
        assert statuses(found.lines) == ["holds", "violated"] * 2
        witness = found.lines[1].witness
        assert witness is not None
        assert np.abs(np.array(witness) - images[0]).max() <= 0.25


def test_a_journal_is_not_asked_again_and_survives_a_cut(tmp_path: Path) -> None:
    path, network = tmp_path / "journal.jsonl", identity()
    first = certify(network, IMAGES[:2], epsilon=["0.01", "0.3"], journal=path, timeout=20)
    kept = path.read_text()
    assert len(kept.splitlines()) == 4

    def broken(*args: object, **rest: object) -> None:
        raise AssertionError("nothing is to be asked again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("verifier.api.verify", broken)
        assert certify(network, IMAGES[:2], epsilon=["0.01", "0.3"], journal=path, timeout=20).lines == first.lines
        with pytest.raises(AssertionError, match="asked again"):  # another limit of time is another question
            certify(network, IMAGES[:2], epsilon="0.01", journal=path, timeout=5)
    path.write_text(kept[:-20])
    again = certify(network, IMAGES[:2], epsilon=["0.01", "0.3"], journal=path, timeout=20)
    assert statuses(again.lines) == statuses(first.lines)
    path.write_text("not a journal\n" + kept)
    with pytest.raises(InputError, match="line 1"):
        certify(network, IMAGES[:2], epsilon="0.01", journal=path)
    assert json.loads(kept.splitlines()[0])["line"]["status"] == "holds"


def test_workers_give_the_same_answers_and_progress_is_told() -> None:
    events: list[Event] = []
    one = certify(identity(), IMAGES, epsilon="0.1", timeout=20)
    two = certify(identity(), IMAGES, epsilon="0.1", timeout=20, workers=2, listener=events.append)
    assert statuses(one.lines) == statuses(two.lines)
    assert len(events) == len(IMAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((2, 3))}, "network with 2 inputs"),
        ({"images": np.full((1, 2), np.nan)}, "NaN"),
        ({"images": np.full((1, 2), 200.0)}, "image 0 leaves the domain"),
        ({"labels": [0]}, "1 labels for 4 images"),
        ({"labels": [0, 0, 0, 2]}, "from 0 to 1"),
        ({"epsilon": "2/0"}, "no radius"),
        ({"epsilon": "wide"}, "no radius"),
        ({"epsilon": -0.1}, "at least 0"),
        ({"epsilon": []}, "no radius is named"),
        ({"mean": [0.1, 0.2, 0.3]}, "3 numbers as mean"),
        ({"std": [0.0]}, "std not 0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"images": IMAGES, "labels": LABELS, "epsilon": 0.1, **changes}
    with pytest.raises(InputError, match=message):
        certify(identity(), arguments.pop("images"), arguments.pop("labels"), **arguments)  # type: ignore[arg-type]


def test_a_journal_knows_every_entry_of_a_domain(tmp_path: Path) -> None:
    """Of long arrays, which Python prints shortened, too."""
    network = verifier.feedforward([np.eye(2, 1200)], [np.zeros(2)])
    images = np.full((1, 1200), 0.5)
    images[0, 0] = 0.9
    lines = []
    for end in (1.0, 2.0):
        upper = np.ones(1200)
        upper[600] = end
        verifier.certify(
            network, images, epsilon="1/100", domain=(np.zeros(1200), upper), journal=tmp_path / "journal.jsonl"
        )
        lines.append(len((tmp_path / "journal.jsonl").read_text().splitlines()))
    assert lines[1] == lines[0] + 1
