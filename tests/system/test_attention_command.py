"""The attention command end to end: words, files, exit status, errors."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from verifier.cli import main
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    widths = (36, 8, 6, 3)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
    write_onnx(feedforward(weights, [rng.normal(size=b) * 0.2 for b in widths[1:]]), tmp_path / "net.onnx")
    np.save(tmp_path / "image.npy", rng.random((6, 6)))
    return ["attention", str(tmp_path / "net.onnx"), str(tmp_path / "image.npy"), "--quiet"]


BOTH = ["--perturb", "brightness:-0.2:0.4", "--perturb", "patch:0:0.5,top=1,left=1,height=2,width=2"]


def test_the_files_hold_the_map(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [tmp_path / f"map.{kind}" for kind in ("html", "csv", "json", "png")]
    status = main([*model, *BOTH, "--delta", "0.5", "--json", *(w for n in names for w in ("--out", str(n)))])
    said = json.loads(capsys.readouterr().out)["result"]
    assert status == (1 if "NotRobust" in {v["answer"] for v in said["verdicts"].values()} else 0)
    assert said["complete"]
    assert said["covered"] == pytest.approx(1.0, rel=1e-9)
    with (tmp_path / "map.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == said["regions"] == len(json.loads((tmp_path / "map.json").read_text())["table"])
    assert sum(float(r["volume"]) for r in rows) == pytest.approx(0.6 * 0.5, rel=1e-9)
    for kind in ("AR", "IR", "AB"):
        share = sum(float(r["volume"]) for r in rows if r["attention"] == kind) / 0.3
        assert share == pytest.approx(said["shares"][kind], abs=1e-9)
    page = (tmp_path / "map.html").read_text()
    for words in ("0: the unchanged image", "CR, MR, CB: regions", "delta: the largest", "exhaustive: all", "SHA-256"):
        assert words in page
    assert page.count("data:image/png;base64,") == 2
    assert "NotRobust" in page or "Robust: holds" in page
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_words_and_exit_status(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--perturb", "translation:0:1e-6"]
    assert main([*model, *tiny, "--delta", "1000"]) == 0
    out = capsys.readouterr().out
    assert out.count("Robust: holds on every region") == 2
    assert main([*model, *BOTH, "--delta", "0.0001", "--method", "gbs"]) in (1, 3)
    assert "outermost boundary" in capsys.readouterr().out
    slow = ["--perturb", "brightness:0:0.3", "--perturb", "translation:0:1", "--perturb", "contrast:-0.3:0.3"]
    assert main([*model, *slow, "--timeout", "1e-6", "--delta", "1000"]) == 4
    assert "incomplete" in capsys.readouterr().out


def test_tiles_on_disk_and_files_from_them(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streamed = [*model, *BOTH, "--delta", "0.5", "--keep", "12", "--stream", str(tmp_path / "tiles")]
    names = [w for kind in ("csv", "html") for w in ("--out", str(tmp_path / f"map.{kind}"))]
    assert main([*streamed, *names, "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)["result"]
    assert said["covered"] == pytest.approx(1.0, abs=1e-9)
    with (tmp_path / "map.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == said["regions"]
    assert sum(float(r["volume"]) for r in rows) == pytest.approx(0.6 * 0.5, rel=1e-9)
    assert len(list((tmp_path / "tiles").glob("tile_*.npz"))) > 1
    assert "counts once per tile" in (tmp_path / "map.html").read_text()
    assert main([*streamed[:-4], "--keep", "12", "--out", str(tmp_path / "all.csv")]) == 2
    assert "does not hold its regions" in capsys.readouterr().err


def test_arrays_from_files(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "mask.npy", np.eye(6))
    np.save(tmp_path / "direction.npy", np.linspace(0, 1, 36).reshape(6, 6))
    fog = f"linear:-0.2:0.2,direction={tmp_path / 'direction.npy'},name=fog"
    occlusion = f"blend:0:1,mask={tmp_path / 'mask.npy'},other=0.5"
    assert main([*model, "--perturb", fog, "--perturb", occlusion, "--delta", "1000"]) in (0, 1)
    assert "fog in [-0.2, 0.2], blend in [0, 1]" in capsys.readouterr().out
    assert main([*model, "--perturb", f"blend:0:1,mask={tmp_path / 'image.npy'},other={tmp_path / 'none.npy'}"]) == 2
    assert "none.npy: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--perturb", "fog:0:1"], "unknown perturbation 'fog'"),
        (["--perturb", "brightness"], "needs a range"),
        (["--perturb", "brightness:0:x"], "could not convert"),
        (["--perturb", "brightness:1:0"], "is empty"),
        (["--perturb", "patch:0:1"], "a patch needs top= and left="),
        (["--perturb", "blend:0:1"], "a blend needs mask="),
        (["--perturb", "patch:0:1,top=5,left=0"], "not inside the image of 6 × 6"),
        (["--perturb", "brightness:0:1,colour=2"], "no option 'colour'"),
        (["--perturb", "brightness:0:1", "--out", "map.xyz"], "cannot write .xyz"),
        (["--perturb", "brightness:0:1", "--delta=-1"], "--delta: must be at least 0"),
    ],
)
def test_errors(model: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*model, *words]) == 2
    assert message in capsys.readouterr().err


def test_areas_and_their_page(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"areas.{kind}" for kind in ("html", "csv", "json", "png")]
    names = [w for path in files for w in ("--out", str(path))]
    areas = ["--method", "areas", "--smallest", "0.05", "--delta", "0.5", "--map", "smooth"]
    assert main([*model, *BOTH, *areas, *names]) in (0, 1, 3)
    out = capsys.readouterr().out
    assert "proved" in out
    page = files[0].read_text()
    for words in ("What was asked", "The worst case found", "What remains open", "How certain this is", "SmoothGrad"):
        assert words in page
    said = json.loads(files[2].read_text())
    assert sum(said["shares"]["label"].values()) == pytest.approx(1.0)
    with files[1].open() as stream:
        assert len(list(csv.DictReader(stream))) == said["tiles"] == len(said["table"])
    tables = []
    for threads, name in (("1", "first.json"), ("2", "again.json")):  # the second finds all in the folder
        more = ["--stream", str(tmp_path / "tiles"), "--threads", threads, "--out", str(tmp_path / name)]
        assert main([*model, *BOTH, *areas, *more]) in (0, 1, 3)
        tables.append(json.loads((tmp_path / name).read_text())["table"])
    assert tables[0] == tables[1] == said["table"]
    capsys.readouterr()
    assert main([*model, *BOTH, "--map", "integrated"]) == 2
    assert "attention_areas" in capsys.readouterr().err
