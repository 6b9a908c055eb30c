"""The log of a training run."""

import json
import time
from pathlib import Path
from typing import Any


class Log:
    """One JSON object a line, appended; and a short line on standard output."""

    def __init__(self, path: Path, active: bool) -> None:
        self.path, self.active = path, active

    def write(self, **entry: Any) -> None:
        if self.active:
            line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **entry})
            with open(self.path, "a") as stream:
                stream.write(line + "\n")
            print(line, flush=True)
