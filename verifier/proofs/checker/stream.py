"""The bytes of a proof's file: docs/proofs.md has the format."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from .graph import CheckError

FORMAT, VERSION = "pwl-verifier proof", 3


class Stream:
    """The numbers of a proof's file.

    Raises:
        CheckError: it is no proof, or damaged, or cut off, or holds a number that it must not.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            self._file = io.BufferedReader(lzma.open(path), 1 << 16)  # type: ignore[arg-type]  # noqa: SIM115
            self.header = json.loads(self._file.readline(1 << 28))
        except (lzma.LZMAError, EOFError, ValueError, RecursionError) as error:
            raise CheckError(f"no proof, or a damaged one: {error}") from None
        if not isinstance(self.header, dict) or self.header.get("format") != FORMAT:
            raise CheckError("no proof: it has another header")
        if self.header.get("version") != VERSION:
            raise CheckError(f"a proof of version {self.header.get('version')}; this program reads version {VERSION}")

    def take(self, count: int, most: int = 0) -> bytes:
        """So many bytes; with ``most``, at most so many more."""
        try:
            data = self._file.read(count + most)
        except (lzma.LZMAError, EOFError) as error:
            raise CheckError(f"the proof is damaged: {error}") from None
        if len(data) < count:
            raise CheckError("the proof is cut off")
        return data

    def integer(self, below: int) -> int:
        """A number of seven bits a byte, less than ``below``."""
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 63:
                break
        if value >= below or byte > 127:
            raise CheckError(f"the proof has the number {value} where it must be less than {below}")
        return value

    def ascending(self, below: int) -> Any:
        """Ascending numbers less than ``below``, by their differences."""
        found = np.cumsum([1 + self.integer(below) for _ in range(self.integer(below + 1))], dtype=np.intp) - 1
        if len(found) and found[-1] >= below:
            raise CheckError("the proof names what does not exist")
        return found

    def vector(self, count: int) -> Any:
        """So many finite numbers, as bits, float16 or float64."""
        kind = ("bits", "<f2", "<f8")[self.integer(3)]
        if kind == "bits":
            return np.unpackbits(np.frombuffer(self.take(-(-count // 8)), np.uint8), count=count).astype(np.float64)
        found = np.frombuffer(self.take(count * np.dtype(kind).itemsize), kind).astype(np.float64)
        if not np.isfinite(found).all():
            raise CheckError("the proof has a number that is not finite")
        return found
