"""The checker of certificates is a program that a sceptic reads: it does not grow unseen."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import verifier

CHECKER = Path(verifier.__file__).parent / "proofs" / "checker"
PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """Lines with code: no comments, docstrings or blank lines."""
    words: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        for part in getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if (
                isinstance(part, ast.Expr)
                and isinstance(part.value, ast.Constant)
                and isinstance(part.value.value, str)
            ):
                words |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            found |= set(range(token.start[0], token.end[0] + 1))
    return len(found - words)


def test_the_page_says_how_many_lines_are_trusted() -> None:
    said = {}
    for names, lines in re.findall(r"^\| (`[^|]*\.py`) \| (\d+) \|", PAGE.read_text(), re.MULTILINE):
        modules = tuple(re.findall(r"`(\w+\.py)`", names))
        said[modules] = int(lines)
    assert sorted(name for modules in said for name in modules) == sorted(
        path.name for path in CHECKER.glob("*.py") if path.name != "__init__.py"
    )
    for modules, lines in said.items():
        assert sum(code_lines((CHECKER / name).read_text()) for name in modules) == lines, modules
