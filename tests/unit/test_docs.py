"""The documentation says what is so: links lead somewhere, command lines parse, examples run and print what is shown."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifier import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def command_lines(page: Path) -> Iterator[str]:
    """Every ``verifier …`` line in a fenced block of a page, with or without a prompt."""
    for block in blocks(page, "", "sh", "console"):
        prompts = "\n$ " in f"\n{block}"
        for line in block.splitlines():
            command = line.removeprefix("$ ")
            if command.startswith("verifier ") and (line != command or not prompts):
                yield command


def arguments(command: str) -> list[str]:
    """The words after ``verifier``, without comment and redirection."""
    words = shlex.split(command, comments=True)[1:]
    return words[: words.index(">")] if ">" in words else words


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository's to the commands of the documentation, and may be written to."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "benchmarks").mkdir()
    shutil.copytree(ROOT / "benchmarks" / "networks", folder / "benchmarks" / "networks")
    return folder


def test_the_pages_are_the_ones_that_are_meant() -> None:
    assert {"README.md", "index.md", "usage.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_on_the_map() -> None:
    links = LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} <= set(links)
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in pages if f": {page}\n" not in site] == []


def test_every_result_is_named_by_the_script_that_wrote_it() -> None:
    scripts = re.findall(r"`([\w/]+\.py)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    missing = [name for name in scripts if not (ROOT / "benchmarks" / name.removeprefix("benchmarks/")).exists()]
    assert scripts
    assert not missing


def test_measured_figures_are_those_of_the_results() -> None:
    """Every number in a row of the README's table stands in the page that the row's script wrote."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Measured")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \| `([\w/]+)\.py` \|$", table, re.MULTILINE)
    assert len(rows) >= 6
    for row, script in rows:
        page = ROOT / "benchmarks" / "results" / f"{'_'.join(reversed(script.split('/')))}.md"
        known = set(re.findall(r"\d[\d.e-]*\d|\d", page.read_text(encoding="utf-8").replace(",", "")))
        figures = re.findall(r"\d[\d.e-]*\d|\d", row.replace(",", ""))
        assert [figure for figure in figures if figure not in known] == [], f"{row}: not in {page.name}"


def test_figures_beside_other_tools_are_those_of_the_results() -> None:
    """Every number in the table of the comparison stands in the page of results that its row names."""
    page = ROOT / "docs" / "comparison.md"
    table = page.read_text(encoding="utf-8").partition("## Measured")[2]
    rows = re.findall(r"^\| (.*) \| \[\w+\]\((\S+)\) \|$", table, re.MULTILINE)
    assert len(rows) >= 8
    for row, link in rows:
        results = (page.parent / link).resolve().read_text(encoding="utf-8").replace(",", "")
        known = set(re.findall(r"\d[\d.e-]*\d|\d", results))
        row = re.sub(r"one core|2 cores|\(at most (\d+) s each", r"\1", row)
        row = re.sub(r"±1|resnet2021|verivital2021|oval21", "", row)
        figures = re.findall(r"\d[\d.e-]*\d|\d", row.replace(",", ""))
        assert [figure for figure in figures if figure not in known] == [], f"{row}: not in {link}"


def test_the_reference_names_the_whole_api() -> None:
    import verifier

    sys.path.insert(0, str(ROOT / "docs"))
    from hooks import REFERENCE, reference, reference_of

    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8").endswith(REFERENCE)
    assert re.findall(r"^### (\w+)$", reference(), re.MULTILINE) == verifier.__all__
    shown = reference_of("verifier.line")
    assert "### line" in shown
    assert "- `start, end`: one input each" in shown
    assert "```pycon\n>>> import numpy as np, verifier" in shown
    assert "### repair" in reference_of("verifier.repair")
    assert "method: str" in reference_of("verifier.repair") or "method: 'str'" in reference_of("verifier.repair")
    assert "- `breakpoints`: " in reference_of("verifier.LineRestriction")
    assert "    listener: Listener = ignore,\n) -> RepairResult" in reference_of("verifier.repair")
    assert "0x" not in reference()


def test_the_gallery_has_a_picture_of_each_kind() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[(.+)\]\(gallery/(\w+)\.png\)$", page, re.MULTILINE)
    drawn = re.search(
        r"PICTURES.*?= \(\n(.*?)\n\)", (ROOT / "docs" / "gallery.py").read_text(encoding="utf-8"), re.DOTALL
    )
    assert drawn
    assert [name for _, name in shown] == re.findall(r"\w+", drawn[1])
    assert len(shown) == 12
    assert all(len(words) > 20 for words, _ in shown), "every picture is described for those who cannot see it"


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run_as_notebooks(page: Path, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every code cell, in order; what is claimed is asserted in the cells."""
    sys.path.insert(0, str(ROOT / "docs"))
    from hooks import notebook_of

    monkeypatch.chdir(house)
    notebook = notebook_of(page.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    assert sum("assert " in cell for cell in cells) >= 4
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, cell in enumerate(cells):
            exec(compile(cell, f"{page.name}, cell {number}", "exec"), names)
    assert len(printed.getvalue().splitlines()) >= 5


def test_the_example_of_an_engine_runs(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    (example,) = blocks(ROOT / "docs" / "extending.md", "python")
    assert example.count("\nassert ") >= 3
    exec(compile(example, "extending.md", "exec"), {"__name__": "extending"})


LINES = sorted(
    {line for page in PAGES for line in command_lines(page) if not line.startswith("verifier --")}
    | {f"verifier {name} {example}" for name, example in cli.EXAMPLES.items()}
)


@pytest.mark.parametrize("line", LINES)
def test_command_lines_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()  # where the examples write
    monkeypatch.chdir(tmp_path)
    words = arguments(line)
    parsed = cli.parser(words[0]).parse_args(words)
    assert parsed.command == words[0]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_help_of_a_command_ends_with_an_example(name: str) -> None:
    shown = cli.parser(name)._subparsers._group_actions[0].choices[name].format_help()  # type: ignore[union-attr]
    assert shown.endswith(f"\nexample:\n  {f'verifier {name} {cli.EXAMPLES[name]}'.strip()}\n")
    assert "arguments." not in shown, "a name of the code in words for people"


def test_every_command_is_in_the_readme_and_in_the_guide() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "usage.md"):
        text = page.read_text(encoding="utf-8")
        assert [name for name in cli.COMMANDS if f"verifier {name}" not in text] == []


def test_readme_examples_run(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    examples = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for example in examples:
            exec(compile(example, "README.md", "exec"), names)
    assert "HOLDS" in printed.getvalue()
    assert "VIOLATED" in printed.getvalue()


def session(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page's console blocks, each with the output that is shown."""
    steps: list[tuple[str, list[str]]] = []
    for block in blocks(page, "console"):
        ended = True  # the here-document, if the last command has one
        for line in block.splitlines():
            if not ended:
                steps[-1] = (f"{steps[-1][0]}\n{line}", [])
                ended = line == "END"
            elif line.startswith("$ "):
                steps.append((line[2:], []))
                ended = "<<" not in line
            else:
                steps[-1][1].append(line)
    return steps


def run(command: str) -> list[str]:
    """What a command prints: a ``verifier`` line in this process, anything else by the shell."""
    if not command.startswith("verifier "):
        command = command.replace("python -c", f"{shlex.quote(sys.executable)} -c")
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.splitlines()
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        status = cli.main(arguments(command))
    assert status in (0, 1)
    text = printed.getvalue()
    words = shlex.split(command)
    if ">" in words:
        Path(words[-1]).write_text(text, encoding="utf-8")
        return []
    return text.splitlines()


def shape(lines: list[str]) -> list[str]:
    """Lines without what depends on the machine: numbers, the system, and which stage found a counterexample first."""
    texts = [re.sub(r"Linux\S*", "Linux", line) for line in lines]
    texts = [re.sub(r"(was found by) \w+ \(\w+\)", r"\1 one", text) for text in texts]
    return [" ".join(NUMBER.sub("#", text).split()) for text in texts]


@pytest.mark.slow
def test_the_tour_prints_what_it_shows(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    steps = session(ROOT / "docs" / "index.md")
    assert len([command for command, _ in steps if command.startswith("verifier ")]) >= 15
    for command, shown in steps:
        if command.startswith("verifier inspect") or command.startswith("verifier doctor"):
            shown = shown[:1]  # below it: what is installed here
        head = shown[: shown.index("…")] if "…" in shown else shown
        printed = run(command)
        assert shape(printed[: len(head)]) == shape(head), command


EXAMPLES = sorted(
    path for folder in (ROOT / "verifier", ROOT / "encodings") for path in folder.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)  # fmt: skip


def test_the_public_functions_have_examples() -> None:
    documented = {path.relative_to(ROOT).as_posix() for path in EXAMPLES}
    public = ("__init__", "api", "certification", "properties/builders", "regions/line", "regions/plane")
    assert {f"verifier/{name}.py" for name in public} <= documented


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_docstrings_run(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = f"verifier.{module}" if module.startswith("encodings") else module  # `encodings` alone is Python's own
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
