"""Repair: small, provable changes of weights over whole regions."""

from verifier.lazy import callable_as
from verifier.repair.api import RepairResult, repair
from verifier.repair.effect import Drawdown, drawdown
from verifier.repair.explanation import gradient_bounds, repair_explanation
from verifier.repair.frozen import FrozenNetwork, repairable_layers
from verifier.repair.methods import RepairStatus
from verifier.repair.property import PropertyRepair, PropertyRepairStatus, repair_property
from verifier.repair.reading import specification_from_dict, specification_from_json
from verifier.repair.recheck import Check, check, check_exactly
from verifier.repair.specification import (
    LineRegion,
    OutputPolytope,
    PiecesRegion,
    PointRegion,
    PolygonRegion,
    Requirement,
    Specification,
    output_class,
)

__all__ = [
    "Check",
    "Drawdown",
    "FrozenNetwork",
    "LineRegion",
    "OutputPolytope",
    "PiecesRegion",
    "PointRegion",
    "PolygonRegion",
    "PropertyRepair",
    "PropertyRepairStatus",
    "RepairResult",
    "RepairStatus",
    "Requirement",
    "Specification",
    "check",
    "check_exactly",
    "drawdown",
    "gradient_bounds",
    "output_class",
    "repair",
    "repair_explanation",
    "repair_property",
    "repairable_layers",
    "specification_from_dict",
    "specification_from_json",
]


callable_as(__name__)
