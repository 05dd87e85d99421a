"""Inputs of networks, read from files."""

from __future__ import annotations

import argparse
import io
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from verifier.commands.arguments import IMAGES, LABELS
from verifier.commands.console import say
from verifier.errors import InputError
from verifier.files import reading
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.normalisation import Normalisation
from verifier.report.style import image_shape


class Reader:
    """Reads the inputs of one command as its options say, tells what it did, and remembers it.

    ``--scale`` divides the numbers of files: that gives the data's units, in which radii and domains are meant. ``--mean``
    and ``--std`` are the network's own normalisation: it is given ``(x - mean) / std``.

    Attributes:
        files: what was done to the numbers of each file.
        normalisation: the network's own.
    """

    def __init__(self, args: argparse.Namespace, network: Network) -> None:
        self.network, self.scale, self.quiet = network, args.scale, getattr(args, "quiet", False)
        self.mean, self.std = args.mean, args.std
        self.normalisation = Normalisation.of(network, args.mean, args.std)
        self.files: dict[Path, str] = {}

    def inputs(self, path: Path) -> Array:
        """One or more inputs in the data's units, ``(count, n)``; see `read_inputs`."""
        return self._told(path, *read_inputs(path, self.network, self.scale))

    def numbers(self, path: Path, numbers: np.ndarray[Any, Any]) -> Array:
        """As `inputs`, of an array that was read from the file."""
        return self._told(path, *_scaled(path, _finite(path, numbers), self.network, self.scale, ""))

    def _told(self, path: Path, inputs: Array, words: str) -> Array:
        """The inputs; what was done to them is said and kept."""
        if not self.normalisation.is_identity:
            shift = f"minus {_few(self.mean or [0.0])}, over {_few(self.std or [1.0])}"
            words = ", ".join(filter(None, (words, f"{shift} for the network")))
        if words and path not in self.files and not self.quiet:
            say(f"{path}: {words}")
        self.files[path] = words
        return inputs

    def input(self, path: Path) -> Array:
        """A single input in the data's units, ``(n,)``."""
        return _single(path, self.inputs(path))

    def given(self, path: Path) -> Array:
        """A single input as the network takes it, ``(n,)``."""
        return self.normalisation.apply(self.input(path))

    def image(self, path: Path) -> Array:
        """A single input in the data's units, in the shape of an image: the network's own, or a square for flat ones."""
        x = self.input(path)
        channels, height, width = image_shape(self.network.input_shape)
        return x.reshape(channels, height, width)


def _few(numbers: list[float]) -> str:
    return ", ".join(f"{v:g}" for v in numbers)


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


def read_inputs(path: Path, network: Network, scale: float | None = None) -> tuple[Array, str]:
    """One or more inputs of a network from a file, ``(count, n)``, and what was done to its numbers, in words.

    Args:
        scale: the numbers are divided by it; None: by 255 if they are 8-bit pixels, else by nothing.

    Raises:
        InputError: naming the file, if its numbers are not whole inputs, or look like pixels and nothing says so.
    """
    picture = path.suffix.lower() == ".png"
    numbers = _picture(path, network) if picture else _read(path)
    size = f"{numbers.shape[-1]} × {numbers.shape[-2]} " if picture else ""
    return _scaled(path, numbers, network, scale, size)


def _scaled(
    path: Path, numbers: np.ndarray[Any, Any], network: Network, scale: float | None, size: str
) -> tuple[Array, str]:
    if not numbers.size or numbers.size % network.input_size:
        raise InputError(
            f"holds {numbers.size} numbers, but an input of the network has {network.input_size}", place=str(path)
        )
    if scale is None and numbers.dtype == np.uint8:
        scale = 255.0
    elif scale is None and _looks_like_pixels(numbers):
        raise InputError(
            "its numbers look like pixels of 0 to 255",
            place=str(path),
            fix="--scale 255 for a network of inputs in [0, 1], --scale 1 for one of inputs in [0, 255]",
        )
    kind = "8-bit pixels" if numbers.dtype == np.uint8 else "numbers"
    words = (
        f"{size}{kind}, divided by {scale:g}" if scale not in (None, 1.0) else f"{size}{kind} as they are" * bool(size)
    )
    return np.asarray(numbers, dtype=np.float64).reshape(-1, network.input_size) / (scale or 1.0), words


def read_data(path: Path, reader: Reader) -> tuple[Array, Array | None]:
    """A data set: inputs ``(N, n)`` in the data's units and their labels, if the file has any.

    Raises:
        InputError: no such file, or none of such arrays.
    """
    if path.suffix != ".npz":
        return reader.inputs(path), None
    arrays = read_arrays(path)
    image_name = next((name for name in IMAGES if name in arrays), None)
    label_name = next((name for name in LABELS if name in arrays), None)
    if image_name is None:
        raise InputError(
            f"has no inputs: its arrays are {', '.join(arrays)}", place=str(path), fix=f"name one {IMAGES[0]!r}"
        )
    return reader.numbers(path, arrays[image_name]), None if label_name is None else arrays[label_name].reshape(-1)


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz`` file, by name.

    Raises:
        InputError: no such file, or none of numbers.
    """
    try:
        with reading(path):
            data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except InputError:
        raise
    except (ValueError, OSError, KeyError, EOFError, AttributeError, tokenize.TokenError, zipfile.BadZipFile) as error:
        raise InputError(f"not an .npz file of numbers: {error}", place=str(path)) from None


def part(path: Path, inputs: Array, first: int, count: int | None) -> slice:
    """Which inputs of a data set ``--first`` and ``--count`` choose.

    Shapes: inputs ``(inputs, *input_shape)``.

    Raises:
        InputError: none.
    """
    if first >= len(inputs):
        raise InputError(
            f"--first {first}, but there are {len(inputs)} inputs", place=str(path), fix="they count from 0"
        )
    return slice(first, None if count is None else first + count)


def _single(path: Path, inputs: Array) -> Array:
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
            array = array if array.dtype.kind in "biufc" else array.astype(np.float64)  # text may hold numbers
        else:
            array = np.array([float(word) for word in data.decode().replace(",", " ").split()])
    except InputError:
        raise
    except (ValueError, TypeError, EOFError, tokenize.TokenError, zipfile.BadZipFile) as error:
        raise InputError(
            f"not an array of numbers: {error}", place=str(path), fix="expected .npy, .npz, or numbers in a text file"
        ) from None
    return _finite(path, array)


def _finite(path: Path, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype.kind not in "biuf":
        raise InputError(f"holds no numbers, but {array.dtype}", place=str(path))
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
