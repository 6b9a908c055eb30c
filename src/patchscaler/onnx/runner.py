"""Enlarges pictures with the exported networks: ONNX Runtime, numpy and Pillow; torch is never imported."""

import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchscaler.errors import ConfigError, WeightsError
from patchscaler.onnx.arrays import (
    Array,
    enlarge_bicubic,
    in_tiles,
    merge,
    neighbourhood_mean,
    origins,
    raised_cosine_window,
    sample,
    spans,
    split,
    wavelet_colour_fix,
)
from patchscaler.pgs.noise import place_noise

SETTINGS = "patchscaler.json"
NETWORKS = ("restorer", "prompt", "patch_dit", "decoder")
FORMAT_VERSION = 3

# Choice: sides in latents of what one network call sees; they bound memory and change nothing beyond rounding.
_RESTORER_TILE, _DECODER_TILE = 256, 64
_CHUNK = 256  # patches whose texture keys and values are held at once


class OnnxUpscaler:
    """x4 like PatchScalerPipeline, from a folder that `patchscaler export onnx` wrote.

    threads    of the processor; 0 leaves ONNX Runtime's choice
    providers  ONNX Runtime's, e.g. ("CUDAExecutionProvider", "CPUExecutionProvider")

    Raises WeightsError for a folder that isn't such an export, ConfigError without onnxruntime (the extra `onnx`).
    """

    def __init__(
        self, folder: str | Path, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError('ONNX models need onnxruntime: pip install "patchscaler[onnx]"') from error
        path = Path(folder) / SETTINGS
        try:
            self.settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path}: can't be read ({error}); write it with `patchscaler export onnx`") from error
        if (version := self.settings.get("format_version")) != FORMAT_VERSION:
            raise WeightsError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}; export again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {}
        for name in (*NETWORKS, *(["fused_restorer"] if self.settings["gate"] else [])):
            file = Path(folder) / f"{name}.onnx"
            if not file.is_file():
                raise WeightsError(f"{file}: no such file; export the model again")
            self.sessions[name] = onnxruntime.InferenceSession(str(file), options, providers=list(providers))

    def __call__(
        self,
        image: NDArray[Any],
        *,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        gammas: Sequence[float] = (0.95, 0.75),
        taus: Sequence[int] = (400, 700, 1000),
        batch_size: int = 64,
        denoise: float = 0.5,
    ) -> Array:
        """Enlarge RGB pixels (height,width,3), uint8 or float in [0,1], to (4 height, 4 width, 3) float32 in [0,1].

        seed, steps, gammas, taus, batch_size and denoise as in PatchScalerPipeline; steps None: its default when the
        model was exported. Raises ConfigError for another shape.
        """
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ConfigError(f"an array of shape {image.shape} is no picture of shape (height, width, 3)")
        scaled = image / np.float32(255) if image.dtype == np.uint8 else image
        pixels = np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)
        scale, settings = self.settings["scale"], self.settings
        even = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2)), mode="edge")
        coarse, log_error, *gain = in_tiles(
            lambda x: self._run("restorer", pixels=x), even, _RESTORER_TILE, settings["restorer_reach"], entry=2
        )
        if gain and denoise > 0:
            self._ask_second(even, coarse, log_error, gain[0], denoise)
        steps = self.settings["steps"] if steps is None else steps
        latents = self._refine(coarse, log_error, seed, steps, gammas, taus, batch_size)
        (result,) = in_tiles(
            lambda x: self._run("decoder", latents=x), latents, _DECODER_TILE, settings["decoder_reach"], exit=8
        )
        result = result[:, : scale * pixels.shape[1], : scale * pixels.shape[2]]
        fixed = wavelet_colour_fix(result, enlarge_bicubic(pixels, scale)).clip(0, 1)
        return np.ascontiguousarray(fixed.transpose(1, 2, 0))

    def _ask_second(self, pixels: Array, coarse: Array, log_error: Array, gain: Array, denoise: float) -> None:
        """Mixes both restorers' answer into the first one's, if the gate asks for it: twin of `Fusion.share` and
        `inference.restoring.ask_second`."""
        gate = self.settings["gate"]
        shift = 2 * denoise - 1
        mean = neighbourhood_mean(gain, gate["gate_reach"])
        asked = (mean / gate["gate_limit"] - 0.5).clip(0, 1).mean() >= gate["gate_share"]
        share = np.float32(min(max(asked + shift, 0.0), 1.0))
        if share == 0:
            return
        lean = np.float32(gate["lean"] * shift)
        for inner in product(*(spans(side, gate["tile"]) for side in coarse.shape[1:])):
            outer = tuple(
                slice(max(side.start - gate["halo"], 0), min(side.stop + gate["halo"], length))
                for side, length in zip(inner, coarse.shape[1:], strict=True)
            )
            seen = (slice(None), *(slice(2 * side.start, 2 * side.stop) for side in outer))
            crop = np.ascontiguousarray(pixels[seen])[None]
            answer = self._run("fused_restorer", pixels=crop, lean=np.asarray(lean))
            own = (
                slice(None),
                *(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)),
            )
            here = (slice(None), *inner)
            for result, part in zip((coarse, log_error), answer, strict=True):
                result[here] += share * (part[0][own] - result[here])

    def _refine(
        self,
        coarse: Array,
        log_error: Array,
        seed: int,
        steps: Sequence[int],
        gammas: Sequence[float],
        taus: Sequence[int],
        batch_size: int,
    ) -> Array:
        """Cut, group, prompt, sample and blend: latents (c,h,w) and their log error (1,h,w) -> latents (c,h,w)."""
        patch, overlap = self.settings["patch"], self.settings["overlap"]
        height, width = coarse.shape[1:]
        padding = ((0, 0), (0, max(patch - height, 0)), (0, max(patch - width, 0)))
        coarse, log_error = (np.pad(x, padding, mode="edge") for x in (coarse, log_error))
        full = coarse.shape[1:]
        rows, cols = (origins(side, patch, patch - overlap) for side in full)
        corners = [(row, col) for row in rows for col in cols]
        patches, errors = split(coarse, corners, patch), split(log_error, corners, patch)
        noise = split(place_noise(seed, len(coarse), 0, 0, *full)[0], corners, patch)
        confidence = np.exp(np.minimum(np.float32(math.log(self.settings["eta"])) - errors, 0)).mean(axis=(1, 2, 3))
        groups = (~(confidence[:, None] >= np.asarray(gammas, np.float32))).sum(axis=1)  # Eq. 2
        alphas = np.asarray(self.settings["alphas_cumprod"], np.float32)

        refined = np.empty_like(patches)
        for first in range(0, len(patches), _CHUNK):
            part = slice(first, first + _CHUNK)
            inputs, failures = patches[part], errors[part]
            pieces = [
                self._run("prompt", patches=inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size)
            ]
            keys, values = (np.concatenate(parts) for parts in zip(*pieces, strict=True))

            def denoise(
                x_t: Array,
                t: NDArray[np.int64],
                index: NDArray[np.int64],
                given: tuple[Array, ...] = (inputs, failures, keys, values),
            ) -> Array:
                names = ("coarse", "log_error", "keys", "values")
                rows = {name: array[index] for name, array in zip(names, given, strict=True)}
                return self._run("patch_dit", x_t=x_t, t=t, **rows)[0]

            refined[part] = sample(inputs, groups[part], noise[part], denoise, alphas, taus, steps, batch_size)
        window = raised_cosine_window(patch, overlap)
        return merge(refined, corners, window, *full)[:, :height, :width]

    def _run(self, network: str, **inputs: NDArray[Any]) -> list[Array]:
        results: list[Array] = self.sessions[network].run(None, inputs)
        return results
