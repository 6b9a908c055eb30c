"""The work of `patchscaler upscale`: one picture after the other, its files written whole or not at all."""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from patchscaler import __version__
from patchscaler.cli.existing import check_names
from patchscaler.cli.folders import Job, Targets, make_folders
from patchscaler.errors import ImageWriteError, PatchScalerError
from patchscaler.making import Made, Order, Pass, make, parts_of, reason, seconds_of

if TYPE_CHECKING:
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.picture import Picture
    from patchscaler.inference.crew import Crew
    from patchscaler.report import Progress, ProgressCallback

# Set by the installed command: the process enlarges pictures and nothing else, so it may import less.
alone = False
# From when a picture's budget counts: the program's start, then the end of the picture before.
started = time.perf_counter()

# Share of the time each stage takes by default (docs/speed.md): what the percentage is made of.
# Where the second restorer is asked, it takes most of the time. A stage that isn't there counts as done with the next.
STAGE_SHARES = {"restore": 0.14, "second": 0.5, "prompt": 0.06, "sample": 0.18, "decode": 0.1, "colour": 0.02}


class Call(NamedTuple):
    """What one call of the command wants of all its pictures, where its files go, and what makes them (as `make`).

    aside  words go to stderr, because the result goes to stdout
    """

    targets: Targets
    order: Order
    make: Callable[..., Made] = make
    aside: bool = False


def work_off(crew: "Crew", jobs: Sequence[Job], call: Call) -> int:
    """Do all jobs, and return how many failed."""
    failed, began = 0, time.monotonic()
    for number, job in enumerate(jobs):
        failed += not _done(crew, job, call, place_of(number, len(jobs), time.monotonic() - began))
    return failed


def place_of(number: int, count: int, seconds: float) -> str:
    """Which of several pictures comes next and, by the time those before it took, what all that are left will take."""
    if count < 2:
        return ""
    rest = seconds / number * (count - number) if number else 0.0
    left = f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left" if number else ""
    return f"{number + 1}/{count}{left}: "


def _done(crew: "Crew", job: Job, call: Call, place: str) -> bool:
    """Do one job and say so; False, and a line on stderr, if it failed. `place`: see `place_of`."""
    try:
        make_folders(job, call.targets)
        line = _enlarge(crew, job, call, place)
        typer.echo(line, err=call.aside)
        return True
    except (PatchScalerError, OSError, MemoryError, RuntimeError) as error:
        words = reason(str(job.source), error)
        if words is None:
            raise
        complain(words)
    return False


def make_crew(model: str, devices: list[str], split: str) -> "Crew":
    """The model, ready to work. Raises WeightsError."""
    parts = parts_of(model, devices[0], alone)  # before the crew, so that its networks may be light
    from patchscaler.inference.crew import Crew

    return Crew(parts, devices, split, complain)


def _enlarge(crew: "Crew", job: Job, call: Call, place: str) -> str:
    """Do one job; one line about it."""
    from patchscaler.imaging.files import PictureFile, check_format, losses, read_picture
    from patchscaler.sizes import target_size

    global started
    check_names(job)
    file = PictureFile(job.source.called or str(job.source.path), job.source.path)
    picture = read_picture(file, frame=job.source.frame)
    size = target_size(picture.size, **call.order.wish)
    kind = check_format(job.result, size)
    for path in job.outputs:  # before the long work
        if not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path):
            raise ImageWriteError(f"{path}: cannot be written there; choose another place or create the folder first")
    with _progress_bar(place + job.source.path.name) as notify:
        passes, clear = call.make(crew, picture, job.result, size, call.order, started=started, notify=notify)
        last = passes[-1]
        if job.qmap:
            _write_qmap(job.qmap, picture, last)
        if job.report:
            names = {"input": str(job.source.path), "output": str(job.result), "model": call.order.model}
            facts = names | {"version": __version__, "result_size": size, **last.report.as_dict()}
            if len(passes) > 1:
                facts["first_pass"] = passes[0].report.as_dict()
            _write_text(job.report, json.dumps(facts, indent=2) + "\n")
    clear()
    started = time.perf_counter()
    lost = "".join(f"; {loss}" for loss in losses(picture, kind, call.order.saving["metadata"]))
    return _summary(job, picture.size, size, passes, "standard output" if call.aside else None) + lost


def _summary(job: Job, before: "Size", after: "Size", passes: Sequence[Pass], named: str | None) -> str:
    report = passes[-1].report
    sizes = " -> ".join(f"{size.width}x{size.height}" for size in (before, after))
    groups = ", ".join(f"{count} {name}" for name, count in report.patches.items())
    line = f"{job.source} -> {named or job.result}: {sizes} in {seconds_of(passes):.1f} s, patches: {groups}"
    if report.second is not None and report.second["share"]:
        line += ", with the second restorer"
    if report.budget is not None:
        line += f"; steps {','.join(map(str, report.steps.values()))} for {report.budget['seconds']:g} s"
    return line


def _write_qmap(path: Path, picture: "Picture", made: Pass) -> None:
    from patchscaler.imaging.files import picture_from, write_picture
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.qmap import draw_qmap
    from patchscaler.imaging.resize import resize_bicubic

    enlarged = resize_bicubic(picture.pixels, Size(*made.report.output_size), clamp=True)
    drawn = draw_qmap(enlarged, made.groups.flatten(), made.patch_boxes, list(made.report.patches))
    write_picture(path, picture_from(drawn).pixels, history=f"PatchScaler {__version__}: map of patches")


def _write_text(path: Path, text: str) -> None:
    """Write whole or not at all; raises ImageWriteError."""
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise ImageWriteError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _progress_bar(name: str) -> Iterator["ProgressCallback"]:
    """A callback that shows stage, percentage and time left of one picture on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda progress: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(name, total=1.0, stage="")
        furthest = 0.0

        def show(progress: "Progress") -> None:
            nonlocal furthest
            stages = list(STAGE_SHARES)
            before = sum(STAGE_SHARES[stage] for stage in stages[: stages.index(progress.stage)])
            now = STAGE_SHARES[progress.stage] * progress.done / max(progress.total, 1)
            furthest = max(furthest, before + now)  # of many sets of patches, each is prompted, then sampled
            bar.update(task, completed=furthest, stage=progress.stage)

        yield show


def complain(line: str) -> None:
    typer.echo(f"patchscaler: {line}", err=True)
