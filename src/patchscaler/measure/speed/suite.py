"""The whole benchmark: every configuration and every peer, each run in processes of its own, as one JSON-ready dict."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler import __version__
from patchscaler.errors import PatchScalerError
from patchscaler.imaging.files import read_picture, write_picture
from patchscaler.imaging.geometry import Size
from patchscaler.measure.peers import Peer
from patchscaler.measure.speed.processes import Outcome, measure
from patchscaler.measure.speed.settings import ADAPTIVE, Configuration

# `patchscaler`, also where its script isn't on the path
_COMMAND = (sys.executable, "-c", "from patchscaler.cli.main import main; main()")

Notify = Callable[[str], None]


def run(
    configurations: Sequence[Configuration],
    peers: Sequence[Peer] = (),
    *,
    picture: Path | None = None,
    repeats: int = 3,
    warm_up: int = 1,
    notify: Notify = lambda line: None,
) -> dict[str, Any]:
    """Measure all `configurations`; with `peers` also whole processes: theirs, and `patchscaler upscale` beside them.

    picture  cut or mirrored to each size; None: `synthetic_picture`
    repeats  whose median counts
    warm_up  runs before them: of a picture in one step per patch, of a whole process in full
    notify   called with one line before each measurement

    Returns "machine", "rates" (multiply-adds a second of matrix products), "configurations" and "processes" with their
    figures, or with "error" where one failed: a peer that isn't installed costs its own line only.
    """
    report: dict[str, Any] = {
        "version": __version__,
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "picture": "synthetic" if picture is None else str(picture),
        "repeats": repeats,
        "warm_up": warm_up,
        "rates": {},
        "configurations": [],
        "processes": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        sources = {size: _source(picture, size, Path(folder)) for size in {c.size for c in configurations}}
        for configuration in configurations:
            notify(title(configuration))
            entry = configuration.as_dict() | {"name": title(configuration)}
            try:
                rate = _rate(configuration, report)
                source = sources[configuration.size]
                (figures,) = measure_pictures(configuration, [source], repeats, warm_up, counted=True)
                entry |= figures
                _add_shares(entry, rate)
            except PatchScalerError as error:
                entry["error"] = str(error)
            report["configurations"].append(entry)
        if peers:
            for name, size, threads, command in _commands(configurations, peers, sources, Path(folder)):
                notify(f"{name}, {size.height}x{size.width}, whole process")
                entry = {"name": name, "height": size.height, "width": size.width, "threads": threads}
                try:
                    entry |= _process(command, Path(folder) / "result.png", threads, repeats, warm_up)
                except PatchScalerError as error:
                    entry["error"] = str(error)
                report["processes"].append(entry)
    return report


def measure_pictures(
    configuration: Configuration, pictures: Sequence[Path], repeats: int, warm_up: int, counted: bool = False
) -> list[dict[str, Any]]:
    """Figures of each picture, all of the configuration's size, from one process; counted: with multiply-adds.

    Raises PatchScalerError.
    """
    task = {"pictures": list(map(str, pictures)), "repeats": repeats, "warm_up": warm_up, "counted": counted}
    found = _in_child("pictures", configuration.threads, task | {"configuration": configuration.as_dict()})
    return list(found)


def title(configuration: Configuration) -> str:
    """A configuration in one line."""
    threads = f", {configuration.threads} threads" if configuration.threads else ""
    steps = ",".join(map(str, configuration.steps))
    return (
        f"{configuration.method} {steps}, {configuration.height}x{configuration.width}, "
        f"batch {configuration.batch_size}, {configuration.dtype}, {configuration.device}{threads}"
    )


def synthetic_picture(size: Size) -> Image.Image:
    """Something of everything at any size: a gradient, waves of growing frequency, hard edges and noise."""
    y, x = np.mgrid[0 : size.height, 0 : size.width].astype(np.float64)
    cell = (y // 64).astype(int) % 2 * 2 + (x // 64).astype(int) % 2
    waves = 128 + 90 * np.sin((x % 64) ** 2 / 64) * np.cos(y / 5)
    checks = 60 + 140 * ((x // 5 + y // 7) % 2)
    noise = 128 + np.random.default_rng(0).normal(0, 35, (size.height, size.width))
    planes = np.choose(cell, [40 + x % 128 + y % 64, waves, checks, noise])
    pixels = np.stack([planes, 0.9 * planes + 10, 0.8 * planes + 30], axis=2)
    return Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))


def _source(picture: Path | None, size: Size, folder: Path) -> Path:
    """The PNG of `size` that is enlarged: the picture's middle, mirrored outwards where it is too small."""
    path = folder / f"source_{size.height}x{size.width}.png"
    if picture is None:
        synthetic_picture(size).save(path)
        return path
    pixels = read_picture(picture).pixels
    missing = [max(side - own, 0) for side, own in zip(size, pixels.shape[2:], strict=True)]
    around = [(0, 0), (0, 0), *((less // 2, less - less // 2) for less in missing)]
    pixels = np.pad(pixels, around, mode="symmetric")
    top, left = ((own - side) // 2 for side, own in zip(size, pixels.shape[2:], strict=True))
    write_picture(path, pixels[..., top : top + size.height, left : left + size.width])
    return path


def _in_child(task: str, threads: int, values: dict[str, Any]) -> Any:
    command = [sys.executable, "-m", "patchscaler.measure.speed.child"]
    told = json.dumps(values | {"task": task, "started": time.time()})
    return json.loads(measure(command, threads=threads, stdin=told).output.splitlines()[-1])


def _rate(configuration: Configuration, report: dict[str, Any]) -> float:
    """The machine's matrix rate for the configuration, measured once for each device, dtype and thread count."""
    key = f"{configuration.device}, {configuration.dtype}, {configuration.threads or 'default'} threads"
    if key not in report["rates"]:
        settings = {name: getattr(configuration, name) for name in ("device", "dtype", "threads")}
        answer = _in_child("rate", configuration.threads, settings)
        report["rates"][key] = answer["rate"]
        report.setdefault("machine", answer["machine"])
    return float(report["rates"][key])


def _add_shares(entry: dict[str, Any], rate: float) -> None:
    """Multiply-adds and % of peak, into the stages they belong to."""
    for stage, amount in entry.pop("multiply_adds").items():
        if (figures := entry["stages"].get(stage)) and figures["seconds"]:
            figures["multiply_adds"] = amount
            figures["percent_of_peak"] = 100 * amount / figures["seconds"] / rate


def _commands(
    configurations: Sequence[Configuration], peers: Sequence[Peer], sources: dict[Size, Path], folder: Path
) -> list[tuple[str, Size, int, list[str]]]:
    """Name, size, threads and command of every whole process: our methods at their first settings, then the peers."""
    listed = []
    result = folder / "result.png"
    for size, source in sources.items():
        first: dict[str, Configuration] = {}
        for configuration in configurations:
            if configuration.size == size:
                first.setdefault(configuration.method, configuration)
        for method, configuration in first.items():
            # The uniform method's start times need no saying here: only the number of steps takes time.
            steps = ",".join(map(str, configuration.steps))
            ours = [*_COMMAND, "upscale", str(source), "-o", str(result), "--steps", steps]
            ours += ["--model", configuration.model, "--device", configuration.device]
            ours += ["--batch-size", str(configuration.batch_size)]
            listed.append((f"patchscaler, {method}", size, configuration.threads, ours))
        threads = first.get(ADAPTIVE, configurations[0]).threads
        listed += [(peer.name, size, threads, peer.call(source, result)) for peer in peers]
    return listed


def _process(command: list[str], result: Path, threads: int, repeats: int, warm_up: int) -> dict[str, Any]:
    """Median seconds and highest memory of a whole process, start-up included; it has to leave `result`."""
    outcomes: list[Outcome] = []
    for _ in range(warm_up + repeats):
        result.unlink(missing_ok=True)
        outcomes.append(measure(command, threads=threads))
        if not result.exists():
            raise PatchScalerError(f"{command[0]}: ended well but left no {{output}}; check the command")
    counted = outcomes[warm_up:]
    times = [outcome.seconds for outcome in counted]
    peaks = [outcome.peak_mib for outcome in counted if outcome.peak_mib is not None]
    return {"seconds": statistics.median(times), "least_seconds": min(times), "peak_mib": max(peaks, default=None)}
