"""Maps in tiles on disk: the same map as in one piece, in bounded memory, resumed after an interruption."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verifier.attention import Inconsistency, RegionMap, attention_map
from verifier.encodings.perturbations import Brightness, Patch, Perturbation, Translation
from verifier.errors import InputError
from verifier.events import Event, Progress
from verifier.network.graph import Network, feedforward

SIZE = 6
PLANE: list[Perturbation] = [Translation(low=-1.5, high=1.0), Brightness(low=-0.5, high=0.5)]
SPACE: list[Perturbation] = [
    Brightness(high=0.1), Patch(top=1, left=2, height=3, width=2, high=0.2), Translation(low=-0.1, high=0.2)
]  # fmt: skip


def problem(seed: int) -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = (SIZE * SIZE, 12, 8, 3)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
    network = feedforward(weights, [rng.normal(size=b) * 0.3 for b in widths[1:]])
    return network, np.round(rng.random((SIZE, SIZE)) * 4) / 4


def same_map(a: RegionMap, b: RegionMap, tolerance: float) -> None:
    """Two maps with tables have the same regions, kinds, components and boundaries."""
    assert a.table is not None
    assert b.table is not None
    assert a.table.keys is not None
    assert b.table.keys is not None
    big_a, big_b = (np.flatnonzero(t.volumes > 1e-7) for t in (a.table, b.table))
    order_a, order_b = (big[np.argsort(t.keys[big])] for t, big in ((a.table, big_a), (b.table, big_b)))
    assert a.table.keys[order_a].tolist() == b.table.keys[order_b].tolist()
    for name in ("volumes", "label_volumes", "high"):
        np.testing.assert_allclose(getattr(a.table, name)[order_a], getattr(b.table, name)[order_b], atol=tolerance)
    for name in ("attention", "label", "touches_border"):
        assert (getattr(a.table, name)[order_a] == getattr(b.table, name)[order_b]).all()
    for aspect in ("attention", "label"):
        for question in (RegionMap.component, RegionMap.outside, RegionMap.outermost):
            chosen_a, chosen_b = (set(m.table.keys[question(m, aspect)]) for m in (a, b))  # type: ignore[union-attr,index,arg-type]
            assert chosen_a == chosen_b
        assert a.enclaves(aspect) == b.enclaves(aspect)  # type: ignore[arg-type]
        far_a, far_b = a.farthest(aspect), b.farthest(aspect)  # type: ignore[arg-type]
        assert (far_a is None) == (far_b is None)
        if far_a is not None and far_b is not None:
            assert far_a[1] == pytest.approx(far_b[1], abs=tolerance)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("perturbations", [PLANE, PLANE[:1], PLANE[::-1]])
def test_tiles_hold_the_same_map(seed: int, perturbations: list[Perturbation], tmp_path: Path) -> None:
    network, image = problem(seed)
    settings = Inconsistency(norm=1 if seed == 3 else 2)
    probe = attention_map(network, image, perturbations, 0.0, settings=settings)
    assert probe.table is not None
    delta = 0.01 + 1.001 * float(np.median(probe.table.high))
    whole = attention_map(network, image, perturbations, delta, settings=settings)
    keep = max(whole.summary.regions // 5, 2)
    tiled = attention_map(network, image, perturbations, delta, settings=settings, keep=keep, stream=tmp_path)
    assert tiled.complete, tiled.reason
    assert tiled.tiles is not None
    assert len(tiled.tiles) > 1
    assert max(len(t) for t in tiled.tiles.tables()) <= keep
    assert tiled.summary.covered == pytest.approx(1.0, abs=1e-9)
    assert tiled.summary.regions == sum(len(t) for t in tiled.tiles.tables()) >= whole.summary.regions
    assert tiled.summary.label_share == pytest.approx(whole.summary.label_share, abs=1e-9)
    for kind in ("CR", "MR"):  # where the expected map moves, a piece may be AR or IR of a region that is AB
        assert tiled.summary.volumes[kind] >= whole.summary.volumes[kind] - 1e-9
    assert {k: a.answer for k, a in tiled.answers.items()} == {k: a.answer for k, a in whole.answers.items()}
    same_map(tiled.joined(), whole, 1e-8)
    with pytest.raises(InputError, match=r"does not hold its regions in memory .*joined"):
        tiled.component("label")


def test_tiles_of_three_parameters(tmp_path: Path) -> None:
    network, image = problem(5)
    whole = attention_map(network, image, SPACE, 2.0)
    keep = max(whole.summary.regions // 3, 2)
    tiled = attention_map(network, image, SPACE, 2.0, keep=keep, stream=tmp_path)
    assert tiled.complete, tiled.reason
    assert tiled.tiles is not None
    assert len(tiled.tiles) > 1
    assert tiled.raster is None
    joined = tiled.joined()
    assert joined.table is not None
    assert whole.table is not None
    assert joined.table.volumes.sum() == pytest.approx(whole.table.volumes.sum(), rel=1e-6)
    assert {k: a.answer for k, a in joined.answers.items()} == {k: a.answer for k, a in whole.answers.items()}
    assert len(joined.table) == pytest.approx(len(whole.table), abs=2)  # slivers below the tolerance of the programs


def test_an_interrupted_map_goes_on(tmp_path: Path) -> None:
    network, image = problem(1)
    whole = attention_map(network, image, PLANE, 1.0)
    options: dict[str, Any] = {"keep": whole.summary.regions // 5, "stream": tmp_path}
    shares: list[int] = []

    def impatient(event: Event) -> None:
        if isinstance(event, Progress):
            shares.append(event.done)
            if len(list(tmp_path.glob("tile_*.npz"))) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attention_map(network, image, PLANE, 1.0, listener=impatient, **options)
    assert shares
    written = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("tile_*.npz")}
    assert len(written) == 3
    with (tmp_path / "journal.jsonl").open("a") as stream:
        stream.write('{"cell": [[0.0, ')  # the next line is torn
    late = attention_map(network, image, PLANE, 1.0, timeout=1e-9, **options)
    assert not late.complete
    assert "3 finished tiles" in late.reason
    assert 0 < late.summary.covered < 1
    assert late.raster is not None
    assert np.isnan(late.raster).any()
    finished = attention_map(network, image, PLANE, 1.0, **options)
    assert finished.complete, finished.reason
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in written.items())
    same_map(finished.joined(), whole, 1e-8)
    again = attention_map(network, image, PLANE, 1.0, timeout=1e-9, **options)
    assert again.complete, "everything was on disk already"
    assert vars(again.summary) == vars(finished.summary)


def test_a_folder_of_another_map_is_refused(tmp_path: Path) -> None:
    network, image = problem(2)
    attention_map(network, image, PLANE, 1.0, stream=tmp_path)
    assert json.loads((tmp_path / "map.json").read_text())["delta"] == 1.0
    label = (attention_map(network, image, PLANE).label + 1) % 3
    with pytest.raises(InputError, match="tiles of another map: delta, label differ"):
        attention_map(network, image, PLANE, 2.0, label=label, stream=tmp_path)
    other, picture = problem(3)
    with pytest.raises(InputError, match=r"image, .*network"):
        attention_map(other, picture, PLANE, 1.0, label=0, stream=tmp_path)
    with pytest.raises(InputError, match="only exhaustive maps"):
        attention_map(network, image, PLANE, 1.0, method="gbs", stream=tmp_path)
    with pytest.raises(InputError, match="keep must be at least 1"):
        attention_map(network, image, PLANE, 1.0, keep=0)


def test_the_picture_of_a_streamed_map_is_the_map(tmp_path: Path) -> None:
    network, image = problem(4)
    probe = attention_map(network, image, PLANE, 0.0)
    assert probe.table is not None
    delta = 0.01 + float(np.median(probe.table.high))
    for options in ({"keep": 10}, {"keep": 50, "stream": tmp_path}):
        m = attention_map(network, image, PLANE, delta, **options)  # type: ignore[arg-type]
        assert m.raster is not None
        assert not np.isnan(m.raster).any()
        side = len(m.raster)
        rng = np.random.default_rng(0)
        i, j = rng.integers(0, side, size=(2, 400))
        theta = m.perturbed.box.lower + (np.stack([i, j], axis=1) + 0.5) / side * m.perturbed.box.width
        right = m.perturbed.network.forward(theta).argmax(axis=1) == m.label
        assert (np.abs(m.raster[i, j, 1] - right) < 0.5).mean() > 0.95
        consistent = m.settings(m.perturbed, theta, m.label) <= delta
        assert consistent[m.raster[i, j, 0] > 0.99].mean() > 0.98
