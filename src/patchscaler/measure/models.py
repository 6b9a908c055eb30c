"""Ways of enlarging: ours with any options, bicubic interpolation; and running several of them over the same pictures.

The measuring wing calls the model here and nowhere else.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.engines.torch import TorchEngine, default_dtype
from patchscaler.imaging.files import read_picture, write_picture
from patchscaler.imaging.geometry import SCALE, STRIDE, Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.rows import Row, Section
from patchscaler.models.latents import encode_pixels
from patchscaler.models.loading import arguments_of
from patchscaler.models.texture import ReferenceTextureMemory, TextureEncoder
from patchscaler.options import DEFAULT_QUALITY, QUALITIES
from patchscaler.pgs.groups import GroupConfig
from patchscaler.stages.render import decode_tiled, decode_tiles

BICUBIC, CEILING, RESTORER, PATCHSCALER = "bicubic", "autoencoder (ceiling)", "restorer alone", "PatchScaler"
NO_TEXTURE = f"{PATCHSCALER}, no texture"
PAPER = GroupConfig()  # thresholds, start times and steps of the paper
UNIFORM = GroupConfig(taus=(1000, 1000, 1000), steps=(20, 20, 20))  # what it is held against
NONE = GroupConfig(steps=(0, 0, 0))  # the restorer alone
DEFAULT: tuple[int, ...] = QUALITIES[DEFAULT_QUALITY]  # the bundled model's steps


class Enlarged(NamedTuple):
    """pixels (1,3,H,W) in [0,1] on the CPU; figures: seconds, and of our model sample_seconds and patch_steps; output:
    what our model returned."""

    pixels: Tensor
    figures: dict[str, float]
    output: Any = None


Way = Callable[[Path], Enlarged]
OnResult = Callable[[str, str, Enlarged], None]  # stem, name of the way, result


def load_model(model: str | None, device: str, dtype: str = "auto", threads: int = 0) -> Any:
    """A model on its device; dtype: "auto", that of `upscale`, or a torch dtype's name. Raises WeightsError."""
    from diffusers.utils.logging import disable_progress_bar

    from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline

    disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    pipeline = PatchScalerPipeline.from_pretrained(model, dtype=resolve_dtype(dtype, device))
    pipeline.to(device)
    return pipeline


def resolve_dtype(name: str, device: str) -> torch.dtype:
    return default_dtype(device) if name == "auto" else getattr(torch, name)


def way_of(model: Any, **options: Any) -> Way:
    """The model with these options."""

    def way(path: Path) -> Enlarged:
        picture, started = read_picture(path), time.perf_counter()
        output = model(picture, output_type="pt", **options)
        return enlarged(output, time.perf_counter() - started)

    return way


def enlarged(output: Any, seconds: float) -> Enlarged:
    """An output of the model with its figures."""
    figures = {"seconds": seconds, "sample_seconds": sampling_seconds(output.report)}
    figures["patch_steps"] = float(output.report.patch_steps)
    return Enlarged(output.images.float().cpu(), figures, output)


def sampling_seconds(report: Any) -> float:
    """Of prompt and steps together: workers report both as one."""
    return float(sum(report.stages[name]["seconds"] for name in ("prompt", "sample") if name in report.stages))


def bicubic(path: Path) -> Enlarged:
    """Bicubic interpolation."""
    picture, started = read_picture(path), time.perf_counter()
    pixels = resize_bicubic(picture.pixels, Size(*(SCALE * side for side in picture.size)), clamp=True)
    return Enlarged(torch.from_numpy(pixels), {"seconds": time.perf_counter() - started})


def ceiling_of(model: Any) -> Way:
    """Of a ground truth: itself through the autoencoder. No restorer in front of it can do much better."""

    @torch.no_grad()
    def way(path: Path) -> Enlarged:
        pixels = read_pixels(path)
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate").to(model.device)
        engine, latents = TorchEngine(model.parts), encode_pixels(model.autoencoder, padded).cpu().numpy()
        tiles = decode_tiles(engine.model, Size(*latents.shape[-2:]))
        decoded = torch.from_numpy(decode_tiled(engine.decode, latents, engine.model.decode_reach, tiles))
        return Enlarged(decoded[..., :height, :width].clamp(0, 1), {})

    return way


def variants(steps: tuple[tuple[int, ...], ...], without_texture: bool) -> dict[str, dict[str, Any]]:
    """Options by row: the restorer alone, the model with the first steps, on demand without texture, further steps."""
    found: dict[str, dict[str, Any]] = {RESTORER: {"steps": (0,) * len(steps[0])}, PATCHSCALER: {"steps": steps[0]}}
    if without_texture:
        found[NO_TEXTURE] = {"steps": steps[0], "use_texture": False}
    return found | {f"{PATCHSCALER} {','.join(map(str, further))}": {"steps": further} for further in steps[1:]}


def run_ways(
    section: Section,
    ways: Mapping[str, Way],
    folder: Path,
    on_result: OnResult = lambda stem, name, result: None,
) -> list[Row]:
    """A row for each way, with its results as 8-bit files, FOLDER/NAME/STEM.png, and its figures.

    Every picture goes through all ways before the next one, so that a machine that slows down slows all of them.
    """
    rows = [Row(name) for name in ways]
    for stem, path in (section.inputs or {}).items():
        for (name, way), row in zip(ways.items(), rows, strict=True):
            result = way(path)
            place = folder / slug(name)
            place.mkdir(parents=True, exist_ok=True)
            row.files[stem] = place / f"{stem}.png"
            write_picture(row.files[stem], result.pixels.numpy())
            row.note(stem, **result.figures)
            on_result(stem, name, result)
    return rows


def slug(name: str) -> str:
    """A row's name as a folder's: "PatchScaler, no texture" -> "patchscaler-no-texture"; RESTORER is "restorer"."""
    return {RESTORER: "restorer", CEILING: "ceiling"}.get(name) or re.sub(r"[^\w.]+", "-", name.lower()).strip("-")


def weights_megabytes(folder: Path) -> float:
    """Size of all weights in a model folder, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6


# Models with other parts, for experiments


def with_parts(model: Any, overlap: int | None = None, **parts: torch.nn.Module) -> Any:
    """A model that shares all other parts."""
    from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline

    changed = {
        name: torch.nn.Module.to(part, model.device, model.dtype).eval()  # diffusers' own `to` warns for nothing
        for name, part in parts.items()
    }
    overlap = int(model.config["overlap"]) if overlap is None else overlap
    return PatchScalerPipeline(**(dict(model.components) | changed), overlap=overlap)


def with_top_k(model: Any, top_k: int) -> Any:
    """Retrieves another number of textures; the encoder's weights don't depend on it."""
    encoder = TextureEncoder(**(arguments_of(model.texture_encoder.config) | {"top_k": top_k}))
    encoder.load_state_dict(model.texture_encoder.state_dict())
    return with_parts(model, texture_encoder=encoder)


def with_memory_of(model: Any, size: int) -> Any:
    """The memory's first textures: farthest-point sampling put them in, so any beginning is such a sample itself."""
    memory = ReferenceTextureMemory(**(arguments_of(model.texture_memory.config) | {"size": size}))
    state = dict(model.texture_memory.state_dict())
    for name in ("texture_values", "texture_keys"):
        state[name] = state[name][:size]
    memory.load_state_dict(state)
    return with_parts(model, texture_memory=memory)
