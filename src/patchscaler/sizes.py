"""Any size from a model that can x4: one pass and a reduction, or two passes; transparency goes beside the colours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from patchscaler import __version__
from patchscaler.errors import ConfigError
from patchscaler.imaging.alpha import bounded_alpha, extend_colours
from patchscaler.imaging.files import Picture, picture_from, to_pil, write_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.wrapping import resize_wrapped, wrapped, wrapped_previews
from patchscaler.inference.options import SamplingOptions
from patchscaler.report import Progress, ProgressCallback

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScalerOutput, PatchScalerPipeline

MODEL_SCALE = 4
SMALLEST, LARGEST = 1, 8  # of the enlargement
PROGRESS_UNITS = 10_000  # of a stage, where two passes share it

# A picture x4, as `images` (1,3,4H,4W) and `report` of what it returns; with True by the restorer alone.
FourTimes = Callable[[Picture, ProgressCallback | None, bool], Any]


@dataclass(frozen=True)
class Enlargement:
    """What `enlarge` returns.

    source   the picture given, with its metadata
    pixels   (1,3,H,W) sRGB in [0, 1]
    alpha    (1,1,H,W) in [0, 1], or None
    outputs  of each pass of the model (confidence, groups, report); the last made the picture
    history  one line on what was done
    """

    source: Picture
    pixels: Float[Tensor, "1 3 h w"]
    alpha: Float[Tensor, "1 1 h w"] | None
    outputs: "list[PatchScalerOutput]"
    history: str

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape[-2:])

    @property
    def image(self) -> Image.Image:
        """As an 8-bit PIL picture in sRGB: RGB, RGBA, L or LA."""
        return to_pil(self.pixels, self.alpha, self.source.grey)

    def save(self, path: str | Path, *, quality: int = 95, lossless: bool = False, metadata: bool = True) -> None:
        """Write PNG, JPEG, WebP or TIFF with profile, depth and metadata of the source; see `write_picture`."""
        write_picture(
            path,
            self.pixels,
            like=self.source,
            alpha=self.alpha,
            quality=quality,
            lossless=lossless,
            metadata=metadata,
            history=self.history,
        )


def enlarge(
    pipe: "PatchScalerPipeline",
    image: Any,
    *,
    scale: int | float | None = None,
    width: int | None = None,
    height: int | None = None,
    max_side: int | None = None,
    wrap: bool = False,
    on_progress: ProgressCallback | None = None,
    **options: Unpack[SamplingOptions],
) -> Enlargement:
    """Enlarge a picture to any size from 1 to 8 times its own; its proportions stay.

    image                    path, PIL image, numpy array, tensor or Picture
    scale                    1 (restore only) to 8, fractions too; 4 if no size is given
    width, height, max_side  in pixels, instead of `scale`; of several, all are kept to
    wrap                     for textures that tile: each border continues on the opposite side
    options                  of the pipeline's call: seed, quality, steps, ... (SamplingOptions)

    Up to x4 is one pass of the model and a reduction, more two passes: the first leads to a quarter of the size. The
    alpha channel goes the same way as a grey picture, through the restorer alone.
    Raises ConfigError, ImageReadError.
    """
    picture = image if isinstance(image, Picture) else picture_from(image)

    def four_times(part: Picture, notify: ProgressCallback | None, restore_only: bool) -> Any:
        if restore_only:
            return pipe(part, output_type="pt", on_progress=notify, steps=(0, 0, 0))
        given: dict[str, Any] = {**options}
        if wrap and (on_preview := options.get("on_preview")):
            given["on_preview"] = wrapped_previews(on_preview, part.size)
        return pipe(part, output_type="pt", on_progress=notify, **given)

    wish = {"scale": scale, "width": width, "height": height, "max_side": max_side}
    size = target_size(picture.size, **wish)  # type: ignore[arg-type]
    model = getattr(pipe, "name_or_path", None) or "unnamed"
    return enlarge_by(four_times, picture, size, model=str(model), on_progress=on_progress, wrap=wrap)


def enlarge_by(
    four_times: FourTimes,
    picture: Picture,
    size: Size,
    *,
    model: str,
    on_progress: ProgressCallback | None = None,
    wrap: bool = False,
) -> Enlargement:
    """`enlarge` with any x4; `size` is one of `target_size`, `model` a name or folder for the history."""
    four_times = wrapped(four_times) if wrap else four_times
    plain = replace(picture, alpha=None, beyond=None)
    alpha = None
    if picture.alpha is not None:
        plain = replace(plain, pixels=extend_colours(picture.pixels, picture.alpha))
        alpha = _enlarge_alpha(four_times, picture.alpha, size, wrap)
    pixels, outputs = _passes(four_times, plain, size, on_progress, restore_only=False, wrap=wrap)
    history = history_of(model, picture.size, size, outputs) + ", wrap" * wrap
    return Enlargement(picture, pixels, alpha, outputs, history)


def _enlarge_alpha(four_times: FourTimes, alpha: Float[Tensor, "1 1 h w"], size: Size, wrap: bool) -> Tensor:
    """Alpha (1,1,H,W) at `size`, by the restorer alone: diffusion would add texture; constant areas stay exactly so."""
    if alpha.min() == alpha.max():
        return alpha[..., :1, :1].expand(1, 1, *size).contiguous()
    grey = Picture(alpha.expand(1, 3, -1, -1).contiguous(), grey=True)
    pixels, _ = _passes(four_times, grey, size, None, restore_only=True, wrap=wrap)
    return bounded_alpha(pixels.mean(dim=1, keepdim=True), alpha, wrap)


def target_size(
    size: Size,
    *,
    scale: int | float | None = None,
    width: int | None = None,
    height: int | None = None,
    max_side: int | None = None,
) -> Size:
    """The size asked for, in the proportions of `size`, each side rounded to nearest and at least 1.

    Raises ConfigError where scale and a size are both given, and where the enlargement is not within 1 to 8.
    """
    bounds = {"width": (width, size.width), "height": (height, size.height), "max_side": (max_side, max(size))}
    factors = {name: Fraction(value, side) for name, (value, side) in bounds.items() if value is not None}
    check_wish(scale, width, height, max_side)
    factor = min(factors.values(), default=Fraction(str(4 if scale is None else scale)))
    if not SMALLEST <= factor <= LARGEST:
        name = next(name for name, value in factors.items() if value == factor)
        asked = f"{name} {bounds[name][0]} of a picture of {size.width}x{size.height} means x{float(factor):.3g}"
        cure = "it is larger already" if factor < SMALLEST else "enlarge it twice, or ask for less"
        raise ConfigError(f"{asked}, outside x{SMALLEST} to x{LARGEST}; {cure}")
    return Size(*(max(1, math.floor(side * factor + Fraction(1, 2))) for side in size))


def check_wish(scale: int | float | None, width: int | None, height: int | None, max_side: int | None) -> None:
    """Raises ConfigError where a scale and a size are both given, and unless the scale is within 1 to 8."""
    sizes = {"width": width, "height": height, "max_side": max_side}
    named = [name for name, value in sizes.items() if value is not None]
    if scale is not None and named:
        raise ConfigError(f"scale {scale:g} and {' and '.join(named)} contradict each other; give one of them")
    if scale is not None and not SMALLEST <= scale <= LARGEST:  # also for NaN
        raise ConfigError(f"scale {scale:g} must lie between {SMALLEST} (restore only) and {LARGEST}")


def _passes(
    four_times: FourTimes,
    picture: Picture,
    size: Size,
    on_progress: ProgressCallback | None,
    *,
    restore_only: bool,
    wrap: bool,
) -> "tuple[Tensor, list[PatchScalerOutput]]":
    """The model once or twice, and a reduction after each pass, to `size`."""
    outputs = []
    whole = on_progress
    share = first_share(picture.size, size)
    if share is not None:
        middle = _middle(size)
        output = four_times(picture, _part(on_progress, 0.0, share), restore_only)
        picture = replace(picture, pixels=_resized(output.images, middle, wrap).float().cpu())
        outputs.append(output)
        whole = _part(on_progress, share, 1 - share)
    output = four_times(picture, whole, restore_only)
    return _resized(output.images, size, wrap), [*outputs, output]


def first_share(before: Size, after: Size) -> float | None:
    """Share of the work that the first of two passes has; None where one pass is enough."""
    if all(side <= MODEL_SCALE * own for side, own in zip(after, before, strict=True)):
        return None
    return math.prod(before) / (math.prod(before) + math.prod(_middle(after)))


def _middle(size: Size) -> Size:
    """What the first of two passes leads to."""
    return Size(*(math.ceil(side / MODEL_SCALE) for side in size))


def _resized(pixels: Tensor, size: Size, wrap: bool) -> Tensor:
    if pixels.shape[-2:] == size:
        return pixels
    return resize_wrapped(pixels, size) if wrap else resize_bicubic(pixels, size, clamp=True)


def _part(on_progress: ProgressCallback | None, start: float, share: float) -> ProgressCallback | None:
    """A callback for a pass that is only a `share` of each stage, from `start` on."""
    if on_progress is None:
        return None
    report: Callable[[Progress], None] = on_progress

    def scaled(progress: Progress) -> None:
        done = start + share * progress.done / max(progress.total, 1)
        report(Progress(progress.stage, round(done * PROGRESS_UNITS), PROGRESS_UNITS))

    return scaled


def history_of(model: str, before: Size, after: Size, outputs: Sequence[Any]) -> str:
    """One line on what was done, by the `report` of each pass."""
    report = outputs[-1].report
    steps = ",".join(map(str, report.steps.values()))
    sizes = " to ".join(f"{size.width}x{size.height}" for size in (before, after))
    passes = f", {len(outputs)} passes" if len(outputs) > 1 else ""
    name = Path(model).name  # not the folder, which is nobody's business
    return f"PatchScaler {__version__}: {sizes} pixels{passes}, model {name}, steps {steps}, seed {report.seed}"
