"""What the networks are made of: diffusers' classes, or light ones where only pictures are enlarged (`light.py`)."""

from typing import TYPE_CHECKING

from patchscaler.models import light

if TYPE_CHECKING or not light.chosen:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.utils.accelerate_utils import apply_forward_hook
else:
    from patchscaler.models.light import ConfigMixin, ModelMixin, apply_forward_hook, register_to_config

__all__ = ["ConfigMixin", "ModelMixin", "apply_forward_hook", "register_to_config"]
