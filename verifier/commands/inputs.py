"""Inputs of networks, read from files."""

from __future__ import annotations

import argparse
import io
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from verifier.commands.console import say
from verifier.errors import InputError
from verifier.files import reading
from verifier.network.graph import Network
from verifier.network.operators import Array


def load_model(args: argparse.Namespace, ordered: bool = False) -> Network:
    """The network that `verifier.commands.arguments.add_model` describes; ``ordered`` is that of `verifier.load`.

    Raises:
        NetworkError: as `verifier.load`.
    """
    from verifier.network.loading import load

    return load(args.model, args.input_shape, check=args.check_model, ordered=ordered)


def read_array(path: Path) -> Array:
    """A float64 array from a ``.npy`` or ``.npz`` file (of one array), or numbers in text: see `_read`.

    Raises:
        InputError: naming the file, if it is missing, no numbers, or not finite.
    """
    return np.asarray(_read(path), dtype=np.float64)


def read_inputs(path: Path, network: Network, scale: float | None = None) -> Array:
    """One or more inputs of a network from a file, ``(count, n)``: arrays, text, or a picture (.png).

    Args:
        scale: the numbers are divided by it; None: by 255 if they are 8-bit pixels, else by nothing.

    Raises:
        InputError: naming the file, if its numbers are not whole inputs, or look like pixels and nothing says so.
    """
    numbers = _picture(path, network) if path.suffix.lower() == ".png" else _read(path)
    if not numbers.size or numbers.size % network.input_size:
        raise InputError(
            f"holds {numbers.size} numbers, but an input of the network has {network.input_size}", place=str(path)
        )
    if scale is None and numbers.dtype == np.uint8:
        scale = 255.0
        say(f"{path}: 8-bit pixels, divided by 255 (--scale 1: not)")
    elif scale is None and _looks_like_pixels(numbers):
        raise InputError(
            "its numbers look like pixels of 0 to 255",
            place=str(path),
            fix="--scale 255 for a network of inputs in [0, 1], --scale 1 for one of inputs in [0, 255]",
        )
    return np.asarray(numbers, dtype=np.float64).reshape(-1, network.input_size) / (scale or 1.0)


def read_input(path: Path, network: Network, scale: float | None = None) -> Array:
    """A single input, ``(n,)``: see `read_inputs`."""
    inputs = read_inputs(path, network, scale)
    if len(inputs) != 1:
        raise InputError(f"holds {len(inputs)} inputs, one is wanted", place=str(path))
    return inputs[0]


def _read(path: Path) -> np.ndarray[Any, Any]:
    """An array of finite numbers, of the type that the file says."""
    try:
        with reading(path):
            data = path.read_bytes()
        if path.suffix in (".npy", ".npz"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if not isinstance(array, np.ndarray):
                names = array.files
                if len(names) != 1:
                    raise InputError(f"holds {len(names)} arrays, one is wanted", place=str(path))
                array = array[names[0]]
            array = array if array.dtype.kind in "biuf" else array.astype(np.float64)
        else:
            array = np.array([float(word) for word in data.decode().replace(",", " ").split()])
    except InputError:
        raise
    except (ValueError, TypeError, EOFError, tokenize.TokenError, zipfile.BadZipFile) as error:
        raise InputError(
            f"not an array of numbers: {error}", place=str(path), fix="expected .npy, .npz, or numbers in a text file"
        ) from None
    if not np.isfinite(array).all():
        raise InputError("contains NaN or infinity", place=str(path))
    return array


def _picture(path: Path, network: Network) -> np.ndarray[Any, Any]:
    """A picture's 8-bit pixels, channels first, grey or in colours as the network's input has channels."""
    from PIL import Image, UnidentifiedImageError

    shape = network.input_shape
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    channels = shape[0] if len(shape) == 3 else 1
    if channels not in modes:
        raise InputError(f"a picture for a network with {channels} channels", place=str(path), fix="give an array")
    try:
        with reading(path), Image.open(path) as image:
            pixels = np.asarray(image.convert(modes[channels]))
    except UnidentifiedImageError:
        raise InputError("is no picture", place=str(path)) from None
    if len(shape) >= 2 and pixels.shape[:2] != shape[-2:]:
        size, wanted = ("×".join(map(str, s)) for s in (pixels.shape[:2], shape[-2:]))
        raise InputError(f"a picture of {size} pixels for a network of {wanted}", place=str(path), fix="resize it")
    return pixels if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _looks_like_pixels(numbers: np.ndarray[Any, Any]) -> bool:
    """Whether these are many whole numbers between 0 and 255, most of which inputs in [0, 1] cannot be."""
    whole = numbers.size >= 64 and bool((numbers == np.rint(numbers)).all())
    return whole and float(numbers.min()) >= 0 and 8 < float(numbers.max()) <= 255
