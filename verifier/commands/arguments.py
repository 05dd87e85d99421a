"""Arguments that several commands share, and the types of arguments: what is wrong is said before any work."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from verifier.options import Options
    from verifier.properties.builders import Domain

T = TypeVar("T")

IMAGES, LABELS = ("images", "x", "x_test", "data"), ("labels", "y", "y_test", "target")
"""Names of arrays in an .npz file that are taken for the inputs and for their labels."""
VERDICT_STATUS = (
    "exit status: 0 holds, 1 violated, 2 bad usage or input, 3 unknown, 4 time-out, 5 error, 130 interrupted"
)
"""What the exit status of a command that decides one question says."""


# -- types ---------------------------------------------------------------------------------------------
def positive(text: str) -> float:
    """A number above 0, infinity excepted."""
    return _number(text, lambda value: value > 0, "must be positive and finite")


def radius(text: str) -> str:
    """A radius as it was written, which is taken exactly: a number of at least 0, or a fraction ("2/255")."""
    from verifier.errors import InputError
    from verifier.properties.normalisation import exact_radius

    try:
        exact_radius(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(error.problem) from None
    return text


def nonnegative(text: str) -> float:
    """A number of at least 0, infinity excepted; also as a fraction ("2/255")."""
    return _number(text, lambda value: value >= 0, "must be at least 0 and finite")


def number(text: str) -> float:
    """Any finite number."""
    return _number(text, lambda value: True, "must be finite")


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _integer(text, 0)


def sizes(text: str) -> tuple[int, ...]:
    """Sizes of a shape, separated by commas."""
    return tuple(_integer(word, 1) for word in text.split(","))


def _number(text: str, good: Callable[[float], bool], words: str) -> float:
    try:
        over, _, under = text.partition("/")
        value = float(over) / float(under) if under else float(over)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not (good(value) and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{words}, and is {text}")
    return value


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, and is {value}")
    return value


def engine_names(text: str) -> str:
    """ "auto" or names of engines, separated by commas."""
    from verifier.engines.registry import ENGINES

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != "auto" and name not in ENGINES:
            raise argparse.ArgumentTypeError(f"there is no engine {name!r} (engines: {', '.join(ENGINES)}, auto)")
    return ",".join(names)


def a_file(text: str) -> Path:
    """A file to write."""
    from verifier.files import check_target

    return _checked(check_target, text)


def a_folder(text: str) -> Path:
    """A folder to write to, which need not exist."""
    from verifier.files import check_folder

    return _checked(check_folder, text)


def a_witness(text: str) -> Path:
    """A file to write a counterexample to."""
    if not text.lower().endswith((".npy", ".txt")):
        raise argparse.ArgumentTypeError(f"{text}: unknown format {Path(text).suffix!r} (name a .npy or .txt file)")
    return a_file(text)


def a_picture(text: str) -> Path:
    """A picture to write."""
    from verifier.report.tables import PICTURES, check_suffix

    return _checked(lambda path: check_suffix(Path(path), PICTURES), text)


def a_report(text: str) -> Path:
    """A table, a page or a picture of certified accuracy to write."""
    from verifier.report.tables import PICTURES, check_suffix

    return _checked(lambda path: check_suffix(Path(path), (".md", ".html", *PICTURES)), text)


def a_page(text: str) -> Path:
    """A page to write."""
    from verifier.report.tables import check_suffix

    return _checked(lambda path: check_suffix(Path(path), (".html",)), text)


def a_map(text: str) -> Path:
    """A report, table or picture of an attention map to write."""
    from verifier.report.attention import check_ending

    return _checked(lambda path: check_ending(Path(path)), text)


def a_table(text: str) -> Path:
    """A table or a picture to write."""
    from verifier.report.tables import check_suffix

    return _checked(lambda path: check_suffix(Path(path)), text)


def _checked(check: Callable[[str], T], text: str) -> T:
    from verifier.errors import InputError

    try:
        return check(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def refuse(args: argparse.Namespace, why: str, *names: str) -> None:
    """Refuse options that were given and would have no effect (their default must be None).

    Raises:
        InputError: naming the first of them.
    """
    from verifier.errors import InputError

    for name in names:
        if getattr(args, name.replace("-", "_")) is not None:
            raise InputError(f"--{name} has no effect {why}", fix="leave it out")


def pages_too(args: argparse.Namespace) -> list[Path]:
    """The files of ``--out`` and the page of ``--report``; pages by ``--out`` are taken, and their new place is named."""
    from verifier.commands.console import say

    if any(path.suffix.lower() == ".html" for path in args.out):
        say("verifier: --out FILE.html is an old way: write --report FILE.html")
    return [*args.out, *([] if args.report is None else [args.report])]


# -- arguments -----------------------------------------------------------------------------------------
def add_model(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """The network."""
    parser.add_argument("model", type=Path, nargs=nargs, metavar="MODEL", help=".onnx, .onnx.gz or .nnet")
    parser.add_argument(
        "--input-shape", type=sizes, metavar="N,N,…",
        help="of a model whose input's shape is open, the batch included: 1,3,32,32",
    )  # fmt: skip
    parser.add_argument(
        "--check-model", action="store_true", help="first evaluate the network beside onnxruntime at random inputs"
    )


def add_input(parser: argparse.ArgumentParser, words: str = "") -> None:
    """The input that a question is about."""
    kinds = ".png, .npy, .npz, .csv, or numbers in a text file"
    parser.add_argument("input", type=Path, metavar="INPUT", help=f"{words}: {kinds}" if words else kinds)


def add_domain(parser: argparse.ArgumentParser) -> None:
    """What inputs are cut to; `domain_of` reads it."""
    parser.add_argument(
        "--domain", default="network", metavar="LOW,HIGH",
        help="inputs are cut to this interval; 'network' (default): a .nnet file's own ranges, else 0,1 as for images; "
        "'none': no cut; write --domain=-1,1",
    )  # fmt: skip


def domain_of(text: str) -> Domain:
    """The interval that ``LOW,HIGH`` says; None for "none"; "network" for itself.

    Raises:
        InputError: anything else, or LOW > HIGH.
    """
    from verifier.errors import InputError

    if text.lower() == "network":
        return "network"
    if text.lower() == "none":
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"domain {text!r} is not LOW,HIGH", fix="write --domain=0,1 or --domain=none") from None
    if not low <= high:
        raise InputError(f"domain {text!r}: {low:g} is above {high:g}")
    return low, high


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How the numbers of input files become inputs: see `verifier.commands.inputs.Reader`."""
    group = parser.add_argument_group("reading inputs")
    group.add_argument(
        "--scale", type=positive, metavar="S",
        help="the numbers of input files are divided by this (255 for 8-bit pixels and pictures, else 1)",
    )  # fmt: skip
    words = "of the network's normalisation, which is given (x - mean) / std: one number, or one per channel"
    group.add_argument("--mean", type=number, nargs="+", metavar="M", help=words)
    group.add_argument("--std", type=number, nargs="+", metavar="S", help=words)


def add_report(parser: argparse._ActionsContainer, words: str = "write a page for readers outside the field") -> None:
    """A page with the answer."""
    parser.add_argument("--report", type=a_page, metavar="FILE.html", help=words)


def add_json(parser: argparse._ActionsContainer) -> None:
    """Whether the result is text or one JSON object (`verifier.commands.result`)."""
    parser.add_argument("--json", action="store_true", help="the result as one JSON object (verifier --schema)")


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """Whether progress is shown."""
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Files of results, in the formats of `verifier.report.tables`."""
    parser.add_argument(
        "--out", type=a_table, action="append", default=[], metavar="FILE",
        help="write .csv, .npz, .json, or a picture (.png .svg .pdf); may be repeated",
    )  # fmt: skip


def add_solving_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that asks engines."""
    from verifier.options import BOUND_STEPS, BOUNDS, DEVICES

    group = parser.add_argument_group("solving")
    group.add_argument(
        "--engine",
        type=engine_names,
        default="auto",
        metavar="NAME[,NAME…]",
        help="auto (default), an engine, or several: the first decided answer wins",
    )
    group.add_argument("--timeout", type=positive, default=60.0, metavar="S", help="wall-clock seconds (60)")
    group.add_argument("--memory", type=positive, metavar="GIB", help="memory limit of each solver process")
    cores = os.cpu_count() or 1
    group.add_argument("--threads", type=count, default=cores, metavar="N", help=f"threads of one engine ({cores})")
    group.add_argument(
        "--device",
        default="cpu",
        choices=DEVICES,
        help="where bounds of networks of 30,000 neurons and more are made (cpu)",
    )
    group.add_argument("--seed", type=natural, default=0, help="seed of everything random (0)")
    group.add_argument("--bounds", default="crown", choices=BOUNDS, help="bounds for the encodings (crown)")
    group.add_argument(
        "--bound-steps", type=count, default=BOUND_STEPS, metavar="N", help=f"steps of alpha-crown ({BOUND_STEPS})"
    )
    group.add_argument(
        "--propagate", action="store_true", help="saliency: give solvers the phases and bounds that propagation finds"
    )
    group.add_argument("--no-prepass", action="store_true", help="leave out the counterexample search")
    group.add_argument("--compare", action="store_true", help="let all engines finish and compare their answers")
    group.add_argument("--keep", type=a_folder, metavar="DIR", help="keep the query of a failed solver call here")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--witness", type=a_witness, metavar="FILE",
        help="write the counterexample here: .npy in the input's shape, or .txt in the competition's format",
    )  # fmt: skip
    add_report(output)
    add_json(output)
    add_quiet(output)


def options_of(args: argparse.Namespace) -> Options:
    """The options that `add_solving_arguments` describe."""
    from verifier.options import Options

    return Options(
        engine=args.engine,
        timeout=args.timeout,
        memory=args.memory,
        threads=args.threads,
        device=args.device,
        seed=args.seed,
        bounds=args.bounds,
        bound_steps=args.bound_steps,
        propagate=args.propagate,
        prepass=not args.no_prepass,
        compare=args.compare,
        reproducers=args.keep,
    )
