"""The work of `patchscaler upscale`: one picture after the other, its files written whole or not at all."""

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from patchscaler import __version__
from patchscaler.cli.folders import Job, Targets, make_folders
from patchscaler.errors import ImageReadError, ImageWriteError, PatchScalerError

if TYPE_CHECKING:
    from torch import Tensor

    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.picture import Picture
    from patchscaler.inference.crew import Crew
    from patchscaler.inference.settings import Settings
    from patchscaler.report import Progress, ProgressCallback, Report

# Set by the installed command: the process enlarges pictures and nothing else, so it may import less.
alone = False
# From when a picture's budget counts: the program's start, then the end of the picture before.
started = time.perf_counter()

# Share of the time each stage takes by default (docs/speed.md): what the percentage is made of.
STAGE_SHARES = {"restore": 0.32, "prompt": 0.12, "sample": 0.36, "decode": 0.18, "colour": 0.02}


@dataclass(frozen=True)
class Call:
    """What one call of the command wants of all its pictures.

    wish    scale, width, height and max_side
    saving  quality, lossless and metadata of the results' files
    make    makes and writes a picture, instead of the model alone: (crew, job, call, picture, size, notify) -> (passes,
            what removes intermediate results)
    """

    targets: Targets
    model: str
    wish: dict[str, Any]
    settings: "Settings"
    saving: dict[str, Any]
    resume: bool
    make: Callable[..., tuple[list["Pass"], Callable[[], None]]] | None = None


class Pass(NamedTuple):
    """What one pass of the model made: the picture x4 (1,3,H,W), or None where it lies on a shelf."""

    images: "Tensor | None"
    report: "Report"
    groups: "Tensor"
    patch_boxes: list[tuple[int, int, int, int]]


def work_off(crew: "Crew", jobs: Sequence[Job], call: Call) -> int:
    """Do all jobs, and return how many failed."""
    return sum(not _done(crew, job, call) for job in jobs)


def _done(crew: "Crew", job: Job, call: Call) -> bool:
    """Do one job and say so; False, and a line on stderr, if it failed."""
    try:
        make_folders(job, call.targets)
        typer.echo(_enlarge(crew, job, call))
        return True
    except (ImageReadError, ImageWriteError) as error:
        complain(str(error))
    except PatchScalerError as error:
        complain(f"{job.source}: {error}")
    except OSError as error:
        complain(f"{job.source}: {error.strerror or error}; check the file and its folder")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        complain(f"{job.source}: not enough memory; use a smaller picture, --batch-size or --device cpu")
    return False


def make_crew(model: str, devices: list[str], split: str) -> "Crew":
    """The model, ready to work. Raises WeightsError."""
    device = devices[0]
    from patchscaler.storage import model_folder

    folder = Path(model_folder(model))
    if folder.is_dir():
        from patchscaler.inference.heap import keep_freed_memory
        from patchscaler.models import light

        if alone:
            keep_freed_memory()
            light.choose()
        from patchscaler.inference.crew import Crew
        from patchscaler.inference.parts import default_dtype, load_parts

        return Crew(load_parts(folder, default_dtype(device), device), devices, split, complain)
    # Another name is one of the hub's, or wrong: the pipeline knows.
    from diffusers.utils.logging import disable_progress_bar

    from patchscaler.inference.crew import Crew
    from patchscaler.pipeline import PatchScalerPipeline, default_dtype

    disable_progress_bar()  # of the loading, which takes a moment
    pipe: Any = PatchScalerPipeline.from_pretrained(model, dtype=default_dtype(device))
    return Crew(pipe.to(device).parts, devices, split, complain)


def _enlarge(crew: "Crew", job: Job, call: Call) -> str:
    """Do one job; one line about it."""
    from patchscaler.imaging.files import check_format, losses, read_picture
    from patchscaler.sizes import target_size

    global started
    picture = read_picture(job.source.path, frame=job.source.frame)
    size = target_size(picture.size, **call.wish)
    kind = check_format(job.result, size)
    for path in job.outputs:  # before the long work
        if not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path):
            raise ImageWriteError(f"{path}: cannot be written there; choose another place or create the folder first")
    make = call.make or (_straight if _is_straight(picture, size) else _any_size)
    with _progress_bar(job.source.path.name) as notify:
        passes, clear = make(crew, job, call, picture, size, notify)
        last = passes[-1]
        if job.qmap:
            _write_qmap(job.qmap, picture, last)
        if job.report:
            names = {"input": str(job.source.path), "output": str(job.result), "model": call.model}
            facts = names | {"version": __version__, "result_size": size, **last.report.as_dict()}
            if len(passes) > 1:
                facts["first_pass"] = passes[0].report.as_dict()
            _write_text(job.report, json.dumps(facts, indent=2) + "\n")
    clear()
    started = time.perf_counter()
    lost = "".join(f"; {loss}" for loss in losses(picture, kind, call.saving["metadata"]))
    return _summary(job, picture.size, size, [each.report for each in passes]) + lost


def _is_straight(picture: "Picture", size: "Size") -> bool:
    """Whether the model's own samples are those of the file: x4, no transparency, no profile but sRGB."""
    from patchscaler.imaging.icc import is_srgb
    from patchscaler.inference.parts import SCALE

    srgb = picture.icc_profile is None or is_srgb(picture.icc_profile)
    return picture.alpha is None and srgb and tuple(size) == tuple(SCALE * side for side in picture.size)


def _straight(
    crew: "Crew", job: Job, call: Call, picture: "Picture", size: "Size", notify: "ProgressCallback"
) -> tuple[list[Pass], Callable[[], None]]:
    """x4 in bounded memory, written; how it was done, and what removes the intermediate results."""
    from patchscaler.imaging.files import write_picture
    from patchscaler.inference.budget import keep_within
    from patchscaler.inference.canvas import SampleCanvas
    from patchscaler.inference.shelf import shelf_for
    from patchscaler.inference.way import enlarge
    from patchscaler.sizes import history_of

    report = _new_report(crew, call.settings)
    shelf = shelf_for(job.result, picture, call.settings, crew.parts, call.resume)
    canvas = SampleCanvas(shelf, size, picture)
    adjust = keep_within(crew, report, started)
    way = enlarge(picture, crew, call.settings, canvas, report, shelf=shelf, notify=notify, adjust=adjust)
    done = [Pass(None, report, way.groups, way.patch_boxes)]
    with report.stage("write"):
        history = history_of(call.model, picture.size, size, done)
        write_picture(job.result, canvas.pixels, like=picture, history=history, **call.saving)
    return done, shelf.clear


def _any_size(
    crew: "Crew", job: Job, call: Call, picture: "Picture", size: "Size", notify: "ProgressCallback"
) -> tuple[list[Pass], Callable[[], None]]:
    """Any size, with transparency and profile, written; how it was done, and what removes the intermediate results."""
    from patchscaler.imaging.geometry import Size
    from patchscaler.inference.budget import keep_within
    from patchscaler.inference.canvas import FloatCanvas
    from patchscaler.inference.parts import SCALE
    from patchscaler.inference.shelf import Shelf, shelf_for
    from patchscaler.inference.way import enlarge
    from patchscaler.sizes import enlarge_by, first_share

    shelves: list[Shelf] = []
    first = first_share(picture.size, size)

    def four_times(part: "Picture", notify: "ProgressCallback | None", restore_only: bool) -> Pass:
        settings = call.settings
        if restore_only:
            settings = replace(settings, steps=(0, 0, 0), budget=None)
        elif settings.budget is not None and first is not None and part.size == picture.size:
            settings = replace(settings, budget=first * settings.budget)  # the rest is the second pass's
        report = _new_report(crew, settings)
        canvas = FloatCanvas(Size(*(SCALE * side for side in part.size)), crew.parts.device, part.alpha is not None)
        shelf = shelf_for(job.result, part, settings, crew.parts, call.resume)
        shelf.notes.pop("finished", None)  # the canvas begins anew
        shelves.append(shelf)
        adjust, shown = keep_within(crew, report, started), notify or (lambda progress: None)
        way = enlarge(part, crew, settings, canvas, report, shelf=shelf, notify=shown, adjust=adjust)
        return Pass(canvas.pixels, report, way.groups, way.patch_boxes)

    result = enlarge_by(four_times, picture, size, model=call.model, on_progress=notify)
    passes: list[Any] = result.outputs
    with passes[-1].report.stage("write"):
        result.save(job.result, **call.saving)

    def clear() -> None:
        for shelf in shelves:
            shelf.clear()

    return passes, clear


def _new_report(crew: "Crew", settings: "Settings") -> "Report":
    from patchscaler.report import Report

    return Report(str(crew.parts.device), str(crew.parts.dtype).removeprefix("torch."), settings.seed)


def _summary(job: Job, before: "Size", after: "Size", reports: "list[Report]") -> str:
    report = reports[-1]
    sizes = " -> ".join("x".join(map(str, size)) for size in (before, after))
    groups = ", ".join(f"{count} {name}" for name, count in report.patches.items())
    seconds = math.fsum(stage["seconds"] for each in reports for stage in each.stages.values())
    line = f"{job.source} -> {job.result}: {sizes} in {seconds:.1f} s, patches: {groups}"
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
    write_picture(path, picture_from(drawn).pixels)


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
        done = dict.fromkeys(STAGE_SHARES, 0.0)

        def show(progress: "Progress") -> None:
            done[progress.stage] = progress.done / max(progress.total, 1)
            completed = sum(STAGE_SHARES[stage] * part for stage, part in done.items())
            bar.update(task, completed=completed, stage=progress.stage)

        yield show


def _out_of_memory(error: Exception) -> bool:
    import torch

    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def complain(line: str) -> None:
    typer.echo(f"patchscaler: {line}", err=True)
