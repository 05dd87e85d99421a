"""The native engine: batched branch and bound on CROWN bounds."""

from verifier.engines.native.engine import NativeEngine

__all__ = ["NativeEngine"]
