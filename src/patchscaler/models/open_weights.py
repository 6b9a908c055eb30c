"""Whether a network's weights can be read past its layers."""

from torch import Tensor, nn


def weights_lie_open(network: nn.Module) -> bool:
    """Whether all weights are there at any time, as plain floating-point tensors.

    They are not where hooks bring them layer by layer (accelerate's and diffusers' offloading, layer-wise casting), nor
    in quantized and adapted layers. A hook of accelerate's on the whole network alone brings all weights at once,
    before the first of its methods, unless they are on the meta device.
    """
    for name, module in network.named_modules():
        hooked = hasattr(module, "_diffusers_hook") or (name != "" and hasattr(module, "_hf_hook"))
        if hooked or (hasattr(module, "weight") and "weight" not in module._parameters):
            return False
    weights = (weight for weight in network.parameters())
    return all(type(w.data) is Tensor and w.is_floating_point() and not w.is_meta for w in weights)
