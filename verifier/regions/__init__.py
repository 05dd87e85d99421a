"""Exact piecewise-linear geometry: networks restricted to lines and planes."""

from verifier.regions.line import LineRestriction, LineRestrictions, line, lines
from verifier.regions.plane import PlaneRestriction, plane
from verifier.regions.tiles import Tile, in_tiles, plane_tiles

__all__ = [
    "LineRestriction",
    "LineRestrictions",
    "PlaneRestriction",
    "Tile",
    "in_tiles",
    "line",
    "lines",
    "plane",
    "plane_tiles",
]
