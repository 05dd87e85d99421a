"""``check-proof`` on damaged files: one line and exit status 2 (or 1, where the file can be read and proves nothing)."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verifier.cli import main
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.proofs.proof import ProofError, _digest, load_proof

Files = tuple[bytes, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A right proof's bytes, and the folder of its network and property."""
    folder = tmp_path_factory.mktemp("proof")
    rng = np.random.default_rng(0)
    net = feedforward([rng.normal(size=(24, 2)), rng.normal(size=(2, 24))], [rng.normal(size=24), np.zeros(2)])
    write_onnx(net, folder / "n.onnx")
    lines = [f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1")]
    lines += [f"(assert (>= X_{k} -1)) (assert (<= X_{k} 1))" for k in range(2)]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * 2), axis=-1).reshape(-1, 2)
    most = float(net.forward(grid)[:, 0].max()) + 0.05
    (folder / "p.vnnlib").write_text("\n".join([*lines, f"(assert (>= Y_0 {most}))"]))
    assert main(["verify", str(folder / "n.onnx"), str(folder / "p.vnnlib"), "--proof", str(folder / "ok")]) == 0
    assert len(load_proof(folder / "ok").divided)
    return (folder / "ok").read_bytes(), folder


def check(data: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    (folder / "bad").write_bytes(data)
    capsys.readouterr()
    code = main(["check-proof", str(folder / "bad"), str(folder / "n.onnx"), str(folder / "p.vnnlib")])
    shown = capsys.readouterr()
    return code, (shown.out + shown.err).strip().splitlines()


def rewritten(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """The file with other arrays and another header, its digests right again."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(arrays.pop("header").tobytes())
    change(arrays, header)
    if isinstance(header.get("arrays"), dict):
        header["arrays"] = {name: _digest(array) for name, array in arrays.items()}
    out = io.BytesIO()
    np.savez_compressed(out, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    return out.getvalue()


def test_bytes_that_were_lost_or_changed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = files
    codes = []
    for seed in range(150):
        rng = random.Random(seed)
        damaged = bytearray(data)
        if seed % 3 == 0:
            for _ in range(rng.choice([1, 2, 50])):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        elif seed % 3 == 1:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            at = rng.randrange(len(damaged))
            damaged[at:at] = rng.randbytes(rng.randrange(1, 100))
        code, lines = check(bytes(damaged), folder, capsys)
        codes.append(code)
        assert code in (0, 2), lines  # 0: bytes between the parts, which nothing reads
        assert code == 0 or len(lines) <= 2
    assert codes.count(2) > 100


def _damages() -> dict[str, Callable[[dict[str, Any], dict[str, Any]], None]]:
    found: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
        "operators None": lambda a, h: h.update(operators=None),
        "operators numbers": lambda a, h: h.update(operators=[1, 2]),
        "network a list": lambda a, h: h.update(network=[]),
        "arrays a number": lambda a, h: h.update(arrays=3),
        "deep header": lambda a, h: h.update(format=[[]]),
    }

    def of_array(change: Callable[[Any], Any], name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
        return lambda arrays, header: arrays.update({name: change(arrays[name])})

    for name in ("rows_of_start", "terms_start", "case_of", "divided", "weights_start", "low", "y_rows"):
        found[f"{name} empty"] = of_array(lambda a: a[:0], name)
        found[f"{name} of no dimension"] = of_array(lambda a: np.zeros((), dtype=a.dtype), name)
        found[f"{name} of one more dimension"] = of_array(lambda a: a[None], name)
    return found


@pytest.mark.parametrize("name", _damages())
def test_arrays_that_make_no_sense(name: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = files
    code, lines = check(rewritten(data, _damages()[name]), folder, capsys)
    assert code in (1, 2), lines
    assert len(lines) <= 2
    if "dimension" in name or "operators" in name:
        assert code == 2


def test_what_a_reader_raises_is_a_damaged_file(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p"
    path.write_bytes(files[0])
    for error in (RuntimeError("a"), MemoryError(), RecursionError("c"), TypeError(""), IndexError("e\nf")):

        def broken(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(np, "load", broken)
        with pytest.raises(ProofError, match="damaged"):
            load_proof(path)
