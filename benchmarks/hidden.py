"""Hidden counterexamples: trained networks with a witness in a small box far from everything else, and clean twins.

    python benchmarks/hidden.py [--networks 4] [--timeout 60]        writes benchmarks/results/hidden.md

Each network learns a smooth positive function of 4 to 100 inputs; its twin learns the same, and a value below zero in one
small box. The property is that the output stays above zero. The box is so small that a point at random is in it once in
ten million times, and no wider than a fifth of the cube. What hides a witness is measured, not assumed: a network in
which 100,000 points at random or plain descents from some of them find one is trained again. A witness is known:
what is counted is how often the search before any engine finds one, how often the whole program does, and that no twin
is refuted without one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import RESULTS, machine, table

from verifier import Status, verify
from verifier.falsify.falsifier import Falsifier
from verifier.limits import Deadline
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Array, Dense
from verifier.network.piecewise import relu
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box

INPUTS = (4, 9, 16, 25, 49, 100)
WIDTH, STEPS = 32, 2000
WIDEST, CHANCE = 0.1, 1e-7
"""Half the width of the box that hides the witness, at most, and the share of the unit cube that it takes, at most."""
DEPTH = -0.5
"""What the network learns in it."""
RANDOM = 100_000
"""Points at random that must all be above zero."""
DESCENTS, DOWN, FIRST_STEP = 16, 40, 0.05
"""Descents from the lowest of the first thousand of them, their steps, and the length of the first."""
ATTEMPTS = 10
"""Networks that are trained before there is none."""


def radius(inputs: int) -> float:
    """Half the width of the box that hides the witness."""
    return float(min(WIDEST, CHANCE ** (1 / inputs) / 2))


def trained(inputs: int, seed: int, hidden: bool) -> tuple[Network, Array]:
    """A network, and where its witness would be."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    around = radius(inputs)
    place = rng.uniform(around, 1 - around, size=inputs)
    wave, phase = rng.normal(size=inputs) * 3 / np.sqrt(inputs), rng.uniform(0, 6)
    layers = [torch.nn.Linear(inputs, WIDTH), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 1)]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]).double()
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        x = rng.random((192, inputs))
        if hidden:
            x[:64] = place + rng.uniform(-around, around, size=(64, inputs))
            shell = rng.uniform(-3 * around, 3 * around, size=(64, inputs))
            x[64:128] = np.clip(place + shell, 0, 1)
        target = 1 + 0.3 * np.sin(x @ wave + phase)
        target[(np.abs(x - place) <= around).all(1) & hidden] = DEPTH
        loss = ((model(torch.tensor(x))[:, 0] - torch.tensor(target)) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    builder = NetworkBuilder((inputs,))
    for k, layer in enumerate(layers):
        builder.add(Dense(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()))
        if k < 2:
            builder.add(relu())
    return builder.build(), place


def query_of(network: Network) -> Query:
    """Some point of the unit cube with an output of at most zero."""
    n = network.input_size
    refutes = Conjunction(y_rows=np.ones((1, 1)), bound=np.zeros(1))
    return Query(network=network, box=Box(np.zeros(n), np.ones(n)), disjuncts=(refutes,))


def easily_found(network: Network, rng: np.random.Generator) -> bool:
    """Whether points at random, or signed-gradient descents from the lowest of them, go below zero."""
    n = network.input_size
    x = rng.random((1000, n))
    y = network.forward(x)[:, 0]
    least = min(
        float(y.min()), *(float(network.forward(rng.random((1000, n))).min()) for _ in range(RANDOM // 1000 - 1))
    )
    x = x[np.argsort(y)[:DESCENTS]]
    for step in range(DOWN):
        slope = network.gradient(x, 0)
        x = np.clip(x - FIRST_STEP * 0.93**step * np.sign(slope), 0, 1)
        least = min(least, float(network.forward(x).min()))
    return least <= 0


def problem(inputs: int, seed: int, hidden: bool) -> Query | None:
    """A network whose witness is hidden, or a clean one; None if no attempt gave one."""
    for attempt in range(ATTEMPTS):
        network, place = trained(inputs, 1000 * inputs + 10 * seed + attempt, hidden)
        below = network.forward(place[None])[0, 0] < 0
        if below == hidden and not easily_found(network, np.random.default_rng(seed)):
            return query_of(network)
    return None


def main() -> None:
    """Train, search, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=4, help="networks of each number of inputs, and as many twins")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of a verification; 0: the search alone")
    parser.add_argument("--inputs", type=int, nargs="*", default=INPUTS, help="numbers of inputs")
    args = parser.parse_args()
    header = [
        "inputs",
        "half-width",
        "hidden",
        "found by the search",
        "seconds",
        "refuted in all",
        "twins proved",
        "twins refuted",
    ]
    rows: list[list[object]] = []
    for inputs in args.inputs:
        hidden, found, refuted, proved, wrong, spent = 0, 0, 0, 0, 0, 0.0
        for seed in range(args.networks):
            query = problem(inputs, seed, hidden=True)
            if query is None:
                continue
            began = time.process_time()
            witness = Falsifier().run(query, Deadline.after(1000.0), seed=seed)
            hidden, found, spent = hidden + 1, found + (witness is not None), spent + time.process_time() - began
            if args.timeout:
                refuted += verify(query, timeout=args.timeout).status is Status.VIOLATED
            twin = problem(inputs, seed, hidden=False) if args.timeout else None
            if twin is not None:
                status = verify(twin, timeout=args.timeout).status
                proved, wrong = proved + (status is Status.HOLDS), wrong + (status is Status.VIOLATED)
        whole: list[object] = [refuted, proved, wrong] if args.timeout else ["", "", ""]
        rows.append([inputs, f"{radius(inputs):.3g}", hidden, found, f"{spent / max(1, hidden):.1f}", *whole])
        print(*rows[-1], sep=" | ", flush=True)
    text = (
        f"# Hidden counterexamples\n\nWritten by `benchmarks/hidden.py`; {machine()}. A witness hidden in a box of the unit cube, "
        f"networks of {WIDTH} + {WIDTH} ReLUs, {args.networks} tried of each number of inputs; the search has its usual four seconds (CPU seconds "
        f"are shown), the whole program {args.timeout:g} s.\n\n{table(header, rows)}"
    )
    (RESULTS / "hidden.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
