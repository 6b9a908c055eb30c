"""What is done where results exist already: whose they are, and whether they are done again."""

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from patchscaler.cli.folders import Job
from patchscaler.errors import ConfigError, ImageWriteError

LONGEST_NAME = 255  # bytes, on nearly all file systems


class Existing(str, Enum):
    """What to do where a result exists; `update`: again where the picture is newer."""

    skip = "skip"
    overwrite = "overwrite"
    rename = "rename"
    refuse = "refuse"
    update = "update"


class Settled(NamedTuple):
    """Jobs to do, those to skip because their result exists, and a complaint for each whose file is somebody else's."""

    todo: list[Job]
    skipped: list[Job]
    complaints: list[str]


def settle(jobs: Sequence[Job], existing: Existing | None) -> Settled:
    """What to do by what exists. None: skip where found in a folder, overwrite where named.

    A file under a name that the user didn't give is a result only if it bears our mark: another one is neither
    overwritten nor taken for done.
    Raises ConfigError with `refuse` if a result exists.
    """
    settled = Settled([], [], [])
    for job in jobs:
        policy = existing or (Existing.overwrite if job.source.folder is None else Existing.skip)
        exists = os.path.lexists(job.result)
        if exists and policy is Existing.refuse:
            raise ConfigError(
                f"{job.result}: exists already; move it away or choose --existing skip, overwrite or rename"
            )
        if exists and policy is Existing.rename:
            taken = {path for planned in jobs for path in planned.outputs}
            names = (job.result.with_stem(f"{job.result.stem}_{number}") for number in itertools.count(2))
            job = replace(job, result=next(n for n in names if not os.path.lexists(n) and n not in taken))
        foreign = next((path for path in job.outputs if path not in job.named and not _is_ours(path)), None)
        if foreign is not None:
            cure = "move it away, or choose another -o or --name"
            settled.complaints.append(f"{foreign}: exists and is no result of PatchScaler; {cure}")
        elif exists and (policy is Existing.skip or (policy is Existing.update and not _is_older(job))):
            settled.skipped.append(job)
        else:
            settled.todo.append(job)
    return settled


def _is_older(job: Job) -> bool:
    """Whether a result was written before its picture was."""
    return os.path.getmtime(job.result) < os.path.getmtime(job.source.path)


def check_names(job: Job) -> None:
    """Raises ImageWriteError for a result whose name is too long."""
    for path in job.outputs:
        length = len(os.fsencode(path.name))
        if length > LONGEST_NAME:
            raise ImageWriteError(
                f"{path}: its name has {length} bytes, {LONGEST_NAME} are possible; choose a shorter -o or --name"
            )


def _is_ours(path: Path) -> bool:
    """Whether a file may be replaced because it is free, or a result, map or report of an earlier call."""
    from patchscaler.imaging.searching import is_result

    if not os.path.lexists(path) or os.path.isdir(path):  # a folder in the way is said when the job's turn comes
        return True
    if path.suffix != ".json":
        return is_result(path)
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and {"input", "output", "model", "stages"} <= set(report)
