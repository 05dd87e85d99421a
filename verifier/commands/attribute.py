"""``verifier attribute MODEL INPUT``: which inputs, or neurons, an output comes from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.attribution.attribute import Attribution
    from verifier.commands.inputs import Reader
    from verifier.commands.result import Result
    from verifier.network.graph import Network
    from verifier.network.operators import Array


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import (
        add_input,
        add_json,
        add_model,
        add_out,
        add_quiet,
        add_reading,
        count,
        natural,
    )

    parser = subparsers.add_parser(
        "attribute",
        epilog="exit status: 0; 2 bad usage or input; 130 interrupted",
        description="Attribute an output to the inputs by integrated gradients, computed exactly on the linear pieces "
        "between baseline and input, or by a quadrature rule, whose exact error is then reported.",
    )
    add_model(parser)
    add_input(parser)
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="the baseline (zeros as the network takes them, by default)"
    )
    parser.add_argument("--target", type=natural, metavar="K", help="the output (the largest at the input by default)")
    parser.add_argument(
        "--method", metavar="RULE",
        help="exact (default), left, right, midpoint, trapezoid, gausslegendre; or gradient, the plain gradient map",
    )  # fmt: skip
    parser.add_argument("--steps", type=count, metavar="N", help="gradient samples of a rule (50)")
    parser.add_argument(
        "--shape",
        type=image_shape,
        metavar="C,H,W",
        help="draw the inputs as an image of this shape (the network's own)",
    )
    parser.add_argument("--layer", metavar="NODE", help="exact conductance of this node's entries instead")
    add_out(parser)
    add_reading(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def image_shape(text: str) -> tuple[int, ...]:
    """An argparse type: three sizes."""
    sizes = tuple(int(word) if word.strip().isdigit() else 0 for word in text.split(","))
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError("expected channels, height and width, such as 1,28,28")
    return sizes


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import numpy as np

    from verifier import compiled
    from verifier.attribution.attribute import attribute
    from verifier.commands.arguments import refuse
    from verifier.commands.inputs import Reader, load_model
    from verifier.commands.result import Result
    from verifier.errors import InputError

    if args.layer is not None:
        refuse(args, "with --layer, whose conductance is exact", "method", "steps")
    method = args.method or "exact"
    if method in ("exact", "gradient"):
        refuse(args, f"on --method {method}", "steps")
    if method == "gradient":
        refuse(args, "on the plain gradient", "baseline")
    network = load_model(args)
    shape = args.shape or network.input_shape
    if np.prod(shape) != network.input_size:
        raise InputError(f"--shape {args.shape} does not fit the network's {network.input_size} inputs")
    reader = Reader(args, network)
    compiled.ensure(compiled.LINES, args.listener)
    found = attribute(
        network,
        reader.given(args.input),
        baseline=None if args.baseline is None else reader.given(args.baseline),
        target=args.target,
        method=method,
        steps=args.steps or 50,
        layer=args.layer,
        listener=args.listener,
    )
    drawn = found.values if args.layer is not None else found.values.reshape(shape)
    _write(args, network, reader, found, drawn)
    record = {
        "what": found.what,
        "target": found.target,
        "value": found.value,
        "sum": found.total,
        "change": found.change,
        "error": found.error,
        "attributions": found.values.reshape(-1),
    }
    asked = {"method": method, "steps": args.steps, "layer": args.layer, "target": args.target}
    return Result(
        text="\n".join(_lines(found, f"{method}, {args.steps or 50} samples")), found=record, network=network,
        question=f"{found.what} of output {found.target}", files=reader.files, options=asked,
    )  # fmt: skip


def _lines(found: Attribution, how: str) -> Iterator[str]:
    """What is said of an attribution."""
    yield f"{found.what} of output {found.target} (value {found.value:.6g})"
    if found.change is not None:
        yield f"sum {found.total:.12g}, change from the baseline {found.change:.12g}"
    if found.error is not None:
        yield f"error against the exact integral {found.error:.3%} ({how})"
    yield from (f"  {k:>6} {value: .6g}" for k, value in found.largest())


def _write(args: argparse.Namespace, network: Network, reader: Reader, found: Attribution, drawn: Array) -> None:
    """The files that were asked for."""
    import numpy as np

    from verifier.report import tables

    start = np.zeros(network.input_size) if found.baseline is None else found.baseline.reshape(-1)
    x = found.input.reshape(-1)
    arrays = {"attributions": drawn, "input": x, "baseline": start, "target": np.array(found.target)}

    def rows() -> tuple[list[str], Any]:
        return ["index", "attribution"], np.column_stack([np.arange(drawn.size), drawn.reshape(-1)])

    def figure() -> Any:
        from verifier.report.regions import heat_map

        image = None if args.layer is not None else reader.normalisation.invert(x)
        return heat_map(drawn, drawn.shape, image, found.what)

    for path in args.out:
        tables.write(path, arrays, rows, figure)
