"""Files are written whole or not at all: everything that this package writes goes through here.

A file gets its new content at once, by renaming a finished temporary file beside it: whoever reads sees the old or
the new content, never a part, and after an error or an interruption the old file is as it was. Devices and pipes,
which cannot be replaced (``/dev/stdout``), are written to directly.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from verifier.errors import InputError, OutputError


def check_target(path: str | Path) -> Path:
    """The path, if a file can be written there, so that this is known before long work.

    Raises:
        InputError: its folder does not exist or may not be written to, or it is a folder itself.
    """
    path = Path(path)
    with reading(path):
        if path.is_dir():
            raise InputError("is a folder, and a file is to be written", place=str(path), fix="name a file in it")
        if not path.parent.is_dir():
            raise InputError("its folder does not exist", place=str(path), fix=f"make {path.parent} first")
        if not os.access(path if _is_special(path) else path.parent, os.W_OK):
            raise InputError("may not be written", place=str(path), fix="choose another folder")
    return path


def check_folder(path: str | Path) -> Path:
    """The path, if it is a folder that files can be written to, or one that can be made (it is not made yet).

    Raises:
        InputError: something else is there, or nothing may be written there.
    """
    path = Path(path)
    with reading(path):
        first = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        if not first.is_dir():
            what = "is no folder" if first == path else f"{first} is no folder"
            raise InputError(what, place=str(path), fix="name a folder; it is made if it does not exist")
        if not os.access(first, os.W_OK):
            raise InputError("may not be written", place=str(path), fix="choose another folder")
    return path


def make_folder(path: str | Path) -> Path:
    """The folder, made if it does not exist.

    Raises:
        OutputError: it cannot be made.
    """
    with _errors(Path(path)):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file at the end of the block, or nowhere if the block raises.

    Raises:
        OutputError: naming the file, if it cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays, and its target is replaced
    with _errors(path):
        if _is_special(path):
            content = io.BytesIO()  # formats such as zip archives go back and forth
            yield content
            with path.open("wb") as device:
                device.write(content.getvalue())
            return
        partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            with partial.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            if path.exists():
                partial.chmod(stat.S_IMODE(path.stat().st_mode))
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def whole_text(path: str | Path) -> Iterator[IO[str]]:
    """As `whole_file`, for text in UTF-8 whose ends of lines are written as given."""
    with whole_file(path) as stream:
        text = io.TextIOWrapper(stream, "utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()  # flushes, and leaves the stream open


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file of bytes.

    Raises:
        OutputError: naming the file, if it cannot be written.
    """
    with whole_file(path) as stream:
        stream.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of text, in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_figure(path: str | Path, figure: Any, dpi: int = 150) -> None:
    """Write a matplotlib figure; the path's ending says the format. See `write_bytes`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with whole_file(path) as stream:
        figure.savefig(stream, format=Path(path).suffix[1:].lower(), dpi=dpi)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Errors of the system while a file is read become `InputError` with the file's name."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {_words(error)}", place=str(path)) from None


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot be written: {_words(error)}", place=str(path)) from None


def _words(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not text in UTF-8"
    return getattr(error, "strerror", None) or str(error)


def _is_special(path: Path) -> bool:
    """Whether this is a device, a pipe or a socket."""
    return path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir()
