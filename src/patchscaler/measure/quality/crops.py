"""Which pictures a page shows, and which part of them: where the focus row is worst."""

import base64
import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchscaler.imaging.files import to_pil
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.quality.measure import lpips_map
from patchscaler.measure.rows import Row, Section
from patchscaler.metrics.choice import Metric
from patchscaler.metrics.lpips import Lpips

SIDE = 256  # px of a crop
STEP = 8  # px between the places that are compared
QUALITY = 95  # of the crops' WebP: nothing that is seen at 100 % is lost
TRUTH = "ground truth"


class Crop(NamedTuple):
    """One picture in a strip: its row, its value as text, and the pixels as a data URL."""

    name: str
    value: str
    url: str
    focus: bool


@dataclass(frozen=True)
class Strip:
    """The same place of one picture in all rows. top, left, height, width in pixels."""

    stem: str
    value: str
    top: int
    left: int
    height: int
    width: int
    crops: list[Crop]


def ranking_metric(metrics: list[Metric]) -> Metric:
    """The metric that says which pictures are worst: LPIPS if there is one, else the first."""
    by_name = {metric.name: metric for metric in metrics}
    return next((by_name[name] for name in ("lpips_alex", "lpips_vgg", "dists") if name in by_name), metrics[0])


def worst_first(section: Section, metric: Metric) -> list[str]:
    """The stems, the focus row's worst values first, pictures without a value last."""
    row = _focus(section)

    def rank(stem: str) -> tuple[bool, float]:
        value = row.values[metric.name][stem]
        return (math.isnan(value), value if metric.better == "higher" else -value)

    return sorted(section.stems, key=rank)


def make_strip(section: Section, stem: str, metric: Metric, lpips: Lpips | None) -> Strip:
    """All rows of one picture at the place where the focus row's LPIPS is worst, or its detail strongest."""
    row = _focus(section)
    shown = read_pixels(row.files[stem])
    truth = None if section.references is None else read_pixels(section.references[stem])
    if lpips is not None and truth is not None and min(truth.shape[2:]) >= lpips.smallest:
        interest = lpips_map(lpips, shown, truth)
    else:
        interest = _detail(shown)
    top, left, height, width = _strongest(interest)
    area = (..., slice(top, top + height), slice(left, left + width))

    crops = []
    for other in section.rows:
        text = format_value(other.values[metric.name][stem], metric)
        pixels = read_pixels(other.files[stem])[area]
        crops.append(Crop(other.name, text, _url(pixels), other.name == section.focus))
    if truth is not None:
        crops.append(Crop(TRUTH, "", _url(truth[area]), False))
    return Strip(stem, format_value(row.values[metric.name][stem], metric), top, left, height, width, crops)


def format_value(value: float, metric: Metric) -> str:
    """A value with the digits worth printing; a dash for what is not a number."""
    return "-" if math.isnan(value) else f"{value:.{metric.digits}f}"


def _focus(section: Section) -> Row:
    return section.rows_by_name.get(section.focus, section.rows[0])


def _detail(pixels: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 1 h w"]:
    """Difference of each pixel from the mean about it."""
    blurred = F.avg_pool2d(pixels, 5, stride=1, padding=2, count_include_pad=False)
    return (pixels - blurred).abs().mean(dim=1, keepdim=True)


def _strongest(plane: Float[Tensor, "1 1 h w"]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the crop with the largest mean, on a grid of STEP pixels."""
    height, width = min(SIDE, plane.shape[2]), min(SIDE, plane.shape[3])
    means = F.avg_pool2d(plane, (height, width), stride=STEP)
    place = int(means.argmax())
    return place // means.shape[3] * STEP, place % means.shape[3] * STEP, height, width


def _url(pixels: Tensor) -> str:
    file = io.BytesIO()
    to_pil(pixels.numpy()).save(file, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
