"""What every command hands back: text for people, or one JSON object in one published form (`verifier --schema`)."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.errors import VerifierError
    from verifier.network.graph import Network

FORMAT = "pwl-verifier result 1"
"""Name and version of the form; `verifier/data/result.schema.json` says what it holds."""
VERDICTS = {0: "holds", 1: "violated", 3: "unknown", 4: "timeout", 5: "error"}
"""The verdict that an exit status says, where a question was decided."""


@dataclass(kw_only=True)
class Result:
    """What a command found.

    Attributes:
        text: for people.
        found: for programs: the command's own part of the JSON object.
        status: exit status.
        verdict: "holds", "violated", "unknown", "timeout" or "error"; None for commands that decide no question.
        network: that was asked about.
        question: in words; "" if none was asked.
        files: input files that the question is made of, with what was done to their numbers ("" for nothing).
        options: further options that belong to the question, as they were given.
        times: wall-clock seconds by stage.
        next: what to try where not all was decided; "" if nothing is left.
    """

    text: str
    found: Mapping[str, Any]
    status: int = 0
    verdict: str | None = None
    network: Network | None = None
    question: str = ""
    files: Mapping[Path, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    next: str = ""


def show(result: Result, args: argparse.Namespace) -> int:
    """Print a result as the arguments want it; its exit status."""
    words = f"{result.text}\n  to try next: {result.next}" if result.next else result.text
    text = json.dumps(as_json(result, args), indent=1, allow_nan=False) if args.json else words
    print(text, flush=True)
    return result.status


def as_json(result: Result, args: argparse.Namespace) -> dict[str, Any]:
    """The JSON object of a result."""
    words = {name: plain(value) for name, value in result.options.items()}
    files = [{"path": str(path), "sha256": digest(path), "read_as": words} for path, words in result.files.items()]
    asked = json.dumps(
        [args.command, result.question, [(f["sha256"], f["read_as"]) for f in files], words], sort_keys=True
    )
    question = {
        "text": result.question,
        "files": files,
        "options": words,
        "sha256": hashlib.sha256(asked.encode()).hexdigest(),
    }
    record = _frame(args.command, args.words, args.started, result.status)
    record["model"] = _model(getattr(args, "model", None), result.network)
    record["question"] = question if result.question or files else None
    record["seed"] = getattr(args, "seed", None)
    record["times"] = {
        **{name: float(seconds) for name, seconds in result.times.items()},
        "total": record["times"]["total"],
    }
    record["verdict"] = result.verdict
    record["result"] = plain({**result.found, **({"next": result.next} if result.next else {})})
    return record


def failure(command: str, words: list[str], started: float, status: int, error: VerifierError | str) -> dict[str, Any]:
    """The JSON object of a command that could not do its work."""
    record = _frame(command, words, started, status)
    if isinstance(error, str):
        record["error"] = {"place": "", "problem": error, "fix": ""}
    else:
        record["error"] = {"place": error.place, "problem": error.problem, "fix": error.fix}
    record["verdict"] = VERDICTS.get(status) if status in (3, 4, 5) else None
    return record


def _frame(command: str, words: list[str], started: float, status: int) -> dict[str, Any]:
    """What all objects have; the rest is None."""
    from verifier import __version__

    seconds = time.time() - started
    return {
        "format": FORMAT,
        "version": __version__,
        "command": command,
        "arguments": list(words),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "times": {"total": round(seconds, 6)},
        "exit_status": status,
        "verdict": None,
        "model": None,
        "question": None,
        "seed": None,
        "error": None,
        "result": None,
    }


def _model(path: Path | None, network: Network | None) -> dict[str, Any] | None:
    if path is None:
        return None
    shapes: dict[str, Any] = {"input_shape": None, "output_shape": None, "neurons": None}
    if network is not None:
        shapes = {
            "input_shape": list(network.input_shape),
            "output_shape": list(network.output_shape),
            "neurons": network.neurons,
        }
    return {"path": str(path), "sha256": digest(path), **shapes}


def for_the_record(args: argparse.Namespace, files: Mapping[Path, str]) -> list[tuple[str, object]]:
    """What a page says for those who file it: the files with their digests and what was done to them, the command line."""
    model = getattr(args, "model", None)
    rows: list[tuple[str, object]] = [] if model is None else [("network", f"{model}, SHA-256 {digest(model)}")]
    rows += [("file", f"{path}, SHA-256 {digest(path)}{how and f'; {how}'}") for path, how in files.items()]
    return [*rows, ("command line", " ".join(["verifier", *args.words]))]


def digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None for what is no plain file (a pipe can be read once)."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON has them: arrays as lists, paths as text, and numbers that are none (NaN, infinity) as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
