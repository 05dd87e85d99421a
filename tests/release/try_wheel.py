"""Tries an installed wheel in an environment of its own, from outside the source tree: `make release` runs it.

python try_wheel.py core     without any extra: the command line and the API, and that what is missing is named
python try_wheel.py all      with all extras: every engine answers
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

EXTRAS = ("torch", "onnxruntime", "matplotlib", "z3", "cvc5", "shtab")


def run(*words: str, status: int = 0) -> str:
    """A command line's output; ends the trial where the exit status is another."""
    done = subprocess.run([sys.executable, "-m", "verifier", *words], capture_output=True, text=True, check=False)
    if done.returncode != status or "Traceback" in done.stderr:
        sys.exit(f"verifier {' '.join(words)}: exit status {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main(kind: str) -> None:
    """The trial."""
    import numpy as np

    import verifier

    place = Path(verifier.__file__)
    assert "site-packages" in place.parts, f"{place} is no installed wheel"
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    assert missing == ([] if kind == "all" else list(EXTRAS)), missing
    with tempfile.TemporaryDirectory() as folder:
        model, x, other, third = (str(Path(folder, name)) for name in ("net.onnx", "x.npy", "y.npy", "z.npy"))
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=shape) for shape in ((12, 4), (12, 12), (3, 12))]
        network = verifier.feedforward(weights, [np.zeros(len(w)) for w in weights])
        verifier.write_onnx(network, model)
        for k, path in enumerate((x, other, third)):
            np.save(path, np.array([[0.9, 0.1, 0.4, 0.6], [0.1, 0.9, 0.5, 0.2], [0.5, 0.5, 0.0, 1.0]][k]))
        label = int(network(np.load(x)).argmax())
        point = {"name": "p", "region": {"points": [np.load(x).tolist()]}, "class": (label + 1) % 3, "margin": 0.01}
        Path(folder, "spec.json").write_text(json.dumps({"requirements": [point]}))
        run("--version")
        assert json.loads(run("--schema"))["title"]
        assert "HOLDS" in run("robustness", model, x, "--epsilon", "1/1000", "--quiet")
        assert "VIOLATED" in run("robustness", model, x, "--epsilon", "9/10", "--quiet", status=1)
        assert "linear pieces" in run("line", model, x, other, "--quiet")
        assert "linear regions" in run("plane", model, x, other, third, "--quiet")
        assert "integrated gradients" in run("attribute", model, x, "--quiet")
        run("saliency", model, x, "--epsilon", "0.01", "--delta", "0.001", "--quiet")
        run("attention", model, x, "--perturb", "brightness:0:0.0001", "--delta", "1e6", "--quiet")
        assert "REPAIRED" in run("repair", model, str(Path(folder, "spec.json")), "--quiet")
        engines = json.loads(run("inspect", model, "--json"))["result"]["engines"]
        states = {row["engine"]: row["installed"] for row in engines}
        if kind == "core":
            assert not states["z3"]
            said = run("robustness", model, x, "--epsilon", "0.01", "--engine", "z3", status=2)
            assert "z3" in said
            said = run("line", model, x, other, "--out", str(Path(folder, "line.png")), status=2)
            assert "pwl-verifier[plot]" in said, said
            assert "pwl-verifier[completion]" in run("--completion", "bash", status=2)
        else:
            assert "HOLDS" in run("robustness", model, x, "--epsilon", "1/1000", "--engine", "z3,highs", "--compare")
            run("line", model, x, other, "--out", str(Path(folder, "line.png")), "--quiet")
            assert "robustness" in run("--completion", "bash")
    print(f"pwl-verifier {verifier.__version__} on Python {sys.version.split()[0]}: {kind} works")


if __name__ == "__main__":
    main(*sys.argv[1:])
