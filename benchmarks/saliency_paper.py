"""What Le, Geng, Si and Gurfinkel print (*Towards Robust Saliency Maps*, ACML 2023): Tables 1 to 3, and which regions.

Figures are copied from the paper's tables as printed. The regions' names x1 … x7 are the paper's; it does not say which
images they are. The authors' published script (repository nhamlv-55/VerifyNNE, check_saliency_map_mnist.py, benchmark
``mnist_fc_2``) numbers the regions of VNN-COMP 2022's mnist_fc for which Marabou's published answers hold a
counterexample; these are the eleven of `saliency_common.REGIONS`. Two of them, images 5 and 6 at 0.05, have the same
number 9 in its chain of conditions, so that the second is never asked: ten regions of seven inputs remain, as in Table 2.
"""

from __future__ import annotations

MACHINE = "30 cores, 10 minutes a query"

BANDIT = {
    0.5: ("3.22 UNSAT", "0.8 UNSAT"),
    0.75: ("2.8 UNSAT", "1.225 UNSAT"),
    1.0: ("2.9 UNSAT", "1.258 UNSAT"),
    1.25: ("3.36 SAT", "2.212 SAT"),
    1.5: ("2.78 SAT", "0.8 SAT"),
}
"""Table 1: by δ, seconds and answer of Z3 and of Marabou with CROWN/LiRPA."""

REGIONS = {
    (0, "0.05"): "x1",
    (1, "0.03"): "x2",
    (1, "0.05"): "x2",
    (12, "0.03"): "x3",
    (12, "0.05"): "x3",
    (2, "0.03"): "x4",
    (2, "0.05"): "x4",
    (4, "0.05"): "x5",
    (5, "0.05"): "x6",
    (8, "0.05"): "x7",
}
"""By image and ε: the paper's name of the input, if its inputs are numbered in the order of the files' names (an assumption)."""

LEFT_OUT = (6, "0.05")
"""The region with adversarial examples that the authors' script cannot reach."""

TABLE_2 = {
    ("x1", "0.05"): ("3m46s UNSAT", "TIMEOUT", "TIMEOUT"),
    ("x2", "0.03"): ("1m34s UNSAT", "1m22s UNSAT", "5m22s UNSAT"),
    ("x2", "0.05"): ("TIMEOUT", "TIMEOUT", "TIMEOUT"),
    ("x3", "0.03"): ("ERROR", "ERROR", "ERROR"),
    ("x3", "0.05"): ("TIMEOUT", "TIMEOUT", "TIMEOUT"),
    ("x4", "0.03"): ("ERROR", "ERROR", "ERROR"),
    ("x4", "0.05"): ("1m19s UNSAT", "1m28s UNSAT", "3m23s UNSAT"),
    ("x5", "0.05"): ("ERROR", "ERROR", "ERROR"),
    ("x6", "0.05"): ("1m44s UNSAT", "TIMEOUT", "1m50s UNSAT"),
    ("x7", "0.05"): ("TIMEOUT", "TIMEOUT", "TIMEOUT"),
}
"""Table 2: Marabou with CROWN/LiRPA at δ = 1e-4, 5e-4 and 1e-3. (Z3 at 1e-4: TIMEOUT in all ten.)"""

TABLE_3 = {
    ("x1", "0.05"): ("TIMEOUT", "2.131", "5m21s UNSAT", "1"),
    ("x2", "0.03"): ("1m11s UNSAT", "1.11", "1m6s UNSAT", "1.014"),
    ("x2", "0.05"): ("TIMEOUT", "1.06", "TIMEOUT", "1"),
    ("x3", "0.03"): ("ERROR", "-", "ERROR", "-"),
    ("x3", "0.05"): ("TIMEOUT", "1.05", "TIMEOUT", "1.002"),
    ("x4", "0.03"): ("ERROR", "1.69", "ERROR", "1"),
    ("x4", "0.05"): ("1m44s UNSAT", "1.04", "1m12s UNSAT", "1"),
    ("x5", "0.05"): ("ERROR", "1.13", "ERROR", "1"),
    ("x6", "0.05"): ("TIMEOUT", "1.04", "1m44s UNSAT", "1.004"),
    ("x7", "0.05"): ("TIMEOUT", "1.07", "TIMEOUT", "1.004"),
}
"""Table 3, δ = 1e-4: answer and average growth of the Jacobian's bounds against the reference (200 steps, whose answers are
those of `TABLE_2`), without optimisation and with 20 steps."""
