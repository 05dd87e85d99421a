"""The published form of what commands write with ``--json``."""

from __future__ import annotations

from importlib import resources


def text() -> str:
    """The JSON schema (draft 2020-12), as it is shipped."""
    return (resources.files("verifier") / "data" / "result.schema.json").read_text(encoding="utf-8")
