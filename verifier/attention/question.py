"""A question about an image in a few lines of JSON, and folders that hold what was found of one question."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verifier.attention.inconsistency import Inconsistency
from verifier.encodings.perturbations import Perturbed
from verifier.errors import InputError
from verifier.files import make_folder, write_text
from verifier.network.graph import Network


def question_of(
    perturbed: Perturbed, settings: Inconsistency, delta: float, label: int, **more: object
) -> dict[str, Any]:
    """What a map depends on, so that a folder is never continued with another question."""

    def digest(*values: Any) -> str:
        return hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in values)).hexdigest()[:16]

    both = zip(perturbed.perturbations, perturbed.paths, strict=True)
    paths = [(p.low, p.high, path.breaks, path.slopes) for p, path in both]
    return {
        "network": _fingerprint(perturbed.original),
        "image": digest(perturbed.image),
        "parameters": {n: [p.low, p.high] for n, p in zip(perturbed.labels, perturbed.perturbations, strict=True)},
        "perturbations": digest(*(v for path in paths for v in path)),
        "clip": perturbed.clip,
        "label": label,
        "delta": delta,
        "inconsistency": vars(settings),
        **more,
    }


def _fingerprint(network: Network) -> str:
    """A hash of operators, wiring and weights: of the operators' fields, and not of what they keep for later use."""
    digest = hashlib.sha256()
    for node in network.nodes:
        digest.update(repr((type(node.operator).__name__, node.inputs, node.shape)).encode())
        known = fields(node.operator) if is_dataclass(node.operator) else ()
        for name in sorted(field.name for field in known):
            value = getattr(node.operator, name)
            digest.update(name.encode())
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()[:16]


def open_folder(folder: Path, question: dict[str, Any]) -> None:
    """Make a folder the one of a question, written to its ``map.json``.

    Raises:
        InputError: it holds what was found of another question, or something else.
    """
    make_folder(folder)
    head = folder / "map.json"
    if not head.exists():
        write_text(head, json.dumps(question, indent=1) + "\n")
    elif (found := _read(head)) != json.loads(json.dumps(question)):
        differ = sorted(k for k in {*found, *question} if found.get(k) != question.get(k))
        raise InputError(
            f"holds the tiles of another map: {', '.join(differ)} differ",
            place=str(folder),
            fix="choose another folder, or remove this one",
        )


def _read(head: Path) -> dict[str, Any]:
    """The question that a folder's tiles answer."""
    try:
        found = json.loads(head.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError("is not the head of a map", place=str(head), fix="choose another folder, or remove this one")
    return found


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, if there is one; a line that an interruption tore is ended, and left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        write_text(path, text + "\n")  # so that the next record gets a line of its own
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
