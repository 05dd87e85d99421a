"""Exact piecewise-linear geometry: networks restricted to lines and planes."""

from verifier.regions.line import LineRestriction, LineRestrictions, line, lines
from verifier.regions.plane import PlaneRestriction, plane

__all__ = ["LineRestriction", "LineRestrictions", "PlaneRestriction", "line", "lines", "plane"]
