"""The whole model from real networks, each as small as it goes, with random weights."""

from typing import Any

import torch


def _shake(module: torch.nn.Module, seed: int) -> None:
    """Gives every parameter a small random value: zero-initialised layers would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def build_tiny_pipeline() -> Any:
    """Every part real, each as small as it goes; random weights."""
    import patchscaler
    from patchscaler.models.fusion import Fusion
    from patchscaler.models.rrdb import RrdbRestorer
    from patchscaler.pgs.schedule import make_scheduler

    torch.manual_seed(0)
    autoencoder = patchscaler.DctAutoencoder(width=16, blocks=1, fine_width=16, fine_blocks=1)
    restorer = patchscaler.ConvRestorer(width=16, blocks=2, eta=1.0)
    limit = -0.01  # of the log errors of `photo`, some patches lie above it, some below
    patch_dit = patchscaler.PatchDiT(width=32, depth=2, heads=2, texture_width=32, prompt_limit=limit)
    classifier = patchscaler.TextureClassifier(width=16, blocks=1, features=16)
    encoder = patchscaler.TextureEncoder(width=32, top_k=2)
    memory = patchscaler.ReferenceTextureMemory(features=16, size=20)
    for number, part in enumerate((autoencoder, restorer, patch_dit, classifier, encoder)):
        _shake(part, number)
    memory.fill(torch.randn(20, 32, 16, 16), torch.randn(20, 16))
    second = RrdbRestorer(width=16, growth=8, blocks=1)
    fusion = Fusion(first_width=16, second_width=16, width=16, blocks=1, gate_limit=0.1, gate_share=0.01)
    for number, part in enumerate((second, fusion)):
        _shake(part, 5 + number)
    fusion.gate_exit.bias.data.add_(0.22)  # so that of `photo` a part is asked for
    parts = (autoencoder, restorer, patch_dit, classifier, encoder, memory)
    return patchscaler.PatchScalerPipeline(
        *(part.eval() for part in parts), make_scheduler(), second.eval(), fusion.eval(), overlap=4
    )
