"""No test can pass without asserting: none ends early, and each has an assertion that no ``if`` can pass over.

A loop may hold the assertions; where it can be empty, the test says first that it is not. Random examples that do not
reach the subject are drawn again (``hypothesis.assume``), never passed over.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILES = sorted(TESTS.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes inside a function, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (*FUNCTIONS, ast.Lambda)):
            yield from own(child)


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def asserting_helpers() -> set[str]:
    """Names of the tests' functions that assert always, themselves or through others."""
    functions = [f for tree in TREES.values() for f in ast.walk(tree) if isinstance(f, FUNCTIONS)]
    known: set[str] = set()
    while True:
        found = {f.name for f in functions if not f.name.startswith("test_") and asserts(f.body, known)}
        if found <= known:
            return known
        known |= found


def asserts(body: list[ast.stmt], helpers: set[str]) -> bool:
    """Whether statements assert something on every way through them (loops are taken to run)."""
    return any(asserts_one(statement, helpers) for statement in body)


def asserts_one(statement: ast.stmt, helpers: set[str]) -> bool:
    match statement:
        case ast.Assert():
            return True
        case ast.If(body=body, orelse=orelse):
            return asserts(body, helpers) and asserts(orelse, helpers)
        case ast.With(items=items, body=body):
            words = [ast.unparse(item.context_expr) for item in items]
            return asserts(body, helpers) or any(w.startswith(("pytest.raises", "pytest.warns")) for w in words)
        case ast.For(body=body) | ast.While(body=body) | ast.Try(body=body):
            return asserts(body, helpers)
        case ast.Expr() | ast.Assign() | ast.AnnAssign() | ast.Return():
            calls = [call for call in ast.walk(statement) if isinstance(call, ast.Call)]
            return any(
                name_of(call).startswith("assert_")
                or name_of(call) in helpers
                or any(k.arg == "check" and ast.unparse(k.value) == "True" for k in call.keywords)
                for call in calls
            )
    return False


HELPERS = asserting_helpers()
NAMES = [
    (p, f.name) for p, tree in TREES.items() for f in tree.body if isinstance(f, FUNCTIONS) and "test_" in f.name[:5]
]


def test_the_helpers_are_found() -> None:
    assert "check_against_z3" in HELPERS
    assert len(NAMES) > 500


@pytest.mark.parametrize("path", sorted({p for p, _ in NAMES}), ids=lambda p: str(p.relative_to(TESTS)))
def test_every_test_asserts_on_every_way(path: Path) -> None:
    wrong = []
    for function in TREES[path].body:
        if isinstance(function, FUNCTIONS) and function.name.startswith("test_"):
            if not asserts(function.body, HELPERS):
                wrong.append(f"{function.name} (line {function.lineno}) can pass without asserting")
            leaves = [n for n in own(function) if isinstance(n, ast.Return)]
            if leaves:
                wrong.append(f"{function.name} leaves early (line {leaves[0].lineno})")
    assert not wrong
