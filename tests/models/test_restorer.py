"""ConvRestorer: how far it sees, and Eq. 1."""

import pytest
import torch

from patchscaler.models.restorer import ConvRestorer, Restoration, confidence_from, restoration_loss
from random_networks import check_reach


@pytest.mark.parametrize("blocks", [3, 4])
@pytest.mark.parametrize("block", ["residual", "plain"])
def test_an_output_sees_as_far_as_reach_says(block: str, blocks: int) -> None:
    torch.manual_seed(0)
    restorer = ConvRestorer(4, 8, blocks, block=block)
    for parameter in restorer.parameters():  # some begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    check_reach(restorer)


def test_the_loss_is_equation_1_and_the_latents_feel_the_capped_confidence() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, target = torch.randn(2, 2, 4, 6, 6, generator=generator)
    latents, log_error = latents.requires_grad_(), torch.randn(2, 1, 6, 6, generator=generator).requires_grad_()
    loss, _ = restoration_loss(Restoration(latents, log_error), target, 0.3, 0.5)
    (gradient,) = torch.autograd.grad(loss, log_error, retain_graph=True)
    squared = (latents - target).square().mean(dim=1, keepdim=True)
    confidence = confidence_from(log_error, 0.3)
    wanted = (latents - target).abs().mean() + 0.5 * (confidence * squared).mean()
    wanted = wanted + 0.5 * 0.3 * ((-log_error).exp() * squared + log_error).mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, 0.5 * 0.3 * (1 - (-log_error).exp() * squared) / squared.numel())
    (pull,) = torch.autograd.grad(loss, latents)
    direct = (latents - target).sign() / latents.numel() + confidence * (latents - target) / latents.numel()
    torch.testing.assert_close(pull, direct)  # 0.5 of Eq. 1's lambda and the 2 of the square cancel
