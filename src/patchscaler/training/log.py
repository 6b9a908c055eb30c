"""The log of a training run: lines of JSON, and whatever tracker accelerate knows."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from patchscaler.errors import ConfigError
from patchscaler.training.settings import flat


def check_tracker(name: str | None) -> None:
    """Raises ConfigError for a tracker that isn't installed, or that accelerate doesn't know."""
    installed = sorted(str(tracker.value) for tracker in get_available_trackers())
    if name is not None and name not in installed:
        there = f"installed: {', '.join(installed)}" if installed else "none is installed (pip install tensorboardX)"
        raise ConfigError(f'run.tracker "{name}" is not there; {there}')


class Log:
    """One JSON object a line, appended to a file and on standard output; figures go to the tracker, too.

    Written by the main process alone.
    """

    def __init__(self, accelerator: Accelerator, path: Path, tracker: str | None, settings: Any) -> None:
        self._accelerator, self._path, self._tracker = accelerator, path, tracker
        if tracker is not None:
            # A resumed run goes on in the same one of W&B's runs.
            own = {"wandb": {"id": str(path.parent).replace("/", "-"), "resume": "allow"}} if tracker == "wandb" else {}
            config = {k: v if isinstance(v, int | float | str) else str(v) for k, v in flat(asdict(settings)).items()}
            accelerator.init_trackers("patchscaler", config, own)

    def write(self, event: str, step: int, **values: Any) -> None:
        if not self._accelerator.is_main_process:
            return
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "event": event, "step": step, **values})
        with open(self._path, "a") as stream:
            stream.write(line + "\n")
        print(line, flush=True)
        if self._tracker is not None and event in ("train", "validate"):
            self._accelerator.log({f"{event}/{name}": value for name, value in values.items()}, step=step)
