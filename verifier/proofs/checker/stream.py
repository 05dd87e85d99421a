"""The bytes of a proof's file: docs/proofs.md has the format."""

from __future__ import annotations

import io
import json
import lzma
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .graph import CheckError

FORMAT, VERSION = "pwl-verifier proof", 2


class ProofError(CheckError):
    """A proof that does not prove what it says."""


class Stream:
    """The numbers of a proof's file."""

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

    def take(self, count: int) -> bytes:
        """So many bytes.

        Raises:
            CheckError: the proof is cut off or damaged.
        """
        try:
            data = self._file.read(count)
        except (lzma.LZMAError, EOFError) as error:
            raise CheckError(f"the proof is damaged: {error}") from None
        if len(data) != count:
            raise CheckError("the proof is cut off")
        return data

    def integer(self, below: int) -> int:
        """A number of seven bits a byte, less than ``below``.

        Raises:
            CheckError: a larger number.
        """
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise CheckError("the proof has a number of more than 64 bits")
        if value >= below:
            raise CheckError(f"the proof has the number {value} where it must be less than {below}")
        return value

    def double(self) -> float:
        """A finite float64 number.

        Raises:
            CheckError: NaN or infinity.
        """
        (value,) = struct.unpack("<d", self.take(8))
        if not np.isfinite(value):
            raise CheckError("the proof has a number that is not finite")
        return float(value)

    def ascending(self, below: int) -> Any:
        """Ascending numbers less than ``below``, by their differences.

        Raises:
            CheckError: numbers that are not less than ``below``.
        """
        count, at, found = self.integer(below + 1), -1, []
        for _ in range(count):
            at += 1 + self.integer(below)
            found.append(at)
        if at >= below:
            raise CheckError("the proof names what does not exist")
        return np.array(found, dtype=np.intp)

    def vector(self, count: int) -> Any:
        """So many numbers, as bits, float16, float64 or rationals (then an array of `Fraction`).

        Raises:
            CheckError: a number that is not finite, or no rational.
        """
        kind = self.integer(4)
        if kind == 0:
            return np.unpackbits(np.frombuffer(self.take(-(-count // 8)), np.uint8), count=count).astype(np.float64)
        if kind == 3:
            text = self.take(self.integer(1 << 24)).decode("ascii", "replace").split()
            try:
                rationals = [Fraction(t) for t in text]
                list(map(float, rationals))  # some are used as such
                return np.array([*rationals, None], dtype=object)[:-1].reshape(count)
            except (ValueError, ArithmeticError):
                raise CheckError("the proof has a rational that is none") from None
        found = np.frombuffer(self.take(count * (2 if kind == 1 else 8)), "<f2" if kind == 1 else "<f8")
        if not np.isfinite(found).all():
            raise CheckError("the proof has a number that is not finite")
        return found.astype(np.float64)

    def finish(self) -> None:
        """Nothing may follow.

        Raises:
            CheckError: the proof is damaged.
            ProofError: something follows its end.
        """
        try:
            rest = self._file.read(1)
        except (lzma.LZMAError, EOFError) as error:
            raise CheckError(f"the proof is damaged: {error}") from None
        if rest:
            raise ProofError("something follows the proof's end")
