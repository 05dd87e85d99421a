"""Public docstrings say what callers must know: the shapes of arrays, and what is raised."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARRAYS = re.compile(r"\b(Array|NDArray|ArrayLike|Flags|Integers|Phases|Signs|ndarray)\b")
SHAPE = re.compile(r"``[^`]*\((?:\.\.\.|…|\*)?[^`()]*(?:,|\))[^`]*``|\bshape\b|\bbroadcast", re.IGNORECASE)
"""A shape in backticks, such as ``(batch, n)``, or the word."""
REFERS = re.compile(r"\b[Ss]ee `")
"""To what says it."""
INSIDE = {"NotImplementedError", "AssertionError", "AttributeError", "StopIteration"}
"""What callers do not meet."""


@dataclass(frozen=True)
class Function:
    """A public function or method."""

    name: str
    node: ast.FunctionDef
    owner: ast.ClassDef | None

    @property
    def arrays(self) -> list[str]:
        """The arguments that are arrays."""
        named = [a for a in (*self.node.args.args, *self.node.args.kwonlyargs) if a.annotation is not None]
        kinds = {a.arg: ast.unparse(a.annotation) for a in named if a.annotation is not None}
        return [name for name, kind in kinds.items() if ARRAYS.search(kind) and "Callable" not in kind]

    @property
    def raised(self) -> set[str]:
        """Names of the errors that are raised in its own lines."""
        found = set()
        for node in ast.walk(self.node):
            if isinstance(node, ast.Raise) and node.exc is not None:
                error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                for part in (error.body, error.orelse) if isinstance(error, ast.IfExp) else (error,):
                    name = ast.unparse(part.func if isinstance(part, ast.Call) else part)
                    if name[:1].isupper() and name not in INSIDE:
                        found.add(name.split(".")[-1])
        return found


@cache
def tree(path: Path) -> ast.Module:
    """A module's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def classes() -> dict[str, list[ast.ClassDef]]:
    """All classes, by name."""
    found: dict[str, list[ast.ClassDef]] = {}
    for path in paths():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


def paths() -> Iterator[Path]:
    """All modules."""
    for folder in (ROOT / "verifier", ROOT / "encodings"):
        for path in sorted(folder.rglob("*.py")):
            if folder.name != "verifier" or path.relative_to(folder).parts[0] != "encodings":
                yield path


def functions() -> Iterator[Function]:
    """Every public function and method of a public class."""
    for path in paths():
        for node in tree(path).body:
            owner = node if isinstance(node, ast.ClassDef) else None
            if owner is not None and owner.name.startswith("_"):
                continue
            for function in owner.body if owner is not None else [node]:
                if (
                    isinstance(function, ast.FunctionDef)
                    and not function.name.startswith("_")
                    and not compiled(function)
                ):
                    place = f"{path.relative_to(ROOT)}:{function.lineno}"
                    label = f"{owner.name}.{function.name}" if owner is not None else function.name
                    yield Function(f"{place} {label}", function, owner)


def compiled(function: ast.FunctionDef) -> bool:
    """Whether it is a kernel: what calls it says what it takes."""
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


KNOWN = classes()


def documented(function: Function) -> str:
    """What is said of a function: its docstring, or else that of the base class's method; with its class's."""
    own = ast.get_docstring(function.node) or ""
    if function.owner is None:
        return own
    about = ast.get_docstring(function.owner) or ""
    inherited = "" if own and not REFERS.search(own) else _inherited(function.owner, function.node.name, set())
    return "\n".join((own, inherited, about))


def _inherited(owner: ast.ClassDef, name: str, seen: set[str]) -> str:
    for base in owner.bases:
        label = ast.unparse(base).split("[")[0].split(".")[-1]
        if label in seen:
            continue
        seen.add(label)
        for known in KNOWN.get(label, []):
            for node in known.body:
                if isinstance(node, ast.FunctionDef) and node.name == name and ast.get_docstring(node):
                    return (ast.get_docstring(node) or "") + (ast.get_docstring(known) or "")
            found = _inherited(known, name, seen)
            if found:
                return found
    return ""


def test_errors_are_named() -> None:
    """But for commands: theirs are said to users, by `cli.main`."""
    silent = []
    for function in functions():
        if function.name.startswith("verifier/commands/"):
            continue
        said = documented(function)
        missing = {name for name in function.raised if name not in said and not REFERS.search(said)}
        if missing:
            silent.append(f"{function.name}: {', '.join(sorted(missing))}")
    assert not silent, "\n".join(silent)


def test_shapes_of_arrays_are_told() -> None:
    silent = [
        f"{function.name}: {', '.join(function.arrays)}"
        for function in functions()
        if function.arrays
        and "Table" not in documented(function)
        and not SHAPE.search(documented(function))
        and not REFERS.search(documented(function))
    ]
    assert not silent, f"{len(silent)}\n" + "\n".join(silent)


def test_public_names_have_docstrings() -> None:
    silent = [f.name for f in functions() if not documented(f).strip()]
    assert not silent, "\n".join(silent)
