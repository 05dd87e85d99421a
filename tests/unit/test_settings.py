"""What a search decides by numbers stands in a frozen Settings that is passed per call; module constants are for the rest."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEARCHES = ("engines", "falsify", "bab", "lp", "repair", "bounds")
"""Packages that search, or ascend."""

NUMERICAL = {
    "bounds.decide.SLACK", "bounds.interval.FLOOR", "bounds.lirpa.SLACK", "bounds.crown_slopes.LARGEST_HALF", "bounds.crown_backward.SUBNORMAL",
    "bounds.curved_relaxations.CARE", "bounds.curved_relaxations.HALVINGS", "bounds.step_relaxations.STEEPEST",
    "bounds.structured.backward.CONSTANTS", "bounds.structured.backward.SPARE", "bounds.structured.backward.RANGE",
    "bounds.structured.condense.RESERVE", "bounds.zonotope.RESERVE", "bounds.norm_of_symbols.SWEEPS",
    "engines.encoded.SMALL", "engines.encoded.LARGE", "engines.native.box_record.CLOSE",
    "engines.native.node_store.LARGEST_WEIGHT", "engines.saliency.leaf_kernels.FIRST",
    "engines.saliency.leaf_kernels.SECOND", "engines.saliency.problem.COMPOSED_WELL",
    "engines.saliency.propagation.ROOM", "engines.saliency.relaxation.VIOLATED", "repair.certificate.INWARDS",
    "repair.program.TOLERANCE", "repair.program.NOISE", "repair.recheck.UNRELIABLE", "repair.recheck.UNCOVERED",
    "repair.recheck.MISPLACED", "repair.rows.NOISE", "repair.rows.SLACK_NOISE", "repair.specification.ROUNDING",
    "lp.exact.ZERO", "lp.exact.ONE",
}  # fmt: skip
"""Rounding, tolerances and mathematics."""
CODES = {
    "bounds.jacobian.CONSTANT", "bounds.jacobian.INDEPENDENT", "bounds.jacobian.GENERAL",
    "engines.saliency.crown._VALID", "engines.saliency.state_rows.NONE", "engines.saliency.relaxation.BASIC",
    "engines.saliency.state_rows.KIND", "engines.saliency.state_rows.LAYER",
    "engines.saliency.valid_inequalities._DISJUNCT", "engines.saliency.valid_inequalities._IDENTITY",
    "engines.saliency.valid_inequalities._GRADIENT",
}  # fmt: skip
"""Numbers that stand for something: keys, kinds, places."""
MEMORY = {
    "bounds.condensed_values.DENSE_FROM", "bounds.crown_backward.CHUNK", "bounds.crown_slopes.CHUNK", "bounds.forward.SPARSE_BELOW",
    "bounds.jacobian.CHUNK", "bounds.lirpa_modules.MATRIX_LIMIT", "bounds.structured.condense.CHUNK",
    "bounds.structured.condense.ROWS", "repair.filtered.CHUNK",
    "engines.native.carried_bounds.CHUNK", "repair.filtered.EXTENDED", "repair.filtered.EXACTLY", "repair.frozen.CHUNK",
}  # fmt: skip
"""How large a working array is and how a matrix is stored: no result depends on it."""
LIMITS = {
    "engines.base.LOW_DIMENSION", "engines.process.GRACE", "engines.process.POLL", "engines.smtlib_engine.ORPHANED",
    "engines.reproducer.MOST_NEURONS", "repair.reading.DEEPEST", "repair.smt.PARAMETERS", "repair.exact.FAILURES",
    "bounds.condensed_kernels.CUT_ROUNDS", "falsify.replay.START", "falsify.replay.ENTRIES_A_SECOND", "lp.exact.EAGER", "lp.exact.GRIDS",
}  # fmt: skip
"""What is refused, reported or waited for, facts about other programs, and turns within one compiled kernel."""


def is_numeric(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    if isinstance(node, ast.UnaryOp):
        return is_numeric(node.operand)
    if isinstance(node, ast.BinOp):
        return is_numeric(node.left) and is_numeric(node.right)
    if isinstance(node, (ast.Tuple, ast.List)):
        return bool(node.elts) and all(is_numeric(e) for e in node.elts)
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("Fraction", "float", "int")
        and bool(node.args)
        and all(is_numeric(a) for a in node.args)
    )


def constants(*packages: str) -> set[str]:
    """The numeric constants of modules, ``package.module.NAME``."""
    found = set()
    places = (
        [ROOT / "verifier" / package for package in packages] if packages else [ROOT / "verifier", ROOT / "encodings"]
    )
    for place in places:
        for path in place.rglob("*.py"):
            module = ".".join(path.relative_to(ROOT / "verifier" if packages else ROOT).with_suffix("").parts)
            for statement in ast.parse(path.read_text(encoding="utf-8")).body:
                if (
                    isinstance(statement, (ast.Assign, ast.AnnAssign))
                    and statement.value
                    and is_numeric(statement.value)
                ):
                    target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                    names = target.elts if isinstance(target, ast.Tuple) else [target]
                    found |= {f"{module}.{ast.unparse(name)}" for name in names}
    return found


def test_no_test_patches_a_module_constant() -> None:
    names = {name.rpartition(".")[2] for name in constants()}
    assert len(names) > 50
    patched = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("setattr", "setitem"):
                words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                patched += [f"{path.name}:{node.lineno}" for word in words if word.rpartition(".")[2] in names]
            if isinstance(node, ast.Assign):  # module.NAME = …
                targets = [t for t in node.targets if isinstance(t, ast.Attribute) and t.attr.isupper()]
                patched += [f"{path.name}:{node.lineno}" for t in targets if t.attr in names]
    assert not patched


def test_what_a_search_decides_by_numbers_is_in_its_settings() -> None:
    said = NUMERICAL | CODES | MEMORY | LIMITS
    assert len(said) == sum(map(len, (NUMERICAL, CODES, MEMORY, LIMITS)))
    found = constants(*SEARCHES)
    assert found - said == set(), "a field of the engine's Settings, or a reason here"
    assert said - found == set(), "gone: take it off the list"


SETTINGS = sorted(
    (".".join(path.relative_to(ROOT).with_suffix("").parts), node.name)
    for path in (ROOT / "verifier").rglob("*.py")
    if "encodings" not in path.parts
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and node.name.endswith("Settings")
)


@pytest.mark.parametrize(("module", "name"), SETTINGS)
def test_settings_are_frozen_and_say_what_each_field_means(module: str, name: str) -> None:
    settings = getattr(importlib.import_module(module), name)
    if not issubclass(settings, tuple):
        assert dataclasses.is_dataclass(settings)
        assert settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    fields = settings.__annotations__
    assert fields
    text = settings.__doc__ or ""
    missing = [field for field in fields if field not in text]
    assert not missing
