"""One job: read, enlarge with progress and previews, write as the command line does."""

import math
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchscaler.imaging.files import read_picture
from patchscaler.imaging.picture import Picture, to_pil
from patchscaler.imaging.qmap import COLOURS
from patchscaler.web.jobs import Job
from patchscaler.web.settings import LARGEST_SCALE, Limits

if TYPE_CHECKING:
    from patchscaler.report import Preview, Progress
    from patchscaler.upscaler import Upscaler

# Share of the time each stage takes, about: what the fraction is made of. "write" is ours.
# Where the second restorer is asked, it takes most of the time. A stage that isn't there counts as done with the next.
STAGE_SHARES = {
    "restore": 0.1,
    "second": 0.5,
    "prompt": 0.05,
    "sample": 0.2,
    "decode": 0.08,
    "colour": 0.03,
    "write": 0.04,
}
PREVIEW_SIDE = 1280  # pixels
FINAL_SIDE = 2048
PREVIEW_PAUSE = 0.5  # seconds between two previews, and
PREVIEW_RATIO = 4.0  # at least so many times what the last one took: they cost a fifth of the time at most


class Worker:
    """Does jobs with one model; several threads may call it."""

    def __init__(self, upscaler: "Upscaler", limits: Limits) -> None:
        self.upscaler = upscaler
        self.limits = limits

    def __call__(self, job: Job) -> None:
        """Leaves the result and the last preview in the job's folder. Raises ImageReadError, JobStoppedError, ..."""
        picture = read_picture(job.input, max_pixels=self.limits.max_pixels)
        stages = list(STAGE_SHARES)
        next_look = 0.0

        def on_progress(progress: "Progress") -> None:
            job.check(self.limits)
            before = sum(STAGE_SHARES[stage] for stage in stages[: stages.index(progress.stage)])
            now = before + STAGE_SHARES[progress.stage] * progress.done / max(progress.total, 1)
            job.stage = progress.stage
            job.fraction = max(job.fraction, now)  # of many sets of patches, each is prompted, then sampled

        def on_preview(preview: "Preview") -> None:
            nonlocal next_look
            if job.patches is None:
                job.patches = describe_patches(preview.groups, preview.patch_boxes, names, job.options.scale)
            started = time.monotonic()
            if started < next_look:
                return
            save_preview(job, preview.draw(PREVIEW_SIDE), picture, PREVIEW_SIDE)
            ended = time.monotonic()
            next_look = ended + max(PREVIEW_PAUSE, PREVIEW_RATIO * (ended - started))

        names = ["simple", "medium", "hard"]
        result = self.upscaler(
            picture,
            **job.options.call,
            on_progress=on_progress,
            on_preview=on_preview,
        )
        names = list(result.report.patches)
        job.patches = describe_patches(result.groups, result.patch_boxes, names, job.options.scale)
        job.stage = "write"
        result.save(job.result)
        job.check(self.limits)
        save_preview(job, result.pixels, picture, FINAL_SIDE)
        job.fraction = 1.0


def describe_patches(
    groups: NDArray[np.int64], boxes: list[tuple[int, int, int, int]], names: list[str], scale: float
) -> dict[str, Any]:
    """The groups' names and colours, how many patches each has, and every patch's group and box.

    boxes  in pixels of the picture x4; those returned are in pixels of the result
    """
    members = groups.flatten().tolist()

    def scaled(*place: int) -> tuple[int, ...]:
        return tuple(math.floor(side * scale / LARGEST_SCALE + 0.5) for side in place)

    corners = [(scaled(top, left), scaled(top + high, left + wide)) for top, left, high, wide in boxes]
    return {
        "names": names,
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in COLOURS[: len(names)]],
        "counts": [members.count(number) for number in range(len(names))],
        "groups": members,
        "boxes": [(*start, *(end - begin for begin, end in zip(start, stop, strict=True))) for start, stop in corners],
    }


def save_preview(job: Job, pixels: NDArray[np.float32], picture: Picture, side: int) -> None:
    """Replace the preview: at most `side` pixels wide and high, transparent where the picture is."""
    image = shrink(to_pil(pixels), side)
    if picture.alpha is not None:
        image.putalpha(to_pil(np.repeat(picture.alpha, 3, axis=1)).convert("L").resize(image.size))
    save_small(image, job.preview_file)
    job.preview += 1


def save_thumbnail(picture: Picture, job: Job) -> None:
    """The picture as it came, for browsers that cannot show its format."""
    save_small(shrink(to_pil(picture.pixels, picture.alpha), PREVIEW_SIDE), job.thumbnail)


def shrink(image: Image.Image, side: int) -> Image.Image:
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def save_small(image: Image.Image, path: os.PathLike[str]) -> None:
    """Whole or not at all: it may be read at the same time."""
    partial = f"{os.fspath(path)}.part"
    image.save(partial, "WEBP", quality=85, method=2)
    os.replace(partial, path)
