"""Formal explanations: what a network provably depends on."""

from verifier.explain.abductive import AbductiveExplanation, Contrast, explain
from verifier.explain.extremes import Extreme, ExtremeSettings
from verifier.explain.features import Features, columns, patches
from verifier.explain.lipschitz import lipschitz, lipschitz_on_line

__all__ = [
    "AbductiveExplanation",
    "Contrast",
    "Extreme",
    "ExtremeSettings",
    "Features",
    "columns",
    "explain",
    "lipschitz",
    "lipschitz_on_line",
    "patches",
]
