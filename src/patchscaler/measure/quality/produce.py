"""Folders of results that a report compares: degraded inputs, a model's pictures, and what they are measured against.

A model's results are files like anybody else's: rounded to 8 bits, and measured when read back.

    FOLDER/hr/STEM.png                ground truth with sides that are multiples of 16
    FOLDER/ceiling/STEM.png           the ground truth through the autoencoder
    FOLDER/CONDITION/lr/STEM.png      degraded input
    FOLDER/CONDITION/NAME/STEM.png    results: bicubic, restorer, patchscaler, ...

Inputs that come from a folder have no condition, and their results lie in FOLDER/NAME.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchscaler.data.pairs import validation_pictures
from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import DataError
from patchscaler.imaging.files import read_picture, write_picture
from patchscaler.imaging.geometry import SCALE, STRIDE, Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.measure.quality.rows import Patches, Row, Section
from patchscaler.models.latents import encode_pixels
from patchscaler.stages.render import decode_tiled, decode_tiles

BICUBIC, CEILING, RESTORER, PATCHSCALER = "bicubic", "autoencoder (ceiling)", "restorer alone", "PatchScaler"
NO_TEXTURE = f"{PATCHSCALER}, no texture"
MULTIPLE = 16  # of the sides of a ground truth that is to be degraded


@dataclass(frozen=True)
class Variant:
    """One way to run the model, and where its results go."""

    row: str
    folder: str
    steps: tuple[int, ...]
    use_texture: bool = True


def variants(steps: Sequence[tuple[int, ...]], without_texture: bool) -> list[Variant]:
    """The restorer alone, the model with the first steps, on demand without texture, and with the further steps."""
    found = [
        Variant(RESTORER, "restorer", (0,) * len(steps[0])),
        Variant(PATCHSCALER, "patchscaler", steps[0]),
    ]
    if without_texture:
        found.append(Variant(NO_TEXTURE, "patchscaler-no-texture", steps[0], use_texture=False))
    for further in steps[1:]:
        text = ",".join(map(str, further))
        found.append(Variant(f"{PATCHSCALER} {text}", f"patchscaler-{text.replace(',', '-')}", further))
    return found


def write_inputs(
    pictures: Path, folder: Path, conditions: Sequence[str], count: int, focus: str, on_picture: Callable[[], None]
) -> list[Section]:
    """A section for each condition: ground truths as they are measured against, degraded inputs, the bicubic row.

    The first `count` pictures (all when 0), degraded by `validation_pictures` with seed 0.
    Raises DataError for two pictures with one stem, and as `validation_pictures` does.
    """
    references: dict[str, Path] = {}
    sections = []
    for condition in conditions:
        section = Section(condition, focus, references, {})
        assert section.inputs is not None
        place = _folder(folder / condition / "lr")
        for path, hr, lr in itertools.islice(validation_pictures(pictures, condition), count or None):
            if path.stem in section.inputs:
                raise DataError(f"{path}: another picture has the same stem; rename one of the two")
            if path.stem not in references:
                references[path.stem] = _folder(folder / "hr") / f"{path.stem}.png"
                write_picture(references[path.stem], hr.numpy())
            section.inputs[path.stem] = place / f"{path.stem}.png"
            write_picture(section.inputs[path.stem], lr.numpy())
            on_picture()
        sections.append(section)
    return sections


def add_bicubic(section: Section, folder: Path, on_picture: Callable[[], None]) -> None:
    """The row of the section's inputs enlarged by bicubic interpolation."""
    row = _add_row(section, BICUBIC, folder / "bicubic")
    for stem, path in (section.inputs or {}).items():
        lr = read_picture(path).pixels
        size = Size(lr.shape[-2] * SCALE, lr.shape[-1] * SCALE)
        write_picture(row.files[stem], resize_bicubic(lr, size, clamp=True))
        on_picture()


def run_model(
    pipeline: Any,
    section: Section,
    folder: Path,
    ways: Sequence[Variant],
    options: dict[str, Any],
    on_picture: Callable[[], None],
) -> None:
    """Enlarge every input in every way: adds the rows, and the patches of the way called PATCHSCALER."""
    rows = [_add_row(section, way.row, folder / way.folder) for way in ways]
    for stem, path in (section.inputs or {}).items():
        picture = read_picture(path)
        for way, row in zip(ways, rows, strict=True):
            output = pipeline(picture, output_type="pt", steps=way.steps, use_texture=way.use_texture, **options)
            write_picture(row.files[stem], output.images.cpu().numpy())
            if way.row == PATCHSCALER:
                groups = output.groups.flatten().tolist()
                section.patches[stem] = Patches(list(output.report.patches), groups, list(output.patch_boxes))
            on_picture()


def write_ceiling(
    pipeline: Any, references: dict[str, Path], folder: Path, on_picture: Callable[[], None]
) -> dict[str, Path]:
    """The ground truths through the autoencoder, by stem: no restorer in front of it can do much better."""
    place = _folder(folder / "ceiling")
    files = {}
    for stem, path in references.items():
        files[stem] = place / f"{stem}.png"
        write_picture(files[stem], reconstruct(pipeline, torch.from_numpy(read_picture(path).pixels)).numpy())
        on_picture()
    return files


@torch.no_grad()
def reconstruct(pipeline: Any, pixels: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
    """A picture in [0,1] encoded and decoded."""
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate").to(pipeline.device)
    engine = TorchEngine(pipeline.parts)
    latents = encode_pixels(pipeline.autoencoder, padded).cpu().numpy()
    tiles = decode_tiles(engine.model, Size(*latents.shape[-2:]))
    decoded = decode_tiled(engine.decode, latents, engine.model.decode_reach, tiles)
    return torch.from_numpy(decoded)[..., :height, :width].clamp(0, 1)


def weights_megabytes(folder: Path) -> float:
    """Size of all weights in a model folder, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6


def _add_row(section: Section, name: str, folder: Path) -> Row:
    place = _folder(folder)
    section.rows.append(Row(name, {stem: place / f"{stem}.png" for stem in section.inputs or {}}))
    return section.rows[-1]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
