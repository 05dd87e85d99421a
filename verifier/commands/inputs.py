"""Inputs of networks, read from files."""

from __future__ import annotations

import argparse
import io
import tokenize
from pathlib import Path

import numpy as np

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

    return load(args.model, args.input_shape, ordered=ordered)


def read_array(path: Path) -> Array:
    """A float64 array from a ``.npy`` file, or numbers in text separated by blanks, commas or lines.

    Raises:
        InputError: naming the file, if it is missing, no numbers, or not finite.
    """
    try:
        with reading(path):
            data = path.read_bytes()
        if path.suffix == ".npy":
            array = np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.float64)
        else:
            array = np.array([float(word) for word in data.decode().replace(",", " ").split()])
    except InputError:
        raise
    except (ValueError, TypeError, EOFError, tokenize.TokenError) as error:
        raise InputError(
            f"not an array of numbers: {error}", place=str(path), fix="expected .npy, or numbers in a text file"
        ) from None
    if not np.isfinite(array).all():
        raise InputError("contains NaN or infinity", place=str(path))
    return array


def read_inputs(path: Path, network: Network) -> Array:
    """One or more inputs of a network from a file that `read_array` reads, ``(count, n)``.

    Raises:
        InputError: naming the file, if its numbers are not whole inputs.
    """
    numbers = read_array(path)
    if not numbers.size or numbers.size % network.input_size:
        raise InputError(
            f"holds {numbers.size} numbers, but an input of the network has {network.input_size}", place=str(path)
        )
    return numbers.reshape(-1, network.input_size)


def read_input(path: Path, network: Network) -> Array:
    """A single input, ``(n,)``: see `read_inputs`."""
    inputs = read_inputs(path, network)
    if len(inputs) != 1:
        raise InputError(f"holds {len(inputs)} inputs, one is wanted", place=str(path))
    return inputs[0]
