"""The contract between the core, which is numpy, and whatever runs the networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from patchscaler.imaging.dct import BlockDct
from patchscaler.imaging.shapes import Array, Indices
from patchscaler.pgs.gate import Gate


class Restored(NamedTuple):
    """By the GRM: latents y0 (n,c,h,w), their log_error (n,1,h,w), and the gain (n,1,h,w) in LPIPS that is to be
    expected of the second restorer; None: there is none."""

    latents: Array
    log_error: Array
    gain: Array | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What the core has to know of a model.

    name             bundled name, folder or hub id
    patch, overlap   V and the overlap of neighbouring patches, in latents
    channels         c
    eta              difficulty scale of the confidence, Eq. 1
    alphas           ᾱ_t of the noise schedule (T,)
    prediction_type  of Patch-DiT: "sample", "epsilon" or "v_prediction"
    prompt_limit     patches of a larger mean log error read no prompt; None: all do
    restore_reach    latents on each side that `restore` depends on; None: it has to see the whole picture at once
    restore_area     latents, halo included, in one call of `restore`: bounds the memory, changes nothing else
    decode_reach, decode_area  likewise of `decode`
    gate             None: there is no second restorer
    dct              None: the latents are something else, and small previews are decoded whole
    """

    name: str
    patch: int
    overlap: int
    channels: int
    eta: float
    alphas: Array
    prediction_type: str
    prompt_limit: float | None
    restore_reach: int | None
    restore_area: int
    decode_reach: int
    decode_area: int
    gate: Gate | None = None
    dct: BlockDct | None = None


@runtime_checkable
class Engine(Protocol):
    """Runs the networks of one model on one device. All arrays are float32, NCHW, and belong to the caller.

    model   see ModelInfo
    device   such as "cpu" or "cuda:0"; dtype: what the networks compute in, such as "bfloat16"
    threads  of the processor, in which it computes
    copies   whether worker processes can have copies of the networks
    """

    model: ModelInfo
    device: str
    dtype: str
    copies: bool

    @property
    def threads(self) -> int: ...

    def restore(self, pixels: Array) -> Restored:
        """By the first restorer: RGB (n,3,2h,2w) in [0,1]."""
        ...

    def fuse(self, pixels: Array, lean: float) -> Restored:
        """By both restorers (`gain` is None); lean: see Fusion. Only where the model has a gate."""
        ...

    def prompt(self, coarse: Array, rows: Indices, texture: Any, count: int) -> Any:
        """Algorithm 1 for coarse patches (n,c,V,V): keys and values of the textures most like each, or of its caption.

        texture  of `count` patches, which the result is written into at `rows`; None: a new one, of zeros
        returns  texture, which only this engine can read
        """
        ...

    def denoise(self, x_t: Array, t: Indices, coarse: Array, log_error: Array, texture: Any, rows: Indices) -> Array:
        """Patch-DiT's prediction (n,c,V,V) for noisy patches at times t (n,).

        coarse, log_error  of these patches, (n,c,V,V) and (n,1,V,V)
        texture            from `prompt`, in which they are the `rows`; None: no texture prompt
        """
        ...

    def decode(self, latents: Array) -> Array:
        """Latents (n,c,h,w) -> RGB (n,3,8h,8w) of about [0,1], not clamped."""
        ...

    def digest(self) -> bytes:
        """Of all weights: the same for the same weights, whatever the files are called."""
        ...

    def sampler(self, device: str, threads: int) -> Callable[[], "Engine"]:
        """What a worker process makes its engine of, on `device` with so many threads; `pickle` takes it. That engine
        only has to prompt and denoise."""
        ...
