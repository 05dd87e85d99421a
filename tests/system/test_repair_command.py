"""``verifier repair`` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier.cli import main
from verifier.repair import FrozenNetwork, check_exactly, specification_from_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) for s in ((8, 2), (8, 8), (3, 8))]
    path = tmp_path / "net.onnx"
    verifier.write_onnx(verifier.feedforward(weights, [rng.normal(size=len(w)) for w in weights]), path)
    return path


def specification(folder: Path, label: int, margin: float = 0.01) -> Path:
    region = {"origin": [0, 0], "u": [1, 0], "v": [0, 1], "polygon": [[0, 0], [1, 0], [0, 1]]}
    path = folder / "spec.json"
    path.write_text(json.dumps({"requirements": [{"name": "tri", "region": region, "class": label, "margin": margin}]}))
    return path


@pytest.mark.parametrize("method", ["lp", "greedy"])
def test_repair_writes_a_network_that_meets_the_specification(
    model: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = verifier.load(model)
    label = int(np.argmin(network.forward([0.3, 0.3])))
    out = tmp_path / "out"
    arguments = ["repair", str(model), str(specification(tmp_path, label)), "--method", method, "--exact"]
    status = main([*arguments, *(["--steps", "20"] if method == "greedy" else []), "--out", str(out), "--quiet"])
    printed = capsys.readouterr().out
    assert status in ((0,) if method == "lp" else (0, 3))
    assert "key points met" in printed
    assert "in rational arithmetic" in printed
    assert (out / "classes.png").stat().st_size > 10_000
    record = json.loads((out / "report.json").read_text())
    page = (out / "report.html").read_text()
    assert page.count("SHA-256") >= 2
    assert '<th scope="row">report</th>' not in page, "figures are a section of their own, not rows of the record"
    assert "key points met:" in page
    assert record["met after"] >= record["met before"]
    if status == 0:
        assert record["check"]["arithmetic"] == "rational"
        written = verifier.load(out / "repaired.onnx")  # the proof is of the very weights that are in the file
        demanded = specification_from_json((tmp_path / "spec.json").read_text(), written)
        assert check_exactly(FrozenNetwork(written), demanded).proved
        points = np.random.default_rng(1).dirichlet([1, 1, 1], 200)[:, :2]
        assert (verifier.load(out / "repaired.onnx").forward(points).argmax(axis=1) == label).all()


def test_bad_specifications_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = specification(tmp_path, 7)
    assert main(["repair", str(model), str(path)]) == 2
    assert f"{path}: tri: class 7 does not exist" in capsys.readouterr().err
    path.write_text("{")
    assert main(["repair", str(model), str(path)]) == 2
    assert "not JSON" in capsys.readouterr().err
    path.write_text("{}")
    assert main(["repair", str(model), str(path)]) == 2
    assert f"{path}: a specification" in capsys.readouterr().err
    assert main(["repair", str(model)]) == 2
    assert "--example" in capsys.readouterr().err
    assert main(["repair", "--example"]) == 0
    assert "requirements" in json.loads(capsys.readouterr().out)


def test_the_smallest_output_is_the_class_in_the_report_and_in_the_picture(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import verifier.report.repair as pictures

    shown: list[object] = []
    real = pictures.before_and_after

    def watched(rows: object, **options: object) -> object:
        shown.append(options["best"])
        return real(rows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "before_and_after", watched)
    network = verifier.load(model)
    label = int(np.argmax(network.forward([0.3, 0.3])))
    plane = {"origin": [0, 0], "u": [1, 0], "v": [0, 1], "polygon": [[0, 0], [1, 0], [0, 1]]}
    path = tmp_path / "smallest.json"
    area = {"area": {"polygon": [[0.2, 0.2], [0.4, 0.2], [0.2, 0.4]]}, "class": label}
    for data in (
        {"requirements": [{"region": plane, "class": label, "smallest": True, "margin": 0.01}]},
        {"map": plane, "relabel": [area], "smallest": True, "keep": False},
    ):
        path.write_text(json.dumps(data))
        out = tmp_path / "out"
        assert main(["repair", str(model), str(path), "--out", str(out), "--quiet"]) in (0, 3)
        repaired = verifier.load(out / "repaired.onnx").forward([0.25, 0.25])
        assert repaired.argmin() == label
    assert shown == [["min"], ["min"]]
    capsys.readouterr()
    assert main(["repair", "--schema"]) == 0
    assert "classRequirement" in json.loads(capsys.readouterr().out)["$defs"]


def test_a_misspelt_key_is_bad_input(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"requirements": [{"region": {"point": [0, 0]}, "class": 0, "margn": 1}]}))
    assert main(["repair", str(model), str(path)]) == 2
    assert f"{path}: requirement 0: the key 'margn' is not known (did you mean 'margin'?)" in capsys.readouterr().err


def test_a_property_is_repaired_until_it_is_proved(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The least output at (0.3, 0.3) must be the largest around it: proved of the network that is written."""
    network = verifier.load(model)
    label = int(np.argsort(network.forward([0.3, 0.3]))[-2])
    others = [k for k in range(3) if k != label]
    lines = [f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1", "Y_2")]
    lines += [f"(assert (>= X_{i} 0.29))\n(assert (<= X_{i} 0.31))" for i in range(2)]
    lines.append("(assert (or " + " ".join(f"(and (>= Y_{k} Y_{label}))" for k in others) + "))")
    path = tmp_path / "prop.vnnlib"
    path.write_text("\n".join(lines))
    out = tmp_path / "out"
    assert main(["repair", str(model), str(path), "--out", str(out), "--quiet", "--timeout", "60"]) == 0
    assert "REPAIRED" in capsys.readouterr().out
    repaired = verifier.load(out / "repaired.onnx")
    assert verifier.verify(verifier.read_vnnlib(path, network)).status.name == "VIOLATED"
    assert verifier.verify(verifier.read_vnnlib(path, repaired)).status.name == "HOLDS"
    assert json.loads((out / "report.json").read_text())["verdict"] == "HOLDS"
    assert main(["repair", str(model), str(path), "--soft", "1"]) == 2
