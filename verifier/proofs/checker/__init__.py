"""Checks proofs that networks keep properties, by itself: Python and numpy, and nothing else of this project."""
