"""Tiles of Θ: shares that are known in closed form, maps that are no gradients, threads, and bad input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verifier.attention import Answer, AreaMap, AreaSettings, Inconsistency, attention_areas, attention_map
from verifier.attention.area_bounds import AreaBounder
from verifier.attention.area_journal import Found
from verifier.attention.area_result import OPEN, PROVED, REFUTED, Tiles
from verifier.encodings.perturbations import Brightness, Linear, Patch, Perturbation, Translation
from verifier.errors import InputError
from verifier.limits import Deadline, deadline_in_force
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import relu
from verifier.report.attention_notes import notes

PLANE: list[Perturbation] = [
    Linear(direction=[1.0, 0.0], low=0.0, high=1.0), Linear(direction=[0.0, 1.0], low=0.0, high=1.0)
]  # fmt: skip
DOT = np.zeros((1, 1, 2))


def half_plane() -> Network:
    """Label 0 loses to 1 where x + y > 1; its map is (-1, -1) everywhere."""
    builder = NetworkBuilder((1, 1, 2))
    builder.add(Reshape((2,)))
    builder.add(Dense(np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([1.0, -0.5])))
    builder.add(relu())
    builder.add(Dense(np.array([[-1.0, 0.0], [0.0, 0.0]]), np.array([2.0, 0.0])))
    return builder.build()


def dense(seed: int, size: int = 6) -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = (size * size, 10, 8, 3)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
    return feedforward(weights, [rng.normal(size=b) * 0.3 for b in widths[1:]]), np.round(
        rng.random((size, size)) * 4
    ) / 4


def test_shares_enclose_the_truth() -> None:
    m = attention_areas(half_plane(), DOT, PLANE, 1.0, clip=False, how=AreaSettings(smallest=1e-4))
    proved, refuted, left = m.shares["label"]
    assert proved + refuted + left == pytest.approx(1.0, abs=1e-12)
    assert 0.48 < proved <= 0.5
    assert 0.48 < refuted <= 0.5
    assert m.answers["label"].answer is Answer.NOT_ROBUST
    assert m.answers["attention"].answer is Answer.ROBUST


@pytest.mark.parametrize("backward", [5_000, 0])
def test_tiles_fill_theta_and_agree_with_the_regions(backward: int) -> None:
    """With ``backward=0`` as for a large network, over the ReLUs that are unstable on a tile."""
    if not backward:
        pytest.importorskip("torch", reason="torch is not installed")
    network, image = dense(0)
    pair: list[Perturbation] = [Brightness(low=-0.2, high=0.3), Patch(top=1, left=2, high=0.5)]
    whole = attention_map(network, image, pair, 2.0)
    m = attention_areas(network, image, pair, 2.0, how=AreaSettings(smallest=1e-3, backward=backward, rows=backward))
    sides = ((m.tiles.high - m.tiles.low) / m.perturbed.box.width).prod(axis=1)
    assert sides.sum() == pytest.approx(1.0, abs=1e-12)
    proved, refuted, _ = m.shares["label"]
    assert proved - 1e-9 <= whole.summary.label_share <= 1 - refuted + 1e-9
    proved, refuted, _ = m.shares["attention"]
    assert proved - 1e-9 <= whole.summary.volumes["AR"]
    assert refuted - 1e-9 <= whole.summary.volumes["IR"]
    assert proved + refuted > 0.5
    for k, aspect in enumerate(("label", "attention")):
        settled = np.flatnonzero(m.tiles.kinds[:, k] != OPEN)[:50]
        assert len(settled)
        points = (m.tiles.low[settled] + m.tiles.high[settled]) / 2
        outputs = network.forward(m.perturbed.images(points).reshape(len(points), -1))
        holds = {
            "label": outputs[:, m.label] > np.delete(outputs, m.label, axis=1).max(axis=1),
            "attention": m.settings(m.perturbed, points, m.label) <= 2.0,
        }[aspect]
        assert (m.tiles.kinds[settled, k] == np.where(holds, PROVED, REFUTED)).all()


def same_bits(a: AreaMap, b: AreaMap) -> None:
    for name in ("low", "high", "kinds"):
        assert getattr(a.tiles, name).tobytes() == getattr(b.tiles, name).tobytes()
    assert (a.shares, a.bounded, a.reason) == (b.shares, b.bounded, b.reason)
    for aspect, answer in a.answers.items():
        other = b.answers[aspect]
        assert (answer.answer, answer.reason) == (other.answer, other.reason)
        assert np.array_equal(answer.theta, other.theta) if answer.theta is not None else other.theta is None


@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize("kind", ["gradient", "smooth"])
def test_threads_do_not_change_the_result(kind: str, answers_only: bool) -> None:
    network, image = dense(1)
    pair: list[Perturbation] = [Translation(high=0.5), Brightness(high=0.4)]
    settings = Inconsistency(map=kind, samples=2, classes="label")  # type: ignore[arg-type]

    def asked(threads: int) -> AreaMap:
        # a grid of one point finds nothing, so that failures are found on the way
        how = AreaSettings(smallest=1e-2, batch=12, piece=3, grid=1, threads=threads, answers_only=answers_only)
        return attention_areas(network, image, pair, 2.0, settings=settings, how=how)

    one = asked(1)
    assert one.bounded > 12
    for threads in (2, 5):
        same_bits(one, asked(threads))


@pytest.mark.parametrize("answers_only", [False, True])
def test_an_interrupted_search_goes_on(tmp_path: Path, answers_only: bool) -> None:
    network, image = dense(1)
    pair: list[Perturbation] = [Translation(high=0.5), Brightness(high=0.4)]
    how = AreaSettings(smallest=1e-2, batch=12, piece=3, grid=1, answers_only=answers_only)
    whole = attention_areas(network, image, pair, 2.0, how=how)
    journal = tmp_path / "areas.jsonl"

    def killed_after(lines: int) -> Callable[[AreaBounder, Tiles, list[bool], Deadline], Found]:
        def found(self: AreaBounder, batch: Tiles, told: list[bool], deadline: Deadline) -> Found:
            if journal.exists() and len(journal.read_text().splitlines()) >= lines:
                raise KeyboardInterrupt
            return bounds(self, batch, told, deadline)

        return found

    bounds = AreaBounder._found
    for lines in (3, 5):
        with pytest.MonkeyPatch.context() as changes:
            changes.setattr(AreaBounder, "_found", killed_after(lines))
            with pytest.raises(KeyboardInterrupt):
                attention_areas(network, image, pair, 2.0, how=how, stream=tmp_path)
        assert len(journal.read_text().splitlines()) == lines
        with journal.open("a") as stream:
            stream.write('{"tiles": "abc", "kin')  # torn by the kill
    late = attention_areas(network, image, pair, 2.0, how=how, stream=tmp_path, timeout=1e-9)
    assert late.bounded < whole.bounded
    resumed = attention_areas(network, image, pair, 2.0, how=replace(how, threads=2), stream=tmp_path)
    same_bits(whole, resumed)
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(AreaBounder, "_found", killed_after(0))  # nothing is bounded again
        same_bits(whole, attention_areas(network, image, pair, 2.0, how=how, stream=tmp_path))
    with pytest.raises(InputError, match=r"tiles of another map: delta, tiles differ"):
        attention_areas(network, image, pair, 1.0, how=replace(how, smallest=0.5), stream=tmp_path)


@pytest.mark.parametrize("kind", ["integrated", "smooth"])
def test_maps_that_are_no_gradients(kind: str) -> None:
    network, image = dense(2)
    settings = Inconsistency(map=kind, samples=4, classes="label")  # type: ignore[arg-type]
    pair: list[Perturbation] = [Brightness(high=0.1), Patch(top=1, left=2, high=0.3)]
    probe = attention_areas(network, image, pair, 1e3, settings=settings, how=AreaSettings(smallest=0.3))
    assert probe.answers["attention"].answer is Answer.ROBUST
    points = probe.perturbed.box.sample(200, np.random.default_rng(0))
    values = settings(probe.perturbed, points, probe.label)
    start = settings(probe.perturbed, np.zeros((1, 2)), probe.label)
    assert start[0] == pytest.approx(0.0, abs=1e-12)
    m = attention_areas(
        network, image, pair, float(values.max()) / 2, settings=settings, how=AreaSettings(smallest=1e-2)
    )
    assert m.answers["attention"].answer is Answer.NOT_ROBUST
    for k in np.flatnonzero(m.tiles.kinds[:, 1] != OPEN)[:30]:
        center = (m.tiles.low[k] + m.tiles.high[k])[None] / 2
        assert (settings(m.perturbed, center, m.label)[0] <= m.delta) == (m.tiles.kinds[k, 1] == PROVED)
    with pytest.raises(InputError, match="attention_areas"):
        attention_map(network, image, pair, settings=settings)


def test_deep_networks_are_bounded_over_their_unstable_relus() -> None:
    """Sixteen layers, on which forward bounds tell nothing."""
    pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(7)
    widths = (36, *[12] * 16, 3)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
    network = feedforward(weights, [rng.normal(size=b) * 0.1 for b in widths[1:]])
    image = np.round(rng.random((6, 6)) * 4) / 4
    pair: list[Perturbation] = [Brightness(high=0.05), Patch(top=1, left=2, high=0.05)]
    shares = {
        backward: attention_areas(
            network, image, pair, how=AreaSettings(smallest=0.2, aspects=("label",), backward=backward, loose=np.inf)
        ).shares["label"]
        for backward in (10**6, 0)
    }
    assert shares[0][2] < shares[10**6][2]


def test_five_parameters_and_a_limit() -> None:
    network, image = dense(3)
    five = [Brightness(high=0.05), Patch(top=0, left=0, high=0.05), Patch(top=3, left=3, high=0.05),
            Translation(high=0.05), Translation(down=1, right=0, high=0.05)]  # fmt: skip
    m = attention_areas(network, image, five, 2.0, how=AreaSettings(aspects=("label",)), timeout=20)
    assert sum(m.shares["label"]) == pytest.approx(1.0, abs=1e-9)
    assert "attention" not in m.answers
    none = attention_areas(network, image, five, 1e-9, timeout=1e-9)
    assert none.answers["label"].answer in (Answer.TIMEOUT, Answer.NOT_ROBUST)
    assert none.shares["label"][2] == 1.0


def test_the_limit_is_in_force_while_a_tile_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops deep inside bounds ask for it: a tile of a large network takes longer than what is left."""
    network, image = dense(3)
    bounds, seen = AreaBounder._found, list[float | None]()

    def found(self: AreaBounder, batch: Tiles, told: list[bool], deadline: Deadline) -> Found:
        seen.append(deadline_in_force().at)
        return bounds(self, batch, told, deadline)

    monkeypatch.setattr(AreaBounder, "_found", found)
    attention_areas(network, image, [Brightness(high=0.2)], 2.0, how=AreaSettings(smallest=0.4, threads=2), timeout=60)
    assert seen
    assert None not in seen


def test_bad_input_is_one_line() -> None:
    network, image = dense(4)
    for wrong, message in (
        ({"delta": -1.0}, "delta"),
        ({"label": 9}, "label 9"),
        ({"image": image * 300}, "divide by 255"),
        ({"image": image[:3]}, "18 entries for a network with 36"),
        ({"perturbations": []}, "no perturbation"),
        ({"perturbations": Brightness()}, "perturbations must be a sequence"),
        ({"perturbations": [0.3]}, "perturbations must be a sequence"),
        ({"image": "abc"}, "image must be numbers"),
    ):
        arguments = {"image": image, "perturbations": [Brightness()], **wrong}
        with pytest.raises((InputError, TypeError), match=message):
            attention_areas(network, **arguments)
    with pytest.raises(TypeError, match="network must be a Network"):
        attention_areas(image, network, [Brightness()])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="samples"):
        Inconsistency(map="smooth", samples=0)
    with pytest.raises(InputError, match="unknown map"):
        Inconsistency(map="grad")  # type: ignore[arg-type]


def test_odd_questions_are_answered_with_a_note() -> None:
    constant = feedforward([np.zeros((3, 4)), np.zeros((2, 3))], [np.zeros(3), np.array([1.0, 0.0])])
    image = np.full((2, 2), 0.5)
    for kind in (attention_map, attention_areas):
        m = kind(constant, image, [Brightness(low=0.1, high=3.0)], clip=False)
        assert {a.answer for a in m.answers.values()} == {Answer.ROBUST}
        said = " ".join(notes(m))
        for words in ("outside [0, 1]", "its nearest one", "its saliency map is 0"):
            assert words in said
    assert notes(attention_map(dense(4)[0], dense(4)[1], [Brightness()])) == []
