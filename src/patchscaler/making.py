"""From a picture to its file, written: the same for a call of `upscale` and for every picture of a batch job."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from patchscaler.errors import ImageReadError, ImageWriteError, PatchScalerError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.picture import Picture
    from patchscaler.inference.crew import Crew
    from patchscaler.inference.parts import Parts
    from patchscaler.inference.settings import Settings
    from patchscaler.report import ProgressCallback, Report


HUB_AWAY = ("cached locally", "offline mode", "Couldn't connect", "couldn't connect")  # diffusers' and the hub's words


@dataclass(frozen=True)
class Order:
    """What is wanted of every picture of a call or job.

    model   bundled name, folder or hub id
    wish    scale, width, height and max_side
    saving  quality, lossless and metadata of the results' files
    resume  go on where a killed run with the same picture and result stopped
    wrap    for textures that tile: each border continues on the opposite side
    """

    model: str
    wish: dict[str, Any]
    settings: "Settings"
    saving: dict[str, Any]
    resume: bool = False
    wrap: bool = False


class Pass(NamedTuple):
    """What one pass of the model made: the picture x4 (1,3,H,W), or None where it lies on a shelf."""

    images: "Tensor | None"
    report: "Report"
    groups: "Tensor"
    patch_boxes: list[tuple[int, int, int, int]]


class Made(NamedTuple):
    """passes: the last made the picture; clear removes the intermediate results."""

    passes: list[Pass]
    clear: Callable[[], None]


def parts_of(model: str, device: str, alone: bool = False) -> "Parts":
    """The networks of a model on a device, in the precision that is fastest there. Raises WeightsError.

    alone  the process does nothing but enlarge pictures, so it may import less and keep freed memory
    """
    from patchscaler.storage import model_folder

    folder = Path(model_folder(model))
    if folder.is_dir():
        from patchscaler.inference.heap import keep_freed_memory
        from patchscaler.models import light

        if alone:
            keep_freed_memory()
            light.choose()
        from patchscaler.inference.parts import default_dtype, load_parts

        return load_parts(folder, default_dtype(device), device)
    # Another name is one of the hub's, or wrong: the pipeline knows.
    from diffusers.utils.logging import disable_progress_bar, set_verbosity_error

    from patchscaler.pipeline import PatchScalerPipeline, default_dtype

    disable_progress_bar()  # of the loading, which takes a moment
    set_verbosity_error()  # its remarks on the way; what fails is an error of ours
    try:
        pipe: Any = PatchScalerPipeline.from_pretrained(model, dtype=default_dtype(device))
    except (WeightsError, OSError) as error:
        if any(words in str(error) for words in HUB_AWAY):
            cure = "check the name, or the connection"
            raise WeightsError(f"{model}: no folder here, and the hub can't be reached; {cure}") from error
        raise
    parts: Parts = pipe.to(device).parts
    return parts


def check_model(model: str) -> None:
    """Raises WeightsError, before other processes are started for it, unless the model can be loaded."""
    from patchscaler.storage import model_folder

    folder = Path(model_folder(model))
    if not folder.is_dir():
        parts_of(model, "cpu")  # from the hub, whose files are kept
    elif str(folder) == model:  # not a bundled one
        from patchscaler.inference.parts import check_folder

        check_folder(folder)


def make(
    crew: "Crew",
    picture: "Picture",
    result: Path,
    size: "Size",
    order: Order,
    *,
    started: float = 0.0,
    notify: "ProgressCallback" = lambda progress: None,
) -> Made:
    """Enlarges `picture` to `size` and writes it to `result`, whole or not at all.

    started  time.perf_counter() from which a budget counts

    Raises ImageWriteError.
    """
    way = _straight if not order.wrap and _is_straight(picture, size) else _any_size
    return way(crew, picture, result, size, order, started, notify)


def _is_straight(picture: "Picture", size: "Size") -> bool:
    """Whether the model's own samples are those of the file: x4, no transparency, no profile but sRGB."""
    from patchscaler.imaging.icc import is_srgb
    from patchscaler.inference.parts import SCALE

    srgb = picture.icc_profile is None or is_srgb(picture.icc_profile)
    return picture.alpha is None and srgb and tuple(size) == tuple(SCALE * side for side in picture.size)


def _straight(
    crew: "Crew",
    picture: "Picture",
    result: Path,
    size: "Size",
    order: Order,
    started: float,
    notify: "ProgressCallback",
) -> Made:
    """x4 in bounded memory."""
    from patchscaler.imaging.files import write_picture
    from patchscaler.inference.budget import keep_within
    from patchscaler.inference.canvas import SampleCanvas
    from patchscaler.inference.shelf import shelf_for
    from patchscaler.inference.way import enlarge
    from patchscaler.sizes import history_of

    report = _new_report(crew, order.settings)
    shelf = shelf_for(result, picture, order.settings, crew.parts, order.resume)
    canvas = SampleCanvas(shelf, size, picture)
    adjust = keep_within(crew, report, started)
    way = enlarge(picture, crew, order.settings, canvas, report, shelf=shelf, notify=notify, adjust=adjust)
    done = [Pass(None, report, way.groups, way.patch_boxes)]
    with crew.aside(), report.stage("write"):
        history = history_of(order.model, picture.size, size, done)
        write_picture(result, canvas.pixels, like=picture, history=history, **order.saving)
    return Made(done, shelf.clear)


def _any_size(
    crew: "Crew",
    picture: "Picture",
    result: Path,
    size: "Size",
    order: Order,
    started: float,
    notify: "ProgressCallback",
) -> Made:
    """Any size, with transparency and profile."""
    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.wrapping import padded_size
    from patchscaler.inference.budget import keep_within
    from patchscaler.inference.canvas import FloatCanvas
    from patchscaler.inference.parts import SCALE
    from patchscaler.inference.shelf import Shelf, shelf_for
    from patchscaler.inference.way import enlarge
    from patchscaler.sizes import enlarge_by, first_share

    shelves: list[Shelf] = []
    first = first_share(picture.size, size)
    begun = padded_size(picture.size) if order.wrap else picture.size

    def four_times(part: "Picture", notify: "ProgressCallback | None", restore_only: bool) -> Pass:
        settings = order.settings
        if restore_only:
            settings = replace(settings, steps=(0, 0, 0), budget=None)
        elif settings.budget is not None and first is not None and part.size == begun:
            settings = replace(settings, budget=first * settings.budget)  # the rest is the second pass's
        report = _new_report(crew, settings)
        canvas = FloatCanvas(Size(*(SCALE * side for side in part.size)), crew.parts.device, part.alpha is not None)
        shelf = shelf_for(result, part, settings, crew.parts, order.resume)
        shelf.notes.pop("finished", None)  # the canvas begins anew
        shelves.append(shelf)
        adjust, shown = keep_within(crew, report, started), notify or (lambda progress: None)
        way = enlarge(part, crew, settings, canvas, report, shelf=shelf, notify=shown, adjust=adjust)
        return Pass(canvas.pixels, report, way.groups, way.patch_boxes)

    enlarged = enlarge_by(four_times, picture, size, model=order.model, on_progress=notify, wrap=order.wrap)
    passes: list[Any] = enlarged.outputs
    with crew.aside(), passes[-1].report.stage("write"):
        enlarged.save(result, **order.saving)

    def clear() -> None:
        for shelf in shelves:
            shelf.clear()

    return Made(passes, clear)


def _new_report(crew: "Crew", settings: "Settings") -> "Report":
    from patchscaler.report import Report

    return Report(str(crew.parts.device), str(crew.parts.dtype).removeprefix("torch."), settings.seed)


def seconds_of(passes: Sequence[Pass]) -> float:
    """What all stages of all passes took."""
    return math.fsum(stage["seconds"] for each in passes for stage in each.report.stages.values())


def reason(name: str, error: Exception) -> str | None:
    """One line on what is wrong with the picture `name`, and the cure; None for an error that is no picture's fault."""
    if isinstance(error, ImageReadError | ImageWriteError):
        return str(error)
    if isinstance(error, PatchScalerError):
        return f"{name}: {error}"
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or error}; check the file and its folder"
    if _out_of_memory(error):
        return f"{name}: not enough memory; use a smaller picture, --batch-size or --device cpu"
    return None


def _out_of_memory(error: Exception) -> bool:
    import torch

    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
