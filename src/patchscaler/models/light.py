"""Stand-ins for diffusers' model classes, for a process that does nothing but enlarge pictures.

Importing diffusers takes three times as long as a small picture. The command line therefore calls `choose()` before it
touches a network; everybody else gets diffusers' own classes (see `base.py`). The weights, their names and the
arithmetic are the same; what is missing is saving, the hub and everything of diffusers that a network inherits.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])

chosen = False


def choose() -> None:
    """Networks imported from now on are light. Without effect where a network has been imported already."""
    global chosen
    chosen = "patchscaler.models.base" not in sys.modules or chosen


class Config(dict[str, Any]):
    """The arguments a network was made with, readable as keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class ModelMixin(nn.Module):
    """What the networks use of diffusers' class of this name."""

    config: Any

    @property
    def dtype(self) -> torch.dtype:
        """Of the first floating-point tensor."""
        tensors = (*self.parameters(), *self.buffers())
        return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(iter((*self.parameters(), *self.buffers()))).device


class ConfigMixin:
    """Says in the list of bases that the class has a config."""


def register_to_config(init: Function) -> Function:
    """`self.config` holds the arguments of `__init__`, defaults too."""

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(init).bind(self, *args, **kwargs)
        bound.apply_defaults()
        init(self, *args, **kwargs)
        self.config = Config(list(bound.arguments.items())[1:])

    return wrapped  # type: ignore[return-value]


def apply_forward_hook(method: Function) -> Function:
    """Nothing: diffusers moves offloaded weights here, and light networks are never offloaded."""
    return method
