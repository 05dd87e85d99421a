"""A fixed sample of every shared benchmark category: no answer is wrong, no counterexample invalid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CATEGORIES = {
    # how many of two evenly spread instances are decided, within seconds on a quiet machine
    "acasxu": 0,
    "mnist_fc": 1,
    "rl_benchmarks": 1,
    "reach_prob_density": 0,
    "tllverifybench": 0,
    "collins_rul_cnn": 0,
    "oval21": 0,
    "cifar10_resnet2021": 0,
    "verivital2021": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CATEGORIES)
def test_a_sample_of(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "vnncomp" / name
    words = [sys.executable, "-m", "verifier.cli", "vnncomp", "run", str(folder), "--out", str(tmp_path)]
    # what is decided takes as long as it takes, on whatever machine; for the rest a look is enough
    words += ["--sample", "2", "--cap", "60" if CATEGORIES[name] else "8", "--threads", "1", "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong, 0 invalid" in done.stdout
    assert " 0 errors;" in done.stdout, done.stdout
    solved = int(done.stdout.split(f"{name}: ", 1)[1].split(" of ", 1)[0])
    assert solved >= CATEGORIES[name], done.stdout
