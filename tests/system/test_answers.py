"""What a user gets from the deciding commands: pictures in, counterexamples out, tables, pages, what to try next."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import verifier
from verifier import compiled
from verifier.cli import COMMANDS, main
from verifier.vnncomp.answer import read_counterexample

sys.path.insert(0, str(Path(__file__).parents[1]))
import browser

NETWORKS = Path(__file__).resolve().parents[2] / "benchmarks" / "networks"
MEAN, STD = 0.25, 0.5
GREY = (np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 1 × 8 × 8 images, given (x - 1/4) / (1/2), that says which half is brighter; a picture; a property."""
    where = tmp_path_factory.mktemp("answers")
    from verifier.network.graph import NetworkBuilder
    from verifier.network.operators import Dense, Reshape
    from verifier.network.piecewise import relu

    builder = NetworkBuilder((1, 8, 8))
    builder.add(Reshape((64,)))
    halves = np.kron(np.eye(2), np.ones(32)) / 32
    builder.add(Dense(halves, np.ones(2)))
    builder.add(relu())
    builder.add(Dense(np.eye(2), np.zeros(2)))
    verifier.write_onnx(builder.build(), where / "net.onnx")
    Image.fromarray(GREY).save(where / "grey.png")
    np.save(where / "grey.npy", GREY)
    np.savetxt(where / "grey.csv", GREY, delimiter=",", fmt="%d")
    names = (
        "".join(f"(declare-const X_{k} Real)\n" for k in range(64))
        + "(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
    )
    box = "".join(f"(assert (>= X_{k} 0))(assert (<= X_{k} 1))\n" for k in range(64))
    (where / "brighter.vnnlib").write_text(names + box + "(assert (>= Y_0 Y_1))\n")
    (where / "never.vnnlib").write_text(names + box + "(assert (>= Y_0 5))\n")
    return where


def json_of(capsys: pytest.CaptureFixture[str], *words: object, code: int) -> dict:
    assert main([str(word) for word in (*words, "--json", "--quiet")]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["png", "npy", "csv"])
def test_robustness_of_a_picture_in_its_own_units(
    folder: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The halves' means differ by 32 · 4 grey values: a radius of 63/255 holds, one of 64/255 (a tie) does not."""
    scale = ["--scale", "255"] if kind == "csv" else []
    words = [
        "robustness",
        folder / "net.onnx",
        folder / f"grey.{kind}",
        "--mean",
        MEAN,
        "--std",
        STD,
        "--domain=none",
        *scale,
    ]
    assert json_of(capsys, *words, "--epsilon", "63/255", code=0)["verdict"] == "holds"
    witness = tmp_path / "w.npy"
    found = json_of(capsys, *words, "--epsilon", "65/255", "--witness", witness, code=1)
    assert found["question"]["files"][0]["read_as"].endswith("divided by 255, minus 0.25, over 0.5 for the network")
    kept = np.load(witness)
    assert kept.shape == (1, 8, 8)
    np.testing.assert_allclose(kept.reshape(-1), found["result"]["witness"]["data"])
    assert np.abs(kept.reshape(8, 8) - GREY / 255).max() <= 65 / 255 + 1e-9
    given = (kept - MEAN) / STD
    np.testing.assert_allclose(given.reshape(-1), found["result"]["witness"]["input"], atol=1e-12)
    assert main([str(w) for w in (*words, "--epsilon", "65/255")]) == 1
    printed = capsys.readouterr()
    assert "(before --mean and --std)" in printed.out
    assert "largest: output" in printed.out or "equal" in printed.out
    assert "divided by 255, minus 0.25, over 0.5 for the network" in printed.err


def test_all_commands_with_inputs_read_pictures_with_mean_and_std(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--mean", MEAN, "--std", STD]
    net, picture = folder / "net.onnx", folder / "grey.png"
    np.save(folder / "black.npy", np.zeros((8, 8), dtype=np.uint8))
    whole = verifier.load(net)
    x, black = (((a.reshape(-1) / 255) - MEAN) / STD for a in (GREY, np.zeros((8, 8))))
    found = json_of(capsys, "attribute", net, picture, "--baseline", folder / "black.npy", *shared, code=0)["result"]
    assert found["change"] == pytest.approx(float((whole(x) - whole(black))[1]))
    found = json_of(capsys, "line", net, folder / "black.npy", picture, *shared, code=0)["result"]
    assert found["length"] == pytest.approx(np.linalg.norm(x - black))
    found = json_of(capsys, "saliency", net, picture, "--epsilon", "1/255", "--delta", "1", *shared, code=0)
    assert "within L∞ distance 1/255" in found["question"]["text"]
    found = json_of(
        capsys, "saliency", net, picture, "--find", "epsilon", "--delta", "1", "--domain=none", *shared, code=0
    )["result"]
    assert found["holds_up_to"] < 64 / 255 <= found["refuted_from"]  # in the data's units
    assert found["refuted_from"] - found["holds_up_to"] < 2e-3
    np.savez(folder / "data.npz", images=GREY[None], labels=[1])
    found = json_of(
        capsys, "certify", net, folder / "data.npz", "--epsilon", "63/255", "--epsilon", "65/255", "--domain=none", *shared,
        code=0,
    )["result"]  # fmt: skip
    assert found["certified"] == {"63/255": 1.0, "65/255": 0.0}
    words = ("explain", net, picture, "--ask", "lipschitz", "--epsilon", "1/255", *shared)
    found = json_of(capsys, *words, code=0)["result"]
    assert found["lipschitz"]["at_most"] == pytest.approx(1 / STD, rel=0.02)
    found = json_of(capsys, "attention", net, picture, "--perturb", "brightness:0:0.001", *shared, code=0)
    assert found["verdict"] == "holds"
    assert found["result"]["verdicts"]["label"]["answer"] == "Robust"


def test_a_witness_in_the_competition_s_format(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.txt"
    found = json_of(capsys, "verify", folder / "net.onnx", folder / "brighter.vnnlib", "--witness", path, code=1)
    x, y = read_counterexample(path.read_text())
    assert x.tolist() == found["result"]["witness"]["input"]
    assert y.tolist() == found["result"]["witness"]["output"]
    assert found["result"]["witness"]["shape"] == [1, 8, 8]


def test_several_engines_answer_in_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "verify",
        str(folder / "net.onnx"),
        str(folder / "never.vnnlib"),
        "--engine",
        "highs,z3",
        "--compare",
        "--no-prepass",
    ]
    assert main([*words, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(k for k, line in enumerate(lines) if line.split()[:3] == ["engine", "answer", "seconds"])
    rows = {line.split()[0]: line.split() for line in lines[head + 1 : head + 3]}
    assert set(rows) == {"highs", "z3"}
    assert {row[1] for row in rows.values()} == {"proved"}
    assert {row[-1] for row in rows.values()} <= {"numerical", "exact", "rigorous"}
    assert lines[0].startswith("HOLDS: proved in exact arithmetic, by z3"), "the strongest proof counts"


def test_a_time_out_says_how_far_it_came_and_what_to_try() -> None:
    """The last progress of each stage is told."""
    from verifier.commands.verdicts import as_record, in_words
    from verifier.events import Progress
    from verifier.options import Options
    from verifier.pipeline import PipelineSettings, Question
    from verifier.verdict import Status

    network = verifier.feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])
    told: list[object] = []
    question = Question(verifier.robustness(network, [0.6, 0.5], 0.1), Options(), [], told.append, PipelineSettings())
    for done in (10, 70):
        question.listener(Progress(seconds=0.5, stage="solve", done=done, unit="boxes", left=5, bound=-0.25))
    verdict = question.answer(Status.TIMEOUT, stage="solve", reason="the time was over")
    assert len(told) == 2
    assert verdict.progress == "solve: 70 boxes, 5 left, bound -0.25"
    text = in_words(verdict, "")
    assert "how far it came: solve: 70 boxes, 5 left, bound -0.25" in text
    assert "to try next: a longer --timeout" in text
    assert as_record(verdict)["progress"] == verdict.progress


def hard() -> verifier.Network:
    """Outputs (0.01, f - f) with f computed twice by different weights: that the second is never larger is hard to prove."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(40, 10)), rng.normal(size=(40, 40)) / 6
    last = np.zeros((2, 80))
    last[1, :40], last[1, 40:] = 1.0, -0.5
    weights = [first, np.concatenate([second, 2 * second]), last]
    return verifier.feedforward(weights, [np.full(40, -0.1), np.zeros(80), np.array([0.01, 0.0])])


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["native", "saliency", "maps", "z3", "cvc5", "yices", "marabou", "highs", "z3,native"]
)
def test_every_engine_says_how_far_it_came(engine: str) -> None:
    from verifier.commands.verdicts import in_words
    from verifier.engines import registry
    from verifier.verdict import Status

    if not all(registry.get(name).availability().installed for name in engine.split(",")):
        pytest.skip(f"{engine} is not installed")
    x = np.full(10, 0.5)
    if engine in ("saliency", "maps"):
        how = {"map": "absolute" if engine == "maps" else "gradient"}
        query = verifier.saliency_robustness(hard(), x, epsilon=0.5, delta=100.0, **how)
    else:
        query = verifier.robustness(hard(), x, 0.5)
    verdict = verifier.verify(query, engine=engine, timeout=1.5, prepass=False)
    assert verdict.status is Status.TIMEOUT
    assert "seconds, " not in verdict.progress, "that time passes is no progress"
    for name in engine.split(","):
        assert f"{name}: " in verdict.progress
    text = in_words(verdict, "")
    assert f"how far it came: {verdict.progress}" in text
    own = "--engine auto" in text
    assert own == (not set(engine.split(",")) & {"native", "saliency", "maps"})


def test_former_words_are_taken_and_the_present_ones_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the deprecation policy says: what was renamed still works, with a line that says how it is written now."""
    net, picture, page = str(folder / "net.onnx"), str(folder / "grey.png"), str(tmp_path / "map.html")
    ball, tiny = ["--epsilon", "1/255", "--delta", "1", "--quiet"], ["--perturb", "brightness:0:0.001", "--quiet"]
    for words, former in (
        (["saliency", net, "--input", picture, *ball], "--input is an old name"),
        (["saliency", *ball, net, f"--input={picture}"], "--input is an old name"),
        (["attention", "--image", picture, net, *tiny, "--report", page], "--image is an old name"),
        (["attention", net, picture, *tiny, "--out", page], "write --report FILE.html"),
    ):
        assert main(words) == 0, words
        assert former in capsys.readouterr().err
    assert main(["saliency", net, picture, *ball]) == 0
    assert capsys.readouterr().err == ""
    assert main(["saliency", net, "--input"]) == 2
    assert "INPUT" in capsys.readouterr().err


def test_one_form_of_a_domain_in_every_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, picture = str(folder / "net.onnx"), str(folder / "grey.png")
    np.save(tmp_path / "data.npy", GREY)
    for words in (
        ["certify", net, str(tmp_path / "data.npy"), "--epsilon", "1/255"],
        ["explain", net, picture, "--ask", "influence", "--epsilon", "1/255"],
        ["robustness", net, picture, "--epsilon", "1/255"],
    ):
        assert main([*words, "--domain=-1,2", "--quiet"]) == 0, words
        assert main([*words, "--domain=0", "--quiet"]) == 2, words
        assert "write --domain=0,1" in capsys.readouterr().err


def test_a_folder_given_as_a_model_gets_a_helpful_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robustness", str(folder), str(folder / "grey.png"), "--epsilon", "0.1"]) == 2
    said = capsys.readouterr().err
    assert "is a folder" in said
    assert "net.onnx" in said  # the models in it are named


def test_completion_knows_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="shtab is not installed")
    with pytest.raises(SystemExit) as leaving:
        main(["--completion", "bash"])
    assert not leaving.value.code
    script = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in script] == []
    assert "--epsilon" in script


def test_what_a_command_leaves_open_is_said_with_what_to_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, data = str(tmp_path / "hard.onnx"), str(tmp_path / "x.npy")
    verifier.write_onnx(hard(), net)
    np.save(data, np.full((1, 10), 0.5))
    for words, advice in (
        (["certify", net, data, "--epsilon", "0.5", "--timeout", "0.3"], "a longer --timeout for each question"),
        (["saliency", net, data, "--find", "delta", "--epsilon", "0.5", "--timeout", "0.5"], "a longer --timeout"),
        (["explain", net, data, "--each", "0.2", "--timeout", "0.5"], "a longer --each"),
    ):
        assert main([*words, "--quiet"]) == 3, words
        assert f"to try next: {advice}" in capsys.readouterr().out
        assert main([*words, "--quiet", "--json"]) == 3, words
        assert json.loads(capsys.readouterr().out)["result"]["next"].startswith(advice)


def test_kernels_are_compiled_off_the_clock_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first threshold after an installation was a time-out."""
    slept: list[float] = []
    monkeypatch.setattr(compiled, "ensure_engines", lambda *_: slept or slept.append(3.0) or time.sleep(3.0))
    (tmp_path / "x.txt").write_text("1 1 0 1 1")
    words = ["saliency", str(NETWORKS / "bandit.onnx"), str(tmp_path / "x.txt"), "--epsilon", "1", "--find", "delta"]
    assert main([*words, "--timeout", "3", "--quiet"]) in (0, 3)
    assert slept


needs_browser = pytest.mark.skipif(browser.chromium() is None, reason="no Chromium is installed")


def pages(folder: Path, where: Path) -> dict[str, Path]:
    """A page of each kind, as the commands write them."""
    net, picture = str(folder / "net.onnx"), str(folder / "grey.png")
    shared = ["--quiet"]
    np.savez(where / "data.npz", images=np.stack([GREY, GREY[::-1], GREY.T]), labels=[1, 0, 1])
    (where / "category").mkdir()
    (where / "category" / "instances.csv").write_text(
        f"{net},{folder / 'brighter.vnnlib'},20\n{net},{folder / 'never.vnnlib'},20\n"
    )
    (where / "category" / "tools.csv").write_text(
        "tool@year,unsat,sat,wrong,total_time_solved_s\nfirst@2023,1,1,0,3.0\n"
    )
    spec = {
        "requirements": [{"name": "as it is", "region": {"points": [(GREY / 255).reshape(-1).tolist()]}, "class": 0}]
    }
    (where / "spec.json").write_text(json.dumps(spec))
    made = {
        "robustness": (["robustness", net, picture, "--epsilon", "0.3", "--report", "{}"], 1),
        "saliency": (["saliency", net, picture, "--epsilon", "0.3", "--delta", "1", "--report", "{}"], 1),
        "threshold": (["saliency", str(NETWORKS / "bandit.onnx"), str(where / "x.txt"), "--epsilon", "1", "--find", "delta", "--report", "{}"], 0),
        "explain": (["explain", net, picture, "--ask", "features,influence", "--epsilon", "0.3", "--report", "{}"], 0),
        "holds": (["verify", net, str(folder / "never.vnnlib"), "--report", "{}"], 0),
        "attention": (["attention", net, picture, "--perturb", "brightness:0:0.2", "--perturb", "translation:0:1", "--delta", "0.0001", "--report", "{}"], 1),
        "areas": (["attention", net, picture, "--perturb", "brightness:0:0.2", "--method", "areas", "--report", "{}"], 0),
        "certify": (["certify", net, str(where / "data.npz"), "--epsilon", "1/255", "--epsilon", "0.3", "--report", "{}"], 0),
        "repair": (["repair", net, str(where / "spec.json"), "--data", str(where / "data.npz"), "--out", str(where / "repaired")], 0),
    }  # fmt: skip
    (where / "x.txt").write_text("1 1 0 1 1")
    found = {}
    for name, (words, status) in made.items():
        path = where / "repaired" / "report.html" if name == "repair" else where / f"{name}.html"
        assert main([*(word.format(path) for word in words), *shared]) == status, name
        found[name] = path
    assert main(["vnncomp", "run", str(where / "category"), "--out", str(where / "out"), "--quiet"]) == 0
    found["vnncomp"] = where / "out" / "summary.html"
    return found


@needs_browser
@pytest.mark.slow
def test_pages_in_a_real_browser(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the width of a desk and of a phone: nothing overflows, pictures have words, text can be read, no error."""
    found = pages(folder, tmp_path)
    assert len(found) == 10
    texts = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    assert [name for name, text in texts.items() if "http" in text] == [], "needs the network"
    for width in (1280, 390):
        for name, seen in zip(texts, browser.look(list(texts.values()), width, tmp_path), strict=True):
            where = f"{name} at {width}"
            assert seen["console"] == [], where
            assert seen["scroll"] <= width, where
            assert seen["wide"] == [], where
            assert seen["faint"] == [], where
            assert seen["broken"] == seen["nameless"] == 0, where
            assert seen["images"] >= (0 if name == "holds" else 1), where
            assert (seen["headings"], seen["language"]) == (1, "en"), where
            assert seen["text"] > 300, where


@needs_browser
@pytest.mark.slow
def test_the_browser_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = (
        '<!doctype html><html lang="en"><body style="margin:0"><h1>x</h1><img src="data:image/png;base64,AAAA">'
        '<p style="color:#ccc">faint</p><div style="width:900px">wide</div><script>console.error("no")</script></body></html>'
    )
    (seen,) = browser.look([bad], 390, tmp_path)
    assert seen["scroll"] >= 900
    assert seen["wide"]
    assert len(seen["faint"]) == 1
    assert seen["broken"] == seen["nameless"] == 1
    assert any("no" in line for line in seen["console"])
