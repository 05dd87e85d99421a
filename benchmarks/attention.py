"""The attention paper's experiment (Munakata et al., NFM 2023): its 360 problems by each algorithm, beside its Table 2.

    python benchmarks/attention.py verdict                     all sizes by one algorithm (goes on from the journal)
    python benchmarks/attention.py gbs-CR fnn-100 fnn-200      some sizes
    python benchmarks/attention.py bfs --limit 20              seconds a problem
    python benchmarks/attention.py variants                    what the gradient is taken of, on a grid
    python benchmarks/attention.py beyond                      three to five parameters, other maps, large networks
    python benchmarks/attention.py --report                    write tables and figures from the journal, run nothing

Algorithms: ``bfs`` every linear region, ``gbs-CR``, ``gbs-AR``, ``gbs-CRAR`` the boundary around θ = 0 (w^δ = 0.2),
``verdict`` an answer by tiles with rigorous bounds, or region by region where that takes long. Each problem runs in a child process of at most 8 GiB; one line of
JSON per finished problem goes to the journal, so that an interrupted run loses at most one problem.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from attention_networks import DATASETS, PAPER, images, load
from attention_tables import JOURNAL, journal, write_report
from common import RESULTS

from verifier.attention import AreaMap, AreaSettings, RegionMap, attention_areas, attention_map
from verifier.encodings.perturbations import Brightness, Contrast, Patch, Perturbation, Translation, perturbed
from verifier.errors import VerifierError
from verifier.network.graph import Network

COMBINATIONS = ("BP", "TP", "TB")
DELTA, BAND, WIDTH = 3.0, 0.2, 1.0
"""The paper's δ and w^δ; and the upper end of every parameter, for which it gives no number (see the report)."""
GIBIBYTES = 8
ALGORITHMS = ("verdict", "bfs", "gbs-CR", "gbs-AR", "gbs-CRAR")
FOLLOWS = {"gbs-CR": "label", "gbs-AR": "attention", "gbs-CRAR": "both"}


def perturbation(letter: str, width: float = WIDTH) -> Perturbation:
    """Over [0, w]: +θ on all pixels, +θ on a 3 × 3 patch, θ pixels to the right; beyond the paper down, and contrast."""
    kinds: dict[str, Callable[[], Perturbation]] = {
        "B": lambda: Brightness(low=0.0, high=width),
        "P": lambda: Patch(low=0.0, high=width, top=4, left=4, height=3, width=3),
        "T": lambda: Translation(low=0.0, high=width, right=1),
        "D": lambda: Translation(low=0.0, high=width, down=1, right=0),
        "C": lambda: Contrast(low=0.0, high=width),
    }
    return kinds[letter]()


def measure(
    algorithm: str, network: Network, image: np.ndarray, letters: str, limit: float, tiles: float = 10.0
) -> dict[str, Any]:
    """One problem by one algorithm, as a record for the journal; ``tiles``: seconds for them in a verdict."""
    began, cpu = time.perf_counter(), time.process_time()
    kinds = [perturbation(c) for c in letters]
    m: AreaMap | RegionMap
    record: dict[str, Any] = {}
    if algorithm == "verdict":
        how = AreaSettings(answers_only=True, smallest=1e-8)
        m = attention_areas(network, image, kinds, DELTA, how=how, timeout=min(tiles, limit))
        record = {"tiles": m.bounded, "reason": m.reason, "by": "tiles"}
    if algorithm != "verdict" or "Timeout" in {a.answer.value for a in m.answers.values()}:
        options: dict[str, Any] = (
            {"method": "gbs", "aspect": FOLLOWS[algorithm], "band": BAND if algorithm != "gbs-CR" else 0.0}
            if algorithm in FOLLOWS
            else {}
        )
        m = attention_map(network, image, kinds, DELTA, timeout=limit, **options)
        s = m.summary
        record |= {
            "reason": m.reason,
            "by": "regions",
            "method": m.method,
            "units": m.perturbed.network.neurons,
            "regions": s.regions,
            "covered": s.covered,
            "label_share": s.label_share,
            "volumes": {k: float(f"{v:.9g}") for k, v in s.volumes.items()},
            "near": s.near_delta + s.tied,
        }
        for aspect in ("label", "attention"):
            if m.table is not None and m.complete and (m.method == "exhaustive" or aspect in m.boundary):
                far = m.farthest(aspect)  # type: ignore[arg-type]
                record[f"{aspect}_farthest"] = None if far is None else round(far[1], 6)
                record[f"{aspect}_outermost"] = int(m.outermost(aspect).sum())  # type: ignore[arg-type]
                record[f"{aspect}_outside"] = int(m.outside(aspect).sum())  # type: ignore[arg-type]
    return {
        "answers": {a: found.answer.value for a, found in m.answers.items()},
        **record,
        "seconds": round(time.perf_counter() - began, 3),
        "cpu": round(time.process_time() - cpu, 3),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def variants(network: Network, image: np.ndarray, letters: str) -> dict[str, Any]:
    """The largest inconsistency on a 21 × 21 grid, if the gradient is taken of outputs, of a softmax or of a ReLU."""
    layer = perturbed(network, image, [perturbation(c) for c in letters])
    axes = [np.linspace(0.0, WIDTH, 21)] * 2
    theta = np.stack([g.reshape(-1) for g in np.meshgrid(*axes)], axis=1)
    classes = range(network.output_size)

    def jacobians(x: np.ndarray) -> np.ndarray:
        return np.stack([network.gradient(x, j).reshape(len(x), -1) for j in classes], axis=1)

    def moved(maps: np.ndarray) -> np.ndarray:
        total = np.repeat(maps[None], len(theta), axis=0)
        for i, p in enumerate(layer.perturbations):
            path = p.map_path(maps)
            if path is not None:
                total = total + path(theta[:, i])
        return total

    def largest(heads: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        ends = []
        start = heads(layer.image.reshape(1, -1), jacobians(layer.image.reshape(1, -1)))[0]
        start = start.reshape(-1, *layer.image.shape)
        x = layer.images(theta).reshape(len(theta), -1)
        maps = heads(x, jacobians(x)).reshape(len(theta), *start.shape)
        gap = (maps - moved(start)).reshape(len(theta), len(start), -1)
        ends.append(np.sqrt((gap**2).sum(axis=2)).sum(axis=1).max())
        return float(max(ends))

    def softmax(x: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        outputs = network.forward(x).reshape(len(x), -1)
        p = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return np.asarray(p[:, :, None] * (jacobian - (p[:, :, None] * jacobian).sum(axis=1, keepdims=True)))

    def positive(x: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        return np.asarray(jacobian * (network.forward(x).reshape(len(x), -1) > 0)[:, :, None])

    return {
        "outputs": largest(lambda x, jacobian: jacobian),
        "softmax": largest(softmax),
        "relu": largest(positive),
    }


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run ``work()`` in a forked child (its peak memory is its own, and bounded) and return its record."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (GIBIBYTES << 30, GIBIBYTES << 30))
        try:
            record = work()
        except (MemoryError, VerifierError) as error:
            record = {"answers": {}, "reason": f"{type(error).__name__}: {error}"}
        except Exception as error:
            record = {"answers": {}, "mistake": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "w") as stream:
            stream.write(json.dumps(record))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"answers": {}, "reason": f"the child ended with status {status}"}


STARVED = 0.8
"""A problem that timed out with less than this share of its time on a processor says nothing: others had the machine."""


def note(name: str, record: dict[str, Any]) -> None:
    """Append a finished problem to the journal, unless it hung on the machine's other work or on a mistake of ours."""
    late = "Timeout" in record.get("answers", {}).values()
    if record.get("mistake") or (late and record["cpu"] < STARVED * record["seconds"]):
        print(name, "is not noted:", record.get("mistake") or "others had the machine", record, flush=True)
        return
    RESULTS.mkdir(exist_ok=True)
    with JOURNAL.open("a") as stream:
        stream.write(json.dumps({"problem": name, **record}) + "\n")
    print(name, record.get("answers"), f"{record.get('seconds')} s", record.get("reason", ""), flush=True)


def problems(size: str) -> Iterator[tuple[str, str, int, str]]:
    """(name, data set, image number among the last ten, combination) of the 60 problems of a size."""
    for dataset in DATASETS:
        for k in range(10):
            for letters in COMBINATIONS:
                yield f"{size}/{dataset}/{k}/{letters}", dataset, k, letters


def run(algorithm: str, sizes: list[str], limit: float, until: float | None, tiles: float) -> None:
    """Run what the journal lacks; no further problem is begun after ``until`` seconds."""
    began, done = time.monotonic(), journal()
    pictures = {d: images(d, "test")[0][-10:] for d in DATASETS}
    if algorithm in ("bfs", *FOLLOWS):  # load or compile the kernels once, so that no problem's time holds it
        measure(algorithm, load("fnn-100", "mnist"), pictures["mnist"][0], "TP", 60.0)
    for size in sizes:
        nets = {d: load(size, d) for d in DATASETS}
        for name, dataset, k, letters in problems(size):
            if f"{algorithm}/{name}" in done:
                continue
            if until is not None and time.monotonic() - began > until:
                return
            net, image = nets[dataset], pictures[dataset][k]
            if algorithm == "variants":
                record = variants(net, image, letters)
            else:
                record = in_child(lambda n=net, x=image, c=letters: measure(algorithm, n, x, c, limit, tiles))  # type: ignore[misc]
            note(f"{algorithm}/{name}", {**record, "limit": limit})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", nargs="?", choices=(*ALGORITHMS, "variants", "beyond"))
    parser.add_argument("sizes", nargs="*", help=f"some of {', '.join(PAPER)} (all)")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds a problem (the paper's 7200)")
    parser.add_argument("--tiles", type=float, default=10.0, metavar="S",
                        help="seconds after which a verdict that tiles do not give is sought region by region (10)")  # fmt: skip
    parser.add_argument("--until", type=float, help="seconds after which no further problem is begun")
    parser.add_argument("--threads", type=int, default=1, help="for beyond (1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="for beyond: questions whose title has this text")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    unknown = set(args.sizes) - set(PAPER)
    if unknown:
        sys.exit(f"unknown network {', '.join(unknown)}: one of {', '.join(PAPER)}")
    if args.algorithm == "beyond":
        from attention_beyond import beyond

        beyond(min(args.limit, 600.0), args.until, args.threads, args.only)
    elif args.algorithm is not None:
        run(args.algorithm, args.sizes or list(PAPER), args.limit, args.until, args.tiles)
    if args.report or args.algorithm is None:
        write_report()


if __name__ == "__main__":
    main()
