"""The layout that keeps `encodings` from hiding the standard library's package of that name."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from verifier.bounds import lirpa_install

ROOT = Path(__file__).resolve().parents[2]


def test_encodings_has_no_init_at_its_top() -> None:
    # With one, PYTHONPATH=<root> would make Python import it instead of its own codecs and fail to start.
    assert not (ROOT / "encodings" / "__init__.py").exists()


def test_python_starts_with_the_root_on_its_path() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "import encodings.utf_8, verifier; print('ok')"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "ok", run.stderr


def test_importing_verifier_loads_nothing_heavy() -> None:
    heavy = ["torch", "onnx", "onnxruntime", "z3", "highspy", "numba", "matplotlib", "maraboupy", "auto_LiRPA", "rich"]
    code = f"import sys, verifier; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_every_dependency_has_a_lower_and_an_upper_end() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    extras = project["project"]["optional-dependencies"]
    everything = extras.pop("all")
    assert re.fullmatch(r"pwl-verifier\[([\w,]+)\]", everything[0])[1].split(",") == [
        n for n in extras if n not in ("z3", "cluster")
    ]  # type: ignore[index]
    for extra in extras.values():
        needed += extra
    assert len(needed) > 15
    for requirement in needed:
        assert re.match(r"[\w-]+(==\S+|>=[\d.]+,<[\d.]+)(;|$)", requirement), requirement


def test_the_metadata_of_auto_lirpa_is_made_to_say_what_it_needs(tmp_path: Path) -> None:
    folder = tmp_path / "auto_LiRPA-0.3.dist-info"
    folder.mkdir()
    head = "Metadata-Version: 2.1\nName: auto_LiRPA\nRequires-Dist: torch (<1.13.0,>=1.8.0)\nRequires-Dist: pylint"
    (folder / "METADATA").write_text(f"{head}\nRequires-Python: >=3.7\n\nRequires-Dist: is only a word here.\n")
    (folder / "RECORD").write_text(f"a.py,sha256=x,1\n{folder.name}/METADATA,sha256=old,3\n{folder.name}/RECORD,,\n")
    for _ in range(2):  # again is no different
        lirpa_install.correct(folder)
        text = (folder / "METADATA").read_text()
        wanted = [
            line.removeprefix("Requires-Dist: ") for line in text.splitlines() if line.startswith("Requires-Dist")
        ]
        assert wanted == [*lirpa_install.NEEDS, "is only a word here."]
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record = (folder / "RECORD").read_text()
        assert record == (
            f"a.py,sha256=x,1\n{folder.name}/METADATA,sha256={digest},{len(text.encode())}\n{folder.name}/RECORD,,\n"
        )


def test_pip_sees_auto_lirpa_with_corrected_metadata_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise it ends the installation with an alarm about requirements that nobody can meet."""
    steps: list[str] = []
    found = SimpleNamespace(version="0.3", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(lirpa_install.subprocess, "call", lambda words: steps.append(words[-1]) or 0)
    monkeypatch.setattr(lirpa_install.metadata, "distribution", lambda name: found)
    monkeypatch.setattr(lirpa_install, "correct", lambda folder: steps.append(folder.name))
    assert lirpa_install.main() == 0
    assert steps == [lirpa_install.RELEASE, "auto_LiRPA-0.3.dist-info", lirpa_install.NEEDS[-1]]


def test_every_extra_is_known_where_its_absence_is_said() -> None:
    from verifier.extras import EXTRAS, lacking, require

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(EXTRAS.values()) == set(project["project"]["optional-dependencies"]) - {"all"}
    assert 'pip install "pwl-verifier[plot]"' in str(lacking("matplotlib.figure"))
    assert lacking("numpy") is None
    require("matplotlib")


def test_a_missing_extra_is_said_in_one_line(tmp_path: Path) -> None:
    """A package that cannot be found, as where the core alone is installed."""
    code = (
        "import sys, importlib.util\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'matplotlib': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "import verifier, numpy as np\n"
        "network = verifier.feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])\n"
        "try: verifier.attribute(network, [0.9, 0.1]).plot()\n"
        "except verifier.InputError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.stdout.strip() == 'matplotlib is needed and not installed (pip install "pwl-verifier[plot]")', run.stderr
