"""Standard streams: words whose reader may be gone, and pictures that come and go through pipes."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from patchscaler.errors import ConfigError, ImageWriteError

PIPE = "-"
STDIN = "standard input"


class Talk:
    """A text stream that falls silent where it can't be written to: a pipe that is closed, a disk that is full.

    The results lie in files; who reads the words about them decides nothing.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError:
            self._hush()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._hush()

    def _hush(self) -> None:
        """What is still to be said goes nowhere, and so does what Python would flush at its end."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def talk_on() -> None:
    """Make standard output and standard error such streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Talk):
            setattr(sys, name, Talk(stream))


class Piped(NamedTuple):
    """A call's inputs and -o with files instead of pipes; the file that is to be sent to standard output, if any."""

    inputs: list[Path]
    output: str | None
    sent: Path | None


@contextmanager
def piped(inputs: Sequence[str], output: str | None, suffix: str) -> Iterator[Piped]:
    """`-` among the inputs is the picture on standard input, as -o the result on standard output.

    suffix  of a result without a name
    Raises ConfigError where several pictures share a pipe.
    """
    if PIPE not in inputs and output != PIPE:
        yield Piped([Path(each) for each in inputs], output, None)
        return
    if len(inputs) > 1 or (output == PIPE and os.path.isdir(inputs[0])):
        raise ConfigError("- is one picture; give it alone, or name files and folders")
    with tempfile.TemporaryDirectory(prefix="patchscaler-") as folder:
        source = Path(inputs[0])
        if inputs[0] == PIPE:
            source = Path(folder) / "stdin"
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        sent = Path(folder) / f"result{suffix}" if output in (PIPE, None) else None
        yield Piped([source], str(sent or output), sent)


def binary_stdout() -> Any:
    return sys.stdout.buffer


def send(path: Path) -> None:
    """A file to standard output. Raises ImageWriteError: here the pipe is the result's place."""
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, out := binary_stdout())
        out.flush()
    except OSError as error:
        raise ImageWriteError(f"-o -: cannot be written ({error.strerror}); name a file instead") from error
