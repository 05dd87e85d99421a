"""``verifier doctor``: which engines are installed, and which really work."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.events import Listener

PACKAGES = (
    "numpy", "scipy", "torch", "onnx", "onnxruntime", "auto_LiRPA", "vnnlib", "numba", "matplotlib", "ray",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_json, positive

    parser = subparsers.add_parser(
        "doctor",
        description="Ask every installed engine two tiny questions, one with a counterexample and one without, "
        "in a child process, and say which answered rightly. The first run after an installation also compiles what "
        "the other commands would compile on their first use.",
        epilog="exit status: 0 if every installed engine answered rightly, else 1",
    )
    add_json(parser)
    parser.add_argument("--timeout", type=positive, default=30.0, help="seconds for each question (30)")
    parser.set_defaults(run=run)


def compile_all(listener: Listener) -> None:
    """Compile the kernels of every part, the first time after an installation."""
    from verifier import compiled
    from verifier.attention import ahead as maps
    from verifier.attention import attention_map
    from verifier.repair import ahead as repairs
    from verifier.repair import repair

    compiled.ensure_engines(listener)
    maps.compile_ahead(attention_map, listener)
    repairs.compile_ahead(repair, listener)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    import importlib.metadata
    import platform

    from verifier import __version__
    from verifier.commands.console import describe, say
    from verifier.commands.result import Result
    from verifier.engines import registry
    from verifier.report.tables import text_table

    compile_all(lambda event: say(f"doctor: {describe(event)}"))
    findings = [examine(name, args.timeout) for name in registry.names()]
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    lines = [f"pwl-verifier {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    lines.append(text_table((), [(found["engine"], found["state"], found["detail"]) for found in findings], indent=2))
    lines.append("packages: " + ", ".join(f"{name} {version}" for name, version in packages.items()))
    broken = any(found["state"] == "BROKEN" for found in findings)
    record = {"engines": findings, "packages": packages, "python": platform.python_version()}
    return Result(text="\n".join(lines), found=record, status=int(broken))


def examine(name: str, timeout: float) -> dict[str, Any]:
    """One engine: ``{engine, state, detail, seconds}``; the state is "works", "not installed" or "BROKEN"."""
    from verifier.commands.console import say
    from verifier.engines import registry
    from verifier.engines.base import Answer
    from verifier.engines.process import solve_in_child
    from verifier.errors import EngineError
    from verifier.falsify.replay import replay
    from verifier.limits import Deadline
    from verifier.options import Options

    began = time.monotonic()

    def found(state: str, detail: str) -> dict[str, Any]:
        return {"engine": name, "state": state, "detail": detail, "seconds": time.monotonic() - began}

    try:
        engine = registry.get(name)
        availability = engine.availability()
    except EngineError as error:
        return found("BROKEN", str(error))
    if not availability.installed:
        return found("not installed", availability.detail)
    options = Options(engine=name, timeout=timeout)
    questions = tiny_queries("gradient" in engine.capabilities.features)
    if engine.rejects(questions[0][0].network, questions[0][0]):  # it is made for maps other than the gradient
        questions = tiny_queries(True, "absolute")
    for query, expected in questions:
        say(f"doctor: {name}, a question whose answer is {expected.value}")
        result = solve_in_child(engine, query, options, Deadline.after(timeout))
        if result.answer is not expected:
            return found("BROKEN", f"answered {result.answer.value}, not {expected.value}: {result.reason}")
        if expected is Answer.SAT and (result.x is None or not replay(query, result.x).confirmed):
            return found("BROKEN", "its counterexample does not stand the replay")
    return found("works", f"{availability.detail}; {time.monotonic() - began:.1f} s for the questions")


def tiny_queries(gradient: bool, saliency_map: str = "gradient") -> list[tuple[Any, Any]]:
    """Questions about ``(relu(x₀) + relu(x₁), 1)`` with their right answers.

    With the gradient: label 0 at x̂ = (1, 1), map (1, 1), also in absolute values. Label 1 needs y₀ ≤ 1.
    """
    import numpy as np

    from verifier.engines.base import Answer
    from verifier.network.graph import feedforward
    from verifier.properties.builders import robustness, saliency_robustness

    network = feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    x = np.ones(2)
    if gradient:
        return [
            (saliency_robustness(network, x, epsilon=0.75, delta=0.5, domain=None, map=saliency_map), Answer.SAT),
            (saliency_robustness(network, x, epsilon=0.25, delta=0.5, domain=None, map=saliency_map), Answer.UNSAT),
        ]
    return [
        (robustness(network, x, 0.75, domain=None), Answer.SAT),
        (robustness(network, x, 0.25, domain=None), Answer.UNSAT),
    ]
