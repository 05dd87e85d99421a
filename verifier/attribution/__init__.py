"""Attribution of outputs to inputs and neurons, exactly, and measures of linearity."""

from verifier.attribution.expected import expected_gradients
from verifier.attribution.integrated_gradients import METHODS, AdaptedRule, IntegratedGradients, quadrature
from verifier.attribution.linearity import density, gradient_deviation

__all__ = [
    "METHODS",
    "AdaptedRule",
    "IntegratedGradients",
    "density",
    "expected_gradients",
    "gradient_deviation",
    "quadrature",
]
