"""Packages that are not installed with the core: which extra brings each, and how their absence is said."""

from __future__ import annotations

import importlib.util

from verifier.errors import InputError

EXTRAS = {
    "torch": "torch",
    "onnxruntime": "runtime",
    "matplotlib": "plot",
    "z3": "z3",
    "cvc5": "smt",
    "yices": "smt",
    "maraboupy": "marabou",
    "shtab": "completion",
    "ray": "cluster",
}
"""The extra of each package, by the name that is imported."""


def lacking(package: str | None) -> InputError | None:
    """The error that says how a missing package is installed; None for one that is no extra's."""
    top = (package or "").partition(".")[0]
    if top not in EXTRAS:
        return None
    return InputError(f"{top} is needed and not installed", fix=f'pip install "pwl-verifier[{EXTRAS[top]}]"')


def require(package: str) -> None:
    """Ask for a package before the work that needs it.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        error = lacking(package)
        assert error is not None, package
        raise error
