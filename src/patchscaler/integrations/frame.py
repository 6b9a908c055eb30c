"""What every adapter shares: how a call is set, what it returns, and the way in and out of a borrowed pipeline."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.colour import wavelet_colour_fix
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.tiles import pad_to, padded_size
from patchscaler.models import borrowed
from patchscaler.pgs import GroupConfig
from patchscaler.pgs.plug_in import PatchDenoiser, Refined, pool_confidence, refine
from patchscaler.stages.passes import Result


class Coarse(NamedTuple):
    """A picture x4 by the restorer alone, as tensors: what PGS has to know before a diffusion model works on it.

    low         (1,3,H,W) in [0,1], the picture itself
    pixels      (1,3,4H,4W) in [0,1]
    confidence  (1,1,ceil(H/2),ceil(W/2)) in (0,1], on the grid of 8 coarse pixels
    """

    low: Tensor
    pixels: Tensor
    confidence: Tensor

    @classmethod
    def of(cls, result: Result) -> "Coarse":
        """From `Upscaler()(image, steps=(0, 0, 0))`."""
        arrays = (result.source.pixels, result.pixels, result.confidence)
        return cls(*(torch.from_numpy(array) for array in arrays))

    def confidence_at(self, size: Size) -> Tensor:
        """(1,1,*size): the confidence on another grid of the same picture, such as another autoencoder's latents."""
        return pool_confidence(self.confidence, size)


@dataclass(frozen=True)
class Sampling:
    """How an adapter samples, whichever pipeline it is.

    groups         thresholds, start times and steps of the groups
    patch          side of a tile in latents; None: what the pipeline's network was trained on (its `sample_size`)
    overlap        of neighbouring tiles in latents; None: a quarter of a tile
    batch_latents  per call of the network, which takes as many whole tiles as fit, at least one; changes nothing
                   beyond rounding, unless the scheduler draws noise in its steps
    seed           of the noise; `generator` draws it instead, as the pipeline itself would
    colour_fix     the colours of the input, as in PatchScaler (six wavelet levels)
    on_step        called after each call of the network with (tile-steps done, tile-steps in all)
    """

    groups: GroupConfig = field(default_factory=GroupConfig)
    patch: int | None = None
    overlap: int | None = None
    batch_latents: int = 64**2
    seed: int = 0
    generator: torch.Generator | None = None
    colour_fix: bool = True
    on_step: Callable[[int, int], None] | None = None


class Upscaled(NamedTuple):
    """What an adapter returns.

    pixels       (1,3,4H,4W) in [0,1], float32
    groups       (rows,cols) int64; evaluations (rows,cols) int64: of the network per tile, counted
    patch_boxes  (top,left,height,width) in pixels of the result, in the order of groups.flatten()
    """

    pixels: Tensor
    groups: Tensor
    evaluations: Tensor
    patch_boxes: list[tuple[int, int, int, int]]


class Plane(NamedTuple):
    """The latents of a borrowed model that cover a coarse picture.

    stride  pixels per latent; patch  side of a tile in latents
    inner   latents that the picture covers
    size    with what was added at the bottom and on the right, at least one tile
    """

    stride: int
    patch: int
    inner: Size
    size: Size

    @property
    def pixels(self) -> Size:
        """The size of the coarse picture, continued."""
        return Size(*(self.stride * side for side in self.size))


def plan_plane(pipe: Any, autoencoder: Any, coarse: Coarse, sampling: Sampling, wanted: int | None = None) -> Plane:
    """The plane for a coarse picture. Raises ConfigError unless the autoencoder's stride is the one wanted, if any."""
    stride = int(2 ** (len(autoencoder.config["block_out_channels"]) - 1))  # each of diffusers' levels but one halves
    if wanted not in (None, stride):
        raise ConfigError(f"this autoencoder has stride {stride}; the latents of an x4 upscaler lie {wanted} apart")
    patch = int(pipe.unet.config["sample_size"]) if sampling.patch is None else sampling.patch
    if patch < 1:
        raise ConfigError(f"patch {patch} must be at least 1")
    inner = Size(*(math.ceil(side / stride) for side in coarse.pixels.shape[-2:]))
    return Plane(stride, patch, inner, padded_size(inner, patch))


def refine_on(
    plane: Plane,
    latents: Tensor,
    coarse: Coarse,
    denoiser: PatchDenoiser,
    scheduler: Any,
    noise: Tensor,
    sampling: Sampling,
    *,
    from_noise: bool = False,
) -> Refined:
    """PGS on a plane: latents (1,c,*plane.size) of the coarse picture, its confidence, and noise for all places."""
    # For schedulers that draw noise in their steps.
    generator = sampling.generator or torch.Generator(latents.device).manual_seed(sampling.seed)
    confidence = pad_to(coarse.confidence_at(plane.inner), plane.size)
    return refine(
        latents,
        confidence.to(latents.device),
        denoiser,
        scheduler,
        sampling.groups,
        patch=plane.patch,
        overlap=sampling.overlap,
        batch_size=max(1, sampling.batch_latents // plane.patch**2),
        noise=noise,
        from_noise=from_noise,
        generator=generator,
        on_step=sampling.on_step,
    )


def finish(pipe: Any, autoencoder: Any, plane: Plane, coarse: Coarse, refined: Refined, colour_fix: bool) -> Upscaled:
    """Decode, let the pipeline's own safety checker see it if it has one, cut to size, and mend the colours."""
    decoded = borrowed.decode(autoencoder, refined.latents)
    if getattr(pipe, "safety_checker", None) is not None:
        decoded = pipe.run_safety_checker(decoded, pipe._execution_device, decoded.dtype)[0]
    height, width = coarse.pixels.shape[-2:]
    pixels = borrowed.from_signed(decoded)[..., :height, :width]
    if colour_fix:
        enlarged = resize_bicubic(coarse.low.float().cpu().numpy(), Size(height, width))
        pixels = torch.from_numpy(wavelet_colour_fix(pixels.cpu().numpy(), enlarged).clip(0, 1)).to(pixels.device)
    pipe.maybe_free_model_hooks()
    boxes = [place.times(plane.stride) for place in refined.places]
    cut = [(box.top, box.left, min(box.bottom, height) - box.top, min(box.right, width) - box.left) for box in boxes]
    return Upscaled(pixels, refined.groups, refined.evaluations, cut)
