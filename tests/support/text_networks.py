"""BLIP-2 and CLIP as transformers builds them from their configs, each as small as it goes, with random weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
)

from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.models.patch_dit import PatchDiT
from random_networks import shaken

TEXTURE = ("texture_classifier", "texture_encoder", "texture_memory")
WORDS = 40  # beside <pad>, <s>, </s> and <image>
TOKENS, WIDTH = 12, 24  # of the text encoder


def save_text_networks(folder: Path) -> dict[str, str]:
    """Both with their tokenizers; the settings of Patch-DiT that name them."""
    torch.manual_seed(0)
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: number for number, word in enumerate([*marks.values(), "<image>", *map(_word, range(WORDS))])}
    count = len(vocabulary)
    sides = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    language = {"word_embed_proj_dim": 16, "ffn_dim": 32, "max_position_embeddings": 64, "vocab_size": count}
    captioner = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config={**sides, "image_size": 28, "patch_size": 14},
            qformer_config={**sides, "vocab_size": count},
            text_config={"model_type": "opt", **sides, **language, **ends},
            num_query_tokens=4,
            image_token_index=3,
        )
    )
    encoder = CLIPTextModel(
        CLIPTextConfig(**sides | ends | {"hidden_size": WIDTH}, vocab_size=count, max_position_embeddings=TOKENS)
    )
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for name, network in (("captioner", captioner), ("text_encoder", encoder)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
            if name == "captioner":  # so that the picture is heard above the words
                network.language_projection.weight.mul_(20)
        network.save_pretrained(folder / name)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=["<image>"], **marks)
        tokenizer.save_pretrained(folder / name)
    return {"captioner": str(folder / "captioner"), "text_encoder": str(folder / "text_encoder")}


def prompted(pipeline: Any, **config: Any) -> PatchScalerPipeline:
    """The tests' networks with another Patch-DiT, and nothing of textures."""
    dit = shaken(PatchDiT(width=32, depth=2, heads=2, **config), 2)
    return PatchScalerPipeline(**{**pipeline.components, **dict.fromkeys(TEXTURE), "patch_dit": dit}, overlap=4)


def _word(number: int) -> str:
    return f"word{number}"
