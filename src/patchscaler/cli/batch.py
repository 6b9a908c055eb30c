"""`patchscaler batch SOURCE SINK`: very many pictures, on this machine or on a cluster, through Ray."""

import math
import os
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from patchscaler.cli import options as option
from patchscaler.cli.naming import FileFormat, size_label
from patchscaler.cli.options import parse_options
from patchscaler.engines.devices import available_devices
from patchscaler.errors import ConfigError


def batch(
    source: Annotated[
        str, typer.Argument(help="folder, list (.txt), .parquet, .tar, pattern of such, or a URL (s3://, gs://, ...)")
    ],
    sink: Annotated[str, typer.Argument(help="folder or URL for the results and the manifest")],
    to: Annotated[str, typer.Option(help="form of the results: folder, shards (webdataset) or parquet")] = "folder",
    scale: option.Scale = None,
    max_side: option.MaxSide = None,
    quality: option.Quality = None,
    steps: option.Steps = None,
    denoise: option.Denoise = None,
    wrap: option.Wrap = False,
    seed: Annotated[int, typer.Option(min=0, help="of all pictures, unless a table gives each its own")] = 0,
    model: option.Model = "tiny",
    batch_size: option.BatchSize = 32,
    file_format: Annotated[FileFormat, typer.Option("--format", help="of the results")] = FileFormat.png,
    file_quality: option.FileQuality = 95,
    metadata: option.Metadata = True,
    actors: Annotated[
        int | None, typer.Option(min=1, help="copies of the model (default: as many as this machine's devices take)")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="processor cores of each actor")] = 1,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of each actor, fractions too (default: 1 where there is one)")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="of a running Ray cluster: auto, or host:6379 (default: one of its own)")
    ] = None,
    together: Annotated[int, typer.Option(min=1, help="pictures an actor takes at a time, whose patches mix")] = 32,
    part: Annotated[int, typer.Option(min=1, help="results in one shard or table")] = 64,
    store: Annotated[
        int, typer.Option(min=80, metavar="MIB", help="memory for pictures on their way, if local")
    ] = 1024,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="try those again that failed before")] = False,
) -> None:
    """Enlarge very many pictures, and go on where a killed job stopped: the same call again.

    Each result is what `patchscaler upscale` makes of that picture. SINK/_batch/ has manifest.parquet, a row for each
    picture done, and failures.parquet, one for each that could not be, with the reason. Needs the extra `cluster`.
    """
    from patchscaler.cluster.job import Cluster, run_job
    from patchscaler.cluster.sinks import Sink
    from patchscaler.cluster.worker import Work
    from patchscaler.stages.sizes import check_size
    from patchscaler.storage import model_folder

    size: dict[str, Any] = {"scale": scale, "width": None, "height": None, "max_side": max_side}
    check_size(**size)
    options = parse_options(quality, steps, denoise=denoise, seed=seed, batch_size=batch_size, wrap=wrap)
    saving = {"quality": file_quality, "lossless": False, "metadata": metadata}
    if address is not None and actors is None:
        raise ConfigError(f"--address {address}: say how many --actors the cluster shall hold")
    gpus, devices = _gpus(gpus, address)
    actors = actors or (max(1, int(devices / gpus)) if gpus else max(1, (os.cpu_count() or 1) // cores))
    suffix = "same" if file_format is FileFormat.same else file_format.suffix
    if model_folder(model) == model and os.path.isdir(model):
        model = os.path.abspath(model)  # workers have folders of their own
    label, device = size_label(scale, None, None, max_side), "cuda" if gpus else "cpu"
    work = Work(model, size, options, saving, label, suffix, device, cores)
    cluster = Cluster(address, actors, cores, gpus, together, part, store)
    try:
        place = Sink.at(sink, to)
        outcome = run_job(source, place, work, cluster, retry_failed=retry_failed, notify=_now_and_then())
    except KeyboardInterrupt as error:
        typer.echo("patchscaler: interrupted; finished pictures are kept", err=True)
        raise typer.Exit(130) from error
    words = f"{outcome.done} enlarged, {outcome.before} finished before, {outcome.failed} failed"
    if outcome.failed_before:
        words += f"; {outcome.failed_before} failed before, and were left alone (--retry-failed)"
    typer.echo(words)
    if outcome.failed or outcome.failed_before:
        typer.echo(f"patchscaler: the reasons are in {sink.rstrip('/')}/_batch/failures.parquet", err=True)
        raise typer.Exit(1)


def _now_and_then() -> Callable[[int, int], None]:
    """Says how far the job is, once a second at most."""
    said = -math.inf

    def notify(done: int, failed: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 1:
            said = time.monotonic()
            typer.echo(f"{done} enlarged, {failed} failed")

    return notify


def _gpus(gpus: float | None, address: str | None) -> tuple[float, int]:
    """GPUs of each actor, and how many there are here. Raises ConfigError where there are none of those asked for."""
    here = sum(name.startswith("cuda") for name in available_devices()) if address is None else 0
    if gpus is None:
        return (1.0, here) if here else (0.0, 0)
    if gpus and address is None and not here:
        raise ConfigError(f"--gpus {gpus:g}: no GPU here; leave it out, or name a cluster with --address")
    return gpus, here
