"""The house has floors: every import points down, and there is no circle (`docs/architecture.md`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("vnncomp",),
    ("__init__",),
    ("report",),
    ("saliency", "certification", "explanation", "explain"),
    ("api",),
    ("pipeline",),
    ("repair", "attention"),
    ("compiled",),
    ("engines",),
    ("encodings",),
    ("falsify",),
    ("bab",),
    ("lp",),
    ("bounds",),
    ("verdict",),
    ("proofs",),
    ("properties",),
    ("attribution",),
    ("regions",),
    ("network",),
    ("options", "compiled_kernels", "listening"),
    ("limits", "events", "rounding"),
    ("files", "highs", "threads", "journal"),
    ("arguments", "shown", "bracket"),
    ("extras",),
    ("errors", "lazy"),
)
"""From the top down: a module may import from its own line's packages only itself, and anything of the lines below."""

KNOWN_UP: set[tuple[str, str]] = set()
"""Arrows that still run up; nothing is added here."""
KNOWN_CIRCLES: set[frozenset[str]] = set()
"""Modules that still import each other in a circle; nothing is added here."""


def modules() -> dict[str, Path]:
    """Every module of the package, by its full name; the encodings under the name of their link."""
    found = {}
    for folder, prefix in ((ROOT / "verifier", "verifier"), (ROOT / "encodings", "verifier.encodings")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix == "verifier" and parts[0] == "encodings":
                continue
            name = ".".join((prefix, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, inside functions too, but for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "verifier":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module


def floor(module: str) -> int:
    """The number of a module's line in `FLOORS`."""
    top = module.split(".")[1] if "." in module else "__init__"
    for number, names in enumerate(FLOORS):
        if top in names:
            return number
    pytest.fail(f"{module} has no floor: say in FLOORS and docs/architecture.md where {top!r} belongs")


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_no_import_runs_upwards() -> None:
    known = modules()
    assert len(known) > 150
    up = {
        (name, other)
        for name, path in known.items()
        for other in imports(path, known)
        if package(other) != package(name) and floor(other) <= floor(name)
    }
    assert up == KNOWN_UP


def circles(arrows: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in arrows[name]:
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            members = set[str]()
            while name not in members:
                members.add(stack.pop())
            if len(members) > 1:
                found.add(frozenset(members))

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def test_there_is_no_circle() -> None:
    known = modules()
    arrows = {name: set(imports(path, known)) - {name} for name, path in known.items()}
    assert circles(arrows) == KNOWN_CIRCLES


def test_a_circle_would_be_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}
