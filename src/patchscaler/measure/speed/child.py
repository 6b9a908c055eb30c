"""One measurement in a process of its own: `python -m` this module, a JSON task in, a JSON answer out.

A process for each, since the peak of a process never falls: the second configuration would show the first one's.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchscaler.measure.speed.settings import Configuration

# Those of a picture's way that the pipeline doesn't report itself.
START, READ, WRITE = "start-up", "read", "write"


def rate_task(task: dict[str, Any]) -> dict[str, Any]:
    """The matrix rate for {"device", "dtype", "threads"}, and the machine's name."""
    import torch

    from patchscaler.measure.models import resolve_dtype
    from patchscaler.measure.speed.machine import describe, matrix_rate

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    dtype = resolve_dtype(task["dtype"], task["device"])
    return {"rate": matrix_rate(task["device"], dtype), "machine": describe(task["device"])}


def pictures_task(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Enlarge {"pictures"}, all of one size, as {"configuration"} says, {"repeats"} times after {"warm_up"} short runs.

    Returns for each median and least seconds and highest memory of each stage, patches and steps, and if they are
    {"counted"} the multiply-adds.
    """
    import torch

    from patchscaler.engines.torch import TorchEngine
    from patchscaler.measure.models import resolve_dtype
    from patchscaler.measure.speed.settings import Configuration
    from patchscaler.models.model import load_model
    from patchscaler.storage import fetch_model
    from patchscaler.upscaler import Upscaler

    configuration, pictures = Configuration.from_dict(task["configuration"]), list(map(Path, task["pictures"]))
    if configuration.threads:
        torch.set_num_threads(configuration.threads)
    dtype = resolve_dtype(configuration.dtype, configuration.device)
    engine = TorchEngine(load_model(fetch_model(configuration.model), dtype, configuration.device))
    with Upscaler(engine=engine, workers=configuration.workers or 1, split="groups") as upscaler:
        start_up = time.time() - task["started"]
        once = tuple(min(count, 1) for count in configuration.steps)
        for _ in range(task["warm_up"]):  # every network at its full batch and size, but one step of the many
            _run(upscaler, configuration, pictures[0], once)
        runs = [
            [_run(upscaler, configuration, picture, configuration.steps) for _ in range(task["repeats"])]
            for picture in pictures
        ]
    entries = [_summary(configuration, start_up, own) for own in runs]
    if task["counted"]:
        for entry in entries:
            entry["multiply_adds"] = _multiply_adds(engine.networks, configuration, entry)
    return entries


def _run(upscaler: Any, configuration: "Configuration", picture: Path, steps: tuple[int, ...]) -> dict[str, Any]:
    """One picture from file to file: the report as a dict, with the stages of reading and writing."""
    from patchscaler.imaging.files import read_picture
    from patchscaler.report import peak_mib

    def noted(started: float) -> dict[str, float]:
        return {"seconds": time.perf_counter() - started, "peak_mib": peak_mib(configuration.device)}

    started = time.perf_counter()
    source = read_picture(picture)
    read = noted(started)
    result = upscaler(source, steps=steps, taus=configuration.taus, batch_size=configuration.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result.save(Path(folder) / "result.png")
        write = noted(started)
    report: dict[str, Any] = result.report.as_dict()
    report["stages"] = {READ: read, **report["stages"], WRITE: write}
    return report


def _summary(configuration: "Configuration", start_up: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    from patchscaler.report import peak_mib

    first = runs[0]
    times_of = {START: {"seconds": start_up, "least_seconds": start_up, "peak_mib": None}}
    for name in first["stages"]:
        times = [run["stages"][name]["seconds"] for run in runs]
        peak = max(run["stages"][name]["peak_mib"] for run in runs)
        times_of[name] = {"seconds": statistics.median(times), "least_seconds": min(times), "peak_mib": peak}
    return {
        "device": first["device"],
        "dtype": first["dtype"],
        "output_size": first["output_size"],
        "patches": first["patches"],
        "patch_steps": first["patch_steps"],
        "asked": bool(first["denoise"]),  # the second restorer
        "stages": times_of,
        "seconds": statistics.median(sum(stage["seconds"] for stage in run["stages"].values()) for run in runs),
        "peak_mib": peak_mib(configuration.device),
    }


def _multiply_adds(networks: Any, configuration: "Configuration", entry: dict[str, Any]) -> dict[str, int]:
    from patchscaler.measure.flops import count, stages

    amounts, from_pixels = count(vars(networks), configuration.size), networks.restorer.input_kind == "pixels"
    return stages(amounts, from_pixels, sum(entry["patches"].values()), entry["patch_steps"], entry["asked"])


def main() -> None:
    from patchscaler.engines import process

    task = json.load(sys.stdin)
    process.lighten()
    answer = {"rate": rate_task, "pictures": pictures_task}[task["task"]](task)
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
