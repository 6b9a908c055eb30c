"""`patchscaler upscale INPUT...`: pictures enlarged one after the other, each written whole or not at all."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchscaler import __version__
from patchscaler.cli.folders import (
    DEFAULT_NAME,
    Existing,
    FileFormat,
    Frames,
    Job,
    Naming,
    Targets,
    find_sources,
    make_folders,
    plan_jobs,
    settle,
    size_label,
    target,
)
from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError, PatchScalerError

if TYPE_CHECKING:
    from patchscaler.imaging.picture import Picture
    from patchscaler.pipeline import PatchScalerOutput
    from patchscaler.report import Progress, ProgressCallback

# Share of the time each stage takes, about: what the percentage is made of.
STAGE_SHARES = {"restore": 0.05, "prompt": 0.05, "sample": 0.75, "decode": 0.1, "colour": 0.05}


def upscale(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", readable=False, help="pictures, or folders of pictures")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE_OR_DIR", help="default: <stem>_x4.png beside each input"),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="enlargement of each side, 1 (restore only) to 8, fractions too; default 4")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="of the result in pixels, instead of --scale")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="likewise; with --width, both are kept to")] = None,
    max_side: Annotated[int | None, typer.Option(min=1, help="likewise: the longer side")] = None,
    steps: Annotated[str, typer.Option(help="sampling steps of simple, medium and hard patches")] = "8,14,20",
    seed: Annotated[int, typer.Option(min=0, help="same seed, same result")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="bundled name, folder or hub id")] = "tiny",
    batch_size: Annotated[int, typer.Option(min=1, help="patches at a time: memory, not the result")] = 64,
    qmap: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="draw the groups of patches; a folder for several inputs")
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="time, memory and steps; a folder for several inputs")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="subfolders too, kept in -o")] = False,
    existing: Annotated[
        Existing | None,
        typer.Option(help="where a result exists; default: skip in folders, overwrite for pictures named"),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="of results: {stem} {ext} {size} {model} {seed} {frame}")
    ] = DEFAULT_NAME,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="of results without a name given")
    ] = FileFormat.png,
    file_quality: Annotated[int, typer.Option(min=1, max=100, help="of JPEG and WebP files")] = 95,
    lossless: Annotated[bool, typer.Option("--lossless", help="WebP without loss")] = False,
    metadata: Annotated[
        bool,
        typer.Option("--metadata/--no-metadata", help="keep EXIF, XMP, IPTC and note what was done, or none of it"),
    ] = True,
    frames: Annotated[Frames, typer.Option(help="of animations and files of several pages")] = Frames.refuse,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
) -> None:
    """Enlarge pictures to any size from their own to eight times it.

    A picture that cannot be read or written costs one line on stderr and the exit code 1; the others are still done.
    Interrupted by Ctrl-C, nothing half-written stays, and the same call goes on with what is missing of its folders.
    """
    from patchscaler.sizes import check_wish

    wish: dict[str, Any] = {"scale": scale, "width": width, "height": height, "max_side": max_side}
    check_wish(**wish)
    options = {"steps": parse_steps(steps), "seed": seed, "batch_size": batch_size}
    saving = {"quality": file_quality, "lossless": lossless, "metadata": metadata}
    place = choose_device(device)

    # 1. Everything that can be wrong with the call as a whole, before any work.
    sources, complaints = find_sources(inputs, recursive, frames)
    for complaint in complaints:
        _complain(complaint)
    several = len(inputs) > 1 or any(map(os.path.isdir, inputs)) or frames is Frames.each
    targets = Targets(
        target("-o", output, several), target("--qmap", qmap, several), target("--report", report, several)
    )
    naming = Naming(name, size_label(**wish), model, seed, file_format)
    jobs, skipped = settle(plan_jobs(sources, targets, naming), existing)
    if dry_run:
        raise typer.Exit(min(1, len(complaints) + sum(not _foretell(job, wish) for job in jobs)))

    # 2. Each picture for itself.
    try:
        failures = _run(jobs, targets, model, place, wish, options, saving)
    except KeyboardInterrupt as error:
        typer.echo("patchscaler: interrupted; finished pictures are kept", err=True)
        raise typer.Exit(130) from error
    if len(jobs) + len(skipped) + len(complaints) > 1 or skipped:
        counts = f"{len(jobs) - failures} enlarged, {len(skipped)} skipped, {failures + len(complaints)} failed"
        typer.echo(f"{counts}{'; --existing overwrite does the skipped ones again' if skipped else ''}")
    if failures or complaints:
        raise typer.Exit(1)


def parse_steps(text: str) -> tuple[int, ...]:
    """The steps of simple, medium and hard patches from "8,14,20"; raises ConfigError."""
    from patchscaler.diffusion.pgs import GroupConfig

    try:
        return GroupConfig(steps=tuple(int(part) for part in text.split(","))).steps
    except ValueError:
        raise ConfigError(f"--steps {text}: give three whole numbers with commas, such as 8,14,20") from None
    except ConfigError as error:
        raise ConfigError(f"--steps {text}: {error}") from None


def available_devices() -> list[str]:
    """Names of the devices torch can use here, the fastest kind first, "cpu" last."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return ["cpu"]
    return [*(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())), "cpu"]


def choose_device(name: str) -> str:
    """The device that --device names, "auto" being the first of `available_devices`; raises ConfigError."""
    available = available_devices()
    if name == "auto":
        return available[0]
    if name not in available and f"{name}:0" not in available:
        raise ConfigError(f"--device {name}: not available here; use auto or one of {', '.join(available)}")
    return name


def _foretell(job: Job, wish: dict[str, Any]) -> bool:
    """Say what a job would do; False, and a complaint, if it would fail."""
    from patchscaler.imaging.files import check_format, read_size
    from patchscaler.sizes import target_size

    try:
        before = read_size(job.source.path, frame=job.source.frame)
        after = target_size(before, **wish)
        check_format(job.result, after)
    except PatchScalerError as error:
        _complain(str(error) if isinstance(error, ImageReadError | ImageWriteError) else f"{job.source}: {error}")
        return False
    sizes = " -> ".join("x".join(map(str, size)) for size in (before, after))
    typer.echo(f"{job.source} -> {job.result}: {sizes}")
    return True


def _run(
    jobs: Sequence[Job],
    targets: Targets,
    model: str,
    device: str,
    wish: dict[str, Any],
    options: dict[str, Any],
    saving: dict[str, Any],
) -> int:
    """Do all jobs, and return how many failed. Raises WeightsError for a model that cannot be loaded."""
    if not jobs:
        return 0
    from diffusers.utils.logging import disable_progress_bar

    from patchscaler.pipeline import PatchScalerPipeline, default_dtype

    disable_progress_bar()  # of the loading, which takes a moment
    pipe: Any = PatchScalerPipeline.from_pretrained(model, dtype=default_dtype(device))
    pipe.to(device)
    failures = 0
    for job in jobs:
        try:
            make_folders(job, targets)
            typer.echo(_enlarge(pipe, job, model, wish, options, saving))
            continue
        except (ImageReadError, ImageWriteError) as error:
            _complain(str(error))
        except PatchScalerError as error:
            _complain(f"{job.source}: {error}")
        except OSError as error:
            _complain(f"{job.source}: {error.strerror or error}; check the file and its folder")
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            _complain(f"{job.source}: not enough memory; use a smaller picture, --batch-size or --device cpu")
        failures += 1
    return failures


def _enlarge(
    pipe: Any, job: Job, model: str, wish: dict[str, Any], options: dict[str, Any], saving: dict[str, Any]
) -> str:
    """Do one job; one line about it."""
    from patchscaler.imaging.files import check_format, losses, read_picture
    from patchscaler.sizes import enlarge, target_size

    picture = read_picture(job.source.path, frame=job.source.frame)
    kind = check_format(job.result, target_size(picture.size, **wish))
    for path in job.outputs:  # before the long work
        if not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path):
            raise ImageWriteError(f"{path}: cannot be written there; choose another place or create the folder first")
    with _progress_bar(job.source.path.name) as on_progress:
        result = enlarge(pipe, picture, on_progress=on_progress, **wish, **options)
        result.save(job.result, **saving)
        output = result.outputs[-1]
        if job.qmap:
            _write_qmap(job.qmap, picture, output)
        if job.report:
            names = {"input": str(job.source.path), "output": str(job.result), "model": model, "version": __version__}
            facts = names | {"result_size": result.size, **output.report.as_dict()}
            if len(result.outputs) > 1:
                facts["first_pass"] = result.outputs[0].report.as_dict()
            _write_text(job.report, json.dumps(facts, indent=2) + "\n")

    sizes = " -> ".join("x".join(map(str, size)) for size in (picture.size, result.size))
    groups = ", ".join(f"{count} {name}" for name, count in output.report.patches.items())
    stages = [stage for each in result.outputs for stage in each.report.stages.values()]
    seconds = sum(stage["seconds"] for stage in stages)
    lost = "".join(f"; {loss}" for loss in losses(picture, kind, saving["metadata"]))
    return f"{job.source} -> {job.result}: {sizes} in {seconds:.1f} s, patches: {groups}{lost}"


def _write_qmap(path: Path, picture: "Picture", output: "PatchScalerOutput") -> None:
    from patchscaler.imaging.files import picture_from, write_picture
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.qmap import draw_qmap
    from patchscaler.imaging.resize import resize_bicubic

    enlarged = resize_bicubic(picture.pixels, Size(*output.report.output_size), clamp=True)
    drawn = draw_qmap(enlarged, output.groups.flatten(), output.patch_boxes, list(output.report.patches))
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
def _progress_bar(name: str) -> Iterator["ProgressCallback | None"]:
    """A callback that shows stage, percentage and time left of one picture on stderr; None where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
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


def _complain(line: str) -> None:
    typer.echo(f"patchscaler: {line}", err=True)
