"""The flat API: every name is there, documented with shapes, errors and a runnable example, typed, and costs no start-up."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import verifier

ROOT = Path(__file__).resolve().parents[2]
PROMISED = (
    "load", "verify", "robustness", "saliency_robustness", "read_vnnlib", "certify", "line", "plane", "attribute",
    "attention_map", "repair", "repair_property", "largest_delta", "largest_epsilon", "bounds", "progress", "Brightness",
    "Translation", "Rotation", "check_proof",
)  # fmt: skip
FUNCTIONS = sorted(
    name
    for name in verifier.__all__
    if callable(getattr(verifier, name)) and not inspect.isclass(getattr(verifier, name))
)
CLASSES = sorted(name for name in verifier.__all__ if inspect.isclass(getattr(verifier, name)))


def function(name: str) -> object:
    """A public function; of a package that is called like one, the function."""
    return inspect.unwrap(getattr(verifier, name))


def test_what_is_promised_is_there() -> None:
    assert set(PROMISED) <= set(verifier.__all__)
    assert set(verifier.__all__) <= set(dir(verifier))
    assert len(FUNCTIONS) >= 25
    with pytest.raises(AttributeError, match="no attribute 'verfy'"):
        verifier.verfy


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "verifier" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.asname, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    meant = {
        (name, module) for topic in verifier.CONTENTS.values() for module, names in topic.items() for name in names
    }
    assert seen == meant


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_and_typed(name: str) -> None:
    found = function(name)
    text = inspect.getdoc(found) or ""
    wanted = ["Example:", ">>> "] + (["Args:"] if len(inspect.signature(found).parameters) > 1 else [])  # type: ignore[arg-type]
    assert [word for word in (*wanted, "Raises:") if word not in text] == [], name
    signature = inspect.signature(found)  # type: ignore[arg-type]
    untyped = [p for p in signature.parameters.values() if p.annotation is p.empty]
    assert untyped == []
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", CLASSES)
def test_classes_say_what_they_are(name: str) -> None:
    text = inspect.getdoc(getattr(verifier, name)) or ""
    assert len(text) > 15
    assert not text.startswith(f"{name}("), "a dataclass without a docstring of its own"


def test_numbers_whose_order_is_a_trap_are_named() -> None:
    """Of several plain numbers in a row only the first may be given by its place (`output_class`: how many, and which)."""
    for name in set(FUNCTIONS) - {"output_class"}:
        places = [
            p for p in inspect.signature(function(name)).parameters.values()  # type: ignore[arg-type]
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.annotation in ("float", "int", "float | None", "int | None")
        ]  # fmt: skip
        assert len(places) <= 1, f"{name}: {[p.name for p in places]}"


def test_packages_that_are_functions_are_both() -> None:
    code = "import verifier, verifier.repair.api; from verifier.repair import RepairStatus; print(callable(verifier.repair))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "True", run.stderr
    assert verifier.repair.RepairStatus is verifier.RepairStatus  # type: ignore[attr-defined]
    assert list(inspect.signature(verifier.bounds).parameters)[:2] == ["network", "box"]


def test_the_import_is_cheap() -> None:
    """Only the standard library's light modules: at most 0.05 s on any machine, told by what is loaded."""
    code = "import sys; old = set(sys.modules); import verifier; print(*sorted(set(sys.modules) - old))"
    run = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
                         capture_output=True, text=True, check=True)  # fmt: skip
    loaded = run.stdout.split()
    assert "verifier" in loaded
    assert [
        name for name in loaded if name.split(".")[0] in ("numpy", "scipy", "argparse", "dataclasses", "pathlib")
    ] == []


def test_results_show_themselves() -> None:
    network = verifier.load(ROOT / "benchmarks" / "networks" / "bandit.onnx")
    x = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    verdict = verifier.verify(verifier.saliency_robustness(network, x, epsilon=1.0, delta=1.25))
    assert verdict.witness is not None
    drawn = [
        network,
        verifier.robustness(network, x, 0.1),
        verdict,
        verdict.witness,
        verifier.line(network, np.zeros(5), x),
        verifier.plane(network, [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]),
        verifier.attribute(network, x),
        verifier.certify(network, [x], epsilon=[0.01, 0.3]),
    ]
    plain = [verifier.bounds(network, verifier.Box.around(x, 0.1))]
    for thing in (*drawn, *plain):
        lines = str(thing).splitlines()
        assert 2 <= len(lines) <= 5, thing
        assert len(repr(thing)) < 400
        assert "\n" not in repr(thing)
        assert ("<img" in thing._repr_html_()) == (thing in drawn)
    for thing in drawn:
        assert len(thing.plot().axes) >= 1
    with pytest.raises(verifier.InputError, match="has no picture"):
        plain[0].plot()
