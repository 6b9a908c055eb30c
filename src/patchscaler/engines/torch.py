"""The engine of torch: any device, any preset, bfloat16 where that is fast, offloaded networks too."""

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.engines.processor import fast_bfloat16
from patchscaler.engines.protocol import Array, Indices, ModelInfo, Restored
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.folded_dit import FoldedDiT
from patchscaler.models.latents import DCT_AREA, KL_AREA, decode_latents, decode_reach
from patchscaler.models.model import PARTS, SECOND_PARTS, Model, pack, unpack
from patchscaler.models.open_weights import weights_lie_open
from patchscaler.models.patch_dit import TextureCache
from patchscaler.pgs.sampling import runs, side_by_side

# Latents, halo included, restored at once: about 0.5 GiB with the `tiny` restorer.
RESTORE_AREA = 130_000


class TorchEngine:
    """Runs a `Model` where its networks are. See `protocol.Engine` for the calls.

    name  of the model: bundled, a folder or a hub id
    """

    def __init__(self, networks: Model, name: str = "unnamed") -> None:
        self.networks, self.model = networks, describe(networks, name)
        self._device = networks.device
        self.device, self.dtype = str(networks.device), str(networks.dtype).removeprefix("torch.")
        self._open = weights_lie_open(networks.patch_dit)
        self._folding = threading.local()  # of each thread, as it remembers the weights of its newest step
        writes = networks.patch_dit.config["prompt"] == "text"  # with networks that aren't among the parts
        self.copies = not writes and all(map(weights_lie_open, networks.sampling_parts.values()))

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    @torch.inference_mode()
    def restore(self, pixels: Array) -> Restored:
        (latents, log_error), gain = self.networks.grm.first(self._tensor(pixels))
        return Restored(_array(latents), _array(log_error), None if gain is None else _array(gain))

    @torch.inference_mode()
    def fuse(self, pixels: Array, lean: float) -> Restored:
        return Restored(*map(_array, self.networks.grm.fused(self._tensor(pixels), lean)))

    @torch.inference_mode()
    def prompt(self, coarse: Array, rows: Indices, texture: Sequence[Tensor] | None, count: int) -> Sequence[Tensor]:
        """Keys and values; or the tokens alone, where a layer's weights are at hand in Patch-DiT's forward only."""
        patches = self._tensor(coarse)
        found: Sequence[Tensor]
        found = self.networks.prompt(patches) if self._open else [self.networks.prompt_tokens(patches)]
        if texture is None:
            texture = [part.new_zeros(count, *part.shape[1:]) for part in found]
        for whole, part in zip(texture, found, strict=True):
            whole[torch.from_numpy(rows)] = part
        return texture

    @torch.inference_mode()
    def denoise(
        self, x_t: Array, t: Indices, coarse: Array, log_error: Array, texture: Sequence[Tensor] | None, rows: Indices
    ) -> Array:
        x, y0, error = (self._tensor(part) for part in (x_t, coarse, log_error))
        if not self._open:
            read = None if texture is None else texture[0][torch.from_numpy(rows)]
            return _array(self.networks.patch_dit(x, torch.from_numpy(t).to(self._device), y0, error, read))
        folded = self._folding.__dict__.setdefault("dit", FoldedDiT(self.networks.patch_dit))
        prediction = np.empty_like(x_t)
        for own in runs(t):
            cache = None if texture is None else TextureCache(*(part[side_by_side(rows[own])] for part in texture))
            prediction[own] = _array(folded(x[own], int(t[own.start]), y0[own], error[own], cache))
        return prediction

    @torch.inference_mode()
    def decode(self, latents: Array) -> Array:
        return _array(decode_latents(self.networks.autoencoder, self._tensor(latents)))

    def digest(self) -> bytes:
        digest = hashlib.sha256(self.dtype.encode())
        names = ("autoencoder", *PARTS, *SECOND_PARTS)
        for network in filter(None, (getattr(self.networks, name) for name in names)):
            for name, tensor in network.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.digest()

    def sampler(self, device: str, threads: int) -> Callable[[], "TorchEngine"]:
        return partial(_unpacked, pack(self.networks), self.model.name, device, threads)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where matrix products in it are faster, float32 elsewhere: emulated bfloat16 is slower than float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device == "cpu" and fast_bfloat16() else torch.float32


def describe(networks: Model, name: str) -> ModelInfo:
    """What the core has to know of these networks; of those that only sample, as far as that needs it."""
    restorer, autoencoder, config = networks.restorer, networks.autoencoder, networks.patch_dit.config
    dct = isinstance(autoencoder, DctAutoencoder)
    return ModelInfo(
        name=name,
        patch=networks.patch,
        overlap=networks.overlap,
        channels=int(config["latent_channels"]),
        eta=1.0 if restorer is None else restorer.eta,
        alphas=networks.alphas,
        prediction_type=config["prediction_type"],
        prompt_limit=-math.inf if config["prompt"] == "none" else config["prompt_limit"],
        restore_reach=getattr(restorer, "reach", None),
        restore_area=RESTORE_AREA,
        decode_reach=0 if autoencoder is None else decode_reach(autoencoder),
        decode_area=DCT_AREA if dct else KL_AREA,
        gate=None if networks.fusion is None else networks.fusion.gate,
        dct=autoencoder.dct if dct else None,
    )


def _unpacked(packed: dict[str, Any], name: str, device: str, threads: int) -> TorchEngine:
    torch.set_num_threads(threads)
    return TorchEngine(unpack(packed, device), name)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return array
