"""Attention robustness: exhaustive maps of where the label and the saliency map hold."""

from verifier.attention.answer import Answer, AspectAnswer
from verifier.attention.areas import AreaMap, AreaSettings
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.maps import attention_areas, attention_map
from verifier.attention.region_map import RegionMap
from verifier.attention.table import Summary, Table

__all__ = [
    "Answer", "AreaMap", "AreaSettings", "AspectAnswer", "Inconsistency", "RegionMap", "Summary", "Table",
    "attention_areas", "attention_map",
]  # fmt: skip
