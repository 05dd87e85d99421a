"""Formal explanations: what a network provably depends on."""

from verifier.explain.abductive import AbductiveExplanation, Contrast, explain
from verifier.explain.batch import ExplainedData, ExplainedInput, explain_all
from verifier.explain.extreme_search import ExtremeSettings
from verifier.explain.extremes import Extreme
from verifier.explain.features import Features, columns, patches
from verifier.explain.influence import Influence, InfluenceCell, InfluenceTable, influences, monotone_radius
from verifier.explain.lipschitz import lipschitz, lipschitz_on_line
from verifier.explain.radius import Radius
from verifier.explain.stability import stable_radius
from verifier.lazy import callable_as

__all__ = [
    "AbductiveExplanation",
    "Contrast",
    "ExplainedData",
    "ExplainedInput",
    "Extreme",
    "ExtremeSettings",
    "Features",
    "Influence",
    "InfluenceCell",
    "InfluenceTable",
    "Radius",
    "columns",
    "explain",
    "explain_all",
    "influences",
    "lipschitz",
    "lipschitz_on_line",
    "monotone_radius",
    "patches",
    "stable_radius",
]


callable_as(__name__)
