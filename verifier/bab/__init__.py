"""Branch and bound, once: a store of subproblems, a bounder, a brancher, a leaf solver, a listener, a deadline.

`verifier.bab.search.BranchAndBound` puts them together; `verifier.bab.interfaces` says what each of them must be, and
`verifier.bab.store` holds the stores. Nothing here knows networks.
"""

from verifier.bab.interfaces import (
    Batch,
    Bounded,
    Bounder,
    Brancher,
    Children,
    Items,
    LastResort,
    LeafAnswer,
    LeafSolver,
    Open,
    Verdict,
)
from verifier.bab.search import BranchAndBound, Ending, SearchResult, Settings
from verifier.bab.store import DepthStore, PriorityStore, Store

__all__ = [
    "Batch",
    "Bounded",
    "Bounder",
    "BranchAndBound",
    "Brancher",
    "Children",
    "DepthStore",
    "Ending",
    "Items",
    "LastResort",
    "LeafAnswer",
    "LeafSolver",
    "Open",
    "PriorityStore",
    "SearchResult",
    "Settings",
    "Store",
    "Verdict",
]
