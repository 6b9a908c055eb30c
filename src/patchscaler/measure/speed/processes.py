"""Commands measured from outside: wall time and peak memory of a whole process, ours and others' alike."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from patchscaler.errors import ConfigError, PatchScalerError

_LAUNCHER = Path(__file__).with_name("launcher.py")


class Peer(NamedTuple):
    """Another upscaler: its name in the tables, and its command with {input} and {output} in it."""

    name: str
    command: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """From NAME=COMMAND, the command as a shell would split it. Raises ConfigError."""
        name, equals, command = text.partition("=")
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise ConfigError(f"peer {text!r}: {error}") from error
        if not (name.strip() and equals and words):
            raise ConfigError(f"peer {text!r}: give NAME=COMMAND, such as 'mine=upscaler -i {{input}} -o {{output}}'")
        for place in ("{input}", "{output}"):
            if not any(place in word for word in words):
                raise ConfigError(f"peer {text!r}: the command has no {place}")
        return cls(name.strip(), words)

    def call(self, source: Path, result: Path) -> list[str]:
        return [word.replace("{input}", str(source)).replace("{output}", str(result)) for word in self.command]


class Outcome(NamedTuple):
    """seconds of wall time; peak_mib: largest resident set of the process or of one it waited for (None: unknown)."""

    seconds: float
    peak_mib: float | None
    output: str


def measure(command: Sequence[str], *, threads: int = 0, stdin: str = "") -> Outcome:
    """Run a command to its end, with `threads` threads for OpenMP programs (0: their own choice).

    Raises PatchScalerError, with the last line the command said, if it doesn't end with 0 or can't be started.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        launched = subprocess.run(
            [sys.executable, "-I", "-S", str(_LAUNCHER), str(result), *command],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
        if not result.exists():
            raise PatchScalerError(f"{command[0]}: can't be run ({_last_line(launched.stderr)})")
        told: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if told["code"]:
        said = _last_line(launched.stderr or launched.stdout)
        raise PatchScalerError(f"{shlex.join(command)}: ended with code {told['code']} ({said})")
    return Outcome(told["seconds"], told["peak_mib"], launched.stdout)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
