"""ConvRestorer: how far it sees, and what the weight of Eq. 1 does."""

import pytest
import torch

from patchscaler.models.restorer import ConvRestorer, Restoration, confidence_from, restoration_loss


def check_reach(restorer: ConvRestorer) -> None:
    """An output latent depends on the pixels of `reach` latents on both sides, two each, and not on much fewer."""
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    restorer(pixels).latents[0, :, 16, 16].square().sum().backward()
    assert pixels.grad is not None
    seen = pixels.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.min() >= 2 * (16 - restorer.reach)
    assert seen.max() < 2 * (16 + restorer.reach + 1)
    assert seen.max() >= 2 * (16 + restorer.reach - 1)  # and not much less


@pytest.mark.parametrize("blocks", [3, 4])
@pytest.mark.parametrize("block", ["residual", "plain"])
def test_an_output_sees_as_far_as_reach_says(block: str, blocks: int) -> None:
    torch.manual_seed(0)
    restorer = ConvRestorer(4, 8, blocks, block=block)
    for parameter in restorer.parameters():  # some begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    check_reach(restorer)


def test_confidence_weighs_the_squared_error_only_when_it_is_told_to() -> None:
    """The difference of the two is lambda (1 - C) |y - x|^2, and the confidence learns the same from both."""
    generator = torch.Generator().manual_seed(0)
    latents, target = torch.randn(2, 2, 4, 6, 6, generator=generator)
    log_error = torch.randn(2, 1, 6, 6, generator=generator).requires_grad_()
    restored, gradients = Restoration(latents, log_error), []
    losses = [restoration_loss(restored, target, 0.3, 0.5, weighting)[0] for weighting in (False, True)]
    for loss in losses:
        log_error.grad = None
        loss.backward()
        assert log_error.grad is not None
        gradients.append(log_error.grad)
    doubt = 1 - confidence_from(log_error.detach(), 0.3)
    difference = 0.5 * (doubt * (latents - target).square().mean(dim=1, keepdim=True)).mean()
    torch.testing.assert_close(losses[0] - losses[1], difference)
    torch.testing.assert_close(gradients[0], gradients[1])
