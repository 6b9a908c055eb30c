"""`patchscaler upscale INPUT...`: pictures enlarged one after the other, each written whole or not at all."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from patchscaler.cli import options as option
from patchscaler.cli.backbone import Backbone
from patchscaler.cli.enlarge import (
    animate_job,
    check_result,
    complain,
    complaining,
    most_patches,
    place_of,
    progress_bar,
    read_job,
    write_job,
    write_text,
)
from patchscaler.cli.existing import Existing, check_names, settle
from patchscaler.cli.folders import Frames, Job, Targets, find_sources, left_out, make_folders, plan_jobs, target
from patchscaler.cli.naming import DEFAULT_NAME, FileFormat, Naming, Source, size_label
from patchscaler.cli.options import parse_options
from patchscaler.cli.streams import PIPE, STDIN, piped, send
from patchscaler.engines.devices import choose_devices
from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError, PatchScalerError

# Set by the installed command: the process enlarges pictures and nothing else, so it may import less.
alone = False
# From when the first picture's budget counts: the program's start; the others' from the end of the one before.
started = time.perf_counter()


def upscale(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="pictures, or folders of pictures; - for standard input")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE_OR_DIR", help="default: <stem>_x4.png beside each input; - for stdout"
        ),
    ] = None,
    scale: option.Scale = None,
    width: Annotated[int | None, typer.Option(min=1, help="of the result in pixels, instead of --scale")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="likewise; with --width, both are kept to")] = None,
    max_side: option.MaxSide = None,
    quality: option.Quality = None,
    steps: option.Steps = None,
    denoise: option.Denoise = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="as many steps as let each picture be finished in time")
    ] = None,
    gammas: Annotated[
        str | None, typer.Option(metavar="C,C", help="confidence below which a patch is medium, hard [0.95,0.75]")
    ] = None,
    taus: Annotated[
        str | None, typer.Option(metavar="T,T,T", help="start times of simple, medium, hard [400,700,1000]")
    ] = None,
    seed: option.Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...; or several: cuda:0,cuda:1")] = "auto",
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="onnx (light), torch, or auto: the faster one here (see info)")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="processes that share the patches, with one device")] = 1,
    split: Annotated[
        str, typer.Option(metavar="WAY", help="of patches among workers: cost, or groups (hard | the others)")
    ] = "cost",
    wrap: option.Wrap = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a killed run of the same call stopped")] = False,
    model: option.Model = "tiny",
    backbone: Annotated[
        str | None, typer.Option(metavar="HUB_ID_OR_DIR", help="a diffusers pipeline that refines instead of Patch-DiT")
    ] = None,
    backbone_style: Annotated[
        str | None, typer.Option(metavar="NAME", help="of Stable Diffusion as backbone: img2img (default) or stablesr")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="for a backbone that takes one")] = None,
    batch_size: option.BatchSize = 32,
    qmap: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="draw the groups of patches; a folder for several inputs")
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="time, memory and steps; a folder for several inputs")
    ] = None,
    failures: Annotated[
        Path | None, typer.Option(metavar="FILE.txt", help="list of what failed, a line each; of none: empty")
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
        FileFormat | None, typer.Option("--format", help="of results without a name given (default: png)")
    ] = None,
    file_quality: option.FileQuality = 95,
    lossless: Annotated[bool, typer.Option("--lossless", help="WebP without loss")] = False,
    metadata: option.Metadata = True,
    frames: Annotated[Frames, typer.Option(help="of animations and files of several pages")] = Frames.refuse,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
) -> None:
    """Enlarge pictures to any size from their own to eight times it.

    A picture that cannot be read or written costs one line on stderr and the exit code 1; the others are still done.
    Interrupted by Ctrl-C, nothing half-written stays, and the same call goes on with what is missing of its folders.
    """
    from patchscaler.stages.sizes import check_size

    size: dict[str, Any] = {"scale": scale, "width": width, "height": height, "max_side": max_side}
    check_size(**size)
    borrowed = Backbone(backbone, backbone_style, prompt)
    borrowed.check(budget=budget, resume=resume, workers=workers, device=device)
    steps = borrowed.steps(quality, steps)
    options = parse_options(
        quality, steps, budget, gammas, taus, denoise=denoise, seed=seed, batch_size=batch_size, wrap=wrap
    )
    saving = {"quality": file_quality, "lossless": lossless, "metadata": metadata}
    engine = "torch" if backbone else engine
    devices = choose_devices(device, workers, engine)
    if frames is Frames.all and (qmap or report or resume):
        raise ConfigError("--qmap, --report and --resume are for single pictures; use --frames each with them")

    check_file_options(output, file_format, lossless)
    naming = Naming(name, size_label(**size), model, seed, file_format)
    with piped(inputs, output, naming.suffix(Source(Path("picture")))) as (paths, place, sent):
        # 1. Everything that can be wrong with the call as a whole, before any work.
        search = find_sources(paths, recursive, frames)
        if inputs == [PIPE]:
            search = search._replace(sources=[source._replace(called=STDIN) for source in search.sources])
        for complaint in search.complaints:
            complain(complaint)
        several = len(inputs) > 1 or any(map(os.path.isdir, inputs)) or frames is Frames.each
        targets = Targets(
            target("-o", place, several, frames is Frames.all),
            target("--qmap", qmap, several),
            target("--report", report, several),
        )
        planned = plan_jobs(search.sources, targets, naming)
        jobs, skipped, foreign = settle(planned, existing)
        for complaint in foreign:
            complain(complaint)
        failed = [*search.complaints, *foreign]
        aside = left_out(search, planned, targets)
        if dry_run:
            foretold = sum(not _foretell(job, size) for job in jobs)
            if aside:
                typer.echo(aside)
            raise typer.Exit(min(1, len(failed) + foretold))

        # 2. Each picture for itself.
        before = len(failed)
        try:
            if jobs:
                from patchscaler.engines.load import load_engine
                from patchscaler.engines.process import work_alone
                from patchscaler.upscaler import Upscaler

                if alone:
                    work_alone()
                sampling = len(devices) == 1 and any(options.groups.steps)
                loaded = load_engine(model, engine, device=devices[0], ahead=sampling)
                if len(devices) > 1:
                    devices = devices[: most_patches(loaded.model, jobs, size, len(devices))]
                if backbone:
                    upscaler = borrowed.upscaler(loaded)
                else:
                    upscaler = Upscaler(engine=loaded, workers=devices, split=split, on_loss=complain)
                with upscaler:
                    began, budgeted = time.monotonic(), started if alone else time.perf_counter()
                    for number, job in enumerate(jobs):
                        place = place_of(number, len(jobs), time.monotonic() - began) + job.source.path.name
                        with complaining(job, failed), progress_bar(place) as notify:
                            enlarge = partial(
                                upscaler, **size, options=options, resume=resume, started=budgeted, on_progress=notify
                            )
                            make_folders(job, targets)
                            check_names(job)
                            if job.source.animated:
                                line = animate_job(job, size, saving, enlarge)
                            else:
                                result = enlarge(read_job(job, size), file=job.result)
                                named = None if sent is None else "standard output"
                                line = write_job(job, result, model, saving, named)
                            typer.echo(line, err=sent is not None)
                        budgeted = time.perf_counter()
            if sent is not None and jobs and not failed:
                send(sent)
            if failures is not None:
                write_text(failures, "".join(f"{line}\n" for line in failed))
        except KeyboardInterrupt as error:
            typer.echo("patchscaler: interrupted; finished pictures are kept", err=True)
            raise typer.Exit(130) from error
    done = len(jobs) - (len(failed) - before)
    if done + len(skipped) + len(failed) > 1 or skipped or aside:
        words = [f"{done} enlarged, {len(skipped)} skipped, {len(failed)} failed"]
        words += ["--existing overwrite does the skipped ones again"] * bool(skipped) + [aside] * bool(aside)
        typer.echo("; ".join(words))
    if failed:
        raise typer.Exit(1)


def check_file_options(output: str | None, file_format: FileFormat | None, lossless: bool) -> None:
    """Raises ConfigError for a --format or --lossless that contradicts the ending of -o."""
    from patchscaler.imaging.files import FORMATS

    suffix = Path(output or "").suffix.lower()
    named = FORMATS.get(suffix)
    wanted = None
    if file_format is not None and file_format is not FileFormat.same:
        wanted = FORMATS.get(file_format.suffix)
        if wanted is None:
            raise ConfigError(f"--format {file_format.value}: what writes it is not installed; choose another one")
        if named and named != wanted:
            raise ConfigError(f"--format {file_format.value} and -o {output} contradict each other; leave one out")
    if lossless and (kind := named or wanted) in ("JPEG", "AVIF"):
        raise ConfigError(f"--lossless: {kind} is never written so; choose webp, png or tif")


def _foretell(job: Job, size: dict[str, Any]) -> bool:
    """Say what a job would do; False, and a complaint, if it would fail."""
    from patchscaler.imaging.files import read_size
    from patchscaler.stages.sizes import target_size

    try:
        check_names(job)
        before = read_size(job.source.path, frame=job.source.first)
        after = target_size(before, **size)
        check_result(job, after)
    except PatchScalerError as error:
        complain(str(error) if isinstance(error, ImageReadError | ImageWriteError) else f"{job.source}: {error}")
        return False
    typer.echo(f"{job.source} -> {job.result}: {before} -> {after}")
    return True
