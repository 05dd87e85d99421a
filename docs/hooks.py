"""What mkdocs does beside the pages: links that leave `docs/` lead to the files themselves, and each tutorial is a notebook.

`notebook_of` is what the tests run, too. The API reference is made of the docstrings (mkdocstrings, tried first, follows neither
the link `verifier/encodings` nor packages that are named like the function they hold).
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)((?:README\.md|benchmarks|CHANGELOG\.md)[^)\s]*)\)")


def notebook_of(text: str) -> dict[str, Any]:
    """A tutorial in Markdown as a notebook: its Python blocks are the code cells."""
    cells: list[dict[str, Any]] = []
    for k, part in enumerate(FENCE.split(text)):
        if part.strip():
            common = {"id": f"cell-{k}", "metadata": {}, "source": part.strip().splitlines(keepends=True)}
            code = {"cell_type": "code", "execution_count": None, "outputs": []} if k % 2 else {"cell_type": "markdown"}
            cells.append({**code, **common})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


REFERENCE = "::: verifier\n"
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Source|Example):$", re.MULTILINE)
ENTRY = re.compile(r"^(\S(?:[^:`]*\S)?):\s", re.MULTILINE)


def reference() -> str:
    """All public names, by topic."""
    import verifier

    parts = []
    for topic, modules in verifier.CONTENTS.items():
        parts.append(f"## {topic}")
        parts += [reference_of(f"verifier.{name}") for names in modules.values() for name in names]
    return "\n\n".join(parts) + "\n"


def reference_of(path: str) -> str:
    """A public name as Markdown: signature, docstring, and for a class its public methods and properties."""
    module, _, name = path.rpartition(".")
    thing = inspect.unwrap(getattr(importlib.import_module(module), name))
    parts = [f"### {name}", ""]
    if inspect.isclass(thing):
        members = [m for m, value in vars(thing).items() if not m.startswith("_") and inspect.getdoc(value) and (
            inspect.isroutine(value) or isinstance(value, property) or hasattr(value, "func"))]  # fmt: skip
    else:
        parts += ["```python", signature(name, thing), "```", ""]
        members = []
    parts.append(prose(inspect.getdoc(thing) or ""))
    for member in members:
        first = (inspect.getdoc(vars(thing)[member]) or "").split("\n\n")[0]
        parts.append(f"- `{member}`: {' '.join(first.split())}")
    return "\n".join(parts)


def signature(name: str, function: Any) -> str:
    """A call as one would write it: one argument a line where there are many."""
    found = inspect.signature(function)
    words, starred = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words, starred = [*words, "*"], True
        words.append(str(parameter))
    text = ", ".join(words) if len(words) < 4 else "\n    " + ",\n    ".join(words) + ",\n"
    returned = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    text = re.sub(r"(: )'([^'\n]*)'", r"\1\2", f"{name}({text}){returned}")
    return re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)


def prose(text: str) -> str:
    """A docstring as Markdown: its sections as lists, its examples as code."""
    head, *rest = SECTION.split(text)
    found = [head.strip(), ""]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        body = textwrap.dedent(body.strip("\n"))
        found += [f"**{title}**", ""]
        if ">>> " in body:
            found += ["```pycon", body.strip(), "```", ""]
        else:
            found += [ENTRY.sub(lambda match: f"\n- `{match[1]}`: ", body).strip(), ""]
    return "\n".join(found)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Files outside `docs/` are copied beside the site; a tutorial names its notebook."""
    if page.file.src_uri == "api.md":
        markdown = markdown.replace(REFERENCE, reference())
    if page.file.src_uri.startswith("tutorials/"):
        name = Path(page.file.src_uri).stem
        markdown += f"\n\nAs a notebook: [{name}.ipynb]({name}.ipynb).\n"
    up = page.file.src_uri.count("/")
    return OUTSIDE.sub(lambda match: f"]({'../' * up}files/{match[2]})", markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Write the notebooks, and copy the files that pages lead to."""
    site = Path(config["site_dir"])
    for page in (ROOT / "docs" / "tutorials").glob("*.md"):
        notebook = json.dumps(notebook_of(page.read_text(encoding="utf-8")), indent=1)
        (site / "tutorials" / f"{page.stem}.ipynb").write_text(notebook, encoding="utf-8")
    (site / "files").mkdir(exist_ok=True)
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, site / "files" / name)
    shutil.copytree(ROOT / "benchmarks" / "results", site / "files" / "benchmarks" / "results", dirs_exist_ok=True)
