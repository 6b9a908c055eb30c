"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""

from jaxtyping import Float
from torch import Tensor


def guide(predictions: Float[Tensor, "b2 c h w"], scale: float) -> Float[Tensor, "b c h w"]:
    """Predictions without the prompt, then with it, in one batch -> from the former towards the latter, `scale` far."""
    without, prompted = predictions.chunk(2)
    return without + scale * (prompted - without)
