"""The commands line, plane and attribute, and their pictures."""

from __future__ import annotations

import csv
import json
from itertools import pairwise

import numpy as np
import pytest

import verifier
from verifier.cli import main
from verifier.errors import InputError
from verifier.network.graph import feedforward
from verifier.regions import line, plane
from verifier.report import regions as pictures


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [3, 12, 12, 4]
    weights = [rng.normal(size=(o, i)) for i, o in pairwise(sizes)]
    network = feedforward(weights, [rng.normal(size=o) * 0.1 for o in sizes[1:]])
    path = tmp_path / "net.onnx"
    verifier.write_onnx(network, path)
    for k, x in enumerate(([-1, 0, 0.5], [1, 1, 0], [0, -1, -1])):
        np.save(tmp_path / f"x{k}.npy", np.array(x, dtype=float))
    return tmp_path, verifier.load(path)


def test_line(model, capsys):
    folder, network = model
    names = [folder / f"line.{s}" for s in ("csv", "npz", "json", "png")]
    words = ["line", str(folder / "net.onnx"), str(folder / "x0.npy"), str(folder / "x1.npy"), "--quiet"]
    assert main([*words, *(w for n in names for w in ("--out", str(n)))]) == 0
    found = line(network, np.load(folder / "x0.npy"), np.load(folder / "x1.npy"))
    text = capsys.readouterr().out
    assert f"{len(found)} linear pieces" in text
    with names[0].open() as file:
        rows = list(csv.reader(file))
    assert [float(r[0]) for r in rows[1:]] == found.breakpoints.tolist()
    np.testing.assert_array_equal(np.load(names[1])["values"], found.values)
    assert json.loads(names[2].read_text())["breakpoints"] == found.breakpoints.tolist()
    assert names[3].read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--exact", "--out", str(names[2])]) == 0
    assert len(json.loads(names[2].read_text())["exact_breakpoints"]) == len(found) + 1


def test_plane(model, capsys):
    folder, network = model
    names = [folder / f"plane.{s}" for s in ("csv", "npz", "svg")]
    corners = [str(folder / f"x{k}.npy") for k in range(3)]
    words = ["plane", str(folder / "net.onnx"), *corners, "--quiet"]
    assert main([*words, *(w for n in names for w in ("--out", str(n)))]) == 0
    found = plane(network, np.stack([np.load(c) for c in corners]))
    assert f"{len(found)} linear regions" in capsys.readouterr().out
    saved = np.load(names[1])
    assert len(saved["offsets"]) == len(found) + 1
    with names[0].open() as file:
        assert {int(r["region"]) for r in csv.DictReader(file)} == set(range(len(found)))


def test_plane_in_tiles(model, capsys):
    folder, _ = model
    corners = [str(folder / f"x{k}.npy") for k in range(3)]
    words = ["plane", str(folder / "net.onnx"), *corners, "--quiet", "--out", str(folder / "map.npz")]
    assert main([*words, "--memory", "3e-5"]) == 0
    text = capsys.readouterr().out
    files = sorted(folder.glob("map-*.npz"))
    assert f"cut into {len(files)} tiles" in text
    assert len(files) > 1
    assert main(words) == 0
    whole = capsys.readouterr().out.splitlines()
    assert [x for x in text.splitlines() if x.startswith("class")] == [x for x in whole if x.startswith("class")]


def test_attribute(model, capsys):
    folder, network = model
    out = folder / "a.npz"
    words = ["attribute", str(folder / "net.onnx"), str(folder / "x1.npy"), "--target", "2", "--out", str(out)]
    x = np.load(folder / "x1.npy")
    change = network(x)[2] - network(np.zeros(3))[2]
    assert main(words) == 0
    np.testing.assert_allclose(np.load(out)["attributions"].sum(), change, rtol=1e-9)
    assert main([*words, "--layer", network.activations[0].name]) == 0
    np.testing.assert_allclose(np.load(out)["attributions"].sum(), change, rtol=1e-9)
    capsys.readouterr()
    assert main([*words, "--method", "left", "--steps", "9"]) == 0
    assert "error against the exact integral" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["line", "net.onnx", "x0.npy", "missing.npy"],
        ["line", "net.onnx", "x0.npy", "x1.npy", "--out", "a.docx"],
        ["line", "net.onnx", "x0.npy", "x1.npy", "--out", "no/such/folder/a.csv"],
        ["plane", "net.onnx", "x0.npy", "x1.npy"],
        ["attribute", "net.onnx", "x0.npy", "--target", "9"],
        ["attribute", "net.onnx", "x0.npy", "--method", "simpson"],
        ["attribute", "net.onnx", "x0.npy", "--target", "1", "--shape", "1,2,2"],
        ["line", "net.onnx", "x0.npy", "wrong.txt"],
        ["plane", "net.onnx", "x0.npy", "x1.npy", "wrong.txt"],
    ],
)
def test_bad_usage_is_status_2(model, words, capsys, monkeypatch):
    monkeypatch.chdir(model[0])
    (model[0] / "wrong.txt").write_text("1 2 3 4")
    assert main(words) == 2
    assert "error:" in capsys.readouterr().err


def test_every_picture_can_be_drawn(model, tmp_path):
    _, network = model
    found = line(network, [-1, 0, 0.5], [1, 1, 0])
    area = plane(network, [0.5, 0.2, 0], [0.5, 0, 0], [0, 0.3, 0.1])
    rng = np.random.default_rng(0)
    acas = feedforward([rng.normal(size=(6, 5)), rng.normal(size=(5, 6))], [np.zeros(6), np.zeros(5)])
    ring = plane(acas, [0, 0, 0.1, 0.2, 0.3], [0.1, 0, 0, 0, 0], [0, 0.5, 0, 0, 0])
    with pytest.raises(InputError, match="distance and angle"):
        pictures.acas_xu_map(area.classes(), area.plane)
    figures = {
        "line": pictures.line_plot(found, best="min"),
        "bands": pictures.bands_plot(found.classes(), ["a", "b", "c", "d"]),
        "plane": pictures.plane_plot(area.classes()),
        "polar": pictures.polar_map(area.classes(), None, heading=1.0, title="t"),
        "acas": pictures.acas_xu_map(ring.classes(best="min"), ring.plane, "t"),
        "image": pictures.heat_map(np.arange(48.0) - 20, (3, 4, 4), np.arange(48.0)),
        "bars": pictures.heat_map(np.array([1.0, -2.0]), (2,)),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_a_limit_that_ends_the_work_is_status_3(model, capsys, monkeypatch):
    monkeypatch.chdir(model[0])
    assert main(["plane", "net.onnx", "x0.npy", "x1.npy", "x2.npy", "--memory", "1e-9"]) == 3
    assert "allow at least" in capsys.readouterr().err
