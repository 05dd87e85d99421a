"""Inputs from files: pictures and 8-bit arrays are scaled and said to be, numbers that look like pixels are refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import verifier
from verifier.cli import main
from verifier.commands.inputs import Reader
from verifier.network.graph import Network
from verifier.network.onnx_writer import write_onnx


def network(shape: tuple[int, ...]) -> Network:
    from verifier.network.graph import NetworkBuilder
    from verifier.network.operators import Dense, Reshape

    builder = NetworkBuilder(shape)
    n = int(np.prod(shape))
    builder.add(Reshape((n,)))
    builder.add(Dense(np.eye(2, n), np.zeros(2)))
    return builder.build()


def read_input(path: Path, of: Network, scale: float | None = None) -> np.ndarray:
    """A single input as the commands read it."""
    return Reader(argparse.Namespace(scale=scale, mean=None, std=None), of).input(path)


GREY = (np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)
COLOURS = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)


def test_a_grey_and_a_coloured_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(COLOURS).save(tmp_path / "colours.png")
    found = read_input(tmp_path / "grey.png", network((1, 8, 8)))
    assert (found == GREY.reshape(-1) / 255.0).all()
    assert "divided by 255" in capsys.readouterr().err
    found = read_input(tmp_path / "colours.png", network((3, 8, 8)), 1.0)
    assert (found.reshape(3, 8, 8) == np.moveaxis(COLOURS, -1, 0)).all()
    assert capsys.readouterr().err.endswith("8 × 8 8-bit pixels as they are\n")
    with pytest.raises(verifier.InputError, match="8×8 pixels for a network of 4×16"):
        read_input(tmp_path / "grey.png", network((1, 4, 16)))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_an_array_of_bytes_is_one_of_pixels(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, GREY)
    else:
        np.savez(path, image=GREY)
    assert (read_input(path, network((1, 8, 8))) == GREY.reshape(-1) / 255.0).all()
    assert "divided by 255" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["attribute", "line", "plane", "saliency"])
def test_numbers_that_look_like_pixels_are_refused_until_it_is_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pixels, other, third = (str(tmp_path / name) for name in ("net.onnx", "x.npy", "y.npy", "z.npy"))
    write_onnx(network((1, 8, 8)), model)
    np.save(pixels, GREY.astype(np.float32))
    np.save(other, np.zeros(64))
    np.save(third, GREY.T.astype(np.float64))
    words = {
        "attribute": ["attribute", model, pixels],
        "line": ["line", model, pixels, other],
        "plane": ["plane", model, pixels, other, third],
        "saliency": ["saliency", model, pixels, "--epsilon", "0.01", "--delta", "1"],
    }[command]
    assert main([*words, "--quiet"]) == 2
    assert "look like pixels of 0 to 255 (--scale 255" in capsys.readouterr().err
    assert main([*words, "--quiet", "--scale", "255"]) in (0, 1)
