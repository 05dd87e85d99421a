"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from numba.core import event

from verifier.threads import VARIABLES

for _name, _value in VARIABLES.items():  # before any numerical library is loaded
    os.environ.setdefault(_name, _value)

settings.register_profile("verifier", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("verifier")
# A shell's background jobs ignore interrupts, and children inherit that: tests of Ctrl-C need the usual answer.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many random cases each edge kind gets; a nightly run asks for thousands."""
    parser.addoption("--edge-cases", type=int, help="random cases per edge kind (200, of dear kinds fewer)")


def pytest_configure(config: pytest.Config) -> None:
    """Compile all kernels before several workers start, which would each compile them."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        from verifier.commands.doctor import compile_all

        compile_all(lambda event: print(getattr(event, "text", event), flush=True))


@pytest.fixture(scope="session", autouse=True)
def every_kernel_was_compiled_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever tests use is compiled by `verifier.compiled.SAMPLES`: nothing is left to compile on somebody's clock."""
    found: list[str] = []

    class Compiling(event.Listener):
        def on_start(self, event: event.Event) -> None:
            function, frame = event.data["dispatcher"].py_func, sys._getframe()
            while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] in between:
                frame = frame.f_back
            asked = frame.f_globals["__name__"]  # tests may call a kernel themselves, as nobody else does
            if Path(function.__code__.co_filename).is_relative_to(own) and asked.startswith("verifier."):
                found.append(f"{function.__module__}.{function.__name__}{event.data['args']}")

        def on_end(self, event: event.Event) -> None:
            pass

    own = Path(__file__).resolve().parents[1] / "verifier"
    between = {"numba", "contextlib", __name__.split(".")[0]}
    with event.install_listener("numba:compile", Compiling()):
        yield
    assert not (found and hasattr(request.config, "workerinput")), found


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with data sets and benchmark networks; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PWL_VERIFIER_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}: set PWL_VERIFIER_DATA to run this test")
    return folder
