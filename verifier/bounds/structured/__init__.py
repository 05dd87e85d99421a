"""Bounds of large networks through the operators themselves: nothing is written out as a matrix, all work is in chunks."""
