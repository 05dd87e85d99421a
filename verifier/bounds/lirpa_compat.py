"""Makes auto_LiRPA 0.3, the newest release on PyPI, importable and usable with current numpy and torch.

It was written for torch < 1.13. Five things that it uses have gone since: each is put back only where it is
missing, so that with a newer auto_LiRPA (or an older torch) nothing is touched. Nothing of auto_LiRPA's own
arithmetic is changed.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from verifier.errors import EngineError

INSTALL = "python -m verifier.bounds.lirpa_install"


def available() -> tuple[bool, str]:
    """Whether auto_LiRPA is installed, found without importing it, and its version (or how to install it)."""
    if importlib.util.find_spec("auto_LiRPA") is None:
        return False, INSTALL
    try:
        return True, metadata.version("auto_LiRPA")
    except metadata.PackageNotFoundError:
        return True, "of unknown version"


def load() -> types.ModuleType:
    """Import auto_LiRPA, with what it misses put back.

    Raises:
        EngineError: if it is not installed, or cannot be imported all the same.
    """
    if not available()[0]:
        raise EngineError("auto_LiRPA is not installed", fix=INSTALL)
    try:
        with warnings.catch_warnings(record=True):  # it resets the filters on import
            _restore_numpy()
            _restore_opset()
            _restore_node_attributes()
            package = importlib.import_module("auto_LiRPA")
    except (ImportError, AttributeError) as error:
        raise EngineError(f"auto_LiRPA cannot be imported: {error}", fix=f"reinstall it: {INSTALL}") from error
    _accept_remove_duplicate(package.BoundedModule)
    return package


def _restore_numpy() -> None:
    """``numpy.lib.arraysetops`` (gone in numpy 2.0), of which it takes ``isin``."""
    import numpy as np

    name = "numpy.lib.arraysetops"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__dict__["isin"] = np.isin
        sys.modules[name] = module


def _restore_opset() -> None:
    """``torch.onnx.symbolic_helper._set_opset_version``."""
    import torch
    import torch.onnx.symbolic_helper as helper

    if hasattr(helper, "_set_opset_version"):
        return
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        try:
            exporter = importlib.import_module(name).GLOBALS
            break
        except ImportError:
            continue
    else:
        raise EngineError(f"torch {torch.__version__} is not known to work with auto_LiRPA", fix="use torch 2.13")

    def set_opset_version(version: int) -> None:
        exporter.export_onnx_opset_version = version

    helper.__dict__["_set_opset_version"] = set_opset_version


def _restore_node_attributes() -> None:
    """``torch._C.Node.__getitem__``: an attribute of a graph node by its name."""
    import torch

    node: Any = torch._C.Node
    if not hasattr(node, "__getitem__"):
        node.__getitem__ = lambda self, key: getattr(self, self.kindOf(key))(key)


def _accept_remove_duplicate(module: Any) -> None:
    """``BoundedModule._named_members`` without the argument that torch has passed since 2.0."""
    original: Callable[..., Iterator[Any]] = module._named_members
    if "remove_duplicate" in inspect.signature(original).parameters:
        return

    def named_members(
        self: Any, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[Any]:
        return original(self, get_members_fn, prefix, recurse)

    module._named_members = named_members
