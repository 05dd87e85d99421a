"""Branch and bound over input boxes for conditions on any saliency map."""

from verifier.engines.maps.engine import MapsEngine

__all__ = ["MapsEngine"]
