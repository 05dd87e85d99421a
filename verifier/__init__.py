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
    from verifier.api import verify as verify
    from verifier.attention.area_result import AreaMap as AreaMap
    from verifier.attention.area_result import AreaSettings as AreaSettings
    from verifier.attention.inconsistency import Inconsistency as Inconsistency
    from verifier.attention.maps import attention_areas as attention_areas
    from verifier.attention.maps import attention_map as attention_map
    from verifier.attention.region_map import RegionMap as RegionMap
    from verifier.attribution.attribute import Attribution as Attribution
    from verifier.attribution.attribute import attribute as attribute
    from verifier.attribution.expected import expected_gradients as expected_gradients
    from verifier.attribution.integrated_gradients import IntegratedGradients as IntegratedGradients
    from verifier.bounds import bounds as bounds
    from verifier.bounds import gradient_bounds as gradient_bounds
    from verifier.bounds.bound import Bound as Bound
    from verifier.bounds.bound import NetworkBounds as NetworkBounds
    from verifier.certification import Certification as Certification
    from verifier.certification import certify as certify
    from verifier.encodings.perturbation_kinds import (
        Blend as Blend,
    )
    from verifier.encodings.perturbation_kinds import (
        Blur as Blur,
    )
    from verifier.encodings.perturbation_kinds import (
        Brightness as Brightness,
    )
    from verifier.encodings.perturbation_kinds import (
        Contrast as Contrast,
    )
    from verifier.encodings.perturbation_kinds import (
        Linear as Linear,
    )
    from verifier.encodings.perturbation_kinds import (
        Patch as Patch,
    )
    from verifier.encodings.perturbation_kinds import (
        Perturbation as Perturbation,
    )
    from verifier.encodings.perturbation_kinds import (
        Rotation as Rotation,
    )
    from verifier.encodings.perturbation_kinds import (
        Shear as Shear,
    )
    from verifier.encodings.perturbation_kinds import (
        Translation as Translation,
    )
    from verifier.encodings.perturbation_kinds import (
        Zoom as Zoom,
    )
    from verifier.encodings.perturbations import perturbed as perturbed
    from verifier.errors import (
        EngineError as EngineError,
    )
    from verifier.errors import (
        InputError as InputError,
    )
    from verifier.errors import (
        LimitError as LimitError,
    )
    from verifier.errors import (
        NetworkError as NetworkError,
    )
    from verifier.errors import (
        OutputError as OutputError,
    )
    from verifier.errors import (
        PropertyError as PropertyError,
    )
    from verifier.errors import (
        UnsupportedOperatorError as UnsupportedOperatorError,
    )
    from verifier.errors import (
        VerifierError as VerifierError,
    )
    from verifier.explain import explain as explain
    from verifier.explain import explain_all as explain_all
    from verifier.explain import influences as influences
    from verifier.explain import monotone_radius as monotone_radius
    from verifier.explain import stable_radius as stable_radius
    from verifier.explain.abductive import AbductiveExplanation as AbductiveExplanation
    from verifier.explain.batch import ExplainedData as ExplainedData
    from verifier.explain.extremes import Extreme as Extreme
    from verifier.explain.influence import InfluenceTable as InfluenceTable
    from verifier.explain.lipschitz import lipschitz as lipschitz
    from verifier.explain.radius import Radius as Radius
    from verifier.falsify.replay import replay as replay
    from verifier.listening import progress as progress
    from verifier.network.graph import Network as Network
    from verifier.network.graph import feedforward as feedforward
    from verifier.network.loading import load as load
    from verifier.network.onnx_writer import write_onnx as write_onnx
    from verifier.options import Options as Options
    from verifier.proofs.checking import ProofError as ProofError
    from verifier.proofs.checking import check_proof as check_proof
    from verifier.proofs.writer import Proof as Proof
    from verifier.properties.builders import robustness as robustness
    from verifier.properties.builders import saliency_robustness as saliency_robustness
    from verifier.properties.conjunction import Conjunction as Conjunction
    from verifier.properties.query import GradientBox as GradientBox
    from verifier.properties.query import Query as Query
    from verifier.properties.sets import Box as Box
    from verifier.properties.vnnlib import read_vnnlib as read_vnnlib
    from verifier.regions.line import (
        LineRestriction as LineRestriction,
    )
    from verifier.regions.line import (
        LineRestrictions as LineRestrictions,
    )
    from verifier.regions.line import (
        line as line,
    )
    from verifier.regions.line import (
        lines as lines,
    )
    from verifier.regions.plane import PlaneRestriction as PlaneRestriction
    from verifier.regions.plane import plane as plane
    from verifier.regions.tiles import plane_tiles as plane_tiles
    from verifier.repair import repair as repair
    from verifier.repair.api import RepairResult as RepairResult
    from verifier.repair.effect import Drawdown as Drawdown
    from verifier.repair.effect import drawdown as drawdown
    from verifier.repair.methods import RepairStatus as RepairStatus
    from verifier.repair.property import PropertyRepair as PropertyRepair
    from verifier.repair.property import repair_property as repair_property
    from verifier.repair.specification import (
        LineRegion as LineRegion,
    )
    from verifier.repair.specification import (
        OutputPolytope as OutputPolytope,
    )
    from verifier.repair.specification import (
        PointRegion as PointRegion,
    )
    from verifier.repair.specification import (
        PolygonRegion as PolygonRegion,
    )
    from verifier.repair.specification import (
        Requirement as Requirement,
    )
    from verifier.repair.specification import (
        Specification as Specification,
    )
    from verifier.repair.specification import (
        output_class as output_class,
    )
    from verifier.saliency import (
        Threshold as Threshold,
    )
    from verifier.saliency import (
        largest_delta as largest_delta,
    )
    from verifier.saliency import (
        largest_epsilon as largest_epsilon,
    )
    from verifier.verdict import Certainty as Certainty
    from verifier.verdict import Status as Status
    from verifier.verdict import Verdict as Verdict
    from verifier.verdict import Witness as Witness

__version__ = "0.1.0"

CONTENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Networks": {
        "verifier.network.loading": ("load",),
        "verifier.network.graph": ("feedforward", "Network"),
        "verifier.network.onnx_writer": ("write_onnx",),
    },
    "Questions": {
        "verifier.properties.builders": ("robustness", "saliency_robustness"),
        "verifier.properties.vnnlib": ("read_vnnlib",),
        "verifier.properties.query": ("Query", "GradientBox"),
        "verifier.properties.conjunction": ("Conjunction",),
        "verifier.properties.sets": ("Box",),
    },
    "Answers": {
        "verifier.api": ("verify",),
        "verifier.options": ("Options",),
        "verifier.verdict": ("Verdict", "Status", "Certainty", "Witness"),
        "verifier.falsify.replay": ("replay",),
        "verifier.proofs.checking": ("check_proof", "ProofError"),
        "verifier.proofs.writer": ("Proof",),
    },
    "Many questions": {
        "verifier.certification": ("certify", "Certification"),
        "verifier.saliency": ("largest_delta", "largest_epsilon", "Threshold"),
    },
    "Bounds": {
        "verifier.bounds": ("bounds", "gradient_bounds"),
        "verifier.bounds.bound": ("Bound", "NetworkBounds"),
    },
    "Lines and planes": {
        "verifier.regions.line": ("line", "lines", "LineRestriction", "LineRestrictions"),
        "verifier.regions.plane": ("plane", "PlaneRestriction"),
        "verifier.regions.tiles": ("plane_tiles",),
    },
    "Attributions": {
        "verifier.attribution.attribute": ("attribute", "Attribution"),
        "verifier.attribution.integrated_gradients": ("IntegratedGradients",),
        "verifier.attribution.expected": ("expected_gradients",),
    },
    "Formal explanations": {
        "verifier.explain": ("explain", "explain_all", "influences", "monotone_radius", "stable_radius"),
        "verifier.explain.lipschitz": ("lipschitz",),
        "verifier.explain.abductive": ("AbductiveExplanation",),
        "verifier.explain.batch": ("ExplainedData",),
        "verifier.explain.extremes": ("Extreme",),
        "verifier.explain.influence": ("InfluenceTable",),
        "verifier.explain.radius": ("Radius",),
    },
    "Attention maps": {
        "verifier.attention.maps": ("attention_map", "attention_areas"),
        "verifier.attention.region_map": ("RegionMap",),
        "verifier.attention.area_result": ("AreaMap", "AreaSettings"),
        "verifier.attention.inconsistency": ("Inconsistency",),
        "verifier.encodings.perturbations": ("perturbed",),
        "verifier.encodings.perturbation_kinds": (
            "Perturbation",
            "Brightness",
            "Contrast",
            "Patch",
            "Blend",
            "Blur",
            "Linear",
            "Translation",
            "Rotation",
            "Zoom",
            "Shear",
        ),
    },
    "Repairs": {
        "verifier.repair": ("repair",),
        "verifier.repair.property": ("repair_property", "PropertyRepair"),
        "verifier.repair.api": ("RepairResult",),
        "verifier.repair.methods": ("RepairStatus",),
        "verifier.repair.specification": (
            "Specification",
            "Requirement",
            "OutputPolytope",
            "output_class",
            "LineRegion",
            "PointRegion",
            "PolygonRegion",
        ),
        "verifier.repair.effect": ("drawdown", "Drawdown"),
    },
    "Progress and errors": {
        "verifier.listening": ("progress",),
        "verifier.errors": (
            "VerifierError",
            "EngineError",
            "InputError",
            "LimitError",
            "NetworkError",
            "OutputError",
            "PropertyError",
            "UnsupportedOperatorError",
        ),
    },
}
"""The public names by topic and by the module that each comes from; `docs/api.md` is made of this."""

_WHERE = {name: module for topic in CONTENTS.values() for module, names in topic.items() for name in names}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'verifier' has no attribute {name!r}")
    module = importlib.import_module(_WHERE[name])
    if module.__name__ == f"{__name__}.{name}":
        return module  # a package that is called like the function it holds, such as `repair`
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
