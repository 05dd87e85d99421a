"""``verifier attribute MODEL INPUT``: which inputs, or neurons, an output comes from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_model, add_out, add_quiet, add_scale, count, natural

    parser = subparsers.add_parser(
        "attribute",
        help="attributions: gradient, exact integrated gradients …",
        epilog="exit status: 0; 2 bad usage or input; 130 interrupted",
        description="Attribute an output to the inputs by integrated gradients, computed exactly on the linear pieces "
        "between baseline and input, or by a quadrature rule, whose exact error is then reported.",
    )
    add_model(parser)
    parser.add_argument("input", type=Path, metavar="INPUT", help=".png, .npy, .npz, or numbers in a text file")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="the baseline (zero by default)")
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
    add_scale(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def image_shape(text: str) -> tuple[int, ...]:
    """An argparse type: three sizes."""
    sizes = tuple(int(word) if word.strip().isdigit() else 0 for word in text.split(","))
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError("expected channels, height and width, such as 1,28,28")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import numpy as np

    from verifier import compiled
    from verifier.attribution import IntegratedGradients
    from verifier.commands.arguments import refuse
    from verifier.commands.console import progress_listener
    from verifier.commands.inputs import load_model, read_input
    from verifier.errors import InputError
    from verifier.report import tables

    if args.layer is not None:
        refuse(args, "with --layer, whose conductance is exact", "method", "steps")
    method = args.method or "exact"
    if method in ("exact", "gradient"):
        refuse(args, f"on --method {method}", "steps")
    if method == "gradient":
        refuse(args, "on the plain gradient", "baseline")
    steps = args.steps or 50
    network = load_model(args)
    listener = progress_listener(args.quiet)
    compiled.ensure(compiled.LINES, listener)
    x = read_input(args.input, network, args.scale)
    baseline = np.zeros(network.input_size) if args.baseline is None else read_input(args.baseline, network, args.scale)
    y = network.forward(x).reshape(-1)
    target = int(np.argmax(y)) if args.target is None else args.target
    ig = IntegratedGradients(network, listener=listener)
    shape = args.shape or network.input_shape
    if np.prod(shape) != network.input_size:
        raise InputError(f"--shape {args.shape} does not fit the network's {network.input_size} inputs")
    if args.layer is not None:
        values, shape = ig.conductance(args.layer, x, baseline, target)[0], network[args.layer].shape
        what = f"conductance of {args.layer}"
    elif method == "gradient":
        values, what = network.gradient(x, target), "gradient"
    else:
        values = ig.attribute(x, baseline, target, method=method, n_steps=steps)
        what = "integrated gradients"
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    print(f"{what} of output {target} (value {y[target]:.6g})")
    if args.layer is not None or method != "gradient":
        change = y[target] - network.forward(baseline).reshape(-1)[target]
        print(f"sum {values.sum():.12g}, change from the baseline {change:.12g}")
    if args.layer is None and method not in ("exact", "gradient"):
        error = ig.error(x, baseline, target, method=method, n_steps=steps)[0]
        print(f"error against the exact integral {error:.3%} ({method}, {steps} samples)")
    for k in np.argsort(-np.abs(values))[:10].tolist():
        print(f"  {k:>6} {values[k]: .6g}")
    arrays = {"attributions": values.reshape(shape), "input": x, "baseline": baseline, "target": np.array(target)}

    def rows() -> tuple[list[str], Any]:
        return ["index", "attribution"], np.column_stack([np.arange(values.size), values])

    def figure() -> Any:
        from verifier.report.regions import heat_map

        return heat_map(values, shape, None if args.layer is not None else x, what)

    for path in args.out:
        tables.write(path, arrays, rows, figure)
    return 0
