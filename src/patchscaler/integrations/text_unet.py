"""The denoiser of Stable Diffusion pipelines: one U-Net call per batch of tiles, with prompt and guidance."""

from typing import Any

import torch
from torch import Tensor


class TextUNet:
    """Predictions of a pipeline's U-Net for tiles, as the pipeline's own loop asks for them.

    pipe             with `encode_prompt`, `unet` and `_execution_device`
    prompt           one for all tiles; negative_prompt: likewise
    guidance_scale   1 and below: no guidance, one evaluation per tile instead of two
    """

    def __init__(self, pipe: Any, prompt: str, negative_prompt: str | None, guidance_scale: float) -> None:
        self.pipe, self.scale, device = pipe, guidance_scale, pipe._execution_device
        distilled = pipe.unet.config["time_cond_proj_dim"] is not None  # takes the guidance as an input (LCM)
        self.guided = guidance_scale > 1 and not distilled
        embeds, negative = pipe.encode_prompt(prompt, device, 1, self.guided, negative_prompt)
        self.dtype: torch.dtype = embeds.dtype
        self.embeds: list[Tensor] = [negative, embeds] if self.guided else [embeds]
        self.time_cond: Tensor | None = None
        if distilled:
            width = pipe.unet.config["time_cond_proj_dim"]
            strength = torch.tensor([guidance_scale - 1])
            self.time_cond = pipe.get_guidance_scale_embedding(strength, embedding_dim=width).to(device, self.dtype)

    def __call__(self, x: Tensor, t: Tensor, *, beside: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Prediction (b,c,V,V) for tiles x (b,c,V,V) at one time t (b,).

        beside  further input channels (b,k,V,V); labels  the U-Net's class labels (1,)
        """
        count, copies = len(x), len(self.embeds)
        inputs = x.to(self.dtype) if beside is None else torch.cat([x.to(self.dtype), beside], dim=1)
        prediction = self.pipe.unet(
            torch.cat([inputs] * copies),
            t[0],
            encoder_hidden_states=torch.cat([part.expand(count, -1, -1) for part in self.embeds]),
            timestep_cond=None if self.time_cond is None else self.time_cond.expand(count, -1),
            class_labels=None if labels is None else labels.expand(copies * count),
            return_dict=False,
        )[0]
        if not self.guided:
            return prediction
        without, prompted = prediction.chunk(2)  # classifier-free guidance (Ho and Salimans, arXiv 2207.12598)
        return without + self.scale * (prompted - without)
