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

from patchscaler.errors import PatchScalerError

_LAUNCHER = Path(__file__).with_name("launcher.py")


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
