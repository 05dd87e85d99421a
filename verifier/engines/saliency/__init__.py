"""The native saliency engine: gradient inversion, phases propagated both ways, certified LP branch and bound."""
