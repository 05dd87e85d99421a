"""The native saliency engine: gradient inversion, phases propagated both ways, certified LP branch and bound."""

from verifier.engines.saliency.engine import SaliencyEngine

__all__ = ["SaliencyEngine"]
