"""Hidden counterexamples: trained networks with a witness in a small box far from everything else, and clean twins.

    python benchmarks/hidden.py [--networks 4] [--timeout 60]        writes benchmarks/results/hidden.md

Each network learns a smooth positive function of 4 to 100 inputs; its twin learns the same, and a value below zero in one
small box. The property is that the output stays above zero. Points at random do not find the witness (a network that
they find it in is trained again), and a witness is known: what is counted is how often the search before any
engine finds one, how often the whole program does, and that no twin is refuted without one.
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
RADIUS = 0.1
"""Half the width of the box that hides the witness; the whole is the unit cube."""
DEPTH = -0.5
"""What the network learns in it."""
RANDOM = 1000
"""Points at random that must all be above zero."""


def trained(inputs: int, seed: int, hidden: bool) -> tuple[Network, Array]:
    """A network, and where its witness would be."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    place = rng.uniform(RADIUS, 1 - RADIUS, size=inputs)
    wave, phase = rng.normal(size=inputs) * 3 / np.sqrt(inputs), rng.uniform(0, 6)
    layers = [torch.nn.Linear(inputs, WIDTH), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 1)]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]).double()
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        x = rng.random((192, inputs))
        if hidden:
            x[:64] = place + rng.uniform(-RADIUS, RADIUS, size=(64, inputs))
            shell = rng.uniform(-3 * RADIUS, 3 * RADIUS, size=(64, inputs))
            x[64:128] = np.clip(place + shell, 0, 1)
        target = 1 + 0.3 * np.sin(x @ wave + phase)
        target[(np.abs(x - place) <= RADIUS).all(1) & hidden] = DEPTH
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


def problem(inputs: int, seed: int, hidden: bool) -> Query:
    """A network whose witness is hidden, or a clean one.

    Raises:
        RuntimeError: if ten networks were none.
    """
    for attempt in range(10):
        network, place = trained(inputs, 1000 * inputs + 10 * seed + attempt, hidden)
        rng = np.random.default_rng(seed)
        above = network.forward(rng.random((RANDOM, inputs))).min() > 0
        if above and (not hidden or network.forward(place[None])[0, 0] < 0):
            return query_of(network)
    raise RuntimeError(f"no network of {inputs} inputs hides its witness")


def main() -> None:
    """Train, search, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=4, help="networks of each number of inputs, and as many twins")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of a verification; 0: the search alone")
    parser.add_argument("--inputs", type=int, nargs="*", default=INPUTS, help="numbers of inputs")
    args = parser.parse_args()
    header = ["inputs", "hidden", "found by the search", "seconds", "refuted in all", "twins proved", "twins refuted"]
    rows: list[list[object]] = []
    for inputs in args.inputs:
        found, refuted, proved, wrong, spent = 0, 0, 0, 0, 0.0
        for seed in range(args.networks):
            query = problem(inputs, seed, hidden=True)
            began = time.process_time()
            witness = Falsifier().run(query, Deadline.after(1000.0), seed=seed)
            found, spent = found + (witness is not None), spent + time.process_time() - began
            if args.timeout:
                refuted += verify(query, timeout=args.timeout).status is Status.VIOLATED
                status = verify(problem(inputs, seed, hidden=False), timeout=args.timeout).status
                proved, wrong = proved + (status is Status.HOLDS), wrong + (status is Status.VIOLATED)
        whole: list[object] = [refuted, proved, wrong] if args.timeout else ["", "", ""]
        rows.append([inputs, args.networks, found, f"{spent / args.networks:.1f}", *whole])
        print(*rows[-1], sep=" | ", flush=True)
    text = (
        f"# Hidden counterexamples\n\nWritten by `benchmarks/hidden.py`; {machine()}. A witness hidden in a box of half-width "
        f"{RADIUS:g} in the unit cube, networks of {WIDTH} + {WIDTH} ReLUs; the search has its usual four seconds (CPU seconds "
        f"are shown), the whole program {args.timeout:g} s.\n\n{table(header, rows)}"
    )
    (RESULTS / "hidden.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
