"""The text prompt of Table 4: a caption of each coarse patch by BLIP-2, and of it the tokens of CLIP's text encoder.

Choice: a patch is captioned by itself, as it is denoised by itself, and in its coarse state, by which textures are
looked up, too. Both networks are transformers' and frozen: they are loaded from where Patch-DiT's config says when the
first patch is prompted, and are no part of the model's folder.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchscaler.errors import ConfigError, WeightsError

# What BLIP-2's published image processors subtract and divide by, channel by channel.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_CAPTION = 20  # tokens at most; CLIP reads 77


def token_width(text_encoder: str) -> int:
    """Channels of the tokens. Raises WeightsError, ConfigError as `Captions`."""
    return int(_load("CLIPTextConfig", text_encoder).hidden_size)


@lru_cache(maxsize=2)
def captions(captioner: str, text_encoder: str, device: torch.device) -> "Captions":
    """Shared by all models of a process that name the same."""
    return Captions(captioner, text_encoder, device)


class Captions:
    """captioner, text_encoder: hub ids or folders of a BLIP-2 and a CLIP, with their tokenizers.

    In half precision on a GPU. Raises WeightsError where one isn't there, ConfigError without transformers.
    """

    def __init__(self, captioner: str, text_encoder: str, device: torch.device) -> None:
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.reader, self.tokenizer = (_load("AutoTokenizer", name) for name in (captioner, text_encoder))
        networks = ("Blip2ForConditionalGeneration", captioner), ("CLIPTextModel", text_encoder)
        self.captioner, self.encoder = (
            _load(kind, name, dtype=self.dtype).to(device).eval().requires_grad_(False) for kind, name in networks
        )

    @torch.no_grad()
    def describe(self, pixels: Float[Tensor, "n 3 height width"]) -> list[str]:
        """One caption of each picture, RGB in [0,1]: the likeliest words, so that nothing is drawn."""
        side = self.captioner.config.vision_config.image_size
        scaled = F.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (scaled.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        words = self.captioner.generate(
            pixel_values=((scaled - mean) / std).to(self.dtype), max_new_tokens=_CAPTION, do_sample=False, num_beams=1
        )
        texts: list[str] = self.reader.batch_decode(words, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def tokens(self, texts: list[str]) -> Float[Tensor, "n k d"]:
        """Every text as CLIP's full length of tokens, float32."""
        length = self.encoder.config.max_position_embeddings
        read = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        found: Tensor = self.encoder(read.input_ids.to(self.encoder.device)).last_hidden_state
        return found.float()


def _load(kind: str, name: str, **options: Any) -> Any:
    """A class of transformers, from a hub id or folder."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError('text prompts need transformers: pip install "patchscaler[text]"') from error
    try:
        return getattr(transformers, kind).from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise WeightsError(f"text prompts: no {kind} in {name}: {' '.join(str(error).split())[:200]}") from error
