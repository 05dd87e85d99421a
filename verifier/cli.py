"""The command line ``verifier``.

Exit status of ``verify`` and ``saliency``: 0 the property holds; 1 it is violated; 2 bad usage or input;
3 unknown; 4 time-out; 5 error. Other commands: 0 done, 1 the answer is "no", 2 bad usage or input.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from verifier.errors import VerifierError

COMMANDS = {
    "verify": "decide a property file about a network",
    "check-proof": "check a proof that `verify --proof` wrote",
    "saliency": "do inputs with a similar gradient map keep the label?",
    "attention": "for which perturbations does the label hold and the map move as expected?",
    "line": "the network on a line between two inputs, exactly",
    "plane": "the network on a polygon in a plane, exactly",
    "attribute": "attributions: exact integrated gradients, sampled rules, conductance",
    "repair": "the smallest weight change that makes a network right on lines and polygons",
    "vnncomp": "run a benchmark category of VNN-COMP",
    "inspect": "layers, shapes, neurons, and which engines can take a model",
    "doctor": "which engines are installed and work",
}
"""The subcommands, each in ``verifier.commands.<name>`` (with _ for -), and what they are for."""

INTERRUPTED = 130


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The argument parser; only the named command's own module is imported (all of them, if None)."""
    top = argparse.ArgumentParser(
        prog="verifier",
        description="Proves or refutes properties of piecewise-linear neural networks.",
        epilog="exit status: 0 holds, 1 violated, 2 bad usage or input, 3 unknown, 4 time-out, 5 error, 130 interrupted",
    )
    from verifier import __version__

    top.add_argument("--version", action="version", version=f"pwl-verifier {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        if command in (None, name):
            importlib.import_module(f"verifier.commands.{name.replace('-', '_')}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = next((word for word in words if not word.startswith("-")), "")
    try:
        args = parser(first).parse_args(words)
        status: int = args.run(args)
        return status
    except VerifierError as error:
        print(f"verifier: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("verifier: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
