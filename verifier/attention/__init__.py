"""Attention robustness: exhaustive maps of where the label and the saliency map hold."""
