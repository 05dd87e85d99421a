"""``verifier certify MODEL DATA``: certified accuracy of a data set at given radii."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.certification import Certification
    from verifier.network.operators import Array

IMAGES, LABELS = ("images", "x", "x_test", "data"), ("labels", "y", "y_test", "target")
"""Names of arrays in an .npz file that are taken for the inputs and for their labels."""


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import (
        a_file,
        add_model,
        add_quiet,
        count,
        engine_names,
        natural,
        number,
        positive,
    )

    parser = subparsers.add_parser(
        "certify",
        help="certified accuracy of a data set: for which inputs is the label proved?",
        description="For each input of a data set and each radius: is every input within that L∞ distance given the same "
        "label? Answers are added to the journal one by one, and a run that was cut off goes on where it was.",
        epilog="exit status: 0 every question was decided, 3 some were not, 2 bad usage or input, 5 error",
    )
    add_model(parser)
    parser.add_argument(
        "data", type=Path, metavar="DATA",
        help=f".npz with arrays named {' or '.join(IMAGES)}, and {' or '.join(LABELS)}; or .npy of inputs alone",
    )  # fmt: skip
    parser.add_argument(
        "--epsilon", action="append", required=True, metavar="RADIUS",
        help='radius in the data\'s units after --divide, as a number or a fraction ("2/255"); may be repeated',
    )  # fmt: skip
    parser.add_argument("--first", type=natural, default=0, metavar="K", help="the first input taken (0)")
    parser.add_argument("--count", type=count, metavar="N", help="how many are taken (all)")
    parser.add_argument(
        "--divide", type=positive, default=1.0, metavar="D", help="the data are divided by this (1; bytes: 255)"
    )
    parser.add_argument("--domain", type=number, nargs=2, metavar=("LOW", "HIGH"), default=(0.0, 1.0), help="(0 1)")
    parser.add_argument(
        "--mean", type=number, nargs="+", metavar="M", help="of the network's normalisation, per channel"
    )
    parser.add_argument(
        "--std", type=number, nargs="+", metavar="S", help="of the network's normalisation, per channel"
    )
    parser.add_argument(
        "--journal", type=a_file, metavar="FILE", help="keep all answers here, and do not ask them again"
    )
    parser.add_argument("--out", type=a_file, metavar="FILE.md", help="write the table here")
    parser.add_argument("--engine", type=engine_names, default="auto", metavar="NAME[,NAME…]", help="(auto)")
    parser.add_argument("--timeout", type=positive, default=60.0, metavar="S", help="seconds for each question (60)")
    parser.add_argument("--memory", type=positive, metavar="GIB", help="memory limit of each question")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="questions asked side by side (1)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of everything random (0)")
    parser.add_argument("--json", action="store_true", help="all answers as JSON on standard output")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 if every question was decided, 3 if not, 5 if one ended in an error."""
    import verifier
    from verifier.commands.console import progress_listener
    from verifier.options import Options

    network = verifier.load(args.model, ordered=True)
    images, labels = _read(args.data, network.input_size)
    chosen = slice(args.first, None if args.count is None else args.first + args.count)
    found = verifier.certify(
        network,
        images[chosen] / args.divide,
        None if labels is None else labels[chosen],
        epsilon=args.epsilon,
        domain=tuple(args.domain),
        mean=args.mean,
        std=args.std,
        workers=args.workers,
        journal=args.journal,
        options=Options(engine=args.engine, timeout=args.timeout, memory=args.memory, seed=args.seed),
        listener=progress_listener(args.quiet),
    )
    _report(found, args, labels is None)
    statuses = {line.status for line in found.lines}
    return 5 if "error" in statuses else 3 if statuses & {"unknown", "timeout"} else 0


def _report(found: Certification, args: argparse.Namespace, own: bool) -> None:
    import json
    from dataclasses import asdict

    from verifier.files import write_text

    whose = "its own labels" if own else "the given labels"
    text = f"{found.count} inputs, accuracy {found.accuracy:.1%} ({whose})\n\n{found.table()}"
    if args.out is not None:
        write_text(args.out, f"# Certified accuracy of {args.model}\n\n{text}")
    if args.json:
        record = {
            "model": str(args.model),
            "data": str(args.data),
            "accuracy": found.accuracy,
            "certified": {epsilon: found.certified(epsilon) for epsilon in found.radii},
            "not_refuted": {epsilon: found.not_refuted(epsilon) for epsilon in found.radii},
            "answers": [asdict(line) for line in found.lines],
        }
        print(json.dumps(record, indent=1))
    else:
        print(text, end="")


def _read(path: Path, inputs: int) -> tuple[Array, Array | None]:
    """Inputs ``(N, …)`` and their labels, if the file has any.

    Raises:
        InputError: no such file, or none of such arrays.
    """
    import io
    import zipfile

    import numpy as np

    from verifier.commands.inputs import read_array
    from verifier.errors import InputError
    from verifier.files import reading

    if path.suffix != ".npz":
        numbers = read_array(path)
        if not numbers.size or numbers.size % inputs:
            raise InputError(f"holds {numbers.size} numbers, and an input has {inputs}", place=str(path))
        return numbers.reshape(-1, inputs), None
    with reading(path):
        data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = list(arrays)
            image_name = next((n for n in IMAGES if n in names), None)
            label_name = next((n for n in LABELS if n in names), None)
            if image_name is None:
                raise InputError(
                    f"has no inputs: its arrays are {', '.join(names)}", place=str(path), fix=f"name one {IMAGES[0]!r}"
                )
            labels = None if label_name is None else np.asarray(arrays[label_name]).reshape(-1)
            return np.asarray(arrays[image_name], dtype=np.float64), labels
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"not an .npz file of numbers: {error}", place=str(path)) from None
