"""The command line ``verifier``.

Exit status of the commands that decide a question: 0 the property holds; 1 it is violated; 2 bad usage or input;
3 unknown; 4 time-out; 5 error; 130 interrupted. Other commands: 0 done, 1 the answer is "no", else the same.
Whatever goes wrong ends here, in one line and an exit status that is no verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from verifier.commands.console import say
from verifier.errors import InputError, LimitError, OutputError, TimeLimitError, VerifierError
from verifier.extras import lacking
from verifier.threads import VARIABLES

if TYPE_CHECKING:
    from verifier.commands.result import Result

COMMANDS = {
    "verify": "decide a property file about a network",
    "check-proof": "check a proof that `verify --proof` wrote",
    "robustness": "does every input near this one keep its label?",
    "certify": "certified accuracy of a data set: for which inputs is the label proved?",
    "saliency": "do inputs with a similar gradient map keep the label?",
    "attention": "for which perturbations does the label hold and the map move as expected?",
    "explain": "formal explanations: what the network provably depends on at an input",
    "line": "the network on a line between two inputs, exactly",
    "plane": "the network on a polygon in a plane, exactly",
    "attribute": "attributions: exact integrated gradients, sampled rules, conductance",
    "repair": "the smallest weight change that makes a network right on lines and polygons",
    "vnncomp": "run a benchmark category of VNN-COMP",
    "inspect": "layers, shapes, neurons, and which engines can take a model",
    "doctor": "which engines are installed and work",
}
"""The subcommands, each in ``verifier.commands.<name>`` (with _ for -), and what they are for."""

EXAMPLES = {
    "verify": "net.onnx property.vnnlib --proof property.proof",
    "check-proof": "property.proof net.onnx property.vnnlib",
    "robustness": "net.onnx image.png --epsilon 2/255 --report page.html",
    "certify": "net.onnx data.npz --scale 255 --epsilon 1/255 --epsilon 2/255 --journal run.jsonl",
    "saliency": "net.onnx x.npy --epsilon 0.05 --find delta --picture maps.png",
    "attention": "net.onnx image.png --perturb brightness:0:0.2 --perturb translation:0:1 --report page.html",
    "explain": "net.onnx x.csv --ask features,influence --epsilon 0.1 --report page.html",
    "line": "net.onnx start.npy end.npy --out line.png --out pieces.csv",
    "plane": "net.onnx a.npy b.npy c.npy --out plane.png",
    "attribute": "net.onnx image.png --target 7 --out map.png",
    "repair": "net.onnx specification.json --out repaired --data test.npz",
    "vnncomp": "run vnncomp2023/acasxu --sample 4 --cap 20",
    "inspect": "net.onnx --check-model",
    "doctor": "",
}
"""A command line of each, for its help."""

USAGE, UNKNOWN, TIMEOUT, ERROR, INTERRUPTED = 2, 3, 4, 5, 130
"""Exit statuses of what ends here."""


FORMER = {"saliency": "--input", "attention": "--image"}
"""Options that named the input, which now stands after the model as in every other command."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of this package: one line that says where help is."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError`, with what a misspelled choice may have been."""
        import difflib
        import re

        fix = f"see {self.prog} --help"
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            near = difflib.get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1)
            fix = f"did you mean {near[0]!r}? else {fix}" if near else fix
        raise InputError(message, fix=fix)


class Help(argparse.HelpFormatter):
    """Lines stay apart, and those that are indented are kept as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line.startswith(" ") else fill(line, width, indent) for line in text.split("\n"))


class Commands:
    """The subparsers, each with what `COMMANDS` says of it in one line, and with its example."""

    def __init__(self, subparsers: Any) -> None:
        self.subparsers = subparsers

    def add_parser(self, name: str, **words: Any) -> Any:
        """As argparse's."""
        end = f"{words.pop('epilog', '')}\n\nexample:\n  verifier {name} {EXAMPLES[name]}".strip()
        return self.subparsers.add_parser(name, help=COMMANDS[name], epilog=end, formatter_class=Help, **words)


class Schema(argparse.Action):
    """Prints the published schema."""

    def __init__(self, option_strings: Sequence[str], dest: str, **words: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **words)

    def __call__(self, top: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from verifier.commands.schema import text

        sys.stdout.write(text())
        top.exit()


class Completion(argparse.Action):
    """Prints a completion script of all commands and options."""

    def __call__(self, top: argparse.ArgumentParser, _: Any, shell: Any, *__: Any) -> NoReturn:
        try:
            import shtab
        except ModuleNotFoundError as error:
            raise lacking(error.name) or error from None
        print(shtab.complete(parser(), shell=shell))
        top.exit()


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The argument parser; only the named command's own module is imported (all of them, if None)."""
    from verifier import __version__
    from verifier.commands.arguments import VERDICT_STATUS

    top = Parser(
        prog="verifier",
        description="Proves or refutes properties of piecewise-linear neural networks.",
        epilog=VERDICT_STATUS,
    )
    top.add_argument("--schema", action=Schema, help="print the JSON schema of what --json writes, and stop")
    top.add_argument(
        "--completion", choices=("bash", "zsh", "tcsh"), action=Completion,
        help="print a completion script for this shell, and stop",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"pwl-verifier {__version__}")
    top.add_argument("--traceback", action="store_true", help="show where an unexpected error comes from")
    subparsers = Commands(top.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    for name in COMMANDS:
        if command in (None, name):
            importlib.import_module(f"verifier.commands.{name.replace('-', '_')}").add_parser(subparsers)
        else:
            subparsers.add_parser(name)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status, which is a verdict's only if the verdict was written."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "numpy" not in sys.modules:
        os.environ.update(VARIABLES)  # before any of these libraries is loaded
    _prepare_streams()
    try:
        try:
            return _run(words)
        finally:  # also when argparse leaves, after --help: what was written must have arrived
            sys.stdout.flush()
    except BrokenPipeError:
        return _failed("standard output: its reader left before everything was written", ERROR)
    except OSError as error:
        place = error.filename or "standard output"
        return _failed(f"{place}: {error.strerror or error}", ERROR)
    finally:
        _settle(sys.stdout, sys.stderr)


def _run(words: list[str]) -> int:
    """Run a command line. Errors of the system are left to `main`, as they may be standard output's."""
    command = next((word for word in words if not word.startswith("-")), "")
    clock, started = time.monotonic(), time.time()

    def failed(error: VerifierError | str, status: int) -> int:
        if "--json" in words:
            import json

            from verifier.commands.result import failure

            record = failure(command if command in COMMANDS else "", words, started, status, error)
            print(json.dumps(record, indent=1), flush=True)
        return _failed(str(error), status)

    try:
        args, rest = parser(command).parse_known_args(renamed(words, command))
        if rest:
            raise InputError(f"unrecognized arguments: {' '.join(rest)}", fix=f"see verifier {command} --help")
        args.words, args.began, args.started = words, clock, started
        return _done(args)
    except OutputError as error:
        return failed(error, ERROR)
    except TimeLimitError as error:
        return failed(error, TIMEOUT)
    except LimitError as error:
        return failed(error, UNKNOWN)
    except VerifierError as error:
        return failed(error, USAGE)
    except KeyboardInterrupt:
        say("verifier: interrupted")
        return INTERRUPTED
    except MemoryError:
        return failed("out of memory (a smaller question, or a machine with more)", ERROR)
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (known := lacking(error.name)) is not None:
            return failed(known, USAGE)
        if "--traceback" in words:
            say(traceback.format_exc())
        return failed(f"unexpected {_where(error)} (an error of this program: please report it)", ERROR)


def renamed(words: list[str], command: str) -> list[str]:
    """A command line in today's words; who used others is told (the deprecation policy is in CHANGELOG.md)."""
    former = FORMER.get(command, "")
    place = next((k for k, word in enumerate(words) if former and word.partition("=")[0] == former), None)
    if place is None:
        return words
    say(f"verifier: {former} is an old name: write verifier {command} MODEL INPUT")
    _, sign, value = words[place].partition("=")
    given = [value] if sign else words[place + 1 : place + 2]
    rest = words[:place] + words[place + 2 - len(sign) :]
    model = rest.index(command) + 1
    end = model + 1 if len(rest) > model and not rest[model].startswith("-") else len(rest)
    return [*rest[:end], *given, *rest[end:]]


def _done(args: argparse.Namespace) -> int:
    """Run a command that was understood; its exit status."""
    from verifier.commands.console import watched
    from verifier.commands.result import show

    with watched(getattr(args, "quiet", False)) as args.listener:
        result: Result = args.run(args)
    return show(result, args)


def _failed(text: str, status: int) -> int:
    say(f"verifier: error: {' '.join(text.split())}")
    return status


def _where(error: Exception) -> str:
    """An unexpected error in one line, with its place in this package."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parent)
    own = [frame for frame in frames if frame.filename.startswith(package)] or list(frames)
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}: {error}"


def _prepare_streams() -> None:
    """Characters that the terminal cannot show are written as escapes, and closed streams go nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller: its number must not become that of another file
            stream = open(os.devnull, "w")  # noqa: SIM115 - open until the end
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _settle(*streams: object) -> None:
    """Nothing may be left that fails in the interpreter's own last flush, which would change the exit status."""
    for stream in streams:
        try:
            stream.flush()  # type: ignore[attr-defined]
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
                os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
