"""Diffusers' own upscaling pipelines, each from its real classes, as small as they go, with random weights.

Trained ones are gigabytes on a hub.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    LDMSuperResolutionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32  # of the text encoder
LENGTH = 16  # tokens of a prompt


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=LENGTH)


def text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return CLIPTextModel(config)


def autoencoder(levels: int, scaling_factor: float) -> AutoencoderKL:
    """Of stride 2 ** (levels - 1)."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=scaling_factor,
    )


def text_unet(in_channels: int, sample_size: int, **options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        **options,
    )


SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def stable_diffusion(sample_size: int = 16, image: bool = True, **options: Any) -> Any:
    """StableDiffusionImg2ImgPipeline, or StableDiffusionPipeline; the scheduler is SD 2.1 base's DDIM."""
    torch.manual_seed(0)
    kind = StableDiffusionImg2ImgPipeline if image else StableDiffusionPipeline
    return _ready(
        kind(
            vae=autoencoder(4, 0.18215),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=text_unet(4, sample_size, **options),
            scheduler=DDIMScheduler(**SD_SCHEDULE, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sd_upscaler(sample_size: int = 16) -> Any:
    """StableDiffusionUpscalePipeline with the schedulers of its x4 model."""
    torch.manual_seed(1)
    schedule = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    return _ready(
        StableDiffusionUpscalePipeline(
            vae=autoencoder(3, 0.08333),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=text_unet(7, sample_size, num_class_embeds=1000),
            low_res_scheduler=DDPMScheduler(**schedule),
            scheduler=DDIMScheduler(**schedule, clip_sample=False, prediction_type="v_prediction"),
        )
    )


def latent_diffusion(sample_size: int = 16) -> Any:
    """LDMSuperResolutionPipeline."""
    torch.manual_seed(2)
    return _ready(
        LDMSuperResolutionPipeline(
            vqvae=VQModel(
                block_out_channels=(8,) * 3,
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                latent_channels=3,
                norm_num_groups=2,
            ),
            unet=UNet2DModel(
                sample_size=sample_size,
                in_channels=6,
                out_channels=3,
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=2,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=4,
            ),
            scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear"),
        )
    )


def _ready(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe
