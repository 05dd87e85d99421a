"""What mkdocs does beside the pages: links that leave `docs/` lead to the files themselves, and each tutorial is a notebook.

`notebook_of` is what the tests run, too.
"""

from __future__ import annotations

import json
import re
import shutil
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


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Files outside `docs/` are copied beside the site; a tutorial names its notebook."""
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
