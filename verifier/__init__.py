"""pwl-verifier: proves or refutes properties of piecewise-linear neural networks, on real solvers.

>>> import verifier
>>> network = verifier.feedforward([[[1, -1], [-1, 1]], [[1, 0], [0, 1]]], [[0, 0], [0, 0]])  # or verifier.load(file)
>>> query = verifier.saliency_robustness(network, [0.9, 0.1], epsilon=0.5, delta=0.5)
>>> verdict = verifier.verify(query, engine="auto", timeout=60)
>>> verdict.status
<Status.HOLDS: 'holds'>

Names are loaded when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.api import verify
    from verifier.bounds.bound import Bound, NetworkBounds
    from verifier.certification import certify
    from verifier.errors import (
        EngineError,
        InputError,
        NetworkError,
        PropertyError,
        UnsupportedOperatorError,
        VerifierError,
    )
    from verifier.network.graph import Network, feedforward
    from verifier.network.loading import load
    from verifier.network.onnx_writer import write_onnx
    from verifier.options import Options
    from verifier.properties.builders import robustness, saliency_robustness
    from verifier.properties.conjunction import Conjunction
    from verifier.properties.query import GradientBox, Query
    from verifier.properties.sets import Box
    from verifier.properties.vnnlib import read_vnnlib
    from verifier.search.replay import replay
    from verifier.verdict import Certainty, Status, Verdict, Witness

__version__ = "0.1.0"

_WHERE = {
    "verify": "verifier.api",
    "certify": "verifier.certification",
    "Bound": "verifier.bounds.bound",
    "NetworkBounds": "verifier.bounds.bound",
    "EngineError": "verifier.errors",
    "InputError": "verifier.errors",
    "NetworkError": "verifier.errors",
    "PropertyError": "verifier.errors",
    "UnsupportedOperatorError": "verifier.errors",
    "VerifierError": "verifier.errors",
    "Network": "verifier.network.graph",
    "feedforward": "verifier.network.graph",
    "load": "verifier.network.loading",
    "write_onnx": "verifier.network.onnx_writer",
    "Options": "verifier.options",
    "robustness": "verifier.properties.builders",
    "saliency_robustness": "verifier.properties.builders",
    "Conjunction": "verifier.properties.conjunction",
    "GradientBox": "verifier.properties.query",
    "Query": "verifier.properties.query",
    "Box": "verifier.properties.sets",
    "read_vnnlib": "verifier.properties.vnnlib",
    "replay": "verifier.search.replay",
    "Certainty": "verifier.verdict",
    "Status": "verifier.verdict",
    "Verdict": "verifier.verdict",
    "Witness": "verifier.verdict",
}

__all__ = [  # noqa: RUF022 - in the order of use
    "load",
    "feedforward",
    "write_onnx",
    "read_vnnlib",
    "robustness",
    "saliency_robustness",
    "verify",
    "certify",
    "replay",
    "Network",
    "Box",
    "Conjunction",
    "GradientBox",
    "Query",
    "Options",
    "Bound",
    "NetworkBounds",
    "Status",
    "Certainty",
    "Verdict",
    "Witness",
    "VerifierError",
    "EngineError",
    "InputError",
    "NetworkError",
    "PropertyError",
    "UnsupportedOperatorError",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'verifier' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
