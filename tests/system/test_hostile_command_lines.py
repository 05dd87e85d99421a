"""Hostile command lines: every command against closed pipes, full disks, unwritable and missing files, wrong types.

Whatever happens, there is no traceback, and an exit status of a verdict (0, 1, 3, 4) only where the verdict was
delivered: else 2 (bad usage or input) or 5 (error), with one line on standard error.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verifier.cli import COMMANDS, main
from verifier.engines import registry
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx

ROOT = Path(__file__).resolve().parents[2]
PROPERTY = """(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 {low})) (assert (<= X_0 1)) (assert (>= X_1 {low})) (assert (<= X_1 1)) (assert (<= Y_0 Y_1))
"""
SALIENCY = "saliency net.onnx x.npy --epsilon 0.25 --delta 0.5"
ATTENTION = "attention image.onnx image.npy --perturb brightness:0:0.1 --delta 1000"
GOOD = {
    "verify": ("verify net.onnx holds.vnnlib", 0),
    "verify violated": ("verify net.onnx violated.vnnlib", 1),
    "verify --json": ("verify net.onnx violated.vnnlib --json", 1),
    "check-proof": ("check-proof proof.npz net.onnx holds.vnnlib", 0),
    "check-proof wrong": ("check-proof proof.npz net.onnx violated.vnnlib", 1),
    "robustness": ("robustness net.onnx x.npy --epsilon 1/4", 0),
    "robustness violated": ("robustness net.onnx y.npy --epsilon 1/4 --mean 0.5 --std 0.5", 1),
    "saliency": (SALIENCY, 0),
    "saliency --find": ("saliency net.onnx x.npy --epsilon 0.9 --find delta", 0),
    "certify": ("certify net.onnx data.npz --epsilon 1/64 --epsilon 0.5", 0),
    "explain --data": ("explain net.onnx data.npz --data --first 1 --epsilon 0.25", 0),
    "explain": ("explain net.onnx x.npy --epsilon 0.25 --ask features,lipschitz,influence", 0),
    "attention": (ATTENTION, 0),
    "attention of a constant": (
        f"{ATTENTION.replace('image.onnx', 'constant.onnx')} --no-clip --perturb contrast:0:9",
        0,
    ),
    "attention in areas": (f"{ATTENTION} --method areas --map smooth --samples 2 --threads 2", 0),
    "line": ("line net.onnx x.npy y.npy", 0),
    "plane": ("plane net.onnx x.npy y.npy z.npy", 0),
    "attribute": ("attribute net.onnx x.npy", 0),
    "repair": ("repair net.onnx specification.json", 0),
    "repair --example": ("repair --example", 0),
    "vnncomp": ("vnncomp report category --out done", 0),
    "inspect": ("inspect net.onnx", 0),
    "doctor": ("doctor", 0),
    "help": ("--help", 0),
    "help of a command": ("verify --help", 0),
    "version": ("--version", 0),
    "schema": ("--schema", 0),
}
"""Good command lines, at least one for each command, and their exit status."""

BAD: list[tuple[str, int]] = [
    # missing files
    ("verify missing.onnx holds.vnnlib", 2),
    ("verify net.onnx missing.vnnlib", 2),
    ("check-proof missing.npz net.onnx holds.vnnlib", 2),
    ("certify net.onnx missing.npz --epsilon 0.1", 2),
    ("certify net.onnx noise.bin --epsilon 0.1", 2),
    ("certify net.onnx data.npz --epsilon wide", 2),
    ("certify net.onnx data.npz --epsilon 0.1 --std 0", 2),
    ("certify net.onnx data.npz --epsilon 0.1 --first 99", 2),
    ("robustness net.onnx missing.npy --epsilon 0.1", 2),
    ("robustness net.onnx x.npy --epsilon 1/0", 2),
    ("robustness net.onnx x.npy --epsilon -1/255", 2),
    ("robustness net.onnx x.npy", 2),
    ("robustness net.onnx x.npy --epsilon 0.1 --std 0", 2),
    ("robustness net.onnx x.npy --epsilon 0.1 --mean 1 2 3", 2),
    ("robustness net.onnx x.npy --epsilon 0.1 --report page.pdf", 2),
    ("robustness net.onnx y.npy --epsilon 0.5 --report full.html", 5),
    ("saliency net.onnx missing.npy --epsilon 0.1 --delta 1", 2),
    ("attention image.onnx missing.npy --perturb brightness:0:0.1", 2),
    ("attention image.onnx image.npy --perturb blend:0:1,mask=missing.npy", 2),
    ("line net.onnx x.npy missing.npy", 2),
    ("plane net.onnx x.npy y.npy missing.npy", 2),
    ("attribute net.onnx missing.npy", 2),
    ("explain net.onnx missing.npy --epsilon 0.1", 2),
    ("explain net.onnx x.npy --ask lipschitz", 2),
    ("explain net.onnx x.npy --ask colours --epsilon 0.1", 2),
    ("explain net.onnx x.npy --epsilon 0.1 --label 7", 2),
    ("explain net.onnx x.npy --epsilon 0.1 --names a,b,c", 2),
    ("explain net.onnx x.npy --epsilon 0.1 --names a,a", 2),
    ("explain net.onnx x.npy --epsilon 0.1 --patch 2 --names a,b", 2),
    ("explain net.onnx x.npy --epsilon 0.1 --report folder", 2),
    ("explain net.onnx x.npy --epsilon 0.1 --ask stability --top-k 2", 2),
    ("attribute net.onnx x.npy --baseline missing.npy", 2),
    ("repair net.onnx missing.json", 2),
    ("vnncomp run missing", 2),
    ("vnncomp report category --out nothing-here", 2),
    ("inspect missing.onnx", 2),
    # a folder where a file is meant, and the other way round
    ("verify folder.onnx holds.vnnlib", 2),
    ("verify net.onnx folder", 2),
    ("line net.onnx x.npy folder", 2),
    ("repair net.onnx folder", 2),
    ("inspect folder.onnx", 2),
    ("vnncomp run net.onnx", 2),
    ("vnncomp run category --out net.onnx", 2),
    # contents of another kind
    ("verify noise.onnx holds.vnnlib", 2),
    ("verify net.onnx noise.bin", 2),
    ("verify x.npy holds.vnnlib", 2),
    ("check-proof x.npy net.onnx holds.vnnlib", 2),
    ("saliency net.onnx noise.bin --epsilon 0.1 --delta 1", 2),
    ("saliency net.onnx words.npy --epsilon 0.1 --delta 1", 2),
    ("saliency net.onnx long.npy --epsilon 0.1 --delta 1", 2),
    ("attention image.onnx words.npy --perturb brightness:0:0.1", 2),
    ("attention image.onnx bytes.npy --perturb brightness:0:0.1", 2),
    ("attention image.onnx long.npy --perturb brightness:0:0.1", 2),
    ("attention image.onnx nan.npy --perturb brightness:0:0.1", 2),
    ("attention net.onnx z.npy --perturb patch:0:1,top=0,left=0", 2),
    ("line net.onnx x.npy nan.npy", 2),
    ("plane net.onnx x.npy x.npy x.npy", 2),
    ("repair net.onnx noise.bin", 2),
    ("repair net.onnx deep.json", 2),
    ("repair net.onnx origin.json", 2),
    ("vnncomp run damaged", 2),
    ("vnncomp run no-column", 2),
    # numbers that are none, or out of range
    ("verify net.onnx holds.vnnlib --timeout soon", 2),
    ("verify net.onnx holds.vnnlib --timeout nan", 2),
    ("verify net.onnx holds.vnnlib --timeout inf", 2),
    ("verify net.onnx holds.vnnlib --seed -1", 2),
    ("verify net.onnx holds.vnnlib --threads 0", 2),
    ("verify net.onnx holds.vnnlib --memory -3", 2),
    ("saliency net.onnx x.npy --epsilon -1 --delta 1", 2),
    ("saliency net.onnx x.npy --epsilon nan --delta 1", 2),
    (f"{SALIENCY} --label 7", 2),
    (f"{SALIENCY} --domain 3", 2),
    (f"{SALIENCY} --map smooth --samples 0", 2),
    (f"{ATTENTION} --keep 0", 2),
    (f"{ATTENTION} --threads 0", 2),
    (f"{ATTENTION} --label 2", 2),
    (f"{ATTENTION} --perturb brightness:0.2:0.1", 2),
    (f"{ATTENTION} --perturb brightness:0:0", 2),
    (f"{ATTENTION} --perturb brightness:0:nan", 2),
    (f"{ATTENTION} --perturb brightness:0", 2),
    (f"{ATTENTION} --perturb fog:0:1", 2),
    (f"{ATTENTION} --perturb patch:0:1,top=5,left=0", 2),
    (f"{ATTENTION} --method areas --map smooth --sigma -1", 2),
    (f"{ATTENTION} --perturb rotation:0:1e400", 2),
    (f"{ATTENTION} --perturb patch:0:1,top=a,left=0", 2),
    ("plane net.onnx x.npy y.npy z.npy --memory 0", 2),
    ("attribute net.onnx x.npy --target 9", 2),
    ("attribute net.onnx x.npy --method left --steps 0", 2),
    ("repair net.onnx specification.json --soft -1", 2),
    ("vnncomp run category --sample 0", 2),
    ("vnncomp run category --workers 0", 2),
    ("doctor --timeout -1", 2),
    # unknown and contradictory options
    ("verify net.onnx holds.vnnlib --engine nope", 2),
    ("verify net.onnx holds.vnnlib --engine ,", 2),
    (f"{SALIENCY} --engine nope --find delta", 2),
    ("vnncomp run category --engine nope", 2),
    ("vnncomp run category --only nothing-like-it", 2),
    ("verify net.onnx holds.vnnlib --colour", 2),
    (f"{SALIENCY} --find delta", 2),
    (f"{SALIENCY} --steps 4", 2),
    (f"{SALIENCY} --top-k 3", 2),
    (f"{ATTENTION} --aspect label", 2),
    (f"{ATTENTION} --map integrated", 2),
    (f"{ATTENTION} --samples 3", 2),
    (f"{ATTENTION} --method areas --map integrated --seed 1", 2),
    (f"{ATTENTION} --smallest 0.1", 2),
    (f"{ATTENTION} --stream other-map", 2),
    (f"{ATTENTION} --method areas --stream other-map", 2),
    ("attribute net.onnx x.npy --method simpson", 2),
    ("attribute net.onnx x.npy --steps 7", 2),
    ("attribute net.onnx x.npy --layer nothing", 2),
    ("attribute net.onnx x.npy --layer dense_1 --method left", 2),
    ("repair net.onnx specification.json --method greedy --norm l1", 2),
    ("repair net.onnx specification.json --layer nothing", 2),
    ("repair", 2),
    ("nonsense", 2),
    ("", 2),
    ("vnncomp", 2),
    # files that cannot be written, known before the work
    ("verify net.onnx violated.vnnlib --witness no/such/w.npy", 2),
    ("verify net.onnx violated.vnnlib --witness folder.npy", 2),
    ("verify net.onnx violated.vnnlib --witness w.doc", 2),
    ("verify net.onnx holds.vnnlib --proof no/such/p.npz", 2),
    ("verify net.onnx holds.vnnlib --keep net.onnx", 2),
    (f"{SALIENCY} --picture no/such/p.png", 2),
    (f"{SALIENCY} --picture p.doc", 2),
    (f"{ATTENTION} --report no/such/map.html", 2),
    (f"{ATTENTION} --out map.doc", 2),
    (f"{ATTENTION} --stream net.onnx", 2),
    ("line net.onnx x.npy y.npy --out no/such/a.csv", 2),
    ("plane net.onnx x.npy y.npy z.npy --out a.doc", 2),
    ("attribute net.onnx x.npy --out folder.npy/x/a.npz", 2),
    ("repair net.onnx specification.json --out net.onnx/deeper", 2),
    # files on a disk that turns out to be full
    ("verify net.onnx violated.vnnlib --witness full.npy", 5),
    ("verify net.onnx holds.vnnlib --proof full.npz", 5),
    (f"{SALIENCY.replace('0.25', '0.9')} --picture full.png", 5),
    (f"{SALIENCY.replace('0.25', '0.9')} --find delta --witness full.npy".replace(" --delta 0.5", ""), 5),
    (f"{ATTENTION} --report full.html", 5),
    (f"{ATTENTION} --out full.csv", 5),
    (f"{ATTENTION} --out full.png", 5),
    ("line net.onnx x.npy y.npy --out full.csv", 5),
    ("line net.onnx x.npy y.npy --out full.json", 5),
    ("plane net.onnx x.npy y.npy z.npy --out full.npz", 5),
    ("attribute net.onnx x.npy --out full.png", 5),
]
"""Command lines that must fail, and how."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the command lines name."""
    folder = tmp_path_factory.mktemp("hostile")
    network = feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    write_onnx(network, folder / "net.onnx")
    rng = np.random.default_rng(0)
    image = feedforward([rng.normal(size=s) for s in ((3, 4), (2, 3))], [np.zeros(3), [5.0, 0.0]])
    write_onnx(image, folder / "image.onnx")
    (folder / "holds.vnnlib").write_text(PROPERTY.format(low=0.75))
    (folder / "violated.vnnlib").write_text(PROPERTY.format(low=0.25))
    for name, x in (("x", [1.0, 1.0]), ("y", [0.0, 1.0]), ("z", [0.0, 0.0]), ("nan", [1.0, np.nan])):
        np.save(folder / f"{name}.npy", np.array(x))
    np.savez(folder / "data.npz", images=np.array([[0.75, 0.25], [0.5, 0.4375]]), labels=np.array([0, 0]))
    np.save(folder / "long.npy", np.ones(3))
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.save(folder / "image.npy", np.full((2, 2), 0.5))
    np.save(folder / "bytes.npy", np.full((2, 2), 128.0))
    constant = feedforward([np.zeros((3, 4)), np.zeros((2, 3))], [np.zeros(3), [1.0, 0.0]])
    write_onnx(constant, folder / "constant.onnx")
    (folder / "noise.bin").write_bytes(bytes(range(128, 256)) * 8)
    (folder / "noise.onnx").write_bytes(bytes(range(256)))
    (folder / "deep.json").write_text("[" * 100_000)
    for name in ("folder", "folder.onnx", "folder.npy"):
        (folder / name).mkdir()
    for kind in ("npy", "npz", "png", "csv", "json", "html"):  # a link to a device on which nothing can be written
        (folder / f"full.{kind}").symlink_to("/dev/full")
    point = {"name": "a", "region": {"point": [0.5, 0.5]}, "class": 0, "margin": 0.5}
    (folder / "specification.json").write_text(json.dumps({"requirements": [point]}))
    triangle = {"origin": [0.0], "u": [1.0, 0.0], "v": [0.0, 1.0], "polygon": [[0, 0], [1, 0], [0, 1]]}
    (folder / "origin.json").write_text(json.dumps({"requirements": [{"region": triangle, "class": 0}]}))
    for name, rows in (("category", "../net.onnx,../holds.vnnlib,5\n"), ("damaged", "a,b\n")):
        (folder / name).mkdir()
        (folder / name / "instances.csv").write_text(rows)
    (folder / "other-map").mkdir()
    (folder / "other-map" / "map.json").write_text('{"delta": 7}')
    (folder / "no-column").mkdir()
    (folder / "no-column" / "instances.csv").write_text("../net.onnx,../holds.vnnlib,5\n")
    (folder / "no-column" / "tools.csv").write_text("tool@year,unsat,sat,total_time_solved_s\na@2023,1,1,3.0\n")
    with inside(folder):
        assert main(["verify", "net.onnx", "holds.vnnlib", "--proof", "proof.npz", "--quiet"]) == 0
        assert main(["vnncomp", "run", "category", "--out", "done", "--quiet"]) == 0
    return folder


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working folder, for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def status_of(words: str) -> int:
    """The exit status of a command line run in this process; any exception but argparse's leaving is a failure."""
    try:
        return main(words.split())
    except SystemExit as leaving:  # after --help and --version
        return int(leaving.code or 0)


def few_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `doctor` is quick."""
    monkeypatch.setattr(registry, "ENGINES", {"native": registry.ENGINES["native"]})


def test_there_is_a_good_line_for_every_command() -> None:
    assert set(COMMANDS) <= {line.split()[0] for line, _ in GOOD.values()}
    assert len(BAD) + 3 * len(GOOD) > 100


@pytest.mark.parametrize("name", GOOD)
def test_good_lines_are_good(
    files: Path, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other tests spoil works when nothing spoils it."""
    words, status = GOOD[name]
    if name == "doctor":
        few_engines(monkeypatch)
    with inside(files):
        assert status_of(words) == status
    printed = capfd.readouterr()
    assert printed.out
    assert "error" not in printed.err


@pytest.fixture(scope="module")
def validator() -> Any:
    """Says whether an object is of the published form."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((ROOT / "verifier" / "data" / "result.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


NO_JSON = ("--help", "verify --help", "--version", "--schema")


@pytest.mark.parametrize("name", [name for name in GOOD if GOOD[name][0] not in NO_JSON])
def test_json_of_every_command_is_of_the_published_form(
    files: Path, name: str, validator: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, status = GOOD[name]
    words += "" if "--json" in words else " --json"
    if name == "doctor":
        few_engines(monkeypatch)
    with inside(files):
        assert status_of(words) == status
        record = json.loads(capfd.readouterr().out)
        validator.validate(record)
        assert record["exit_status"] == status
        assert record["command"] == words.split()[0]
        assert record["arguments"] == words.split()
        assert record["error"] is None
        if "net.onnx" in words.split()[:3]:
            assert record["model"]["sha256"] == hashlib.sha256(Path("net.onnx").read_bytes()).hexdigest()
            assert record["model"]["input_shape"] in ([2], None)
        for file in (record["question"] or {"files": []})["files"]:
            assert file["sha256"] == hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest()


@pytest.mark.parametrize(("words", "status"), [(words, status) for words, status in BAD if words])
def test_errors_are_json_too(
    files: Path, words: str, status: int, validator: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with inside(files):
        assert status_of(f"{words} --json") == status
    printed = capfd.readouterr()
    record = json.loads(printed.out)
    validator.validate(record)
    assert record["exit_status"] == status
    assert record["error"]["problem"] in " ".join(printed.err.split()) or record["error"]["problem"] in printed.err


@pytest.mark.parametrize(("words", "status"), BAD)
def test_bad_lines_say_why_in_one_line(
    files: Path, words: str, status: int, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    with inside(files):
        assert status_of(words) == status
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("verifier: error: ")]
    assert len(said) == 1
    assert "unexpected" not in said[0]
    made = {path for path in files.rglob("*") if path not in before and path.parent != files / "done"}
    assert not made, "nothing half-written is left"


def closed_pipe() -> io.TextIOWrapper:
    """A stream whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full_device() -> io.TextIOWrapper:
    """A stream on a full disk."""
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("spoiled", [closed_pipe, full_device])
@pytest.mark.parametrize("name", GOOD)
def test_an_answer_that_is_not_delivered_is_no_verdict(
    files: Path,
    name: str,
    spoiled: Callable[[], io.TextIOWrapper],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, _ = GOOD[name]
    if name == "doctor":
        few_engines(monkeypatch)
    with inside(files), monkeypatch.context() as changes:
        changes.setattr(sys, "stdout", spoiled())
        assert status_of(words) == 5
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("verifier: error: ")]
    assert len(said) == 1
    assert "standard output" in said[0]


@pytest.mark.parametrize("name", GOOD)
def test_a_terminal_of_ascii_gets_the_whole_answer(files: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, status = GOOD[name]
    if name == "doctor":
        few_engines(monkeypatch)
    out, err = (io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2))
    with inside(files), monkeypatch.context() as changes:
        changes.setattr(sys, "stdout", out)
        changes.setattr(sys, "stderr", err)
        assert status_of(words) == status
    assert out.buffer.getvalue()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_cannot_be_finished_leaves_the_old_file(
    files: Path, error: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = files / "kept.npy"
    kept.write_bytes(b"old")

    def fails(_: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fails)
    with inside(files):
        assert status_of("verify net.onnx violated.vnnlib --witness kept.npy") == 5
    assert kept.read_bytes() == b"old"
    assert [path.name for path in files.iterdir() if "kept" in path.name] == ["kept.npy"]
    assert f"kept.npy: cannot be written: {os.strerror(error)}" in capfd.readouterr().err
    kept.unlink()


@pytest.mark.parametrize(
    ("redirection", "status"),
    [("", 1), (">/dev/full", 5), (">&-", 1), ("2>&-", 1), ("2>/dev/full", 1), (">/dev/null 2>&1", 1)],
)
def test_from_a_shell(files: Path, redirection: str, status: int) -> None:
    """The interpreter's own end does not change the exit status."""
    line = f"'{sys.executable}' -m verifier verify net.onnx violated.vnnlib {redirection}"
    done = subprocess.run(["bash", "-c", line], cwd=files, capture_output=True, text=True, timeout=120)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_from_a_shell_into_a_pipe_that_is_closed(files: Path) -> None:
    line = f"'{sys.executable}' -m verifier verify net.onnx violated.vnnlib | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=files, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "standard output: its reader left" in done.stderr
    assert "Traceback" not in done.stderr


def test_from_a_shell_that_speaks_ascii(files: Path) -> None:
    words = [sys.executable, "-m", "verifier", *SALIENCY.replace("0.25", "0.9").split()]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(words, cwd=files, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert b"VIOLATED" in done.stdout
    assert b"Traceback" not in done.stderr


def test_an_unexpected_error_is_one_line_and_no_verdict(
    files: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of something")

    monkeypatch.setattr("verifier.api.verify", broken)
    monkeypatch.setattr("verifier.verify", broken, raising=False)
    with inside(files):
        assert status_of("verify net.onnx holds.vnnlib --quiet") == 5
        printed = capfd.readouterr()
        assert printed.err.startswith("verifier: error: unexpected ZeroDivisionError")
        assert len(printed.err.splitlines()) == 1
        assert status_of("--traceback verify net.onnx holds.vnnlib --quiet") == 5
        assert "Traceback" in capfd.readouterr().err
