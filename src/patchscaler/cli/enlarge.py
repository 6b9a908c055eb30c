"""What `patchscaler upscale` does around each picture: files read, written whole or not at all, and what is said."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from patchscaler import __version__
from patchscaler.cli.folders import Job
from patchscaler.engines.processor import fast_bfloat16
from patchscaler.errors import ImageWriteError, PatchScalerError, reason

if TYPE_CHECKING:
    from patchscaler.engines.protocol import ModelInfo
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.opening import PictureFile
    from patchscaler.imaging.picture import Picture
    from patchscaler.report import Progress, ProgressCallback
    from patchscaler.upscaler import Result

# Share of the time each stage takes by default (docs/speed.md): what the percentage is made of.
# Where the second restorer is asked, it takes most of the time. A stage that isn't there counts as done with the next.
STAGE_SHARES = {"restore": 0.14, "second": 0.5, "prompt": 0.06, "sample": 0.18, "decode": 0.1, "colour": 0.02}
LONG = 10  # seconds for a picture, from which on a faster engine is worth a word


def place_of(number: int, count: int, seconds: float) -> str:
    """Which of several pictures comes next and, by the time those before it took, what all that are left will take."""
    if count < 2:
        return ""
    rest = seconds / number * (count - number) if number else 0.0
    left = f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left" if number else ""
    return f"{number + 1}/{count}{left}: "


@contextmanager
def complaining(job: Job, failed: list[str]) -> Iterator[None]:
    """An error that is the picture's fault becomes a line on stderr, and one of `failed`."""
    try:
        yield
    except (PatchScalerError, OSError, MemoryError, RuntimeError) as error:
        words = reason(str(job.source), error)
        if words is None:
            raise
        complain(words)
        failed.append(words)


def read_job(job: Job, size: dict[str, Any]) -> "Picture":
    """The picture of a job, once all is checked that can be before the long work; `size` as Upscaler takes it."""
    from patchscaler.imaging.files import read_picture
    from patchscaler.stages.sizes import target_size

    picture = read_picture(_file_of(job), frame=job.source.frame)
    check_result(job, target_size(picture.size, **size))
    return picture


def _file_of(job: Job) -> "PictureFile":
    from patchscaler.imaging.files import PictureFile

    return PictureFile(job.source.called or str(job.source.path), job.source.path)


def check_result(job: Job, size: "Size") -> str:
    """Pillow's name of the result's format; raises ImageWriteError where it can't be written."""
    from patchscaler.imaging.animation import ANIMATED
    from patchscaler.imaging.files import check_format

    suffix = job.result.suffix.lower()
    if job.source.animated and suffix not in ANIMATED:
        raise ImageWriteError(f"{job.result}: holds no animation; use one of {', '.join(ANIMATED)}")
    kind = "GIF" if suffix == ".gif" else check_format(job.result, size)
    for path in job.outputs:
        if path.parent.exists() and (not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path)):
            raise ImageWriteError(f"{path}: cannot be written there; choose another place or create the folder first")
    return kind


def most_patches(model: "ModelInfo", jobs: Sequence[Job], size: dict[str, Any], enough: int) -> int:
    """Of the largest picture, by its header: more workers than that have nothing to do. `enough` is as good as more."""
    from patchscaler.imaging.files import read_size
    from patchscaler.imaging.geometry import SCALE, Size
    from patchscaler.imaging.tiles import patches_of
    from patchscaler.stages.sizes import target_size

    most = 1
    for job in jobs:
        with suppress(PatchScalerError, OSError):  # which is said when its turn comes
            before = read_size(job.source.path, frame=job.source.first)
            after = target_size(before, **size)
            last = Size(*(max(own, -(-side // SCALE)) for own, side in zip(before, after, strict=True)))
            most = max(most, patches_of(last, model.patch, model.overlap))
        if most >= enough:
            break
    return most


def animate_job(job: Job, size: dict[str, Any], saving: dict[str, Any], enlarge: "Callable[..., Result]") -> str:
    """Do one animation, frame by frame; one line about it. `enlarge`: an Upscaler with its options."""
    from patchscaler.imaging.animation import read_animation, write_animation
    from patchscaler.imaging.files import losses, read_picture
    from patchscaler.stages.sizes import target_size

    animation = read_animation(_file_of(job))
    seconds, lost = 0.0, dict[str, None]()
    with tempfile.TemporaryDirectory(prefix="patchscaler-") as folder:
        frames = [Path(folder) / f"{number}.png" for number in range(len(animation.numbers))]
        for number, frame in zip(animation.numbers, frames, strict=True):
            picture = read_picture(_file_of(job), frame=number)
            kind = check_result(job, target_size(picture.size, **size))
            if kind == "GIF":  # has no profiles
                picture = replace(picture, icc_profile=None, beyond=None)
            lost |= dict.fromkeys(losses(picture, kind, saving["metadata"]))
            result = enlarge(picture, file=frame)
            result.save(frame, **saving)
            result.clear()
            seconds += result.seconds
        write_animation(job.result, frames, animation, **saving)
    words = [
        f"{job.source} -> {job.result}: {len(frames)} frames, {result.source.size} -> {result.size} in {seconds:.1f} s",
        *lost,
    ]
    return "; ".join([*words, "256 colours a frame"] if kind == "GIF" else words)


def write_job(job: Job, result: "Result", model: str, saving: dict[str, Any], named: str | None) -> str:
    """All files of a job; one line about it, in which the result is called `named`."""
    from patchscaler.imaging.files import check_format, losses

    with result.report.stage("write"):
        result.save(job.result, **saving)
    if job.qmap:
        _write_qmap(job.qmap, result)
    if job.report:
        names = {"input": str(job.source.path), "output": str(job.result), "model": model}
        facts = names | {"version": __version__, "result_size": result.size, **result.report.as_dict()}
        if len(result.passes) > 1:
            facts["first_pass"] = result.passes[0].report.as_dict()
        write_text(job.report, json.dumps(facts, indent=2) + "\n")
    result.clear()
    kind = check_format(job.result, result.size)
    return _summary(job, result, named) + "".join(
        f"; {loss}" for loss in losses(result.source, kind, saving["metadata"])
    )


def _summary(job: Job, result: "Result", named: str | None) -> str:
    report = result.report
    groups = ", ".join(f"{count} {name}" for name, count in report.patches.items())
    sizes = f"{result.source.size} -> {result.size}"
    line = f"{job.source} -> {named or job.result}: {sizes} in {result.seconds:.1f} s, patches: {groups}"
    if report.denoise:
        line += f", with the second restorer (denoise {report.denoise:.2g})"
    if report.budget is not None:
        line += f"; steps {','.join(map(str, report.steps.values()))} for {report.budget['seconds']:g} s"
    if result.seconds > LONG and (report.device, report.dtype) == ("cpu", "float32") and fast_bfloat16():
        line += '; the engine torch takes about half the time on this processor: pip install "patchscaler[torch]"'
    return line


def _write_qmap(path: Path, result: "Result") -> None:
    from patchscaler.imaging.files import write_picture
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.qmap import draw_qmap
    from patchscaler.imaging.resize import resize_bicubic
    from patchscaler.imaging.sources import picture_from

    enlarged = resize_bicubic(result.source.pixels, Size(*result.report.output_size), clamp=True)
    drawn = draw_qmap(enlarged, result.groups.flatten(), result.patch_boxes, list(result.report.patches))
    write_picture(path, picture_from(drawn).pixels, history=f"PatchScaler {__version__}: map of patches")


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all; raises ImageWriteError."""
    from patchscaler.imaging.writing import whole_file

    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ImageWriteError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


@contextmanager
def progress_bar(name: str) -> Iterator["ProgressCallback"]:
    """A callback that shows stage, percentage and time left of one picture on stderr, if that is a terminal."""
    # Rich, which takes a while to import, takes nothing else for a terminal.
    if not sys.stderr.isatty() and not {"FORCE_COLOR", "TTY_COMPATIBLE"} & set(os.environ):
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with ProgressBar(*columns, console=console, transient=True, redirect_stdout=False, disable=quiet) as bar:
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
