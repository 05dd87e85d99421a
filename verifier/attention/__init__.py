"""Attention robustness: exhaustive maps of where the label and the saliency map hold."""

from verifier.attention.answer import Answer, AspectAnswer
from verifier.attention.area_result import AreaMap, AreaSettings
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.maps import attention_areas, attention_map
from verifier.attention.region_map import RegionMap
from verifier.attention.table import Summary, Table
from verifier.attention.walk_settings import WalkSettings

__all__ = [
    "Answer", "AreaMap", "AreaSettings", "AspectAnswer", "Inconsistency", "RegionMap", "Summary", "Table", "WalkSettings",
    "attention_areas", "attention_map",
]  # fmt: skip
