"""Result files in the competition's syntax: the first line the result, after ``sat`` the counterexample."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verifier.errors import InputError
from verifier.files import write_text

if TYPE_CHECKING:
    from verifier.network.operators import Array
    from verifier.properties.vnnlib2 import Variable

RESULTS = ("sat", "unsat", "unknown", "timeout", "error")
"""The words of a result file's first line."""

_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")


def write_answer(file: Path, result: str, counterexample: str = "") -> None:
    """Write a result file.

    Raises:
        InputError: there is no such result.
        OutputError: the file cannot be written.
    """
    if result not in RESULTS:
        raise InputError(f"{result!r} is no result", fix=f"one of {', '.join(RESULTS)}")
    text = f"{result}\n{counterexample}" if result == "sat" else f"{result}\n"
    write_text(file, text)


def read_answer(text: str) -> tuple[str, str]:
    """A result file's result and counterexample text.

    Raises:
        InputError: the first line is no result.
    """
    first, _, rest = text.partition("\n")
    if first.strip() not in RESULTS:
        raise InputError(f"the first line {first[:40]!r} is no result")
    return first.strip(), rest


def counterexample_1(x: Array, y: Array) -> str:
    """A counterexample in the syntax for VNN-LIB 1.0: ``((X_0 v)`` … ``(Y_0 v)`` …``)``."""
    pairs = [f"(X_{k} {_number(v)})" for k, v in enumerate(x)] + [f"(Y_{k} {_number(v)})" for k, v in enumerate(y)]
    return "(" + "\n".join(pairs) + ")\n"


def counterexample_2(x: Array, y: Array, variables: Sequence[Variable]) -> str:
    """A counterexample in the syntax for VNN-LIB 2.0: ``X float32 [1,2]`` and one value a line, for each variable.

    Shapes: x ``(n,)``; y ``(outputs,)``.
    """
    lines = []
    for variable in variables:
        values = (x if variable.kind == "input" else y)[variable.places.reshape(-1)]
        shape = ",".join(map(str, variable.shape))
        lines.append(f"{variable.name} {variable.type_name} [{shape}]")
        lines += [_number(v) for v in values]
    return "\n".join(lines) + "\n"


def read_counterexample(text: str, variables: Sequence[Variable] = ()) -> tuple[Array, Array]:
    """Input and output of a counterexample in either syntax, flattened.

    Args:
        variables: those of the property, in the syntax for VNN-LIB 2.0.

    Raises:
        InputError: not a counterexample.
    """
    if text.lstrip().startswith("("):
        parts: dict[str, dict[int, float]] = {"X": {}, "Y": {}}
        for letter, index, value in _PAIR.findall(text):
            parts[letter][int(index)] = _float(value)
        for letter, values in parts.items():
            if set(values) != set(range(len(values))):
                raise InputError(f"the indices of {letter} are not contiguous from 0")
        return _array(parts["X"]), _array(parts["Y"])
    blocks: list[list[float]] = []
    for line in text.splitlines():
        if re.match(r"\s*\w+\s+\w+\s+\[", line):
            blocks.append([])
        elif line.strip():
            if not blocks:
                raise InputError("values before the first variable")
            blocks[-1].append(_float(line.strip()))
    if len(blocks) != len(variables):
        raise InputError(f"{len(blocks)} variables in the counterexample; {len(variables)} are declared")
    flat = {"input": dict[int, float](), "output": dict[int, float]()}
    for variable, block in zip(variables, blocks, strict=True):
        if len(block) != variable.places.size:
            raise InputError(f"{variable.name} has {len(block)} values; {variable.places.size} are declared")
        flat[variable.kind].update(zip(variable.places.reshape(-1).tolist(), block, strict=True))
    return _array(flat["input"]), _array(flat["output"])


def _array(values: dict[int, float]) -> Array:
    return np.array([values[k] for k in range(len(values))])


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text!r} is no number") from None


def _number(value: float) -> str:
    """The shortest decimal that reads back as the same float64."""
    return repr(float(value))
