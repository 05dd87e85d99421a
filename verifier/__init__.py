"""pwl-verifier."""
