"""`patchscaler upscale INPUT...`: pictures enlarged one after the other, each written whole or not at all."""

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from patchscaler import __version__
from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError, PatchScalerError

if TYPE_CHECKING:
    from patchscaler.imaging.picture import Picture
    from patchscaler.inference.crew import Crew
    from patchscaler.inference.settings import Settings
    from patchscaler.inference.way import Way
    from patchscaler.report import Progress, ProgressCallback, Report

SCALE = 4

# Set by the installed command: the process enlarges pictures and nothing else, so it may import less.
alone = False
# From when a picture's budget counts: the program's start, then the end of the picture before.
started = time.perf_counter()

# Share of the time each stage takes, about: what the percentage is made of.
STAGE_SHARES = {"restore": 0.05, "prompt": 0.05, "sample": 0.75, "decode": 0.1, "colour": 0.05}


class Target(NamedTuple):
    """What -o, --qmap or --report names: one file, or a folder with a file for each picture."""

    path: Path
    is_folder: bool

    def file(self, source: Path, ending: str) -> Path:
        return self.path / f"{source.stem}{ending}" if self.is_folder else self.path


@dataclass(frozen=True)
class Job:
    """One picture and the files to be made of it."""

    source: Path
    result: Path
    qmap: Path | None
    report: Path | None

    @property
    def outputs(self) -> list[Path]:
        return [path for path in (self.result, self.qmap, self.report) if path is not None]


def upscale(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", readable=False, help="pictures, or folders of pictures")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE_OR_DIR", help="default: <stem>_x4.png beside each input"),
    ] = None,
    scale: Annotated[int, typer.Option(help="enlargement of each side; 4 is what the model can do")] = SCALE,
    quality: Annotated[
        str | None, typer.Option(metavar="NAME", help="fast, balanced or best: preset of --steps [default: balanced]")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="N,N,N", help="sampling steps of simple, medium and hard patches")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="as many steps as let each picture be finished in time")
    ] = None,
    gamma: Annotated[
        str | None, typer.Option(metavar="C,C", help="confidence below which a patch is medium, hard [0.95,0.75]")
    ] = None,
    tau: Annotated[
        str | None, typer.Option(metavar="T,T,T", help="start times of simple, medium, hard [400,700,1000]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same result")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...; or several: cuda:0,cuda:1")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="processes that share the patches, with one device")] = 1,
    split: Annotated[
        str, typer.Option(metavar="WAY", help="of patches among workers: cost, or groups (hard | the others)")
    ] = "cost",
    resume: Annotated[bool, typer.Option("--resume", help="go on where a killed run of the same call stopped")] = False,
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="bundled name, folder or hub id")] = "tiny",
    batch_size: Annotated[int, typer.Option(min=1, help="patches at a time: memory, not the result")] = 32,
    qmap: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="draw the groups of patches; a folder for several inputs")
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="time, memory and steps; a folder for several inputs")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="replace results of earlier calls, or leave them alone")
    ] = True,
) -> None:
    """Enlarge pictures x4.

    A picture that cannot be read or written costs one line on stderr and the exit code 1; the others are still done.
    """
    if scale != SCALE:
        raise ConfigError(f"--scale {scale}: this model enlarges x{SCALE}; use --scale {SCALE}")
    settings = parse_settings(quality, steps, budget, gamma, tau, seed=seed, batch_size=batch_size)
    devices = choose_devices(device, workers)

    # 1. Everything that can be wrong with the call as a whole, before any work.
    sources, failures = _find_sources(inputs)
    several = len(inputs) > 1 or any(map(os.path.isdir, inputs))
    given = {"-o": output, "--qmap": qmap, "--report": report}
    jobs = plan_jobs(sources, *(_target(option, text, several) for option, text in given.items()), scale=scale)
    if not overwrite:
        jobs = [job for job in jobs if not os.path.exists(job.result)]

    # 2. Each picture for itself.
    try:
        failures += _run(jobs, model, devices, split, settings, resume)
    except KeyboardInterrupt as error:
        typer.echo("patchscaler: interrupted; finished pictures are kept", err=True)
        raise typer.Exit(130) from error
    if failures:
        raise typer.Exit(1)


def parse_settings(
    quality: str | None,
    steps: str | None,
    budget: float | None,
    gamma: str | None,
    tau: str | None,
    *,
    seed: int,
    batch_size: int,
) -> "Settings":
    """The settings that the options ask for; raises ConfigError, which names the option."""
    from patchscaler.inference.settings import GAMMAS, TAUS, Settings, choose_steps

    gammas = _numbers("--gamma", gamma, float, "0.95,0.75") if gamma else GAMMAS
    taus = _numbers("--tau", tau, int, "400,700,1000") if tau else TAUS
    numbers = _numbers("--steps", steps, int, "8,14,20") if steps else None
    given = {"--quality": quality, "--steps": steps, "--budget": budget, "--gamma": gamma, "--tau": tau}
    try:
        chosen = choose_steps(quality, numbers, budget, taus)
        return Settings(chosen, gammas, taus, seed=seed, batch_size=batch_size, budget=budget)
    except ConfigError as error:
        options = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
        raise ConfigError(f"{options}: {error}" if options else str(error)) from None


def _numbers(option: str, text: str, kind: type, example: str) -> tuple[Any, ...]:
    """As many numbers as the example has; raises ConfigError."""
    wanted = example.count(",") + 1
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != wanted:
        what = f"{('two', 'three')[wanted - 2]} {'whole ' if kind is int else ''}numbers"
        raise ConfigError(f"{option} {text}: give {what} with commas, such as {example}")
    return numbers


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


def choose_devices(names: str, workers: int) -> list[str]:
    """The device of each worker: those that --device names, or one for all workers; raises ConfigError."""
    devices = [choose_device(name) for name in names.split(",")]
    if len(devices) > 1 and workers not in (1, len(devices)):
        raise ConfigError(f"--workers {workers}: {len(devices)} devices make as many workers; leave it out")
    return devices if len(devices) > 1 else devices * workers


def plan_jobs(
    sources: Sequence[Path], output: Target | None, qmap: Target | None, report: Target | None, *, scale: int
) -> list[Job]:
    """What is written where. Raises ConfigError if an input or another result would be overwritten."""
    jobs = []
    for source in sources:
        beside = Target(source.parent, is_folder=True)
        jobs.append(
            Job(
                source,
                (output or beside).file(source, f"_x{scale}.png"),
                qmap and qmap.file(source, "_qmap.png"),
                report and report.file(source, "_report.json"),
            )
        )
    inputs = set(map(os.path.realpath, sources))
    makers: dict[str, Path] = {}
    for job in jobs:
        for path in job.outputs:
            place = os.path.realpath(path)
            if place in inputs:
                raise ConfigError(f"{path}: is an input and would be overwritten; choose another folder or name")
            if place in makers:
                pair = f"{makers[place]} and for {job.source}"
                raise ConfigError(f"{path}: would be written twice, for {pair}; rename one or use two calls")
            makers[place] = job.source
    return jobs


def _target(option: str, given: str | None, several: bool) -> Target | None:
    """What an option names, folders made; raises ConfigError for a file where a folder is needed or of no format."""
    from patchscaler.imaging.files import FORMATS

    if given is None:
        return None
    path, suffixes = Path(given), (".json",) if option == "--report" else tuple(FORMATS)
    if os.path.isdir(path) or given.endswith(("/", os.sep)) or (several and not path.suffix):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageWriteError(f"{path}: cannot be made a folder ({error.strerror}); name another one") from error
        return Target(path, is_folder=True)
    if several:
        raise ConfigError(f"{option} {given}: several pictures need a folder; name one, with a '/' at its end")
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {given}: end the name with one of {', '.join(suffixes)}, or a folder's with '/'")
    return Target(path, is_folder=False)


def _find_sources(inputs: Sequence[Path]) -> tuple[list[Path], int]:
    """The picture files of all inputs, and how many inputs failed."""
    from patchscaler.imaging.files import find_pictures

    sources: list[Path] = []
    failures = 0
    for path in inputs:
        try:
            sources += find_pictures([path])
        except ImageReadError as error:
            _complain(str(error))
            failures += 1
        except OSError as error:  # a folder in its way may not be entered, a name is too long
            _complain(f"{path}: {error.strerror}; check the path and its permissions")
            failures += 1
    return list(dict.fromkeys(sources)), failures


def _run(jobs: Sequence[Job], model: str, devices: list[str], split: str, settings: "Settings", resume: bool) -> int:
    """Do all jobs, and return how many failed. Raises WeightsError for a model that cannot be loaded."""
    if not jobs:
        return 0
    with _crew(model, devices, split) as crew:
        return sum(not _done(crew, job, settings, model, resume) for job in jobs)


def _done(crew: "Crew", job: Job, settings: "Settings", model: str, resume: bool) -> bool:
    """Do one job and say so; False, and a line on stderr, if it failed."""
    try:
        typer.echo(_enlarge(crew, job, settings, model, resume))
        return True
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
    return False


def _crew(model: str, devices: list[str], split: str) -> "Crew":
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

        return Crew(load_parts(folder, default_dtype(device), device), devices, split, _complain)
    # Another name is one of the hub's, or wrong: the pipeline knows.
    from diffusers.utils.logging import disable_progress_bar

    from patchscaler.inference.crew import Crew
    from patchscaler.pipeline import PatchScalerPipeline, default_dtype

    disable_progress_bar()  # of the loading, which takes a moment
    pipe: Any = PatchScalerPipeline.from_pretrained(model, dtype=default_dtype(device))
    return Crew(pipe.to(device).parts, devices, split, _complain)


def _enlarge(crew: "Crew", job: Job, settings: "Settings", model: str, resume: bool) -> str:
    """Do one job; one line about it."""
    from patchscaler.imaging.files import read_picture, write_picture
    from patchscaler.imaging.geometry import Size
    from patchscaler.inference.budget import keep_within
    from patchscaler.inference.canvas import SampleCanvas
    from patchscaler.inference.shelf import shelf_for
    from patchscaler.inference.way import enlarge
    from patchscaler.report import Report

    global started
    picture = read_picture(job.source)
    for path in job.outputs:  # before the long work
        if not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path):
            raise ImageWriteError(f"{path}: cannot be written there; choose another place or create the folder first")
    report = Report(str(crew.parts.device), str(crew.parts.dtype).removeprefix("torch."), settings.seed)
    shelf = shelf_for(job.result, picture, settings, crew.parts, resume)
    canvas = SampleCanvas(shelf, Size(*(SCALE * side for side in picture.size)), picture)
    adjust = keep_within(crew, report, started)
    with _progress_bar(job.source.name) as notify:
        way = enlarge(picture, crew, settings, canvas, report, shelf=shelf, notify=notify, adjust=adjust)
        with report.stage("write"):
            write_picture(job.result, canvas.pixels, like=picture, alpha=canvas.alpha)
        if job.qmap:
            _write_qmap(job.qmap, picture, way, report)
        if job.report:
            names = {"input": str(job.source), "output": str(job.result), "model": model, "version": __version__}
            _write_text(job.report, json.dumps(names | report.as_dict(), indent=2) + "\n")
    shelf.clear()
    started = time.perf_counter()
    return _summary(job, report)


def _summary(job: Job, report: "Report") -> str:
    sizes = " -> ".join("x".join(map(str, size)) for size in (report.input_size, report.output_size))
    groups = ", ".join(f"{count} {name}" for name, count in report.patches.items())
    seconds = sum(stage["seconds"] for stage in report.stages.values())
    line = f"{job.source} -> {job.result}: {sizes} in {seconds:.1f} s, patches: {groups}"
    if report.budget is not None:
        line += f"; steps {','.join(map(str, report.steps.values()))} for {report.budget['seconds']:g} s"
    return line


def _write_qmap(path: Path, picture: "Picture", way: "Way", report: "Report") -> None:
    from patchscaler.imaging.files import picture_from, write_picture
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.qmap import draw_qmap
    from patchscaler.imaging.resize import resize_bicubic

    enlarged = resize_bicubic(picture.pixels, Size(*report.output_size), clamp=True)
    drawn = draw_qmap(enlarged, way.groups.flatten(), way.patch_boxes, list(report.patches))
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


def _complain(line: str) -> None:
    typer.echo(f"patchscaler: {line}", err=True)
