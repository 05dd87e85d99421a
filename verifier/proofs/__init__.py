"""Certificates of HOLDS: written by the searches, checked by `verifier.proofs.checker`, which stands alone."""
