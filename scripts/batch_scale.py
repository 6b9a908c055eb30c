"""What batch jobs cost and how far they scale: service times from manifests, and a simulation of the schedule.

    python scripts/batch_scale.py SINK/_batch/manifest.parquet ...

fits the cost model to measured pictures, prints the tables of docs/scale.md, and simulates 64 workers on mixed sizes.
"""

import argparse
import heapq
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as parquet

from patchscaler.cluster.job import IN_FLIGHT, cut
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import OVERLAP, patches_of

DAY = 86_400
PATCH = 16  # latents
# Sides of square pictures, and their share in the mix: thumbnails to what old cameras made.
MIX = {64: 0.25, 128: 0.30, 256: 0.25, 512: 0.15, 1024: 0.05}
GROUP_SHARES = (0.4, 0.35, 0.25)  # simple, medium, hard patches
IN_BYTES, OUT_BYTES = 0.35, 1.3  # a pixel: of JPEG files as they come, of PNG results

# `tiny`, docs/paper-preset.md: multiply-adds of a pixel of the input, a patch prompted, a patch-step.
PIXEL_MACS, PROMPT_MACS, STEP_MACS = 1.83e6, 227e6, 510e6
GPU_RATE = 100e12  # assumed: operations a second that a GPU keeps up in bfloat16, a tenth of what data sheets say
WRITE_SECONDS = 0.35 / 4.2e6  # of a core for a pixel of a PNG file, docs/speed.md


class Cost(NamedTuple):
    """Seconds of one worker: of a picture, of a megapixel of the input, of a patch prompted, of a patch-step."""

    picture: float
    megapixel: float
    patch: float
    step: float

    def of(self, pixels: float, patches: float, patch_steps: float) -> float:
        return self.picture + self.megapixel * pixels / 1e6 + self.patch * patches + self.step * patch_steps


class Picture(NamedTuple):
    pixels: int
    patches: int
    seconds: float


class Schedule(NamedTuple):
    """utilisation: share of all workers' time until the end in which they work; tail: from the first idle one on."""

    makespan: float
    utilisation: float
    tail: float


def fit(manifests: Sequence[Path]) -> tuple[Cost, float, int]:
    """The cost that fits all pictures best in the mean square, none below 0; how much of the variance it explains."""
    rows = [row for path in manifests for row in parquet.read_table(path).to_pylist()]
    known = np.array([_features(row) for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    cost = _nonnegative(known, seconds)
    rest = float(((seconds - known @ cost) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum())
    return Cost(*cost.tolist()), 1 - rest, len(rows)


def _features(row: dict) -> list[float]:
    counts = {name: (row[f"patches_{name}"], row[f"steps_{name}"]) for name in ("simple", "medium", "hard")}
    prompted = sum(count for count, steps in counts.values() if steps)
    return [1.0, row["height"] * row["width"] / 1e6, prompted, sum(count * steps for count, steps in counts.values())]


def _nonnegative(known: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Least squares without the columns whose factors would be negative."""
    kept = list(range(known.shape[1]))
    while True:
        found = np.linalg.lstsq(known[:, kept], seconds, rcond=None)[0]
        if (found >= 0).all():
            cost = np.zeros(known.shape[1])
            cost[kept] = found
            return cost
        kept.pop(int(found.argmin()))


def mixed(cost: Cost, count: int, steps: Sequence[int], seed: int = 0) -> list[Picture]:
    """Pictures of MIX, each with as long as one worker takes for it."""
    rng = np.random.default_rng(seed)
    mean_steps = sum(share * number for share, number in zip(GROUP_SHARES, steps, strict=True))
    patches_by_side = {side: patches_of(Size(side, side), PATCH, OVERLAP) for side in MIX}
    pictures = []
    for side in rng.choice(list(MIX), count, p=list(MIX.values())).tolist():
        patches = patches_by_side[side]
        spread = float(rng.lognormal(0, 0.15))  # the groups differ from picture to picture
        pictures.append(Picture(side * side, patches, cost.of(side * side, patches, mean_steps * patches * spread)))
    return pictures


def simulate(
    seconds: Sequence[float],
    workers: int,
    together: int,
    read: float = 0.0,
    commit: float = 0.0,
    in_flight: int = IN_FLIGHT,
) -> Schedule:
    """Ray Data's schedule of these pictures, in their order, as a job cuts them into batches of `together` and less.

    seconds  of each picture, once on a worker
    read     seconds from one batch read to the next: what the source gives
    commit   seconds that the driver takes for each finished batch
    A batch goes to the worker with the fewest batches, as soon as one has less than `in_flight`.
    """
    batches = [math.fsum(seconds[start:stop]) for start, stop in cut(len(seconds), together, workers)]
    free_at = [0.0] * workers  # when what a worker has been given will be done
    given = [0] * workers
    ends: list[tuple[float, int]] = []
    now, driver = 0.0, 0.0
    for number, length in enumerate(batches):
        now = max(now, number * read)
        for worker in _ended(ends, now):
            given[worker] -= 1
        while min(given) >= in_flight:
            now = ends[0][0]
            for worker in _ended(ends, now):
                given[worker] -= 1
        worker = min(range(workers), key=lambda each: (given[each], free_at[each]))
        free_at[worker] = max(free_at[worker], now) + length
        given[worker] += 1
        heapq.heappush(ends, (free_at[worker], worker))
        driver = max(driver, now) + commit
    makespan = max(*free_at, driver)
    return Schedule(makespan, math.fsum(batches) / (workers * makespan), makespan - min(free_at))


def _ended(ends: list[tuple[float, int]], now: float) -> Iterator[int]:
    while ends and ends[0][0] <= now:
        yield heapq.heappop(ends)[1]


def print_days(cost: Cost, steps: Sequence[int], commit: float, together: int) -> None:
    """Pictures of the mix that so many cores make in a day, and what must be read and written for that."""
    pictures = mixed(cost, 20_000, steps)
    mean = math.fsum(picture.seconds for picture in pictures) / len(pictures)
    pixels = sum(picture.pixels for picture in pictures) / len(pictures)
    print(f"mean picture: {pixels / 1e6:.3f} megapixels, {mean:.2f} s of a worker")
    print("| workers | pictures a day | read MB/s | written MB/s | driver busy |\n|---|---|---|---|---|")
    for workers in (1, 8, 64, 1000):
        rate = workers / mean
        reading, writing = rate * pixels * IN_BYTES / 1e6, rate * 16 * pixels * OUT_BYTES / 1e6
        busy = rate / together * commit
        print(f"| {workers} | {DAY * rate:,.0f} | {reading:.2f} | {writing:.1f} | {busy:.1%} |")
    print(f"the driver is full at {together / commit * mean:,.0f} workers")


def print_gpus(steps: Sequence[int]) -> None:
    """The same for GPUs, computed from the arithmetic alone, and the cores that read and write their files."""
    pictures = mixed(Cost(0, 0, 0, 0), 20_000, steps)
    pixels = sum(picture.pixels for picture in pictures) / len(pictures)
    patches = sum(picture.patches for picture in pictures) / len(pictures)
    mean_steps = sum(share * number for share, number in zip(GROUP_SHARES, steps, strict=True))
    parts = {
        "restore and decode": PIXEL_MACS * pixels,
        "prompt": PROMPT_MACS * patches,
        "sample": STEP_MACS * patches * mean_steps,
    }
    operations = 2 * sum(parts.values())
    shares = ", ".join(f"{name} {2 * macs / operations:.0%}" for name, macs in parts.items())
    print(f"mean picture: {patches:.1f} patches, {operations / 1e12:.2f} TFLOP ({shares})")
    print("| GPUs | pictures a day | read MB/s | written MB/s | cores for files |\n|---|---|---|---|---|")
    for gpus in (1, 8, 64, 1000):
        rate = gpus * GPU_RATE / operations
        reading, writing = rate * pixels * IN_BYTES / 1e6, rate * 16 * pixels * OUT_BYTES / 1e6
        cores = rate * 16 * pixels * WRITE_SECONDS
        print(f"| {gpus} | {DAY * rate:,.0f} | {reading:,.0f} | {writing:,.0f} | {cores:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--steps", default="1,2,3")
    parser.add_argument("--together", type=int, default=32)
    parser.add_argument("--commit", type=float, default=0.01, help="seconds of the driver for a batch")
    arguments = parser.parse_args()
    steps = [int(number) for number in arguments.steps.split(",")]
    cost, explained, count = fit(arguments.manifests)
    print(f"{count} pictures: {cost}, {explained:.1%} of the variance")
    print_days(cost, steps, arguments.commit, arguments.together)
    print_gpus(steps)
    for number in (20_000, 100_000):
        seconds = [picture.seconds for picture in mixed(cost, number, steps)]
        for workers in (1, 8, 64):
            found = simulate(seconds, workers, arguments.together, commit=arguments.commit)
            print(f"{number} pictures, {workers} workers: {found.utilisation:.1%} used, tail {found.tail:.0f} s")


if __name__ == "__main__":
    main()
