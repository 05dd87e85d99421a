"""``verifier plane MODEL CORNERS``: a network on a convex polygon of a plane, exactly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "plane",
        help="the network on a polygon in a plane, exactly",
        description="Cut a convex polygon between three or more inputs into the network's linear regions, and report "
        "them and the exact map of classes. The plane's coordinates are those of the first corner (0, 0), the second "
        "(1, 0) and the one farthest from the line through both (0, 1).",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=".onnx, .onnx.gz or .nnet")
    parser.add_argument(
        "corners", type=Path, nargs="+", metavar="CORNER",
        help="inputs at the polygon's corners: .npy or text, one each, or one file with all of them",
    )  # fmt: skip
    parser.add_argument("--best", choices=("max", "min"), default="max", help="the class is the largest output (max)")
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE",
        help="write .csv, .npz, .json, or a picture (.png .svg .pdf); may be repeated",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import numpy as np

    import verifier
    from verifier.commands.common import progress_listener, read_array
    from verifier.errors import InputError
    from verifier.regions import plane
    from verifier.report import tables

    for path in args.out:
        tables.check_suffix(path)
    network = verifier.load(args.model)
    numbers = np.concatenate([read_array(path).reshape(-1) for path in args.corners])
    if numbers.size % network.input_size:
        raise InputError(f"{numbers.size} numbers are not corners of {network.input_size} numbers each")
    found = plane(network, numbers.reshape(-1, network.input_size), listener=progress_listener(args))
    classes = found.classes(best=args.best)
    total = found.areas.sum()
    print(f"{len(found):,} linear regions, {len(found.vertices):,} vertices, {len(found.neighbours):,} shared edges")
    for label, area in enumerate(classes.areas.tolist()):
        if area > 0:
            print(f"class {label:<4} {area / total:9.4%} of the area")
    arrays = {
        "vertices": found.vertices,
        "offsets": found.offsets,
        "indices": found.indices,
        "values": found.values,
        "origin": found.plane.origin,
        "u": found.plane.u,
        "v": found.plane.v,
        "class_vertices": classes.vertices,
        "class_offsets": classes.offsets,
        "class_indices": classes.indices,
        "classes": classes.labels,
        "boundaries": classes.boundaries,
    }

    def rows() -> tuple[list[str], Any]:
        corner = found.indices
        region = np.repeat(np.arange(len(found)), np.diff(found.offsets))
        header = ["region", "s", "t", *(f"y{k}" for k in range(found.values.shape[1]))]
        return header, np.column_stack([region, found.vertices[corner], found.values[corner]])

    def figure() -> Any:
        from verifier.report.regions import plane_plot

        return plane_plot(classes)

    for path in args.out:
        tables.write(path, arrays, rows, figure)
    return 0
