"""The layout that keeps `encodings` from hiding the standard library's package of that name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    heavy = ["torch", "onnx", "onnxruntime", "z3", "highspy", "numba", "matplotlib", "maraboupy", "auto_LiRPA"]
    code = f"import sys, verifier; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
