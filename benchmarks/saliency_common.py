"""What the saliency benchmarks share: regions, queries, the journal, and summaries of its records."""

from __future__ import annotations

import json
import re
import resource
import statistics
import time
from itertools import product
from typing import Any

import numpy as np
from common import RESULTS, data_folder, table

import verifier
from verifier.options import Options
from verifier.properties.query import GradientBox, Query, larger_output_disjuncts
from verifier.properties.sets import Box

JOURNAL = RESULTS / "saliency_journal.jsonl"
REGIONS = [(1, "0.03"), (2, "0.03"), (12, "0.03")] + [(k, "0.05") for k in (0, 1, 2, 4, 5, 6, 8, 12)]
"""Images and ε of the VNN-COMP mnist_fc set for which 256x2 has adversarial examples (ground_truth.csv)."""


def regions(names: str) -> list[tuple[int, str]]:
    """The regions that are named (``1/0.03,4/0.05``: image/ε), all if none is."""
    asked = names.split(",") if names else [f"{image}/{epsilon}" for image, epsilon in REGIONS]
    return [(image, epsilon) for image, epsilon in REGIONS if f"{image}/{epsilon}" in asked]


SHARES = (0.01, 0.1, 0.5)
"""δ of the sets of images, as shares of the map's largest entry."""
HEADER = (
    "queries",
    "holds",
    "violated",
    "undecided",
    "errors",
    "median s",
    "worst s",
    "median CPU s",
    "worst CPU s",
)
"""Columns of `summary`."""


def region_query(network: verifier.Network, image: int, epsilon: str, delta: float) -> Query:
    """The region of ``prop_<image>_<epsilon>.vnnlib`` with the gradient box of radius δ around x̂'s map."""
    import gzip

    path = data_folder() / "vnncomp" / "mnist_fc" / "vnnlib" / f"prop_{image}_{epsilon}.vnnlib.gz"
    with gzip.open(path, "rt") as file:
        text = file.read()
    box = np.zeros((2, 784))
    for side, index, value in re.findall(r"\((<=|>=) X_(\d+) ([-\d.e]+)\)", text):
        box[int(side == "<="), int(index)] = float(value)
    label = int(re.findall(r"label: (\d)", text)[0])
    lower, upper = box
    x = np.clip(np.where(lower > 0, lower + float(epsilon), upper - float(epsilon)), lower, upper)
    g = network.gradient(x, label).reshape(-1)
    weights = network.output_weights(label)
    return Query(
        network=network,
        box=Box(lower, upper),
        disjuncts=larger_output_disjuncts(10, label),
        gradient=GradientBox(output=weights, lower=g - delta, upper=g + delta),
        anchor=x,
    )


def ask_images(
    part: str,
    name: str,
    network: verifier.Network,
    options: Options,
    images: int,
    every: int = 1,
    shift: float = 0.0,
    factor: float = 1.0,
    shares: tuple[float, ...] = SHARES,
) -> None:
    """The first correctly classified MNIST test images, ε ∈ {0.01, 0.03}, δ at shares of the map's largest entry.

    Args:
        part: the set in the journal; what is there is not asked again, unless it was undecided with less time.
        every: of these images only each N-th is taken.
        shift, factor: the network takes ``(pixel - shift) / factor``.
    """
    with np.load(data_folder() / "mnist" / "mnist.npz") as arrays:
        pixels, labels = arrays["x_test"].reshape(-1, 784) / 255.0, arrays["y_test"]
    low, high = (0.0 - shift) / factor, (1.0 - shift) / factor
    done = {_key(r) for r in journal() if r["set"] == part and settled(r, options.timeout)}
    taken = 0
    for k, label in enumerate(labels.tolist()):
        if taken == images:
            return
        x = np.clip((pixels[k] - shift) / factor, low, high)
        if int(np.argmax(network.forward(x))) != label:
            continue
        taken += 1
        if (taken - 1) % every:
            continue
        size = float(np.abs(network.gradient(x, label)).max())
        for epsilon, share in product((0.01, 0.03), shares):
            record = {"set": part, "network": name, "image": k, "epsilon": epsilon, "share": share}
            record |= {"limit": options.timeout, "engine": options.engine}
            record |= {"prepass": options.prepass, "propagate": options.propagate}
            if _key(record) in done:
                continue
            query = verifier.saliency_robustness(
                network, x, epsilon=epsilon / factor, delta=share * size, label=label, domain=(low, high)
            )
            ask(record, query, options)


def _key(record: dict[str, Any]) -> tuple[object, ...]:
    """What a question of `ask_images` is, whatever the answer and the limit."""
    names = ("network", "image", "epsilon", "share", "engine")
    return (*(record[name] for name in names), record.get("prepass", True), record.get("propagate", False))


def settled(record: dict[str, Any], timeout: float | None) -> bool:
    """Whether there is no use in asking a question again with this time limit."""
    less = timeout is None or record.get("limit", 0.0) < timeout
    return record["status"] in ("holds", "violated") or not less


def image_rows(records: list[dict[str, Any]]) -> str:
    """What `ask_images` asked: a table with a row for each network, and one with a row for each network, ε and δ."""
    totals = []
    for name in sorted({r["network"] for r in records}):
        group = [r for r in records if r["network"] == name]
        decided = sum(r["status"] in ("holds", "violated") for r in group)
        totals.append((name, len({r["image"] for r in group}), len(group), decided, f"{decided / len(group):.0%}"))

    def kind(record: dict[str, Any]) -> tuple[str, float, float, float]:
        return record["network"], record["epsilon"], record["share"], record["limit"]

    rows = []
    for name, epsilon, share, limit in sorted({kind(r) for r in records}):
        group = [r for r in records if kind(r) == (name, epsilon, share, limit)]
        cells = (*summary(group), max(r["peak_mb"] for r in group))
        rows.append((name, epsilon, f"{share:.0%}", f"{limit:g}", *cells))
    return "\n".join(
        [
            table(["network", "images", "queries", "decided", "share"], totals),
            table(["network", "ε", "δ / max abs map", "limit s", *HEADER, "peak MB"], rows),
        ]
    )


def journal() -> list[dict[str, Any]]:
    """All records so far."""
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()] if JOURNAL.exists() else []


def ask(record: dict[str, Any], query: Query, options: Options) -> None:
    """Decide one query and append the record."""
    start, cpu = time.perf_counter(), _cpu()
    verdict = verifier.verify(query, options=options)
    record |= {
        "status": verdict.status.value,
        "stage": verdict.stage,
        "certainty": verdict.certainty.value if verdict.certainty else "",
        "seconds": round(time.perf_counter() - start, 3),
        "cpu": round(_cpu() - cpu, 3),
        "peak_mb": _peak(),
        "reason": verdict.reason[:120],
        "notes": "; ".join(verdict.notes),
    }
    append(record)


def name_of(record: dict[str, Any]) -> str:
    """The engine that a record's question was put to, and whether it was helped."""
    return f"{record['engine']} + propagation" if record.get("propagate") else str(record["engine"])


def decider(record: dict[str, Any]) -> str:
    """What decided a record's question: its engine, or what came before it."""
    if "was not asked" in record.get("notes", ""):
        return "propagation"
    return str(record["stage"]) if record["stage"] in ("search", "bounds") else name_of(record)


def agreement(records: list[dict[str, Any]], region: tuple[str, ...], size: str) -> str:
    """How many of the verdicts with our engine others confirm, and how often two contradict each other.

    A HOLDS is one for every smaller δ, a VIOLATED for every larger one.

    Args:
        region: the fields of a record that name its region; with ``size``, its δ, they name its question.
    """
    decided = [r for r in records if r["status"] in ("holds", "violated")]
    by_region: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in decided:
        by_region.setdefault(tuple(r[name] for name in region), []).append(r)
    questions, confirmed, violated, open_, contradictions = 0, 0, 0, 0, 0
    by_engine: dict[str, int] = {}
    for group in by_region.values():
        holds, fails = ([r for r in group if r["status"] == s] for s in ("holds", "violated"))
        contradictions += bool(holds and fails and max(r[size] for r in holds) >= min(r[size] for r in fails))
        for delta, status in {(r[size], r["status"]) for r in group if r["engine"] == "saliency"}:
            same, sign = (holds, 1) if status == "holds" else (fails, -1)
            first = {decider(r) for r in same if r["engine"] == "saliency" and r[size] == delta}
            own = "saliency" if "saliency" in first else min(first)
            second = {decider(r) for r in same if sign * r[size] >= sign * delta} - {own, "propagation"}
            for name in second:
                by_engine[name] = by_engine.get(name, 0) + 1
            questions += 1
            confirmed += bool(second)
            violated += status == "violated"
            open_ += status == "holds" and not second
    counts = ", ".join(f"{name} {count}" for name, count in sorted(by_engine.items()))
    return (
        f"Agreement: {confirmed} of the {questions} questions (region and δ) with a verdict have the same one from a "
        f"second engine ({counts or 'none'}), a HOLDS counted for smaller δ too and a VIOLATED for larger ones. "
        f"Contradictions: {contradictions}. Every VIOLATED ({violated}) was replayed on the original network in exact "
        f"arithmetic. HOLDS without a second engine: {open_}."
    )


def append(record: dict[str, Any]) -> None:
    """Add a record to the journal."""
    with JOURNAL.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(record, flush=True)


def _cpu() -> float:
    """CPU seconds of this process and of the solvers' processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak() -> int:
    """Peak memory in MB of this process, or of the largest of its children so far."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who) // 1024


def summary(records: list[dict[str, Any]]) -> tuple[object, ...]:
    """The cells below `HEADER` for some records."""
    count = {s: sum(r["status"] == s for r in records) for s in ("holds", "violated", "error")}
    open_ = len(records) - sum(count.values())
    times, cpu = [r["seconds"] for r in records], [r["cpu"] for r in records]
    return (
        len(records),
        count["holds"],
        count["violated"],
        open_,
        count["error"],
        f"{statistics.median(times):.2f}",
        f"{max(times):.1f}",
        f"{statistics.median(cpu):.2f}",
        f"{max(cpu):.1f}",
    )
