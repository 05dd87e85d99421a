"""Proofs that can be written to a file, and checked again independently of the search that found them."""

from verifier.proofs.proof import Proof, ProofError, load_proof

__all__ = ["Proof", "ProofError", "load_proof"]
