"""``verifier line MODEL START END``: a network on the segment between two inputs, exactly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_json, add_model, add_out, add_quiet, add_reading, count

    parser = subparsers.add_parser(
        "line",
        epilog="exit status: 0; 2 bad usage or input; 130 interrupted",
        description="Cut the segment between two inputs where the network's gradient changes, and report the linear "
        "pieces, the outputs at their ends, and where the class changes.",
    )
    add_model(parser)
    parser.add_argument(
        "start", type=Path, metavar="START", help="input at t = 0: .png, .npy, .npz, .csv, or numbers in a text file"
    )
    parser.add_argument("end", type=Path, metavar="END", help="input at t = 1")
    parser.add_argument("--exact", action="store_true", help="rational breakpoints (up to a few hundred neurons)")
    parser.add_argument("--best", choices=("max", "min"), default="max", help="the class is the largest output (max)")
    parser.add_argument("--threads", type=count, default=1, metavar="N",
                        help="threads for large networks; the same line up to rounding errors (1)")  # fmt: skip
    add_out(parser)
    add_reading(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import numpy as np

    from verifier import compiled
    from verifier.commands.inputs import Reader, load_model
    from verifier.commands.result import Result
    from verifier.regions import line
    from verifier.report import tables

    network = load_model(args)
    compiled.ensure(compiled.LINES, args.listener)
    reader = Reader(args, network)
    start, end = reader.given(args.start), reader.given(args.end)
    found = line(network, start, end, exact=args.exact, threads=args.threads, listener=args.listener)
    bands = found.classes(best=args.best)
    length = float(np.linalg.norm(found.end - found.start))
    lines = [f"{len(found):,} linear piece{'s' * (len(found) != 1)} on a line of length {length:.6g}"]
    for first, last, label in zip(bands.boundaries[:-1], bands.boundaries[1:], bands.labels.tolist(), strict=True):
        lines.append(f"class {label:<4} t = {first:.9f} to {last:.9f}")
    arrays = {
        "breakpoints": found.breakpoints,
        "values": found.values,
        "start": found.start,
        "end": found.end,
        "class_boundaries": bands.boundaries,
        "classes": bands.labels,
    }
    if found.exact_breakpoints is not None:
        arrays["exact_breakpoints"] = np.array([str(t) for t in found.exact_breakpoints])

    def rows() -> tuple[list[str], Any]:
        header = ["t", *(f"y{k}" for k in range(found.values.shape[1]))]
        return header, np.column_stack([found.breakpoints, found.values])

    def figure() -> Any:
        from verifier.report.regions import line_plot

        return line_plot(found, best=args.best)

    for path in args.out:
        tables.write(path, arrays, rows, figure)
    record = {
        "pieces": len(found),
        "length": length,
        "breakpoints": found.breakpoints,
        "class_boundaries": bands.boundaries,
        "classes": bands.labels,
        "exact_breakpoints": [str(t) for t in found.exact_breakpoints or ()] or None,
    }
    return Result(
        text="\n".join(lines), found=record, network=network, question="the network on the line from START to END",
        files=reader.files, options={"best": args.best, "exact": args.exact},
    )  # fmt: skip
