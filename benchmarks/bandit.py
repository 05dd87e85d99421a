"""BanditNet: the saliency paper's first experiment (Le, Geng, Si, Gurfinkel, ACML 2023, Table 1).

A bandit has five arms with rewards 100, 100, 300, 100 and 300. The input says which arms were pulled;
the network answers 1 ("high") if the rewards sum to more than 300, else 0. The question, around
x̂ = [1, 1, 0, 1, 1] with ε = 1 (the whole cube [0, 1]⁵): does every input whose gradient map differs from
x̂'s by at most δ get x̂'s label?

    python benchmarks/bandit.py                 the table (this is `make demo`)
    python benchmarks/bandit.py --train         train the shipped network again

The shipped network is 5-6-6-2, trained on the 32 corners of the cube for 400 full-batch Adam steps from
seed 1. It was picked because its verdicts change between two δ of the paper's table. Most well-trained
networks of this size are violated at every δ: `--train --survey` prints, for 12 seeds, the smallest
map difference among sampled inputs of the other label.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from common import RESULTS, data_folder, machine, table
from saliency_paper import BANDIT, MACHINE

import verifier
from verifier import Network, Status, compiled

NETWORK = Path(__file__).resolve().parent / "networks" / "bandit.onnx"
REWARDS = np.array([100.0, 100.0, 300.0, 100.0, 300.0])
X_HAT = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
EPSILON = 1.0
DELTAS = (0.5, 0.75, 1.0, 1.25, 1.5)
ENGINES = ("z3", "marabou", "highs", "saliency")
SEED, STEPS = 1, 400


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train the shipped network again")
    parser.add_argument("--survey", action="store_true", help="with --train: compare 12 seeds, write nothing")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/results/bandit.md")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per query (default: 60)")
    args = parser.parse_args(arguments)
    if args.train:
        train_and_ship(survey=args.survey)
        return 0
    compiled.ensure(compiled.LINES, lambda event: print(getattr(event, "text", event), flush=True))
    sections = [
        f"Machine: {machine()}; limit {args.timeout:g} s a query. The paper's times (its Table 1, {MACHINE}) are of its own "
        "BanditNet; UNSAT is HOLDS, SAT is VIOLATED.\n"
    ]
    agreed = True
    for title, network in networks():
        text, ok = experiment(title, network, args.timeout)
        sections.append(text)
        agreed &= ok
    report = "# BanditNet\n\n" + "\n".join(sections)
    if args.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "bandit.md").write_text(report)
    print(report if args.write else "".join(sections[:1]))
    return 0 if agreed else 1


def networks() -> Iterable[tuple[str, Network]]:
    """The shipped network, and the one that the paper's authors published where it is at hand."""
    yield "Our network", verifier.load(NETWORK)
    try:
        published = data_folder() / "bandit" / "BanditNet.pth"
    except SystemExit:
        return
    if published.is_file():
        yield "The authors' published weights", load_published(published)


def load_published(path: Path) -> Network:
    """The published torch state dict as a network."""
    import torch

    state = torch.load(path, weights_only=True, map_location="cpu")
    weights = [v.double().numpy() for k, v in state.items() if k.endswith("weight")]
    biases = [v.double().numpy() for k, v in state.items() if k.endswith("bias")]
    return verifier.feedforward(weights, biases, source=path.name)


def experiment(title: str, network: Network, timeout: float) -> tuple[str, bool]:
    """Table 1 for one network: prints rows as they come; the text, and whether all engines agree."""
    header = (
        "δ",
        "verdict",
        "paper: Z3 (s)",
        "paper: Marabou (s)",
        *(f"{e}{suffix} (s)" for e in ENGINES for suffix in ("", " + pre-pass")),
        "decided by",
    )
    print(f"\n## {title}\n\n| " + " | ".join(header) + " |\n" + "|" + "---|" * len(header))
    rows, agreed = [], True
    for delta in DELTAS:
        query = verifier.saliency_robustness(network, X_HAT, epsilon=EPSILON, delta=delta)
        statuses, cells, stages = set(), [], []
        for engine, prepass in itertools.product(ENGINES, (False, True)):
            start = time.perf_counter()
            verdict = verifier.verify(query, engine=engine, timeout=timeout, prepass=prepass)
            seconds = time.perf_counter() - start
            statuses.add(verdict.status)
            mark = "" if verdict.status.decided else f" {verdict.status.name}: {verdict.reason}"
            cells.append(f"{seconds:.3f}{mark}")
            if prepass:
                stages.append(verdict.stage)
        agreed &= len(statuses) == 1 and next(iter(statuses)).decided
        name = " / ".join(sorted(s.name for s in statuses))
        row = (f"{delta:g}", name, *BANDIT[delta], *cells, ", ".join(sorted(set(stages))))
        rows.append(row)
        print("| " + " | ".join(row) + " |", flush=True)
    low, high = flip(network, timeout)
    closing = f"\nThe verdict flips between δ = {low:.9f} (HOLDS) and δ = {high:.9f} (VIOLATED), by Z3.\n"
    print(closing)
    return f"## {title}\n\n" + table(header, rows) + closing, agreed


def flip(network: Network, timeout: float, width: float = 1e-6) -> tuple[float, float]:
    """An interval no wider than ``width`` in which the verdict flips from HOLDS to VIOLATED, by bisection."""

    def holds(delta: float) -> bool:
        query = verifier.saliency_robustness(network, X_HAT, epsilon=EPSILON, delta=delta)
        verdict = verifier.verify(query, engine="z3", timeout=timeout)
        if not verdict.status.decided:
            sys.exit(f"δ = {delta}: {verdict.status.name}: {verdict.reason}")
        return verdict.status is Status.HOLDS

    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
    while high - low > width:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high


def train_and_ship(*, survey: bool) -> None:
    """Train the network (or, as a survey, one for each of 12 seeds) and write it as ONNX."""
    import torch

    torch.set_num_threads(1)
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    x, y = torch.tensor(corners), torch.tensor((corners @ REWARDS > 300).astype(np.int64))
    samples = np.random.default_rng(0).random((200_000, 5))
    for seed in range(12) if survey else (SEED,):
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = []
        for size in ((5, 6), (6, 6), (6, 2)):
            layers += [torch.nn.Linear(*size), torch.nn.ReLU()]
        module = torch.nn.Sequential(*layers[:-1]).double()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(x), y)
            loss.backward()
            optimizer.step()
        network = verifier.load(module, input_shape=(5,))
        accuracy = float((network.forward(corners).argmax(1) == y.numpy()).mean())
        outputs = network.forward(samples)
        difference = np.abs(network.gradient(samples, 1) - network.gradient(X_HAT, 1)).max(axis=1)
        flipped = difference[outputs[:, 0] >= outputs[:, 1]]
        smallest = f"{flipped.min():.4f}" if flipped.size else "no flip sampled"
        print(f"seed {seed}: loss {loss.item():.5f}, {accuracy:.0%} of corners right, smallest δ of a flip {smallest}")
        if not survey:
            NETWORK.parent.mkdir(exist_ok=True)
            verifier.write_onnx(network, NETWORK, precision="float64")
            print(f"wrote {NETWORK.name}")


if __name__ == "__main__":
    sys.exit(main())
