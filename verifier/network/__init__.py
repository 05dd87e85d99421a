"""The network as a small DAG of piecewise-linear operators; readers and writer."""
