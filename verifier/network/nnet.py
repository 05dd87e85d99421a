"""Reads the ``.nnet`` text format (Stanford Intelligent Systems Laboratory; ACAS Xu's home format).

The file holds a fully connected ReLU network and the normalisation that belongs to it: inputs are cut to
``[minimum, maximum]``, shifted by a mean and divided by a range; the output is multiplied by a range and shifted
by a mean. `read_nnet` puts the shift and the scaling into the network, so that it takes and gives physical
units; the cut is *not* part of it: its ends are the network's `domain`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from verifier.errors import NetworkError
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Array, Dense, Scale
from verifier.network.piecewise import relu


def read_nnet(path: str | Path, normalize: bool = True) -> Network:
    """The network of a ``.nnet`` file (``.nnet.gz`` too).

    Args:
        normalize: True: the network takes and gives physical units, ``(x - mean) / range`` before it and
            ``y * range + mean`` after it, in float64. False: the bare layers, on normalised values.

    Raises:
        NetworkError: with the line, for a file that is cut short or does not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError("there is no such file", place=str(path))
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise NetworkError(f"the file cannot be read: {error}", place=str(path)) from None
    rows = _rows(text, str(path))
    layers, inputs, outputs = (int(v) for v in _row(rows, path, 3, "layers, inputs, outputs")[:3])
    sizes = [int(v) for v in _row(rows, path, layers + 1, "layer sizes")[: layers + 1]]
    if sizes[0] != inputs or sizes[-1] != outputs or min(sizes) < 1:
        raise NetworkError(f"layer sizes {sizes} do not fit {inputs} inputs and {outputs} outputs", place=str(path))
    _row(rows, path, 0, "the unused flag")
    lower = _row(rows, path, inputs, "input minima")[:inputs]
    upper = _row(rows, path, inputs, "input maxima")[:inputs]
    if (lower > upper).any():
        raise NetworkError("an input's minimum is above its maximum", place=str(path))
    means = _row(rows, path, inputs + 1, "means")
    ranges = _row(rows, path, inputs + 1, "ranges")
    if (ranges[: inputs + 1] == 0).any():
        raise NetworkError("a range is zero", place=str(path))
    builder = NetworkBuilder((inputs,), source=str(path))
    if normalize and ((ranges[:inputs] != 1).any() or (means[:inputs] != 0).any()):
        builder.add(Scale(1.0 / ranges[:inputs], -means[:inputs] / ranges[:inputs]), name="normalised")
    for k, (before, after) in enumerate(pairwise(sizes), start=1):
        weight = np.stack([_row(rows, path, before, f"weights of layer {k}")[:before] for _ in range(after)])
        bias = np.array([_row(rows, path, 1, f"biases of layer {k}")[0] for _ in range(after)])
        builder.add(Dense(weight, bias), name=f"layer{k}")
        if k < layers:
            builder.add(relu(), name=f"relu{k}")
    if normalize and (ranges[inputs] != 1 or means[inputs] != 0):
        builder.add(Scale(np.full(outputs, ranges[inputs]), np.full(outputs, means[inputs])), name="physical")
    if not normalize:
        ends = [(end - means[:inputs]) / ranges[:inputs] for end in (lower, upper)]
        lower, upper = np.minimum(*ends), np.maximum(*ends)
    return replace(builder.build(), domain=(lower, upper))


def _rows(text: str, place: str) -> Iterator[tuple[int, Array]]:
    """Line number and numbers of every line that is no comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("//"):
            try:
                yield number, np.array([float(v) for v in line.split(",") if v.strip()])
            except ValueError:
                raise NetworkError(f"not numbers: {line.strip()[:60]!r}", place=f"{place}, line {number}") from None


def _row(rows: Iterator[tuple[int, Array]], path: Path, least: int, what: str) -> Array:
    """The next line's numbers, at least so many, all finite."""
    found = next(rows, None)
    if found is None:
        raise NetworkError(f"the file ends where {what} should follow", place=str(path), fix="is it cut short?")
    number, values = found
    if len(values) < least or not np.isfinite(values).all():
        raise NetworkError(
            f"{what}: expected {least} finite numbers, found {len(values)}", place=f"{path}, line {number}"
        )
    return values
