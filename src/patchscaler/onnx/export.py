"""Writes the model's networks as ONNX files, with one JSON file of what else `runner` has to know."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import SCALE
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.patch_dit import TextureCache
from patchscaler.onnx.runner import FORMAT_VERSION, SETTINGS
from patchscaler.options import DEFAULT_QUALITY, QUALITIES
from patchscaler.pgs.gate import LEAN
from patchscaler.stages.restore import SECOND_HALO, SECOND_TILE

OPSET = 18
_LARGEST_SIDE = 2**15  # of what the exported graphs take, in latents


class _Restore(nn.Module):
    """By the first restorer, and where there is a second one, the gain to be expected of it."""

    def __init__(self, pipeline: PatchScalerPipeline) -> None:
        super().__init__()
        self.restorer, self.fusion = pipeline.restorer, pipeline.fusion

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        restored, features = self.restorer(pixels, with_features=True)
        return tuple(restored) if self.fusion is None else (*restored, self.fusion(features))


class _Fuse(nn.Module):
    """By both restorers."""

    def __init__(self, pipeline: PatchScalerPipeline) -> None:
        super().__init__()
        self.restorer, self.second, self.fusion = pipeline.restorer, pipeline.second_restorer, pipeline.fusion

    def forward(self, pixels: Tensor, lean: Tensor) -> tuple[Tensor, Tensor]:
        first, features = self.restorer(pixels, with_features=True)
        fused = self.fusion(features, first, self.second(pixels), lean)
        return fused.latents, fused.log_error


class _Prompt(nn.Module):
    """Algorithm 1 with the memory in it: patches -> keys and values."""

    def __init__(self, pipeline: PatchScalerPipeline) -> None:
        super().__init__()
        self.classifier, self.memory = pipeline.texture_classifier, pipeline.texture_memory
        self.encoder, self.dit = pipeline.texture_encoder, pipeline.patch_dit

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        found = self.memory.retrieve(self.classifier(patches), int(self.encoder.config["top_k"]))
        cache = self.dit.texture_cache(self.encoder(self.memory.read(found.places), found.similarities))
        return cache.keys, cache.values


class _Denoise(nn.Module):
    def __init__(self, pipeline: PatchScalerPipeline) -> None:
        super().__init__()
        self.dit = pipeline.patch_dit

    def forward(self, x_t: Tensor, t: Tensor, coarse: Tensor, error: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return self.dit(x_t, t, coarse, error, TextureCache(keys, values))


class _Decode(nn.Module):
    def __init__(self, pipeline: PatchScalerPipeline) -> None:
        super().__init__()
        self.autoencoder = pipeline.autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


@torch.no_grad()
def export_onnx(pipeline: PatchScalerPipeline, folder: Path) -> list[Path]:
    """Write the networks of a float32 pipeline on the CPU, and their settings, to `folder`: restorer, prompt,
    patch_dit, decoder, and fused_restorer where there is a second restorer.

    The batch of patches and the sides of pictures are free, times are int64, arithmetic is float32. Weights that half
    precision holds exactly are stored so, and cast when loaded: nothing is lost, and a bundled model halves.

    Returns the files. Raises ConfigError for parts that aren't the `tiny` preset's, or without the extra `onnx`.
    """
    _check(pipeline)
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(pipeline)
    channels, side = pipeline.patch_dit.config["latent_channels"], settings["patch"]
    n = torch.export.Dim("n", min=1, max=_LARGEST_SIDE)
    h, w = (torch.export.Dim(name, min=1, max=_LARGEST_SIDE) for name in "hw")

    patches = torch.zeros(3, channels, side, side)
    prompt = _Prompt(pipeline).eval()
    keys, values = prompt(patches)
    latents = torch.zeros(1, channels, 5, 7)
    # Fills the cache of DCT bases: their making has an inverse in it that ONNX doesn't know.
    pipeline.autoencoder.decode(latents)
    # A tensor of its own for each input: the exporter would take one that comes twice for one input.
    coarse, error = torch.zeros_like(patches), torch.zeros(3, 1, side, side)
    denoised = (patches, torch.zeros(3, dtype=torch.int64), coarse, error, keys, values)
    jobs: dict[str, tuple[nn.Module, tuple[Tensor, ...], tuple[dict[int, Any], ...], list[str], list[str]]] = {
        "restorer": (
            _Restore(pipeline),
            (torch.zeros(1, 3, 10, 14),),
            ({2: 2 * h, 3: 2 * w},),
            ["pixels"],
            ["latents", "log_error", *(["gain"] if pipeline.fusion else [])],
        ),
        "prompt": (prompt, (patches,), ({0: n},), ["patches"], ["keys", "values"]),
        "patch_dit": (
            _Denoise(pipeline),
            denoised,
            ({0: n},) * 6,
            ["x_t", "t", "coarse", "log_error", "keys", "values"],
            ["prediction"],
        ),
        "decoder": (_Decode(pipeline), (latents,), ({2: h, 3: w},), ["latents"], ["pixels"]),
    }
    if pipeline.fusion:
        jobs["fused_restorer"] = (
            _Fuse(pipeline),
            (torch.zeros(1, 3, 10, 14), torch.zeros(())),
            ({2: 2 * h, 3: 2 * w}, {}),
            ["pixels", "lean"],
            ["latents", "log_error"],
        )
    paths = []
    for name, job in jobs.items():
        paths.append(folder / f"{name}.onnx")
        _write(paths[-1], *job)
    paths.append(folder / SETTINGS)
    paths[-1].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return paths


def _check(pipeline: PatchScalerPipeline) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError('the export needs onnx and onnxscript: pip install "patchscaler[onnx]"') from error
    if pipeline.restorer.input_kind != "pixels" or not isinstance(pipeline.autoencoder, DctAutoencoder):
        raise ConfigError("only models like `tiny` can be exported: a ConvRestorer and a DctAutoencoder")
    if (kind := pipeline.patch_dit.config["prediction_type"]) != "sample":
        raise ConfigError(f"the runner knows Patch-DiTs that predict the sample, not {kind}")
    if pipeline.dtype != torch.float32 or pipeline.device.type != "cpu":
        raise ConfigError(f"export a float32 pipeline on the CPU, not {pipeline.dtype} on {pipeline.device}")


def _settings(pipeline: PatchScalerPipeline) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "scale": SCALE,
        "steps": QUALITIES[DEFAULT_QUALITY],
        "patch": int(pipeline.patch_dit.config["sample_size"]),
        "overlap": int(pipeline.config["overlap"]),
        "eta": pipeline.restorer.eta,
        "restorer_reach": pipeline.restorer.reach,
        "decoder_reach": pipeline.autoencoder.reach,
        "gate": _gate(pipeline),
        "alphas_cumprod": pipeline.scheduler.alphas_cumprod.tolist(),
    }


def _gate(pipeline: PatchScalerPipeline) -> dict[str, Any] | None:
    """What decides where the second restorer is asked; None: there is none."""
    if pipeline.fusion is None:
        return None
    config = {name: pipeline.fusion.config[name] for name in ("gate_limit", "gate_reach", "gate_share")}
    return config | {"tile": SECOND_TILE, "halo": SECOND_HALO, "lean": LEAN}


def _write(
    path: Path,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    shapes: tuple[dict[int, Any], ...],
    input_names: list[str],
    output_names: list[str],
) -> None:
    import onnx

    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # torchvision's absence
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own parts, and of axes that share a name as meant
        program = torch.onnx.export(
            network.eval(),
            inputs,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
        )
    assert program is not None  # dynamo=True returns one
    model = program.model_proto
    _store_as_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _store_as_half(model: Any) -> None:
    """Float32 weights whose values half precision holds exactly become float16 with a cast in front of their users."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        whole = numpy_helper.to_array(weight)
        half = whole.astype(np.float16)
        if whole.size < 64 or not np.array_equal(half.astype(np.float32), whole):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
